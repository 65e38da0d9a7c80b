// Random workloads on one or two small drives, several lives each: the machine stops at a random moment, of what no
// flush covered a random part is there, and now and then it stops again while it recovers.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "testing/torture_crash.h"

namespace cairn {

namespace {

using Kind = TortureStep::Kind;

struct RandomCounts {
  uint64_t workloads = 0, crash_points = 0, kills = 0, crashes_in_recovery = 0, operations = 0;
};

// Where the first block of a kind stands.
constexpr size_t kScoped = 16, kGrouped = 19;

void add_blocks(TortureBlocks& blocks) {
  for (int i = 0; i < 12; ++i) blocks.add({.name = "small " + std::to_string(i), .bytes = 100U + 4000U * (i % 3)});
  for (int i = 0; i < 4; ++i) blocks.add({.name = "large " + std::to_string(i), .bytes = 250'000U + 100'000U * i});
  for (int i = 0; i < 3; ++i) blocks.add({.name = "scoped " + std::to_string(i), .bytes = 600, .scope = 7});
  for (int i = 0; i < 2; ++i)
    blocks.add({.name = "member " + std::to_string(i), .bytes = 700, .group = 1, .group_members = 2});
  for (int i = 0; i < 3; ++i)
    blocks.add({.name = "other " + std::to_string(i), .bytes = 900, .tenant = 2, .layout = 5, .scope = 7});
}

class RandomRun {
 public:
  RandomRun(TortureReport& report, const TortureBlocks& blocks, Slab& slab, uint64_t seed, RandomCounts& counts)
      : report_(report),
        blocks_(blocks),
        counts_(counts),
        random_(seed),
        entropy_(random_()),
        world_(report, blocks, slab, clock_),
        how_("crash-points --random 1 --seed " + std::to_string(seed)) {
    const uint64_t drives = 1 + random_() % 2;
    for (uint64_t i = 0; i < drives; ++i)
      world_.platters.push_back(TortureWorld::formatted((5 + random_() % 2) * kMiB + 4096, kMiB, clock_));
  }

  void run() {
    ++counts_.workloads;
    const uint64_t before = report_.violations();
    report_.at(how_ + ", first opening");
    if (const std::string why = world_.open(nullptr); !why.empty()) return report_.violation("not opened: " + why);
    for (uint64_t life = 1 + random_() % 4; life > 0 && report_.violations() == before; --life) {
      ++life_;
      report_.at(how_ + ", in life " + std::to_string(life_));
      work(4 + random_() % 37);
      crash();
      if (!recover()) return;
      world_.check();
    }
    world_.stop();
    world_.check_slab();
  }

 private:
  void work(uint64_t operations) {
    const bool shuffled = random_() % 2 != 0;
    for (FaultDrive* drive : world_.drives) drive->shuffle_seed = shuffled ? random_() | 1 : 0;
    const uint64_t patience = random_() % 12;
    counts_.operations += operations;
    for (uint64_t i = 0; i < operations; ++i) {
      world_.begin(step());
      if (random_() % 6 == 0) world_.until_answered();
      for (uint64_t turns = random_() % (1 + patience); turns > 0; --turns) world_.turn();
    }
    for (uint64_t turns = random_() % 30; turns > 0; --turns) world_.turn();
  }

  TortureStep step() {
    const auto durability = random_() % 4 == 0 ? Durability::relaxed : Durability::durable;
    const size_t block = random_() % blocks_.size();
    switch (random_() % 20) {
      case 0:
        return {Kind::remove_scope, {kScoped}, durability};
      case 1:
        return {random_() % 2 == 0 ? Kind::remove_tenant : Kind::remove_layout, {blocks_.size() - 1}, durability};
      case 2:
        return {Kind::remove_group, {kGrouped}, durability};
      case 3:
        return {Kind::lease, {block}, durability};
      case 4:
      case 5:
      case 6:
        return {Kind::remove, {block}, durability};
      case 7:
        return {random_() % 2 == 0 ? Kind::get : Kind::range, {block}, durability};
      case 8:
        return {Kind::put, {kGrouped, kGrouped + 1}, durability};
      default:
        return {Kind::put, {block}, durability};
    }
  }

  // Power loss; or the process ends and the devices keep what they have.
  void crash() {
    ++counts_.crash_points;
    const bool kill = random_() % 4 == 0;
    counts_.kills += kill ? 1 : 0;
    std::vector<CrashImage> images;
    for (const FaultDrive* drive : world_.drives) images.push_back(CrashImage::of(*drive));
    std::vector<std::vector<Platter::CachedWrite>> cached;
    for (const auto& platter : world_.platters) cached.push_back(platter->cached());
    world_.stop();
    for (size_t i = 0; i < images.size(); ++i) {
      Fates fates(images[i].unflushed.size());
      for (size_t write = 0; write < fates.size(); ++write)
        fates[write] = kill && write < cached[i].size() ? Survived::all : static_cast<Survived>(random_() % 6);
      *world_.platters[i] = kill ? killed(images[i], fates) : after_crash(images[i], fates);
    }
  }

  static Platter killed(const CrashImage& image, const Fates& fates) {
    Platter platter = image.durable;
    for (size_t i = 0; i < fates.size(); ++i) {
      const auto& [offset, bytes] = image.unflushed[i];
      const iovec whole{const_cast<std::byte*>(bytes->data()), bytes->size()};
      if (fates[i] != Survived::nothing) platter.write_cached(offset, &whole, 1);
    }
    return platter;
  }

  class Stopper final : public DriveWatcher {
   public:
    explicit Stopper(uint64_t after) : left_(after) {}
    void told(FaultDrive& drive) override {
      if (left_ == 0 || --left_ > 0) return;
      drive.stop();
    }

   private:
    uint64_t left_;
  };

  bool recover() {
    const std::string how = how_ + ", after the crash of life " + std::to_string(life_);
    if (random_() % 4 == 0) {
      // One of the drives goes first; the opening ends with an error, or the store is left at once.
      ++counts_.crashes_in_recovery;
      report_.at(how + ", in a recovery that was cut short");
      Stopper stopper(1 + random_() % 40);
      const std::string why = world_.open(&stopper);
      if (why.empty()) {
        for (uint64_t turns = random_() % 8; turns > 0; --turns) world_.turn();
        crash();
      } else {
        drop_cache();
      }
    }
    report_.at(how);
    const std::string why = world_.open(nullptr);
    if (!why.empty()) report_.violation("not opened: " + why);
    return why.empty();
  }

  void drop_cache() {
    for (const auto& platter : world_.platters) platter->lose_power(random_);
  }

  TortureReport& report_;
  const TortureBlocks& blocks_;
  RandomCounts& counts_;
  std::mt19937_64 random_;
  SeededEntropy entropy_;
  VirtualClock clock_;
  TortureWorld world_;
  std::string how_;
  int life_ = 0;
};

}  // namespace

void torture_random_crashes(const TortureOptions& options, TortureReport& report) {
  TortureBlocks blocks;
  add_blocks(blocks);
  const auto slab = Slab::create(16 * kMiB).take();
  RandomCounts counts;
  for (uint64_t i = 0; i < options.random && !report.time_is_up(); ++i)
    RandomRun(report, blocks, *slab, options.seed + i, counts).run();
  report.json.number("workloads", counts.workloads).number("crash_points", counts.crash_points);
  report.json.number("kills", counts.kills).number("crashes_in_recovery", counts.crashes_in_recovery);
  report.json.number("operations", counts.operations);
}

}  // namespace cairn
