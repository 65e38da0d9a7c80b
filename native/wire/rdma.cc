#include "wire/rdma.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

namespace cairn {

namespace {

template <class T>
const char* decode_private(ConstByteSpan data, T& out, uint16_t& credits, uint32_t& message_bytes) {
  if (data.size() < sizeof(T)) return "private data that is too short";
  out = load<T>(data.data());
  if (out.magic != kRdmaMagic) return "private data that is not Cairn's (wrong magic)";
  credits = out.credits;
  message_bytes = out.message_bytes;
  return nullptr;
}

const char* check_sizes(uint16_t credits, uint32_t message_bytes) {
  if (credits < kRdmaCreditsLeast || credits > kRdmaCreditsMost) return "a number of credits that no side may grant";
  if (message_bytes < kRdmaMessageBytesLeast || message_bytes > kRdmaMessageBytesMost)
    return "a size of messages that no side may have";
  return nullptr;
}

}  // namespace

const char* decode_rdma_request(ConstByteSpan data, RdmaRequest& request) {
  uint16_t credits = 0;
  uint32_t message_bytes = 0;
  if (const char* wrong = decode_private(data, request, credits, message_bytes)) return wrong;
  if (request.version_least > kRdmaVersion || request.version_most < kRdmaVersion)
    return "this service speaks version 1 over RDMA only";
  return check_sizes(credits, message_bytes);
}

const char* decode_rdma_reply(ConstByteSpan data, RdmaReply& reply) {
  uint16_t credits = 0;
  uint32_t message_bytes = 0;
  if (const char* wrong = decode_private(data, reply, credits, message_bytes)) return wrong;
  if (reply.version != kRdmaVersion) return "the service chose a version that was not offered";
  return check_sizes(credits, message_bytes);
}

RdmaReject build_rdma_reject(Status status, std::string_view reason) {
  RdmaReject reject;
  reject.status = status;
  reject.reason_bytes = static_cast<uint16_t>(std::min(reason.size(), reject.reason.size()));
  std::copy_n(reason.begin(), reject.reason_bytes, reject.reason.begin());
  return reject;
}

bool decode_rdma_reject(ConstByteSpan data, Status& status, std::string& reason) {
  if (data.size() < sizeof(RdmaReject)) return false;
  const auto reject = load<RdmaReject>(data.data());
  if (reject.magic != kRdmaMagic || reject.reason_bytes > reject.reason.size()) return false;
  status = reject.status;
  reason.assign(reject.reason.data(), reject.reason_bytes);
  return true;
}

const char* FrameAssembly::take(ConstByteSpan message, bool& ended, Status& status) {
  ended = false;
  status = Status::invalid;
  if (message.size() < sizeof(MessagePrefix)) return "a message that is shorter than its prefix";
  prefix_ = load<MessagePrefix>(message.data());
  const ConstByteSpan piece = message.subspan(sizeof(MessagePrefix));
  if (prefix_.bytes != piece.size()) return "a message whose length is not what it says";
  if (!carries_frame()) return nullptr;
  if (piece.empty()) return "a message with a piece of a frame and no bytes";
  const bool first = (prefix_.flags & kMessageFirst) != 0, last = (prefix_.flags & kMessageLast) != 0;
  if (first == open_) return first ? "a frame begins within another" : "a piece of a frame that never began";
  if (first && last) {
    ended = true;
    return finish(piece, status);
  }
  if (first) {
    if (piece.size() < kFrameHeaderBytes) return "a frame whose first message does not hold its header";
    const auto begun = load<FrameHeader>(piece.data());
    if (const char* wrong = check_header(begun)) {
      status = status_of_wrong(begun);
      return wrong;
    }
    pieces_.clear();
    open_ = true;
  }
  const auto header = load<FrameHeader>(first ? piece.data() : pieces_.data());
  if (pieces_.size() + piece.size() > kFrameHeaderBytes + header.body_bytes) return "a frame longer than it says";
  pieces_.insert(pieces_.end(), piece.begin(), piece.end());
  if (!last) return nullptr;
  open_ = false;
  ended = true;
  return finish(pieces_, status);
}

const char* FrameAssembly::finish(ConstByteSpan frame, Status& status) {
  if (frame.size() < kFrameHeaderBytes) return "a frame that is shorter than its header";
  header_ = load<FrameHeader>(frame.data());
  if (const char* wrong = check_header(header_)) {
    status = status_of_wrong(header_);
    return wrong;
  }
  if (header_.payload_bytes != 0) return "payload behind a frame, where payload is read and written in place";
  body_ = frame.subspan(kFrameHeaderBytes);
  if (body_.size() != header_.body_bytes) return "a frame whose length is not what it says";
  return check_body(header_, body_);
}

}  // namespace cairn
