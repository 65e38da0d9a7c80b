#include "transport/regions.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/streaming_copy.h"

namespace cairn {

RegionTable::~RegionTable() {
  for (const auto& [id, mapping] : mappings_) {
    munmap(mapping.base, mapping.length);
    bytes_ -= mapping.length;
  }
  CAIRN_CHECK(bytes_ == 0, "the bytes of a session's regions were miscounted");
}

Status RegionTable::add(const RegionBody& region, int descriptor) {
  struct Closer {
    int fd;
    ~Closer() {
      if (fd >= 0) ::close(fd);
    }
  } closer{descriptor};
  if (descriptor < 0 || region.length == 0 || mappings_.contains(region.region)) return Status::invalid;
  CAIRN_CHECK(bytes_ <= kRegionBytesMost, "a session has more memory mapped than it may");
  if (region.length > kRegionBytesMost - bytes_) return Status::too_large;
  if (mappings_.size() >= kSessionRegionsMost) return Status::busy;
  const int seals = fcntl(descriptor, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return Status::invalid;
  struct stat file{};
  if (fstat(descriptor, &file) != 0 || static_cast<uint64_t>(file.st_size) < region.length) return Status::invalid;
  void* base = mmap(nullptr, region.length, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (base == MAP_FAILED) return Status::invalid;
  const bool fresh = mappings_.emplace(region.region, Mapping{static_cast<std::byte*>(base), region.length}).second;
  CAIRN_CHECK(fresh, "a region takes the place of another, which stays mapped for ever");
  bytes_ += region.length;
  return Status::ok;
}

Status RegionTable::remove(uint32_t region) {
  const auto found = mappings_.find(region);
  if (found == mappings_.end()) return Status::not_found;
  CAIRN_CHECK(found->second.length <= bytes_, "a region is longer than all of its session together");
  munmap(found->second.base, found->second.length);
  bytes_ -= found->second.length;
  mappings_.erase(found);
  CAIRN_CHECK(!mappings_.empty() || bytes_ == 0, "bytes are counted of regions that are gone");
  return Status::ok;
}

bool RegionTable::resolve(std::span<const ExtentBody> extents, uint64_t length, std::vector<iovec>& out) const {
  for (const ExtentBody& extent : extents) {
    if (length == 0) return true;
    const auto found = mappings_.find(extent.region);
    if (found == mappings_.end()) return false;
    const Mapping& mapping = found->second;
    if (extent.address > mapping.length || extent.length > mapping.length - extent.address) return false;
    const uint64_t part = std::min(extent.length, length);
    if (part > 0) out.push_back({mapping.base + extent.address, part});
    length -= part;
  }
  return length == 0;
}

void copy_vectors(std::span<const iovec> from, std::span<const iovec> to) {
  size_t source = 0, target = 0;
  size_t source_at = 0, target_at = 0;
  while (source < from.size() && target < to.size()) {
    CAIRN_CHECK(to[target].iov_base != nullptr, "bytes are copied to where payload is drained");
    const size_t step = std::min(from[source].iov_len - source_at, to[target].iov_len - target_at);
    copy_streaming(static_cast<std::byte*>(to[target].iov_base) + target_at,
                   static_cast<const std::byte*>(from[source].iov_base) + source_at, step);
    source_at += step;
    target_at += step;
    if (source_at == from[source].iov_len) {
      ++source;
      source_at = 0;
    }
    if (target_at == to[target].iov_len) {
      ++target;
      target_at = 0;
    }
  }
}

}  // namespace cairn
