// Client memory that is used often: of our own making, or a caller's. The service reaches it by itself over rdma.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "client/gpu.h"
#include "transport/transport.h"

namespace cairn {

// Its address is fixed for life; memory of our own is zeroed and page-aligned. Its methods need the client's lock,
// besides the getters.
class MemoryRegion {
 public:
  // Anonymous memory, whose pages the system gives when they are first touched.
  static Result<std::unique_ptr<MemoryRegion>> create(uint64_t bytes);
  // Over memory of the caller's, which stays until the region is gone. `gpu`: on which it lies; then base() is an
  // address that nothing here reads or writes through.
  static std::unique_ptr<MemoryRegion> over(ByteSpan memory, int gpu = kHostMemory);
  ~MemoryRegion();
  MemoryRegion(const MemoryRegion&) = delete;
  MemoryRegion& operator=(const MemoryRegion&) = delete;

  std::byte* base() const { return base_; }
  uint64_t bytes() const { return bytes_; }
  int gpu() const { return gpu_; }

  const uint64_t serial;             // no other region of this process has or had it
  const std::byte* reach = nullptr;  // where those end that begin no later than this one; one may lie in another
  // What devices know of it (rdma).
  std::map<const MemoryDomain*, std::unique_ptr<ExposedMemory>> exposed;
  // Of memory on a GPU: why a device did not take it in, last; a whole sentence.
  std::string bounced_because;

 private:
  MemoryRegion(std::byte* base, uint64_t bytes, bool ours, int gpu);
  std::byte* base_;
  uint64_t bytes_;
  bool ours_;  // mapped here
  int gpu_;
};

}  // namespace cairn
