// Where every field of the link lies: the tables of docs/wire-format.md, held by the compiler. A field that is moved,
// widened or put in between does not build; peers that run already would read it as another.
#include <cstddef>
#include <type_traits>

#include "wire/frame.h"

namespace cairn {

namespace {

// Sent and received by copying its bytes: nothing but its fields, no padding that would carry bytes of ours away.
template <class T>
constexpr bool is_plain() {
  return std::is_trivially_copyable_v<T> && std::is_standard_layout_v<T> && std::has_unique_object_representations_v<T>;
}

}  // namespace

static_assert(is_plain<FrameHeader>(), "FrameHeader has bytes that are no field of it");
static_assert(offsetof(FrameHeader, magic) == 0);
static_assert(offsetof(FrameHeader, version) == 4);
static_assert(offsetof(FrameHeader, type) == 5);
static_assert(offsetof(FrameHeader, flags) == 6);
static_assert(offsetof(FrameHeader, request_id) == 8);
static_assert(offsetof(FrameHeader, body_bytes) == 16);
static_assert(offsetof(FrameHeader, item_count) == 20);
static_assert(offsetof(FrameHeader, payload_bytes) == 24);
static_assert(offsetof(FrameHeader, deadline_ms) == 32);
static_assert(offsetof(FrameHeader, credits) == 36);
static_assert(offsetof(FrameHeader, tag) == 40);
static_assert(offsetof(FrameHeader, body_crc) == 56);
static_assert(offsetof(FrameHeader, header_crc) == 60);

static_assert(is_plain<HelloBody>(), "HelloBody has bytes that are no field of it");
static_assert(offsetof(HelloBody, version_least) == 0);
static_assert(offsetof(HelloBody, version_most) == 2);
static_assert(offsetof(HelloBody, features) == 4);
static_assert(offsetof(HelloBody, join) == 8);
static_assert(offsetof(HelloBody, tenant_bytes) == 24);
static_assert(offsetof(HelloBody, token_bytes) == 26);
static_assert(offsetof(HelloBody, name_bytes) == 28);
static_assert(offsetof(HelloBody, reserved) == 30);

static_assert(is_plain<WelcomeBody>(), "WelcomeBody has bytes that are no field of it");
static_assert(offsetof(WelcomeBody, version) == 0);
static_assert(offsetof(WelcomeBody, lanes_most) == 2);
static_assert(offsetof(WelcomeBody, features) == 4);
static_assert(offsetof(WelcomeBody, server_id) == 8);
static_assert(offsetof(WelcomeBody, session_id) == 24);
static_assert(offsetof(WelcomeBody, block_bytes_most) == 32);
static_assert(offsetof(WelcomeBody, window_bytes) == 40);
static_assert(offsetof(WelcomeBody, credits) == 48);
static_assert(offsetof(WelcomeBody, batch_items_most) == 52);
static_assert(offsetof(WelcomeBody, body_bytes_most) == 56);
static_assert(offsetof(WelcomeBody, deadline_ms_most) == 60);

static_assert(is_plain<ReasonBody>(), "ReasonBody has bytes that are no field of it");
static_assert(offsetof(ReasonBody, status) == 0);
static_assert(offsetof(ReasonBody, reason_bytes) == 2);

static_assert(is_plain<BatchBody>(), "BatchBody has bytes that are no field of it");
static_assert(offsetof(BatchBody, layout) == 0);
static_assert(offsetof(BatchBody, durability) == 8);
static_assert(offsetof(BatchBody, delete_kind) == 9);
static_assert(offsetof(BatchBody, reserved) == 10);
static_assert(offsetof(BatchBody, extent_count) == 12);
static_assert(offsetof(BatchBody, scope) == 16);
static_assert(offsetof(BatchBody, duration_ms) == 24);

static_assert(is_plain<ItemBody>(), "ItemBody has bytes that are no field of it");
static_assert(offsetof(ItemBody, key) == 0);
static_assert(offsetof(ItemBody, group) == 16);
static_assert(offsetof(ItemBody, length) == 32);
static_assert(offsetof(ItemBody, range_offset) == 40);
static_assert(offsetof(ItemBody, range_bytes) == 48);
static_assert(offsetof(ItemBody, ttl_ms) == 56);
static_assert(offsetof(ItemBody, extent_first) == 64);
static_assert(offsetof(ItemBody, extent_count) == 68);
static_assert(offsetof(ItemBody, flags) == 70);
static_assert(offsetof(ItemBody, crc) == 72);
static_assert(offsetof(ItemBody, group_members) == 76);
static_assert(offsetof(ItemBody, reserved) == 78);

static_assert(is_plain<ExtentBody>(), "ExtentBody has bytes that are no field of it");
static_assert(offsetof(ExtentBody, address) == 0);
static_assert(offsetof(ExtentBody, length) == 8);
static_assert(offsetof(ExtentBody, region) == 16);
static_assert(offsetof(ExtentBody, flags) == 20);

static_assert(is_plain<ResultBody>(), "ResultBody has bytes that are no field of it");
static_assert(offsetof(ResultBody, index) == 0);
static_assert(offsetof(ResultBody, status) == 4);
static_assert(offsetof(ResultBody, flags) == 6);
static_assert(offsetof(ResultBody, length) == 8);
static_assert(offsetof(ResultBody, sequence) == 16);
static_assert(offsetof(ResultBody, crc) == 24);
static_assert(offsetof(ResultBody, reserved) == 28);

static_assert(is_plain<PullBody>(), "PullBody has bytes that are no field of it");
static_assert(offsetof(PullBody, index) == 0);
static_assert(offsetof(PullBody, reserved) == 4);
static_assert(offsetof(PullBody, offset) == 8);
static_assert(offsetof(PullBody, length) == 16);

static_assert(is_plain<DataBody>(), "DataBody has bytes that are no field of it");
static_assert(offsetof(DataBody, index) == 0);
static_assert(offsetof(DataBody, reserved) == 4);
static_assert(offsetof(DataBody, offset) == 8);
static_assert(offsetof(DataBody, length) == 16);

static_assert(is_plain<DataTrailer>(), "DataTrailer has bytes that are no field of it");
static_assert(offsetof(DataTrailer, status) == 0);
static_assert(offsetof(DataTrailer, reserved) == 2);

static_assert(is_plain<WatchBody>(), "WatchBody has bytes that are no field of it");
static_assert(offsetof(WatchBody, after) == 0);
static_assert(offsetof(WatchBody, events_most) == 8);
static_assert(offsetof(WatchBody, reserved) == 12);

static_assert(is_plain<EventsBody>(), "EventsBody has bytes that are no field of it");
static_assert(offsetof(EventsBody, oldest) == 0);
static_assert(offsetof(EventsBody, newest) == 8);
static_assert(offsetof(EventsBody, reserved) == 16);

static_assert(is_plain<EventBody>(), "EventBody has bytes that are no field of it");
static_assert(offsetof(EventBody, number) == 0);
static_assert(offsetof(EventBody, unix_ms) == 8);
static_assert(offsetof(EventBody, sequence) == 16);
static_assert(offsetof(EventBody, key) == 24);
static_assert(offsetof(EventBody, group) == 40);
static_assert(offsetof(EventBody, layout) == 56);
static_assert(offsetof(EventBody, scope) == 64);
static_assert(offsetof(EventBody, kind) == 72);
static_assert(offsetof(EventBody, reserved) == 73);

// A list of these is copied to and from any place in a body.
static_assert(sizeof(Key) == 16 && alignof(Key) == 1, "a key is 16 bytes wherever it lies");
static_assert(sizeof(GroupId) == 16, "a group's name is as long as a key");
static_assert(sizeof(SessionTag) == 16, "a tag fills its place in the header");
static_assert(sizeof(Status) == 2, "statuses are sent as one u16 an item");
static_assert(sizeof(FrameType) == 1 && sizeof(Durability) == 1, "enumerations of one byte on the link");

}  // namespace cairn
