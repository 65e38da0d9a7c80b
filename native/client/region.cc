#include "client/region.h"

#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/memory_left.h"

namespace cairn {

namespace {

std::atomic<uint64_t> regions_made{0};

constexpr uint64_t kPageBytes = 4096;
static_assert((kPageBytes & (kPageBytes - 1)) == 0, "pages are powers of two");

}  // namespace

Result<std::unique_ptr<MemoryRegion>> MemoryRegion::create(uint64_t bytes) {
  if (bytes == 0) return Error{0, "a region has at least one byte"};
  bytes = round_up(bytes, kPageBytes);
  const std::string what = "cannot allocate a region of " + std::to_string(bytes) + " bytes";
  // The system promises more memory than it has, and kills whoever touches it. So it is asked before, and the pages are
  // not touched here: memory that goes meanwhile is missed by whoever fills the region, not by everybody at once.
  const MemoryLeft left = memory_left();
  if (bytes > left.bytes) {
    return Error{ENOMEM, what + ": " + left.whose + " has " + std::to_string(left.bytes) +
                             " bytes of memory left; ask for less, or give it more"};
  }
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return Error::from_errno(errno, what);
  return std::unique_ptr<MemoryRegion>(new MemoryRegion(static_cast<std::byte*>(base), bytes, true, kHostMemory));
}

std::unique_ptr<MemoryRegion> MemoryRegion::over(ByteSpan memory, int gpu) {
  return std::unique_ptr<MemoryRegion>(new MemoryRegion(memory.data(), memory.size(), false, gpu));
}

MemoryRegion::MemoryRegion(std::byte* base, uint64_t bytes, bool ours, int gpu)
    : serial(++regions_made), base_(base), bytes_(bytes), ours_(ours), gpu_(gpu) {
  CAIRN_CHECK(base_ != nullptr, "a region without memory");
  CAIRN_CHECK(bytes_ > 0, "a region of nothing");
  CAIRN_CHECK(gpu_ == kHostMemory || !ours_, "memory of a GPU was mapped here");
  CAIRN_CHECK(!ours_ || reinterpret_cast<uintptr_t>(base_) % kPageBytes == 0,
              "a region begins in the middle of a page");
  CAIRN_CHECK(!ours_ || bytes_ % kPageBytes == 0, "a region is not whole pages");
}

MemoryRegion::~MemoryRegion() {
  exposed.clear();
  if (ours_) munmap(base_, bytes_);
}

}  // namespace cairn
