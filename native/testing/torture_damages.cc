// Damage to a drive at rest, at random: rotten bits, lost sectors, pages that are those of another place or time.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "store/format.h"
#include "testing/torture_drive.h"

namespace cairn {

namespace {

using format::kPageBytes;

enum class Damage : uint8_t { bits, sector, page, swapped, stale, foreign, junk };
constexpr std::array kDamages = {"flipped bits",      "a zeroed sector",           "a zeroed page", "two pages swapped",
                                 "a page of earlier", "a page of another segment", "random bytes"};

class Damages {
 public:
  Damages(TortureReport& report, const TortureDrive& drive, TortureWorld& world, uint64_t segment_bytes)
      : report_(report), drive_(drive), world_(world), segment_pages_(segment_bytes / kPageBytes) {
    world_.healthy = false;
    world_.losses_excused = true;
  }

  void damage(uint64_t seed) {
    std::mt19937_64 random(seed);
    *world_.platters[0] = drive_.platter;
    world_.oracle = drive_.oracle;
    const auto kind = static_cast<Damage>(random() % kDamages.size());
    const size_t which = random() % drive_.pages.size();
    const TorturePage& page = drive_.pages[which];
    touched_ = {page.page};
    apply(kind, page.page, random);
    report_.at("bit-flips --payload 1 --seed " + std::to_string(seed) + ": " + kDamages[static_cast<size_t>(kind)] +
               ", " + page.what + " on page " + std::to_string(page.page));
    world_.returns_excused = excused();
    if (const std::string why = world_.open(nullptr); !why.empty()) return report_.violation("not opened: " + why);
    misses += drive_.present - std::min(world_.check(), drive_.present);
    world_.stop();
    world_.check_slab();
    ++by_kind[kDamages[static_cast<size_t>(kind)]];
  }

  uint64_t misses = 0;
  std::map<std::string, uint64_t> by_kind;

 private:
  using Page = std::array<std::byte, kPageBytes>;
  Page read(const Platter& from, uint64_t page) const {
    Page bytes;
    from.read(page * kPageBytes, bytes.data(), kPageBytes);
    return bytes;
  }
  void write(uint64_t page, const Page& bytes) {
    world_.platters[0]->write(page * kPageBytes, bytes.data(), kPageBytes);
  }

  void apply(Damage kind, uint64_t page, std::mt19937_64& random) {
    Page bytes = read(drive_.platter, page);
    const uint64_t other = drive_.pages[random() % drive_.pages.size()].page;
    if (kind == Damage::bits) {
      for (uint64_t left = 1 + random() % 8; left > 0; --left)
        bytes[random() % kPageBytes] ^= static_cast<std::byte>(1 << random() % 8);
    } else if (kind == Damage::sector) {
      const uint64_t at = random() % 8 * 512;
      std::fill_n(bytes.begin() + static_cast<long>(at), 512, std::byte{0});
    } else if (kind == Damage::page) {
      bytes.fill(std::byte{0});
    } else if (kind == Damage::swapped) {
      bytes = read(drive_.platter, other);
      write(other, read(drive_.platter, page));
      touched_.push_back(other);
    } else if (kind == Damage::stale) {
      bytes = read(drive_.earlier[random() % drive_.earlier.size()], page);
    } else if (kind == Damage::foreign) {
      const uint64_t all = drive_.platter.bytes() / kPageBytes;
      bytes = read(drive_.platter, (page + segment_pages_ * (1 + random() % 5)) % all);
    } else {
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    }
    write(page, bytes);
  }

  // One damage of two pages may cost a delete: both that tell of it, or both that say what a segment is.
  bool excused() const {
    std::map<uint64_t, int> ends, tellers;
    for (const uint64_t page : touched_) {
      const uint64_t within = (page - format::kFirstSegmentOffset / kPageBytes) % segment_pages_;
      const uint64_t segment = (page - within) / segment_pages_;
      if (within == 0 || within == segment_pages_ - 1) ++ends[segment];
      for (const TorturePage& one : drive_.pages) {
        if (one.page != page) continue;
        if (one.tells_of_deletes) ++tellers[segment];
      }
    }
    const auto both = [](const auto& met) { return met.second > 1; };
    return std::any_of(ends.begin(), ends.end(), both) || std::any_of(tellers.begin(), tellers.end(), both);
  }

  TortureReport& report_;
  const TortureDrive& drive_;
  TortureWorld& world_;
  uint64_t segment_pages_;
  std::vector<uint64_t> touched_;
};

}  // namespace

void torture_damages(const TortureOptions& options, TortureReport& report) {
  constexpr uint64_t kStripedEach = 32;  // one in so many is done to the striped drive, which takes longer
  VirtualClock clock;
  SeededEntropy entropy(1);
  const auto slab = Slab::create(48 * kMiB).take();
  TortureDrive small, striped;
  make_small_drive(report, *slab, clock, small);
  make_striped_drive(report, *slab, clock, striped);
  TortureWorld small_world(report, small.blocks, *slab, clock), striped_world(report, striped.blocks, *slab, clock);
  small_world.platters.push_back(std::make_shared<Platter>(small.platter));
  striped_world.platters.push_back(std::make_shared<Platter>(striped.platter));
  Damages small_damages(report, small, small_world, kMiB), striped_damages(report, striped, striped_world, 8 * kMiB);
  uint64_t done = 0;
  for (uint64_t i = 0; i < options.payload && !report.time_is_up(); ++i, ++done)
    ((options.seed + i) % kStripedEach == 0 ? striped_damages : small_damages).damage(options.seed + i);
  report.json.number("damages", done).number("misses", small_damages.misses + striped_damages.misses);
  report.json.number("returned_excused", small_world.returned + striped_world.returned);
  report.json.begin_object("kinds");
  for (const char* kind : kDamages)
    report.json.number(kind, small_damages.by_kind[kind] + striped_damages.by_kind[kind]);
  report.json.end_object();
}

}  // namespace cairn
