// The nth request of a kind fails, for every n that a fixed piece of work has: the list of places is found, not typed.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "store/format.h"
#include "testing/torture_world.h"

namespace cairn {

namespace {

using Kind = TortureStep::Kind;

enum class Site : uint8_t { read, write, flush, identify, slab };
constexpr std::array kSites = {"read", "write", "flush", "identify", "slab"};

constexpr uint64_t kSitesMost = 10'000;
constexpr int kTurnsToLoad = 20'000;

struct FaultPlan {
  Site site = Site::read;
  DriveFault fault = DriveFault::io_error;
  uint64_t nth = 0;  // 1: the first; 0: none
  bool for_ever = false;
};

// Counts the requests of one kind and makes one, or all from one on, fail.
class FaultInjector final : public DriveWatcher {
 public:
  explicit FaultInjector(const FaultPlan& plan) : plan_(plan) {}
  bool fired() const { return seen_ >= plan_.nth; }

  DriveFault before(FaultDrive&, const IoRequest& request) override {
    if (site_of(request) != plan_.site) return DriveFault::none;
    ++seen_;
    const bool due = plan_.nth != 0 && (plan_.for_ever ? seen_ >= plan_.nth : seen_ == plan_.nth);
    return due ? plan_.fault : DriveFault::none;
  }

 private:
  static Site site_of(const IoRequest& request) {
    if (request.kind == IoKind::write) return Site::write;
    if (request.kind == IoKind::flush) return Site::flush;
    const bool superblock =
        request.offset == format::kSuperblockOffsets[0] || request.offset == format::kSuperblockOffsets[1];
    return superblock ? Site::identify : Site::read;
  }
  FaultPlan plan_;
  uint64_t seen_ = 0;
};

// The work: all that a store does in its life.
class FaultRun {
 public:
  FaultRun(TortureReport& report, const TortureBlocks& blocks, Slab& slab, const FaultPlan& plan)
      : report_(report), slab_(slab), plan_(plan), injector_(plan), entropy_(7), world_(report, blocks, slab, clock_) {
    world_.healthy = false;
    // A drive that could not read a block has said so. One that could not write has lost nothing that was acknowledged.
    world_.losses_excused = plan.site == Site::read || plan.site == Site::identify || plan.fault == DriveFault::gone;
    // Who finds no memory waits for some, until its deadline.
    world_.deadline_turns = plan.site == Site::slab ? 1000 : 0;
  }

  uint64_t missed() const { return world_.missed; }

  // Whether the fault came to pass.
  bool run() {
    if (plan_.site == Site::slab) slab_.fail_allocation(plan_.nth, plan_.for_ever);
    const bool formatted = format(0) && format(1);
    if (formatted) work();
    const bool fired = plan_.site == Site::slab ? slab_.allocations_failed() > 0 : injector_.fired();
    slab_.fail_allocation(0, false);
    finish(formatted);
    return fired;
  }

 private:
  bool format(size_t drive) {
    platters_.push_back(std::make_shared<Platter>(5 * kMiB + 4096 + drive * kMiB));
    FaultDrive over(platters_.back(), clock_, &injector_, "drive" + std::to_string(drive));
    FormatOptions options;
    options.segment_bytes = kMiB;
    return format_drive(over, options, clock_).ok();
  }

  void work() {
    world_.platters = {platters_[0]};
    StoreOptions options;
    options.scrub_bytes_per_second = 64 * kMiB;
    if (!world_.open(&injector_, options).empty()) return;
    world_.drives.clear();  // they come and go: the store alone knows when
    on_one_drive();
    if (!attach(1)) return leave();
    on_two_drives();
    leave();
    world_.platters = platters_;
    if (!world_.open(&injector_, options).empty()) return;
    world_.drives.clear();
    do_all({{Kind::get, {0}}, {Kind::put, {0}}, {Kind::get, {3}}});
    leave();
  }

  void on_one_drive() {
    do_all({{Kind::put, {0}},
            {Kind::put, {1}, Durability::relaxed},
            {Kind::put, {2}},
            {Kind::put, {3, 4}},
            {Kind::put, {5}}});
    do_all({{Kind::put, {0}}, {Kind::get, {0}}, {Kind::range, {2}}, {Kind::remove, {0}}, {Kind::remove_scope, {2}}});
    do_all(
        {{Kind::lease, {1}}, {Kind::put, {6}}, {Kind::put, {7}}, {Kind::put, {8}}, {Kind::put, {9}}, {Kind::get, {6}}});
    do_all({{Kind::remove_group, {3}}, {Kind::put, {0}}, {Kind::put, {3, 4}}, {Kind::get, {8}}});
    rest();
  }

  void on_two_drives() {
    do_all({{Kind::put, {2}}, {Kind::put, {10}}, {Kind::put, {11}}, {Kind::remove_tenant, {5}}, {Kind::remove, {10}}});
    rest();
    const std::string first = uuid_of("drive0");
    if (!first.empty()) {
      const bool draining = world_.store->drain(first).ok();
      for (int i = 0; i < 40 && draining; ++i) rest();
      for (const DriveStats& drive : world_.store->stats().drives) {
        // What it still holds is given up by that order.
        if (drive.uuid == first && drive.state != "drained") world_.misses_excused = true;
      }
      detach(first);
    }
    do_all({{Kind::remove, {11}}, {Kind::put, {5}}, {Kind::get, {2}}, {Kind::remove_layout, {5}}, {Kind::put, {12}}});
    if (!first.empty()) (void)attach(0);
    rest();
    do_all({{Kind::get, {2}}, {Kind::get, {12}}, {Kind::put, {11}}, {Kind::remove, {12}}});
    rest();
  }

