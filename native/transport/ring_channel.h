// What a link over shm runs over: a ring in shared memory for each direction, and a Unix socket for the handshake, for
// the bell, and to see that the peer is gone. docs/decisions/0009-shm-rings.md says why.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/result.h"
#include "transport/channel.h"
#include "transport/ring.h"

namespace cairn {

// Of each of the two. Where the two processes share a processor, each moves so much in its turn; where they do not, a
// quarter of it does. What was never used takes no memory.
inline constexpr uint64_t kRingBytes = 4 << 20;
inline constexpr uint64_t kRingBytesMost = 64 << 20;

inline constexpr uint32_t kRingsMagic = 0x53524943;  // "CIRS"
inline constexpr uint32_t kRingsVersion = 1;

// The beginning of the shared memory. Written once, by the service, before the client has it.
struct RingsHeader {
  uint32_t magic = kRingsMagic;
  uint32_t version = kRingsVersion;
  uint64_t total_bytes = 0;
  uint64_t ring_bytes = 0;        // of each ring: a power of two
  uint64_t to_service_first = 0;  // where the bytes of that ring begin
  uint64_t to_client_first = 0;
  uint64_t reserved[3] = {};
};
static_assert(sizeof(RingsHeader) == 64);

inline constexpr uint64_t kToServiceControl = 256, kToClientControl = 512;  // where the RingControl of each lies
inline constexpr uint64_t kRingsFirst = 65'536;                             // a page on every machine

// Both rings, mapped here.
class SharedRings {
 public:
  // New ones; `descriptor` becomes that of their memory, which is the caller's to close.
  static Result<std::unique_ptr<SharedRings>> make(uint64_t ring_bytes, int& descriptor);
  // Those that a service made. The descriptor stays the caller's.
  static Result<std::unique_ptr<SharedRings>> map(int descriptor);
  ~SharedRings();
  SharedRings(const SharedRings&) = delete;
  SharedRings& operator=(const SharedRings&) = delete;

  RingControl& to_service() const { return *reinterpret_cast<RingControl*>(base_ + kToServiceControl); }
  RingControl& to_client() const { return *reinterpret_cast<RingControl*>(base_ + kToClientControl); }
  std::byte* to_service_bytes() const { return base_ + to_service_; }
  std::byte* to_client_bytes() const { return base_ + to_client_; }
  uint64_t ring_bytes() const { return ring_bytes_; }

 private:
  SharedRings(std::byte* base, const RingsHeader& header)
      : base_(base),
        total_(header.total_bytes),
        ring_bytes_(header.ring_bytes),
        to_service_(header.to_service_first),
        to_client_(header.to_client_first) {}
  std::byte* base_;
  uint64_t total_, ring_bytes_, to_service_, to_client_;
};

// The service's end. It is the socket, which it takes over, until prepare() and send_welcome().
std::unique_ptr<ByteChannel> ring_channel(int socket);
enum class RingEnd : uint8_t { service, client };
// Either end, after the handshake.
std::unique_ptr<ByteChannel> ring_channel(int socket, std::unique_ptr<SharedRings> rings, RingEnd end);

}  // namespace cairn
