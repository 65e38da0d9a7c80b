// The only place that registers memory with a device.
//
// Memory of the service is registered for its own device to read and write, and for nobody else: no key of it is worth
// anything to a peer (DESIGN §2). Memory of a client is exposed, by register_exposed() and register_dma_buf() alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "transport/verbs.h"

namespace cairn {

inline constexpr int kAccessOwn = IBV_ACCESS_LOCAL_WRITE;
static_assert((kAccessOwn & (IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC |
                             IBV_ACCESS_MW_BIND | IBV_ACCESS_ZERO_BASED | IBV_ACCESS_ON_DEMAND)) == 0,
              "memory of the service is open to its peers");

// Registered memory; the memory itself is somebody else's and stays where it is as long as this lives.
class RdmaMemory {
 public:
  RdmaMemory() = default;
  RdmaMemory(const Verbs& verbs, ibv_mr* region) : verbs_(&verbs), region_(region) {}
  ~RdmaMemory() { (void)end(); }
  // The device gives the memory up. False: it refuses, and whoever could reach it may still.
  bool end();
  RdmaMemory(RdmaMemory&& other) noexcept { swap(other); }
  RdmaMemory& operator=(RdmaMemory&& other) noexcept {
    swap(other);
    return *this;
  }
  explicit operator bool() const { return region_ != nullptr; }
  uint32_t local_key() const { return region_->lkey; }
  uint32_t remote_key() const { return region_->rkey; }
  ibv_mr* region() const { return region_; }

 private:
  void swap(RdmaMemory& other) {
    std::swap(verbs_, other.verbs_);
    std::swap(region_, other.region_);
  }
  const Verbs* verbs_ = nullptr;
  ibv_mr* region_ = nullptr;
};

// For this side's device only.
Result<RdmaMemory> register_own(const Verbs& verbs, ibv_pd* domain, ByteSpan memory);

// Of a client: nobody reaches it until a window is bound to it.
Result<RdmaMemory> register_for_windows(const Verbs& verbs, ibv_pd* domain, ByteSpan memory);
// Of a client, where the device has no windows: open to whoever has the key, in the domain, to be written or else to be
// read. It is given up when the request for which it was made ends.
Result<RdmaMemory> register_open(const Verbs& verbs, ibv_pd* domain, ByteSpan memory, bool writes);

// Of a client, memory of another device: open to whoever has the key, in the domain, for as long as it is registered.
// Linux binds no window to memory that it knows by a dma-buf (it refuses the access flag that this takes).
Result<RdmaMemory> register_dma_buf(const Verbs& verbs, ibv_pd* domain, ByteSpan memory, int descriptor,
                                    uint64_t offset);

// Slots of one size for messages, in registered memory that grows by pieces and is never given back.
class MessagePool {
 public:
  MessagePool(const Verbs& verbs, ibv_pd* domain, uint32_t slot_bytes);
  MessagePool(const MessagePool&) = delete;
  MessagePool& operator=(const MessagePool&) = delete;

  static constexpr uint32_t kNone = UINT32_MAX;
  uint32_t take();  // kNone when there is no memory left
  void give_back(uint32_t slot);
  std::byte* at(uint32_t slot) const;
  bool holds(uint32_t slot) const { return slot < pieces_.size() * kPieceSlots; }
  uint32_t key_of(uint32_t slot) const { return pieces_[slot / kPieceSlots].memory.local_key(); }
  uint32_t slot_bytes() const { return slot_bytes_; }
  size_t taken() const { return pieces_.size() * kPieceSlots - free_.size(); }

 private:
  static constexpr uint32_t kPieceSlots = 64;
  struct Unmap {
    size_t bytes = 0;
    void operator()(std::byte* base) const;
  };
  struct Piece {
    std::unique_ptr<std::byte, Unmap> base;
    RdmaMemory memory;  // gone before its memory
  };
  bool grow();

  const Verbs& verbs_;
  ibv_pd* domain_;
  uint32_t slot_bytes_;
  std::vector<Piece> pieces_;
  std::vector<uint32_t> free_;
};

}  // namespace cairn
