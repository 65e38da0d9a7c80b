#include "client/region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "base/bytes.h"

namespace cairn {

namespace {

std::atomic<uint64_t> regions_made{0};

constexpr uint64_t kPageBytes = 4096;
static_assert((kPageBytes & (kPageBytes - 1)) == 0, "pages are powers of two");

// A memfd of that size that cannot shrink; -1 and errno otherwise.
int make_memfd(uint64_t bytes) {
  const int fd = memfd_create("cairn-region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -1;
  if (ftruncate(fd, static_cast<off_t>(bytes)) == 0 &&
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
    return fd;
  }
  const int number = errno;
  ::close(fd);
  errno = number;
  return -1;
}

}  // namespace

Result<std::unique_ptr<MemoryRegion>> MemoryRegion::create(uint64_t bytes, bool shareable) {
  if (bytes == 0) return Error{0, "a region has at least one byte"};
  bytes = round_up(bytes, kPageBytes);
  const std::string what = "cannot allocate a region of " + std::to_string(bytes) + " bytes";
  const int fd = shareable ? make_memfd(bytes) : -1;
  if (shareable && fd < 0) return Error::from_errno(errno, what);
  // Touched now: a fault in the middle of a transfer would be paid by somebody's latency.
  const int flags = (shareable ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) | MAP_POPULATE;
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (base == MAP_FAILED) {
    const int number = errno;
    if (fd >= 0) ::close(fd);
    return Error::from_errno(number, what);
  }
  return std::unique_ptr<MemoryRegion>(new MemoryRegion(static_cast<std::byte*>(base), bytes, fd, true, kHostMemory));
}

std::unique_ptr<MemoryRegion> MemoryRegion::over(ByteSpan memory, int gpu) {
  return std::unique_ptr<MemoryRegion>(new MemoryRegion(memory.data(), memory.size(), -1, false, gpu));
}

MemoryRegion::MemoryRegion(std::byte* base, uint64_t bytes, int descriptor, bool ours, int gpu)
    : serial(++regions_made), base_(base), bytes_(bytes), descriptor_(descriptor), ours_(ours), gpu_(gpu) {
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
  if (descriptor_ >= 0) ::close(descriptor_);
}

bool MemoryRegion::detach() {
  if (descriptor_ < 0) return true;
  const int fresh = make_memfd(bytes_);
  if (fresh < 0) return false;
  for (uint64_t at = 0; at < bytes_;) {
    const ssize_t written = pwrite(fresh, base_ + at, bytes_ - at, static_cast<off_t>(at));
    if (written <= 0) {
      ::close(fresh);
      return false;
    }
    at += static_cast<uint64_t>(written);
  }
  if (mmap(base_, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fresh, 0) == MAP_FAILED) {
    ::close(fresh);
    return false;
  }
  ::close(descriptor_);
  descriptor_ = fresh;
  usable = false;
  return true;
}

}  // namespace cairn
