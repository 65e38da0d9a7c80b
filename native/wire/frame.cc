#include "wire/frame.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace cairn {

namespace {

// The largest body and the largest payload a frame of each type may announce. Checked before a byte of
// either is read, so an absurd length costs nothing but the connection.
uint64_t body_most(FrameType type) {
  switch (type) {
    case FrameType::hello:
      static_assert(sizeof(HelloBody) + 3 * kNameBytesMost <= kBodyBytesMost, "no frame holds the longest hello");
      return sizeof(HelloBody) + 3 * kNameBytesMost;
    case FrameType::welcome:
      return sizeof(WelcomeBody);
    case FrameType::refuse:
    case FrameType::failed:
      return sizeof(ReasonBody) + kReasonBytesMost;
    case FrameType::goodbye:
    case FrameType::ping:
    case FrameType::pong:
    case FrameType::stats:
    case FrameType::cancel:
    case FrameType::cancelled:
      return 0;
    case FrameType::matched:
      return sizeof(uint64_t);
    case FrameType::watch:
      return sizeof(WatchBody);
    case FrameType::data:
      return sizeof(DataBody);
    default:
      return kBodyBytesMost;
  }
}

uint64_t payload_most(FrameType type) {
  if (type == FrameType::data) return kBlockBytesMost + sizeof(DataTrailer);
  if (type == FrameType::results) return kBatchItemsMost * kBlockBytesMost;
  return 0;
}

bool is_known(FrameType type) {
  switch (type) {
    case FrameType::hello:
    case FrameType::welcome:
    case FrameType::refuse:
    case FrameType::goodbye:
    case FrameType::ping:
    case FrameType::pong:
    case FrameType::put:
    case FrameType::get:
    case FrameType::exists:
    case FrameType::match:
    case FrameType::touch:
    case FrameType::remove:
    case FrameType::prefetch:
    case FrameType::stats:
    case FrameType::lease:
    case FrameType::release:
    case FrameType::watch:
    case FrameType::results:
    case FrameType::statuses:
    case FrameType::matched:
    case FrameType::text:
    case FrameType::pull:
    case FrameType::data:
    case FrameType::cancel:
    case FrameType::cancelled:
    case FrameType::failed:
    case FrameType::events:
      return true;
  }
  return false;
}

}  // namespace

const char* check_header(const FrameHeader& header) {
  if (header.magic != kFrameMagic) return "not a Cairn frame (wrong magic)";
  if (header.header_crc != crc32c(bytes_of(header).first(offsetof(FrameHeader, header_crc)))) {
    return "the frame header fails its checksum";
  }
  if (header.version != kProtocolVersion) return "a protocol version this side does not speak";
  if (!is_known(header.type)) return "an unknown frame type";
  if (header.body_bytes > body_most(header.type)) return "the body is longer than its type allows";
  if (header.payload_bytes > payload_most(header.type)) return "the payload is longer than its type allows";
  if (header.item_count > kBatchItemsMost) return "more items than a batch may hold";
  return nullptr;
}

Status status_of_wrong(const FrameHeader& header) {
  return header.magic == kFrameMagic && header.version != kProtocolVersion ? Status::bad_version : Status::invalid;
}

const char* check_body(const FrameHeader& header, ConstByteSpan body) {
  return crc32c(body) == header.body_crc ? nullptr : "the frame body fails its checksum";
}

FrameBuilder::FrameBuilder(FrameType type, uint64_t request_id, size_t body_hint) {
  header_.type = type;
  header_.request_id = request_id;
  CAIRN_CHECK(body_hint <= kBodyBytesMost, "a frame is begun for a body that its peer would refuse");
  frame_.reserve(kFrameHeaderBytes + body_hint);
  frame_.resize(kFrameHeaderBytes);
}

std::vector<std::byte> FrameBuilder::finish() {
  CAIRN_CHECK(frame_.size() >= kFrameHeaderBytes, "a frame is finished twice");
  CAIRN_CHECK(frame_.size() - kFrameHeaderBytes <= UINT32_MAX, "a body is longer than its header can say");
  const ConstByteSpan body = std::span(frame_).subspan(kFrameHeaderBytes);
  CAIRN_CHECK(body.size() <= kBodyBytesMost || header_.type == FrameType::text,
              "a frame of ours is longer than its peer accepts");
  header_.body_bytes = static_cast<uint32_t>(body.size());
  header_.body_crc = crc32c(body);
  header_.header_crc = crc32c(bytes_of(header_).first(offsetof(FrameHeader, header_crc)));
  store_bytes(frame_.data(), header_);
  return std::move(frame_);
}

std::vector<std::byte> build_reason(FrameType type, uint64_t request_id, const SessionTag& tag, Status status,
                                    std::string_view reason) {
  CAIRN_CHECK(type == FrameType::refuse || type == FrameType::failed, "a reason in a frame that carries none");
  CAIRN_CHECK(status != Status::ok, "a refusal with the status of a success");
  CAIRN_CHECK(!reason.empty(), "a refusal without a reason");
  reason = reason.substr(0, kReasonBytesMost);
  FrameBuilder frame(type, request_id, sizeof(ReasonBody) + reason.size());
  frame.header().tag = tag;
  frame.header().flags = kFrameLast;
  frame.append(ReasonBody{status, static_cast<uint16_t>(reason.size())});
  frame.append_text(reason);
  return frame.finish();
}

