// A small drive with everything on it that a drive may have, and what each of its pages is.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "testing/torture_world.h"

namespace cairn {

struct TorturePage {
  uint64_t page = 0;  // of the drive
  std::string what;
  bool metadata = true;  // else payload
  bool tells_of_deletes = false;
};

struct TortureDrive {
  TortureDrive() : oracle(blocks), platter(0) {}
  TortureBlocks blocks;
  TortureOracle oracle;
  Platter platter;
  std::vector<Platter> earlier;    // the same drive, in its earlier lives
  std::vector<TorturePage> pages;  // all that say or hold something that counts
  uint64_t present = 0;            // blocks that a get finds
};

// Six segments of 1 MiB: two that were given up, two that are sealed (blocks, groups and scopes; tombstones of every
// kind), one that is open, one that was never used.
void make_small_drive(TortureReport& report, Slab& slab, VirtualClock& clock, TortureDrive& drive);
// Four segments of 8 MiB with a block of two parts, and another.
void make_striped_drive(TortureReport& report, Slab& slab, VirtualClock& clock, TortureDrive& drive);

}  // namespace cairn
