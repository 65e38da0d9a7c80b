// What a connection over RDMA carries besides frames: docs/wire-format.md, "RDMA".
//
// The connection manager carries the private data of a request, a reply or a reject. Everything else is messages, one
// SEND each: a prefix and a piece of one frame. Payload never travels in messages; the service reads and writes the
// client's memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "wire/frame.h"

namespace cairn {

inline constexpr uint32_t kRdmaMagic = 0x52524943;  // "CIRR"
inline constexpr uint8_t kRdmaVersion = 1;
inline constexpr uint32_t kRdmaMessageBytesLeast = 512;  // that a side must be able to receive: a hello in most cases
inline constexpr uint32_t kRdmaMessageBytesMost = 1 << 20;
inline constexpr uint16_t kRdmaCreditsLeast = 4;
inline constexpr uint16_t kRdmaCreditsMost = 1024;

inline constexpr uint32_t kRdmaWindows = 1;  // the client exposes memory by windows; the service may invalidate them

// The private data of a request: all that the connection manager takes.
struct RdmaRequest {
  uint32_t magic = kRdmaMagic;
  uint8_t version_least = kRdmaVersion;
  uint8_t version_most = kRdmaVersion;
  uint16_t credits = 0;        // messages that the client receives before it gives credit back
  uint32_t message_bytes = 0;  // the longest that it receives
  uint32_t features = 0;
  uint64_t tenant = 0;              // tenant_mark() of the hello's tenant
  std::array<uint8_t, 32> proof{};  // of the tenant's credentials; zero in version 1
};
static_assert(sizeof(RdmaRequest) == 56, "the connection manager carries 56 bytes with a request");

struct RdmaReply {
  uint32_t magic = kRdmaMagic;
  uint8_t version = kRdmaVersion;
  uint8_t reserved = 0;
  uint16_t credits = 0;
  uint32_t message_bytes = 0;
  uint32_t features = 0;
};
static_assert(sizeof(RdmaReply) == 16);

struct RdmaReject {
  uint32_t magic = kRdmaMagic;
  Status status{};
  uint16_t reason_bytes = 0;
  std::array<char, 136> reason{};
};
static_assert(sizeof(RdmaReject) == 144, "the connection manager carries 148 bytes with a reject");

inline constexpr uint16_t kMessageFirst = 1;  // a frame begins
inline constexpr uint16_t kMessageLast = 2;   // … and ends

// Before each piece of a frame. A message without either flag and without bytes gives credit back and takes none.
struct MessagePrefix {
  uint32_t bytes = 0;    // of the frame, behind this
  uint16_t credits = 0;  // messages of the other side that were taken in since the last one that was sent
  uint16_t flags = 0;
  uint64_t reserved = 0;
};
static_assert(sizeof(MessagePrefix) == 16);

// FNV-1a, 64 bits (draft-eastlake-fnv): names a tenant where its name does not fit. No secret, and no proof.
constexpr uint64_t tenant_mark(std::string_view tenant) {
  uint64_t mark = 0xCBF29CE484222325;
  for (const char one : tenant) mark = (mark ^ static_cast<uint8_t>(one)) * 0x100000001B3;
  return mark;
}
static_assert(tenant_mark("default") == 0xEBADA5168620C5FE, "tenants have other marks than docs/wire-format.md says");

// nullptr, or what is wrong with the private data of a request or a reply. They may be followed by anything: the
// connection manager fills up with zeros.
const char* decode_rdma_request(ConstByteSpan data, RdmaRequest& request);
const char* decode_rdma_reply(ConstByteSpan data, RdmaReply& reply);

RdmaReject build_rdma_reject(Status status, std::string_view reason);
// False when the data is not a reject of ours.
bool decode_rdma_reject(ConstByteSpan data, Status& status, std::string& reason);

// Frames put together from messages. Holds no more than one frame, and that no longer than its header may say.
class FrameAssembly {
 public:
  // Takes one message. A frame that it completes is in header() and body() until the next call; `ended` says whether.
  // Nothing is copied of a frame that one message holds: its body() lies in that message, and goes with it.
  // nullptr, or what is wrong; `status` then says of which kind that is.
  const char* take(ConstByteSpan message, bool& ended, Status& status);
  uint16_t credits() const { return prefix_.credits; }  // of the last message
  bool carries_frame() const { return prefix_.flags != 0 || prefix_.bytes != 0; }
  const FrameHeader& header() const { return header_; }
  ConstByteSpan body() const { return body_; }
  bool mid_frame() const { return open_; }

 private:
  const char* finish(ConstByteSpan frame, Status& status);

  MessagePrefix prefix_;
  FrameHeader header_;
  ConstByteSpan body_;  // in pieces_, or in the last message
  std::vector<std::byte> pieces_;
  bool open_ = false;
};

}  // namespace cairn
