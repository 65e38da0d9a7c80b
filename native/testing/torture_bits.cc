// Damage to a drive at rest: every bit of its metadata, one at a time.
#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "store/format.h"
#include "testing/torture_drive.h"

namespace cairn {

namespace {

constexpr uint64_t kPageBits = format::kPageBytes * 8;
// All pages are visited many times, a share of their bits each time: whoever stops early has seen them all.
constexpr uint64_t kPasses = 64;

struct BitCounts {
  uint64_t bits = 0, misses = 0, misses_most = 0;
  std::map<std::string, uint64_t> by_page;  // misses
};

class BitFlips {
 public:
  BitFlips(TortureReport& report, const TortureOptions& options, const TortureDrive& drive, TortureWorld& world,
           const std::string& name)
      : report_(report), options_(options), drive_(drive), world_(world), name_(name) {
    world_.healthy = false;
    world_.losses_excused = true;
  }

  void pass(uint64_t number, uint64_t stride) {
    for (const TorturePage& page : drive_.pages) {
      if (!page.metadata) continue;
      for (uint64_t bit = number; bit < kPageBits; bit += kPasses * stride) {
        if (report_.time_is_up()) return;
        if (bit / kPasses % options_.shards == options_.shard) flip(page, bit);
      }
    }
  }

  BitCounts counts;

 private:
  void flip(const TorturePage& page, uint64_t bit) {
    const std::string place = name_ + ":" + std::to_string(page.page) + ":" + std::to_string(bit);
    if (!options_.only.empty() && options_.only != place) return;
    report_.at("bit-flips --seed " + std::to_string(options_.seed) + " --only " + place + " (" + page.what + ")");
    *world_.platters[0] = drive_.platter;
    world_.platters[0]->flip(page.page * format::kPageBytes + bit / 8, static_cast<int>(bit % 8));
    world_.oracle = drive_.oracle;
    ++counts.bits;
    if (const std::string why = world_.open(nullptr); !why.empty()) return report_.violation("not opened: " + why);
    const uint64_t found = world_.check();
    world_.stop();
    world_.check_slab();
    const uint64_t misses = drive_.present - std::min(found, drive_.present);
    counts.misses += misses;
    counts.misses_most = std::max(counts.misses_most, misses);
    if (misses > 0) counts.by_page[page.what] += misses;
  }

  TortureReport& report_;
  const TortureOptions& options_;
  const TortureDrive& drive_;
  TortureWorld& world_;
  std::string name_;
};

uint64_t metadata_pages(const TortureDrive& drive) {
  uint64_t count = 0;
  for (const TorturePage& page : drive.pages) count += page.metadata ? 1 : 0;
  return count;
}

void tell(TortureReport& report, const std::string& name, const TortureDrive& drive, const BitCounts& counts) {
  report.json.begin_object(name).number("metadata_pages", metadata_pages(drive)).number("bits", counts.bits);
  report.json.number("blocks", drive.present).number("misses", counts.misses).number("misses_most", counts.misses_most);
  report.json.begin_object("misses_by_page");
  for (const auto& [what, misses] : counts.by_page) report.json.number(what, misses);
  report.json.end_object().end_object();
}

}  // namespace

void torture_bit_flips(const TortureOptions& options, TortureReport& report) {
  // A scan of the striped drive takes milliseconds: there a share of the bits is flipped.
  constexpr uint64_t kStripedStride = 32;
  VirtualClock clock;
  SeededEntropy entropy(options.seed);
  const auto slab = Slab::create(48 * kMiB).take();
  TortureDrive small, striped;
  make_small_drive(report, *slab, clock, small);
  make_striped_drive(report, *slab, clock, striped);
  TortureWorld small_world(report, small.blocks, *slab, clock), striped_world(report, striped.blocks, *slab, clock);
  small_world.platters.push_back(std::make_shared<Platter>(small.platter));
  striped_world.platters.push_back(std::make_shared<Platter>(striped.platter));
  BitFlips small_flips(report, options, small, small_world, "small");
  BitFlips striped_flips(report, options, striped, striped_world, "striped");
  for (uint64_t number = 0; number < kPasses && !report.time_is_up(); ++number) {
    small_flips.pass(number, 1);
    striped_flips.pass(number, kStripedStride);
  }
  tell(report, "small", small, small_flips.counts);
  tell(report, "striped", striped, striped_flips.counts);
}

}  // namespace cairn
