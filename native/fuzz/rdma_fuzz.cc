// Any bytes as what a peer sends over RDMA: private data, and messages. [length: 2][flags: 1] bytes …, again and again;
// a first piece is made a header that passes its checks if its flags ask for that.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/check.h"
#include "wire/rdma.h"

using namespace cairn;

namespace {

constexpr uint8_t kSeal = 0x80, kLie = 0x40;

// The message, and its header sealed for a body of the length that it announces modulo 4096.
std::vector<std::byte> message_of(ConstByteSpan piece, uint8_t flags) {
  MessagePrefix prefix;
  prefix.bytes = static_cast<uint32_t>(piece.size()) + ((flags & kLie) != 0 ? 1 : 0);
  prefix.flags = flags & 7;
  prefix.credits = flags;
  std::vector<std::byte> out(sizeof(prefix) + piece.size());
  store_bytes(out.data(), prefix);
  if (!piece.empty()) std::memcpy(out.data() + sizeof(prefix), piece.data(), piece.size());
  if ((flags & kSeal) == 0 || piece.size() < kFrameHeaderBytes) return out;
  auto header = load<FrameHeader>(piece.data());
  header.magic = kFrameMagic;
  header.version = kProtocolVersion;
  header.body_bytes %= 4096;
  if ((flags & kMessageLast) != 0) header.body_bytes = static_cast<uint32_t>(piece.size() - kFrameHeaderBytes);
  header.body_crc = crc32c(piece.subspan(kFrameHeaderBytes));
  header.header_crc = crc32c(bytes_of(header).first(offsetof(FrameHeader, header_crc)));
  store_bytes(out.data() + sizeof(prefix), header);
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ConstByteSpan input(reinterpret_cast<const std::byte*>(data), size);
  RdmaRequest request;
  RdmaReply reply;
  Status status{};
  std::string reason;
  if (decode_rdma_request(input, request) == nullptr)
    CAIRN_CHECK(request.message_bytes >= kRdmaMessageBytesLeast, "a client that takes no messages is let in");
  (void)decode_rdma_reply(input, reply);
  if (decode_rdma_reject(input, status, reason)) CAIRN_CHECK(reason.size() <= 136, "a reason longer than its room");
  FrameAssembly assembly;
  while (input.size() >= 3) {
    const size_t wanted = load<uint16_t>(input.data());
    const auto flags = load<uint8_t>(input.data() + 2);
    input = input.subspan(3);
    const ConstByteSpan piece = input.first(std::min(wanted, input.size()));
    input = input.subspan(piece.size());
    const auto message = message_of(piece, flags);
    bool ended = false;
    Status kind{};
    if (assembly.take(message, ended, kind) != nullptr) {
      CAIRN_CHECK(kind == Status::invalid || kind == Status::bad_version, "a message is wrong in a way that is none");
      break;  // the link ends
    }
    if (!ended) continue;
    CAIRN_CHECK(assembly.body().size() == assembly.header().body_bytes, "a frame with another body than it announced");
    CAIRN_CHECK(crc32c(assembly.body()) == assembly.header().body_crc, "a frame that is damaged");
    CAIRN_CHECK(!assembly.mid_frame(), "a frame ended and goes on");
  }
  return 0;
}
