// Client memory that the service can reach by itself (shm, rdma), or plain memory where it cannot.
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
  // `shareable`: backed by a memfd sealed against shrinking; else anonymous memory.
  static Result<std::unique_ptr<MemoryRegion>> create(uint64_t bytes, bool shareable);
  // Over memory of the caller's, which stays until the region is gone. `gpu`: on which it lies; then base() is an
  // address that nothing here reads or writes through.
  static std::unique_ptr<MemoryRegion> over(ByteSpan memory, int gpu = kHostMemory);
  ~MemoryRegion();
  MemoryRegion(const MemoryRegion&) = delete;
  MemoryRegion& operator=(const MemoryRegion&) = delete;

  std::byte* base() const { return base_; }
  uint64_t bytes() const { return bytes_; }
  int descriptor() const { return descriptor_; }
  int gpu() const { return gpu_; }

  // The fence of last resort: puts fresh pages with the same content behind the same address, so that whoever
  // still holds the old memfd writes where nobody looks. False when there is no memory for it.
  bool detach();

  const uint64_t serial;  // no other region of this process has or had it
  uint32_t id = 0;        // in the session
  bool usable = false;    // the service has mapped it
  // What devices know of it (rdma).
  std::map<const MemoryDomain*, std::unique_ptr<ExposedMemory>> exposed;
  // Of memory on a GPU: why a device did not take it in, last; a whole sentence.
  std::string bounced_because;

 private:
  MemoryRegion(std::byte* base, uint64_t bytes, int descriptor, bool ours, int gpu);
  std::byte* base_;
  uint64_t bytes_;
  int descriptor_;
  bool ours_;  // mapped here
  int gpu_;
};

}  // namespace cairn
