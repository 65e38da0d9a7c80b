// Any bytes as a frame: the decoders of wire/ must neither read outside nor disagree with themselves.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "wire/frame.h"

using namespace cairn;

namespace {

// A header that passes its own checks, so that the bodies behind it are reached.
FrameHeader sealed(FrameHeader header, ConstByteSpan body) {
  header.magic = kFrameMagic;
  header.version = kProtocolVersion;
  header.body_bytes = static_cast<uint32_t>(body.size());
  header.body_crc = crc32c(body);
  header.header_crc = crc32c(bytes_of(header).first(offsetof(FrameHeader, header_crc)));
  return header;
}

void check_batch(const FrameHeader& header, ConstByteSpan body) {
  BatchView batch;
  if (decode_batch(header, body, batch) != nullptr) return;
  CAIRN_CHECK(batch.items.size() + batch.keys.size() == header.item_count, "a batch without its items");
  CAIRN_CHECK(batch.fixed.delete_kind == kRemoveKeys || batch.keys.size() == 1, "a delete of a name that is not one");
  for (const ItemBody& item : batch.items) {
    CAIRN_CHECK(uint64_t{item.extent_first} + item.extent_count <= batch.extents.size(),
                "an item with extents outside the batch");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const ConstByteSpan input(reinterpret_cast<const std::byte*>(data), size);
  if (size < kFrameHeaderBytes) return 0;
  const auto raw = load<FrameHeader>(input.data());
  const ConstByteSpan body = input.subspan(kFrameHeaderBytes);
  (void)check_header(raw);
  (void)check_body(raw, body);
  const FrameHeader header = sealed(raw, body);
  if (check_header(header) != nullptr) return 0;
  CAIRN_CHECK(check_body(header, body) == nullptr, "a sealed body fails its own checksum");
  check_batch(header, body);
  HelloView hello;
  if (decode_hello(body, hello) == nullptr) {
    CAIRN_CHECK(sizeof(HelloBody) + hello.tenant.size() + hello.token.size() + hello.name.size() == body.size(),
                "a hello with bytes to spare");
  }
  ReasonView reason;
  if (decode_reason(body, reason) == nullptr) (void)status_row(reason.status);
  std::vector<ResultBody> results;
  std::vector<PullBody> pulls;
  std::vector<Status> statuses;
  (void)decode_array(header, body, results);
  (void)decode_array(header, body, pulls);
  (void)decode_array(header, body, statuses);
  WatchBody watch;
  if (decode_watch(body, watch) == nullptr)
    CAIRN_CHECK(watch.events_most >= 1 && watch.events_most <= kEventsMost,
                "a watch for a number of events it may not ask");
  EventsView events;
  if (decode_events(header, body, events) == nullptr)
    CAIRN_CHECK(events.events.size() == header.item_count, "events that are not as many as announced");
  return 0;
}