const char* decode_hello(ConstByteSpan body, HelloView& out) {
  if (body.size() < sizeof(HelloBody)) return "the hello is too short";
  out.fixed = load<HelloBody>(body.data());
  const size_t tenant = out.fixed.tenant_bytes;
  const size_t token = out.fixed.token_bytes;
  const size_t name = out.fixed.name_bytes;
  if (tenant > kNameBytesMost || token > kNameBytesMost || name > kNameBytesMost)
    return "a name in the hello is too long";
  if (body.size() != sizeof(HelloBody) + tenant + token + name) return "the hello's length does not fit its names";
  const auto* text = reinterpret_cast<const char*>(body.data()) + sizeof(HelloBody);
  out.tenant = {text, tenant};
  out.token = {text + tenant, token};
  out.name = {text + tenant + token, name};
  return nullptr;
}

const char* decode_reason(ConstByteSpan body, ReasonView& out) {
  if (body.size() < sizeof(ReasonBody)) return "the reason is too short";
  const auto fixed = load<ReasonBody>(body.data());
  if (body.size() != sizeof(ReasonBody) + fixed.reason_bytes) return "the reason's length does not fit its text";
  out.status = fixed.status;
  out.reason = {reinterpret_cast<const char*>(body.data()) + sizeof(ReasonBody), fixed.reason_bytes};
  return nullptr;
}

namespace {

bool is_zero(std::span<const uint8_t> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

// What is wrong with the fields that belong to some types only; nullptr if nothing.
const char* check_batch_fields(FrameType type, const BatchBody& batch) {
  if (type != FrameType::remove && batch.delete_kind != kRemoveKeys)
    return "a kind of delete in a batch that deletes nothing";
  if (batch.delete_kind > kRemoveTenant) return "an unknown kind of delete";
  if (type != FrameType::lease && batch.duration_ms != 0) return "a duration in a batch that leases nothing";
  const bool scoped = type == FrameType::put || batch.delete_kind == kRemoveScope;
  if (!scoped && batch.scope != 0) return "a scope in a batch that has no use for one";
  if (batch.delete_kind == kRemoveScope && batch.scope == 0) return "a delete of a scope that names none";
  return nullptr;
}

// A delete of everything of a name has one key: the group, or none at all.
const char* check_wide_remove(const BatchView& batch) {
  if (batch.fixed.delete_kind == kRemoveKeys) return nullptr;
  if (batch.keys.size() != 1) return "a delete of a name has exactly one key";
  const bool group = batch.fixed.delete_kind == kRemoveGroup;
  if (is_zero(batch.keys[0].bytes) == group)
    return group ? "a delete of a group that names none" : "a key beside the name that is deleted";
  return nullptr;
}

}  // namespace

const char* decode_batch(const FrameHeader& header, ConstByteSpan body, BatchView& out) {
  if (body.size() < sizeof(BatchBody)) return "the batch is too short";
  out.fixed = load<BatchBody>(body.data());
  body = body.subspan(sizeof(BatchBody));
  if (header.item_count == 0) return "an empty batch";
  if (header.item_count > kBatchItemsMost) return "more items than a batch may hold";
  if (out.fixed.durability != Durability::durable && out.fixed.durability != Durability::relaxed) {
    return "an unknown durability";
  }
  if (const char* wrong = check_batch_fields(header.type, out.fixed)) return wrong;
  const bool with_items =
      header.type == FrameType::put || header.type == FrameType::get || header.type == FrameType::prefetch;
  if (!with_items) {
    if (out.fixed.extent_count != 0) return "extents in a batch that moves no payload";
    if (const char* wrong = decode_array(header, body, out.keys)) return wrong;
    return check_wide_remove(out);
  }
  if (out.fixed.extent_count > kBatchExtentsMost) return "more extents than a batch may hold";
  const size_t items_bytes = header.item_count * sizeof(ItemBody);
  const size_t extents_bytes = out.fixed.extent_count * sizeof(ExtentBody);
  if (body.size() != items_bytes + extents_bytes) return "the batch's length does not fit its counts";
  out.items.resize(header.item_count);
  std::memcpy(out.items.data(), body.data(), items_bytes);
  out.extents.resize(out.fixed.extent_count);
  if (extents_bytes > 0) std::memcpy(out.extents.data(), body.data() + items_bytes, extents_bytes);
  for (const ItemBody& item : out.items) {
    if (item.extent_count > kItemExtentsMost) return "more extents than an item may have";
    if (uint64_t{item.extent_first} + item.extent_count > out.fixed.extent_count)
      return "an item names extents that are not there";
  }
  return nullptr;
}

const char* decode_watch(ConstByteSpan body, WatchBody& out) {
  if (const char* wrong = decode_fixed(body, out)) return wrong;
  if (out.events_most > kEventsMost) return "more events than an answer may hold";
  if (out.events_most == 0) out.events_most = kEventsMost;
  return nullptr;
}

const char* decode_events(const FrameHeader& header, ConstByteSpan body, EventsView& out) {
  if (body.size() < sizeof(EventsBody)) return "the events are too short";
  out.fixed = load<EventsBody>(body.data());
  return decode_array(header, body.subspan(sizeof(EventsBody)), out.events);
}

}  // namespace cairn