  void do_all(const std::vector<TortureStep>& steps) {
    for (const TortureStep& step : steps) {
      world_.begin(step);
      world_.until_answered();
    }
  }
  // What goes on by itself gets some time: eviction, scrubbing, loading.
  void rest() {
    for (int i = 0; i < 40; ++i) world_.turn();
    clock_.advance_ms(200);
  }
  void leave() {
    world_.store->close();
    world_.stop();
  }

  bool attach(size_t drive) {
    auto over = std::make_unique<FaultDrive>(platters_[drive], clock_, &injector_, "drive" + std::to_string(drive));
    auto known = Store::identify(std::move(over));
    if (!known || !world_.store->attach(known.take())) return false;
    for (int i = 0; i < kTurnsToLoad && !world_.store->loaded(); ++i) {
      world_.turn();
      clock_.advance_ms(100);
    }
    if (!world_.store->loaded()) report_.violation("a drive that was attached is never loaded");
    return true;
  }

  // A drive that was not to be written to may be tried just now, by a request that takes its time, and what is moved
  // off this one waits for it: time passes.
  void detach(const std::string& uuid) {
    (void)world_.store->begin_detach(uuid, true);
    for (int i = 0; i < kTurnsToLoad && !world_.store->detached(uuid); ++i) {
      world_.turn();
      clock_.advance_ms(100);
    }
    if (!world_.store->detached(uuid)) report_.violation("a drive that is detached never leaves");
  }

  std::string uuid_of(const std::string& path) const {
    for (const DriveStats& drive : world_.store->stats().drives) {
      if (drive.path == path) return drive.uuid;
    }
    return "";
  }

  // The fault is over, the power was away: everything acknowledged is there.
  void finish(bool formatted) {
    world_.stop();
    world_.check_slab();
    if (!formatted) return;
    for (const auto& platter : platters_) platter->lose_cached();
    world_.platters = platters_;
    if (const std::string why = world_.open(nullptr); !why.empty())
      return report_.violation("not opened when healed: " + why);
    world_.healthy = true;
    world_.deadline_turns = 0;
    // Segments that could not be read were given up as they were, whatever lay in them.
    world_.misses_excused |= plan_.site == Site::read && plan_.for_ever;
    world_.check();
    world_.begin({Kind::put, {13}});
    world_.until_answered();
    world_.check();
    world_.stop();
    world_.check_slab();
  }

  TortureReport& report_;
  Slab& slab_;
  FaultPlan plan_;
  FaultInjector injector_;
  SeededEntropy entropy_;
  VirtualClock clock_;
  std::vector<std::shared_ptr<Platter>> platters_;
  TortureWorld world_;
};

void add_blocks(TortureBlocks& blocks) {
  blocks.add({.name = "a", .bytes = 5000});
  blocks.add({.name = "leased", .bytes = 9000});
  blocks.add({.name = "scoped", .bytes = 300, .scope = 7});
  for (const char* name : {"first", "second"}) blocks.add({.name = name, .bytes = 400, .group = 1, .group_members = 2});
  blocks.add({.name = "other", .bytes = 700, .tenant = 2, .layout = 5});
  for (const char* name : {"large 1", "large 2", "large 3", "large 4"}) blocks.add({.name = name, .bytes = 600'000});
  for (const char* name : {"b", "c", "d", "last"}) blocks.add({.name = name, .bytes = 1000});
}

// What --only takes: read:13:io_error:for_ever.
std::string text_of(const FaultPlan& plan) {
  return std::string(kSites[static_cast<size_t>(plan.site)]) + ":" + std::to_string(plan.nth) + ":" +
         name_of(plan.fault) + (plan.for_ever ? ":for_ever" : ":once");
}

}  // namespace

void torture_fault_sites(const TortureOptions& options, TortureReport& report) {
  TortureBlocks blocks;
  add_blocks(blocks);
  const auto slab = Slab::create(8 * kMiB).take();
  uint64_t runs = 0, missed = 0;
  std::array<uint64_t, kSites.size()> sites{};
  const auto sweep = [&](Site site, DriveFault fault, bool for_ever) {
    for (FaultPlan plan{site, fault, 1, for_ever}; !report.time_is_up(); ++plan.nth) {
      const std::string name = text_of(plan);
      // Of one plan alone nobody knows where its like end: it is looked for as far as they may go.
      if (!options.only.empty() && plan.nth > kSitesMost) break;
      if (!options.only.empty() && options.only != name) continue;
      report.at("fault-sites --only " + name);
      FaultRun run(report, blocks, *slab, plan);
      if (!run.run()) break;
      missed += run.missed();
      ++runs;
      sites[static_cast<size_t>(site)] = std::max(sites[static_cast<size_t>(site)], plan.nth);
    }
  };
  for (const Site site : {Site::identify, Site::slab, Site::flush, Site::write, Site::read}) {
    for (uint8_t fault = 1; fault <= static_cast<uint8_t>(DriveFault::gone); ++fault) {
      if (site == Site::slab && fault > 1) break;
      sweep(site, static_cast<DriveFault>(fault), false);
      // A drive that is gone stays so.
      if (static_cast<DriveFault>(fault) != DriveFault::gone) sweep(site, static_cast<DriveFault>(fault), true);
    }
  }
  report.json.number("runs", runs).number("missed_where_no_read_worked", missed).begin_object("sites");
  for (size_t i = 0; i < kSites.size(); ++i) report.json.number(kSites[i], sites[i]);
  report.json.end_object();
}

}  // namespace cairn
