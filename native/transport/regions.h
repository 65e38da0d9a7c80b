// Client memory that the server can reach: memfds handed over a Unix socket, mapped here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/slab.h"
#include "wire/frame.h"

namespace cairn {

// The regions of one session. Reactor thread only. A region whose file could shrink under the mapping would
// kill the process with SIGBUS, so only memfds sealed against shrinking are taken.
class RegionTable {
 public:
  RegionTable() = default;
  ~RegionTable();
  RegionTable(const RegionTable&) = delete;
  RegionTable& operator=(const RegionTable&) = delete;

  // Takes ownership of `descriptor` (closed in any case). ok, invalid, too_large, busy (too many regions).
  Status add(const RegionBody& region, int descriptor);
  Status remove(uint32_t region);

  // The memory of [0, length) of the extents joined in order; false when any byte lies outside a region.
  bool resolve(std::span<const ExtentBody> extents, uint64_t length, std::vector<iovec>& out) const;

 private:
  struct Mapping {
    std::byte* base;
    uint64_t length;
  };
  std::map<uint32_t, Mapping> mappings_;
  uint64_t bytes_ = 0;
};

// Copies min(total lengths) bytes from one list of ranges to another.
void copy_vectors(std::span<const iovec> from, std::span<const iovec> to);

}  // namespace cairn
