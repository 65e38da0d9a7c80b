#include "transport/rdma_server.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "wire/frame.h"

namespace cairn {

namespace {

// Whether [0, length) of the extents is memory that an address can name.
bool extents_hold(std::span<const ExtentBody> extents, uint64_t length) {
  uint64_t room = 0;
  for (const ExtentBody& extent : extents) {
    if (extent.length > UINT64_MAX - extent.address || extent.length > UINT32_MAX) return false;
    room += extent.length;
  }
  return room >= length;
}

}  // namespace

RdmaServerLink::RdmaServerLink(RdmaDevice& device, RdmaDomain& domain, std::unique_ptr<RdmaQueue> queue, EndSizes sizes,
                               std::string peer, std::string host, bool windows)
    : RdmaEnd(std::move(queue), device.chain(), domain.pool(), sizes),
      device_(device),
      domain_(domain),
      number_of_queue_(RdmaEnd::queue().number()),
      mark_(domain.mark()),
      peer_(std::move(peer)),
      host_(std::move(host)),
      windows_(windows) {}

RdmaServerLink::~RdmaServerLink() {
  device_.forget(*this, number_of_queue_);
  if (auto queue = take_queue()) device_.drop_queue(std::move(queue), domain_);
}

void RdmaServerLink::set_tag(const SessionTag& tag) {
  CAIRN_CHECK(!tagged_, "a link that belongs to a session is given to another");
  CAIRN_CHECK(tag != SessionTag{}, "a link is given the tag of no session");
  tag_ = tag;
  tagged_ = true;
  domain_.met = true;
}

// Of the frame that ends a request: it takes back the window that the client opened for it, and follows all reads.
RdmaEnd::FrameOptions RdmaServerLink::options_of(uint64_t request_id, bool last) {
  CAIRN_CHECK(windows_ || exposed_.empty(), "windows are to be taken back where there are none");
  FrameOptions options;
  options.behind_reads = reads_orphaned() > 0;
  if (!last) return options;
  const auto found = exposed_.find(request_id);
  if (found == exposed_.end()) return options;
  options.has_invalidate = true;
  options.invalidate = found->second;
  exposed_.erase(found);
  return options;
}

void RdmaServerLink::note_window(uint64_t request_id, const ExtentBody& extent) {
  if (windows_ && (extent.flags & kExtentStaysOpen) == 0) exposed_.emplace(request_id, extent.region);
}

void RdmaServerLink::send(std::vector<std::byte> frame) {
  CAIRN_CHECK(frame.size() >= kFrameHeaderBytes, "a frame without its header is sent");
  CAIRN_CHECK(!leaving(), "a frame goes behind the last word");
  const auto header = load<FrameHeader>(frame.data());
  const bool ends = (header.flags & kFrameLast) != 0 || header.type == FrameType::failed;
  queue_frame(std::move(frame), options_of(header.request_id, ends));
}

void RdmaServerLink::send_results(uint64_t request_id, std::span<ResultItem> items, uint16_t flags) {
  CAIRN_CHECK(!items.empty(), "an answer without results");
  CAIRN_CHECK(items.size() <= kBatchItemsMost, "more results than a batch has items");
  CAIRN_CHECK(!leaving(), "results go behind the last word");
  FrameBuilder frame(FrameType::results, request_id, items.size() * sizeof(ResultBody));
  for (ResultItem& item : items) {
    if (item.buffer && item.body.status == Status::ok) {
      CAIRN_CHECK(item.body.length > 0, "a result has memory and no bytes");
      CAIRN_CHECK(item.body.length <= item.buffer.length() - item.buffer_offset,
                  "a result would carry bytes of somebody else");
      if (open() && extents_hold(item.to, item.body.length)) {
        note_window(request_id, item.to.front());
        payload_out_ += item.body.length;
        queue_write(std::move(item.buffer), item.buffer_offset, item.body.length, item.to);
      } else {
        item.body.status = Status::bad_region;
        item.body.length = 0;
      }
    }
    frame.append(item.body);
  }
  frame.header().tag = tag_;
  frame.header().flags = flags;
  frame.header().item_count = static_cast<uint32_t>(items.size());
  queue_frame(frame.finish(), options_of(request_id, (flags & kFrameLast) != 0));
}

void RdmaServerLink::progress(bool readable, bool) {
  if (readable) take_kept();
  pump();
}

// Blocks of puts are read by our own device: the peer has no part in it.
Dues RdmaServerLink::dues() const {
  return {Due{work_pending(), sent()}, Due{false, 0}, Due{mid_frame() && !input_held(), received_bytes()}};
}

void RdmaServerLink::pull(PullOp& op) {
  CAIRN_CHECK(op.length > 0, "nothing is pulled");
  CAIRN_CHECK(op.length <= kBlockBytesMost, "more is pulled than a block can hold");
  CAIRN_CHECK(op.buffer.capacity() >= op.length, "a pull without memory for it");
  if (!open()) return op.pulled(Status::disconnected);
  if (!extents_hold(op.from, op.length)) return op.pulled(Status::bad_region);
  note_window(op.request_id, op.from.front());
  queue_read(op);
}

void RdmaServerLink::cancel(PullOp& op) {
  cancel_read(op);
}

void RdmaServerLink::frame_arrived(const FrameHeader& header, ConstByteSpan body) {
  if (tagged_ && header.tag != tag_) return broke_rule(Status::denied, "a frame without the session's tag");
  if (header.type == FrameType::data) return broke_rule(Status::invalid, "data in a frame, where it is read in place");
  handler_->on_frame(*this, header, body);
}

void RdmaServerLink::work_done(const Work& work) {
  if (!work.last) return;
  if (work.kind == WorkKind::write) {
    CAIRN_CHECK(payload_out_ >= work.bytes, "more payload is done than was sent");
    payload_out_ -= work.bytes;
    handler_->on_payload_sent(*this, work.bytes);
  } else if (work.kind == WorkKind::read && work.op != nullptr) {
    work.op->pulled(Status::ok);
  }
}

void RdmaServerLink::payload_dropped() {
  const uint64_t dropped = std::exchange(payload_out_, 0);
  if (dropped > 0) handler_->on_payload_sent(*this, dropped);
}

void RdmaServerLink::failed(Status status, std::string_view reason) {
  for (PullOp* op : take_reads()) op->pulled(Status::disconnected);
  payload_dropped();
  handler_->on_closed(*this, status, reason);
}

void RdmaServerLink::broke_rule(Status status, std::string_view reason) {
  CAIRN_CHECK(handler_ != nullptr, "a rule is broken and nobody is told");
  handler_->on_violation(*this, status, reason);
  CAIRN_CHECK(!hears(), "a peer that broke a rule is still heard");
}

void RdmaServerLink::leave(std::vector<std::byte> frame) {
  if (!open()) return;
  stop_hearing();
  for (PullOp* op : take_reads()) op->pulled(Status::disconnected);
  queue_frame(std::move(frame), {});
}

void RdmaServerLink::close() {
  if (!open()) return;
  pump();
  if (!open()) return;  // it broke, and has said so
  payload_dropped();
  device_.forget(*this, number_of_queue_);
  device_.linger(take_queue(), domain_);
}

}  // namespace cairn
