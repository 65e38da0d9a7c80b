// Memory of our own for blocks that lie where the transport does not reach: payload is copied once, between here and
// the caller's memory. Links whose peer reads and writes memory by itself (rdma) need it for memory that the device
// does not know; all links need it for memory of a GPU, unless the device knows that.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "base/slab.h"
#include "client/gpu.h"
#include "transport/transport.h"

namespace cairn {

inline constexpr uint64_t kBounceBytes = 128 * kMiB;        // mapped and registered when first needed
inline constexpr uint64_t kBounceRequestBytes = 32 * kMiB;  // that a request takes of it, unless one block is larger
static_assert(kBounceBytes >= 2 * kBlockBytesMost, "the largest block waits until nothing else is on its way");

// Needs the client's lock.
class Bounce {
 public:
  Bounce() = default;
  ~Bounce();
  Bounce(const Bounce&) = delete;
  Bounce& operator=(const Bounce&) = delete;

  // Memory of `bytes`, or none while others use it; then something comes back when a request ends. Empty for ever, with
  // the reason in `error`, when it cannot be had at all. `domain`: of the link, which gets to know it; nullptr: payload
  // travels in frames. `for_gpu`: it is pinned, so that a GPU copies fast; it works as well where it cannot be.
  Buffer take(MemoryDomain* domain, uint64_t bytes, bool for_gpu, std::string& error);
  // Of a buffer from take(), for let_in().
  const ExposedMemory& exposed(const MemoryDomain& domain) const { return *exposed_.at(&domain); }
  // Nothing is on its way by it any more.
  void forget(const MemoryDomain& domain) { exposed_.erase(&domain); }
  bool holds(const MemoryDomain& domain) const { return exposed_.contains(&domain); }

 private:
  bool prepare(MemoryDomain* domain, bool for_gpu, std::string& error);

  std::unique_ptr<Slab> slab_;
  bool pinned_ = false, pin_tried_ = false;
  std::map<const MemoryDomain*, std::unique_ptr<ExposedMemory>> exposed_;  // gone before the slab
};

}  // namespace cairn
