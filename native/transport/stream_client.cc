#include "transport/stream_client.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace cairn {

namespace {

constexpr uint64_t kReceiveBudget = 8 * kMiB;

// What is sent in place of memory that may no longer be read. Never written.
constexpr size_t kFillerBytes = 64 * 1024;
const std::array<std::byte, kFillerBytes> kFiller{};

std::vector<std::byte> trailer(Status status) {
  const DataTrailer body{status, {}};
  const ConstByteSpan bytes = bytes_of(body);
  return {bytes.begin(), bytes.end()};
}

OutFrame data_frame(const FrameHeader& like, uint32_t index, uint64_t length, Status status) {
  CAIRN_CHECK(length <= kBlockBytesMost, "data is announced that no block can have");
  CAIRN_CHECK(status == Status::ok || length == 0, "bytes are sent for an item that was given up before");
  FrameBuilder frame(FrameType::data, like.request_id, sizeof(DataBody));
  frame.header().tag = like.tag;
  frame.header().payload_bytes = length + sizeof(DataTrailer);
  frame.append(DataBody{index, 0, 0, length});
  OutFrame out;
  out.head = frame.finish();
  CAIRN_CHECK(out.head.size() == kFrameHeaderBytes + sizeof(DataBody), "the head of data is not as long as it must be");
  out.tail = trailer(status);
  out.payload_bytes = length;
  out.request_id = like.request_id;
  out.is_data = true;
  return out;
}

void swap_for_filler(OutFrame& frame) {
  CAIRN_CHECK(frame.is_data, "a frame that carries no data is filled up");
  CAIRN_CHECK(frame.keep.empty(), "a client's data lies in the slab of a service");
  CAIRN_CHECK(frame.payload_bytes <= kBlockBytesMost, "data is longer than a block can be");
  frame.payload.clear();
  for (uint64_t left = frame.payload_bytes; left > 0;) {
    const uint64_t part = std::min<uint64_t>(left, kFillerBytes);
    frame.payload.push_back({const_cast<std::byte*>(kFiller.data()), part});
    left -= part;
  }
  frame.tail = trailer(Status::cancelled);
}

}  // namespace

void StreamClientLink::progress(bool readable, bool writable) {
  CAIRN_CHECK(handler_ != nullptr, "a link is driven that reports to nobody");
  progress_channel(readable, writable, kReceiveBudget);
}

bool StreamClientLink::poll() {
  return poll_channel(kReceiveBudget);
}

void StreamClientLink::send(std::vector<std::byte> frame) {
  OutFrame out;
  out.head = std::move(frame);
  enqueue(std::move(out));
  send_queued();
}

void StreamClientLink::forget(uint64_t request_id) {
  bool first = true;
  CAIRN_CHECK(front_sent() == 0 || !queue().empty(), "a part of no frame was sent");
  for (OutFrame& frame : queue()) {
    // Of a frame that has begun, the length is settled; one whose payload is out already has left our hands.
    const bool begun = first && front_sent() > 0;
    const bool payload_gone = begun && front_sent() >= frame.head.size() + frame.payload_bytes;
    first = false;
    if (frame.is_data && frame.request_id == request_id && !payload_gone) swap_for_filler(frame);
  }
  const FrameHeader* header = receiving();
  if (header != nullptr && header->request_id == request_id) drain_payload();
}

const char* StreamClientLink::place_payload(const FrameHeader& header, ConstByteSpan body, std::vector<iovec>& into) {
  CAIRN_CHECK(header.payload_bytes > 0, "memory is looked for where no payload comes");
  if (header.type != FrameType::results) return "payload behind a frame that carries none";
  if (const char* wrong = decode_array(header, body, results_)) return wrong;
  uint64_t placed = 0;
  arriving_.clear();
  arriving_at_ = 0;
  for (const ResultBody& result : results_) {
    if ((result.flags & kResultPayload) == 0) continue;
    if (result.length > kBlockBytesMost) return "a result longer than a block can be";
    const size_t before = into.size();
    if (!handler_->destination(header.request_id, result.index, result.length, into)) {
      CAIRN_CHECK(into.size() >= before, "memory of another item was taken away");
      into.resize(before);
      into.push_back({nullptr, result.length});
    }
    placed += result.length;
    arriving_.push_back({result.index, 0, result.length, result.length});
  }
  return placed == header.payload_bytes ? nullptr : "results whose lengths do not add up to the payload";
}

void StreamClientLink::frame_arrived(const FrameHeader& header, ConstByteSpan body) {
  if (header.type == FrameType::pull) return answer_pulls(header, body);
  if (header.payload_bytes > 0 && watches_payload()) {
    for (const Arriving& item : arriving_)
      handler_->payload_arrived(header.request_id, item.index, item.length, item.crc);
  }
  handler_->on_frame(header, body);
}

void StreamClientLink::payload_seen(ConstByteSpan bytes) {
  while (!bytes.empty()) {
    CAIRN_CHECK(arriving_at_ < arriving_.size(), "payload arrives that no result announced");
    Arriving& item = arriving_[arriving_at_];
    const ConstByteSpan its = bytes.first(std::min<uint64_t>(bytes.size(), item.left));
    item.crc = crc32c(its, item.crc);
    item.left -= its.size();
    bytes = bytes.subspan(its.size());
    if (item.left == 0) ++arriving_at_;
  }
}

void StreamClientLink::failed(Status status, std::string_view reason) {
  CAIRN_CHECK(handler_ != nullptr, "a link breaks and nobody is told");
  handler_->on_closed(status, reason);
}

void StreamClientLink::answer_pulls(const FrameHeader& header, ConstByteSpan body) {
  std::vector<PullBody> pulls;
  if (const char* wrong = decode_array(header, body, pulls)) return fail(Status::invalid, wrong);
  for (const PullBody& pull : pulls) send_data(header, pull);
  send_queued();
}

void StreamClientLink::send_data(const FrameHeader& header, const PullBody& pull) {
  std::vector<iovec> payload;
  if (pull.length > kBlockBytesMost || pull.offset != 0 ||
      !handler_->source(header.request_id, pull.index, pull.offset, pull.length, payload)) {
    enqueue(data_frame(header, pull.index, 0, Status::cancelled));
    return;
  }
  OutFrame out = data_frame(header, pull.index, pull.length, Status::ok);
  out.payload = std::move(payload);
  enqueue(std::move(out));
}

}  // namespace cairn
