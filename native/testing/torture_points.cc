// Every workload of up to three operations, a crash at every moment of it, everything that the crash may have left.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "testing/torture_crash.h"

namespace cairn {

namespace {

using Kind = TortureStep::Kind;

struct Verb {
  const char* name;
  TortureStep step;
};

// What is done, and to what. `large` takes most of a segment: two of it seal one.
struct Vocabulary {
  Vocabulary() {
    const size_t a = blocks.add({.name = "a", .bytes = 5000});
    const size_t b = blocks.add({.name = "b", .bytes = 300, .scope = 7});
    const size_t first = blocks.add({.name = "first", .bytes = 400, .group = 1, .group_members = 2});
    const size_t second = blocks.add({.name = "second", .bytes = 500, .group = 1, .group_members = 2});
    const size_t large = blocks.add({.name = "large", .bytes = 600'000});
    for (const char* name : {"oldest", "older"}) prefilled.push_back(blocks.add({.name = name, .bytes = 700}));
    deleted = blocks.add({.name = "deleted", .bytes = 200});
    const auto durable = Durability::durable;
    verbs = {{"put", {Kind::put, {a}, durable}},
             {"put-relaxed", {Kind::put, {a}, Durability::relaxed}},
             {"put-scoped", {Kind::put, {b}, durable}},
             {"put-group", {Kind::put, {first, second}, durable}},
             {"put-large", {Kind::put, {large}, durable}},
             {"get", {Kind::get, {a}, durable}},
             {"delete", {Kind::remove, {a}, durable}},
             {"delete-oldest", {Kind::remove, {prefilled[0]}, durable}},
             {"delete-group", {Kind::remove_group, {first}, durable}},
             {"delete-scope", {Kind::remove_scope, {b}, durable}},
             {"delete-tenant", {Kind::remove_tenant, {a}, durable}},
             {"lease-oldest", {Kind::lease, {prefilled[0]}, durable}}};
  }
  TortureBlocks blocks;
  std::vector<size_t> prefilled;
  size_t deleted = 0;
  std::vector<Verb> verbs;
};

// A drive before the workload.
struct Start {
  const char* name;
  Platter platter;
  TortureOracle oracle;
};

struct PointCounts {
  uint64_t workloads = 0, points = 0, states = 0, recovery_states = 0;
};

// A moment at which the machine may stop.
struct CrashPoint {
  CrashImage image;
  TortureOracle oracle;
};

// Takes a crash point whenever what a crash would leave, or what was promised, has changed.
class PointWatcher final : public DriveWatcher {
 public:
  explicit PointWatcher(const TortureOracle& oracle) : oracle_(oracle) {}
  bool armed = false;
  std::vector<CrashPoint> points;

  DriveFault before(FaultDrive& drive, const IoRequest&) override {
    look(drive);
    return DriveFault::none;
  }
  void served(FaultDrive& drive) override { look(drive); }
  void told(FaultDrive& drive) override { look(drive); }
  void look(const FaultDrive& drive) {
    const std::array<uint64_t, 3> now{drive.writes_begun(), drive.flushes_served(), oracle_.changes()};
    if (!armed || now == last_) return;
    last_ = now;
    points.push_back({CrashImage::of(drive), oracle_});
  }

 private:
  const TortureOracle& oracle_;
  std::array<uint64_t, 3> last_{UINT64_MAX, 0, 0};
};

class CrashPoints {
 public:
  CrashPoints(TortureReport& report, const TortureOptions& options, Slab& slab, VirtualClock& clock)
      : report_(report), options_(options), world_(report, words_.blocks, slab, clock), clock_(clock) {
    world_.platters.push_back(nullptr);
    starts_.push_back(empty_start());
    starts_.push_back(full_start());
  }

  void run() {
    for (size_t length = 1; length <= 3; ++length) {
      for (const Start& start : starts_) each_workload(start, length, {});
    }
  }
  PointCounts counts;

 private:
  // Four segments, the fewest there may be.
  Start empty_start() {
    world_.platters[0] = TortureWorld::formatted(5 * kMiB + 4096, kMiB, clock_);
    return {"empty", world_.platters[0]->copy(), world_.oracle};
  }
  // Two of them are sealed, with a tombstone in the younger: whatever is put has them given up.
  Start full_start() {
    report_.at("filling a drive");
    const auto live = [&](const std::vector<TortureStep>& steps) {
      (void)world_.open(nullptr);
      for (const TortureStep& step : steps) {
        world_.begin(step);
        world_.until_answered();
      }
      world_.close();
    };
    live({{Kind::put, {words_.prefilled[0], words_.deleted}}});
    live({{Kind::put, {words_.prefilled[1]}}, {Kind::remove, {words_.deleted}}});
    world_.platters[0]->flush();
    return {"full", world_.platters[0]->copy(), world_.oracle};
  }

  void each_workload(const Start& start, size_t length, std::vector<size_t> chosen) {
    if (report_.time_is_up()) return;
    if (chosen.size() == length) return workload(start, chosen);
    chosen.push_back(0);
    for (size_t verb = 0; verb < words_.verbs.size(); ++verb) {
      chosen.back() = verb;
      each_workload(start, length, chosen);
    }
  }

  // Crashes within the operations before the last belong to shorter workloads.
  void workload(const Start& start, const std::vector<size_t>& chosen) {
    std::string name = start.name;
    for (const size_t verb : chosen) name += std::string(",") + words_.verbs[verb].name;
    if (!options_.only.empty() && options_.only != name) return;
    ++counts.workloads;
    SeededEntropy entropy(options_.seed + counts.workloads);
    const std::string how = "crash-points --only " + name;
    report_.at(how + ": before any crash");
    *world_.platters[0] = start.platter;
    world_.oracle = start.oracle;
    PointWatcher watcher(world_.oracle);
    if (const std::string why = world_.open(&watcher); !why.empty()) return report_.violation("not opened: " + why);
    for (size_t i = 0; i < chosen.size(); ++i) {
      watcher.armed = i + 1 == chosen.size();
      world_.begin(words_.verbs[chosen[i]].step);
      world_.until_answered();
      watcher.look(*world_.drives[0]);
    }
    world_.until_idle();
    world_.stop();
    world_.check_slab();
    for (size_t i = 0; i < watcher.points.size(); ++i)
      crash(watcher.points[i], how + ": crash point " + std::to_string(i));
  }

  void crash(const CrashPoint& point, const std::string& how) {
    ++counts.points;
    for (const Fates& fates : all_fates(point.image.unflushed.size())) {
      ++counts.states;
      const std::string state = how + ", " + text_of(fates);
      report_.at(state);
      const bool none = fates == Fates(fates.size(), Survived::nothing);
      PointWatcher second(world_.oracle);
      second.armed = none;
      recover(after_crash(point.image, fates), point.oracle, none ? &second : nullptr);
      // The watcher sees the first state as well: that is where this recovery began.
      for (size_t i = 1; i < second.points.size(); ++i) crash_again(second.points[i], point.oracle, state, i);
    }
  }

  void crash_again(const CrashPoint& point, const TortureOracle& oracle, const std::string& how, size_t number) {
    for (const Survived all : {Survived::nothing, Survived::all}) {
      ++counts.recovery_states;
      const Fates fates(point.image.unflushed.size(), all);
      report_.at(how + ", then again in its recovery at point " + std::to_string(number) + ", " + text_of(fates));
      recover(after_crash(point.image, fates), oracle, nullptr);
      if (fates.empty()) return;
    }
  }

  void recover(Platter&& platter, const TortureOracle& oracle, PointWatcher* watcher) {
    *world_.platters[0] = std::move(platter);
    world_.oracle = oracle;
    world_.oracle.life_ends();
    if (const std::string why = world_.open(watcher); !why.empty()) return report_.violation("not opened: " + why);
    if (watcher != nullptr) world_.until_idle();
    if (watcher != nullptr) watcher->armed = false;
    world_.check();
    world_.stop();
    world_.check_slab();
  }

  TortureReport& report_;
  const TortureOptions& options_;
  Vocabulary words_;
  TortureWorld world_;
  VirtualClock& clock_;
  std::vector<Start> starts_;
};

}  // namespace

void torture_crash_points(const TortureOptions& options, TortureReport& report) {
  VirtualClock clock;
  SeededEntropy entropy(options.seed);
  const auto slab = Slab::create(4 * kMiB).take();
  CrashPoints points(report, options, *slab, clock);
  points.run();
  report.json.number("workloads", points.counts.workloads).number("crash_points", points.counts.points);
  report.json.number("states", points.counts.states).number("recovery_states", points.counts.recovery_states);
}

}  // namespace cairn
