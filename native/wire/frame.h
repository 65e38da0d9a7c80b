// Bytes on the link. Every frame is a 64-byte header, a body and, where the header says so, payload.
// docs/wire-format.md describes each field and carries golden bytes; a test reads them out of the page.
//
// No I/O here and no state: builders give bytes, decoders look at bytes and say what is wrong with them.
// A decoder accepts any input of any length without reading outside it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "wire/limits.h"
#include "wire/status.h"
#include "wire/types.h"

namespace cairn {

inline constexpr uint32_t kFrameMagic = 0x4E524943;  // "CIRN"
inline constexpr uint8_t kProtocolVersion = 1;
inline constexpr size_t kFrameHeaderBytes = 64;

// Numbers are never re-used.
enum class FrameType : uint8_t {
  hello = 1,
  welcome = 2,
  refuse = 3,  // the session ends; status and reason follow
  goodbye = 4,
  ping = 5,
  pong = 6,
  put = 16,
  get = 17,
  exists = 18,
  match = 19,
  touch = 20,
  remove = 21,
  prefetch = 22,
  stats = 23,
  lease = 24,
  release = 25,
  watch = 26,
  // 32 and 33 were used while a client could hand its memory over.
  results = 48,   // one ResultBody an item, in any order, over one or more frames
  statuses = 49,  // one u16 an item, in order
  matched = 50,
  text = 51,
  pull = 52,  // service → client: send this item's bytes
  data = 53,  // client → service: here they are
  cancel = 54,
  cancelled = 55,
  failed = 56,  // one status for every item of the request that has none yet
  events = 57,
};

inline constexpr uint16_t kFrameLast = 1;  // flags: the request is settled with this frame

using SessionTag = std::array<uint8_t, 16>;

struct FrameHeader {
  uint32_t magic = kFrameMagic;
  uint8_t version = kProtocolVersion;
  FrameType type{};
  uint16_t flags = 0;
  uint64_t request_id = 0;  // chosen by the client, unique within its session
  uint32_t body_bytes = 0;
  uint32_t item_count = 0;
  uint64_t payload_bytes = 0;  // follow the body; neither CRC covers them
  uint32_t deadline_ms = 0;    // requests: time left when sent; 0: the service's default
  uint32_t credits = 0;        // kept for a window that changes during a session; 0 in version 1
  SessionTag tag{};            // from WELCOME on: the session's tag, in both directions
  uint32_t body_crc = 0;       // CRC32C of the body
  uint32_t header_crc = 0;     // CRC32C of the 60 bytes before
};
static_assert(sizeof(FrameHeader) == kFrameHeaderBytes && offsetof(FrameHeader, header_crc) == 60);

// nullptr, or what is wrong with a header: magic, version, CRC, lengths over the limits.
const char* check_header(const FrameHeader& header);
// Of a header that check_header() finds something wrong with: bad_version or invalid.
Status status_of_wrong(const FrameHeader& header);
const char* check_body(const FrameHeader& header, ConstByteSpan body);

// --- bodies; all of them little-endian and free of padding -------------------------------------------

struct HelloBody {
  uint16_t version_least = kProtocolVersion;
  uint16_t version_most = kProtocolVersion;
  uint32_t features = 0;
  SessionTag join{};  // all zero: a new session; else the tag of the session that gains a lane
  uint16_t tenant_bytes = 0;
  uint16_t token_bytes = 0;
  uint16_t name_bytes = 0;
  uint16_t reserved = 0;
  // then tenant, token, name
};
static_assert(sizeof(HelloBody) == 32);

struct WelcomeBody {
  uint16_t version = kProtocolVersion;
  uint16_t lanes_most = 0;
  uint32_t features = 0;
  std::array<uint8_t, 16> server_id{};  // changes with every start of the service
  uint64_t session_id = 0;
  uint64_t block_bytes_most = 0;
  uint64_t window_bytes = 0;  // payload the service moves at once for one session
  uint32_t credits = 0;       // requests in flight in one session
  uint32_t batch_items_most = 0;
  uint32_t body_bytes_most = 0;
  uint32_t deadline_ms_most = 0;
};
static_assert(sizeof(WelcomeBody) == 64);

struct ReasonBody {  // refuse, failed
  Status status{};
  uint16_t reason_bytes = 0;
  // then the reason
};
static_assert(sizeof(ReasonBody) == 4);

// What a remove names. Of a group the one key is its id; of scope, layout and tenant it is all zero.
inline constexpr uint8_t kRemoveKeys = 0, kRemoveGroup = 1, kRemoveScope = 2, kRemoveLayout = 3, kRemoveTenant = 4;

struct BatchBody {  // put, get, prefetch, exists, match, touch, remove, lease, release
  uint64_t layout = 0;
  Durability durability = Durability::durable;
  uint8_t delete_kind = kRemoveKeys;  // remove
  std::array<uint8_t, 2> reserved{};
  uint32_t extent_count = 0;
  uint64_t scope = 0;        // put: label of all items. remove of a scope: which
  uint64_t duration_ms = 0;  // lease
  // then put, get, prefetch: item_count ItemBody, extent_count ExtentBody
  // the others: item_count Key
};
static_assert(sizeof(BatchBody) == 32);

// Of hello: the client understands it. Of welcome: the memory of two rings comes with the frame (shm), and whatever
// follows goes through them. Bit 0 was used while a client could hand its memory over.
inline constexpr uint32_t kFeatureRings = 2;

inline constexpr uint16_t kItemHasCrc = 1;

struct ItemBody {
  Key key;
  GroupId group{};
  uint64_t length = 0;        // put: the block's bytes. get: room at the destination
  uint64_t range_offset = 0;  // get
  uint64_t range_bytes = 0;   // get; 0: to the end of the block
  uint64_t ttl_ms = 0;        // put; 0: for ever
  uint32_t extent_first = 0;
  uint16_t extent_count = 0;  // 0: payload travels in frames
  uint16_t flags = 0;
  uint32_t crc = 0;            // put, with kItemHasCrc: CRC32C of the block, checked before it is stored
  uint16_t group_members = 0;  // put: how many members the group has when it is whole; 0: each stands for itself
  uint16_t reserved = 0;
};
static_assert(sizeof(ItemBody) == 80);

inline constexpr uint32_t kExtentStaysOpen = 1;  // rdma: the key is of no window, and nobody may invalidate it

struct ExtentBody {
  uint64_t address = 0;  // virtual
  uint64_t length = 0;
  uint32_t region = 0;  // the remote key of the region
  uint32_t flags = 0;
};
static_assert(sizeof(ExtentBody) == 24);

static_assert(sizeof(BatchBody) + kBatchItemsMost * sizeof(ItemBody) + kBatchExtentsMost * sizeof(ExtentBody) <=
                  kBodyBytesMost,
              "the largest batch fits no frame");

inline constexpr uint16_t kResultPayload = 1;     // its bytes are in this frame's payload, in item order
inline constexpr uint16_t kResultFromMemory = 2;  // served without touching a drive

struct ResultBody {
  uint32_t index = 0;  // of the item in the request
  Status status{};
  uint16_t flags = 0;
  uint64_t length = 0;    // get: bytes delivered
  uint64_t sequence = 0;  // put, get: the store's number of the block; grows with time
  uint32_t crc = 0;       // get: CRC32C of the bytes delivered
  uint32_t reserved = 0;
};
static_assert(sizeof(ResultBody) == 32);
static_assert(kBatchItemsMost * sizeof(ResultBody) <= kBodyBytesMost, "the results of a batch do not fit a frame");
static_assert((kResultPayload & kResultFromMemory) == 0, "two flags of a result share a bit");

struct PullBody {
  uint32_t index = 0;
  uint32_t reserved = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
};
static_assert(sizeof(PullBody) == 24);
static_assert(kBatchItemsMost * sizeof(PullBody) <= kBodyBytesMost, "the pulls of a batch do not fit a frame");

// The body of data; its payload is `length` bytes and a DataTrailer. A client that gives up in the middle
// sends filler for the rest and a trailer other than ok, so the frames after it stay in step.
struct DataBody {
  uint32_t index = 0;
  uint32_t reserved = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
};
static_assert(sizeof(DataBody) == 24);

struct DataTrailer {
  Status status{};
  std::array<uint8_t, 6> reserved{};
};
static_assert(sizeof(DataTrailer) == 8);

inline constexpr uint64_t kWatchFromNow = UINT64_MAX;

struct WatchBody {
  uint64_t after = 0;        // number of the last event that is known; kWatchFromNow: asks for the newest number only
  uint32_t events_most = 0;  // 0: kEventsMost
  uint32_t reserved = 0;
};
static_assert(sizeof(WatchBody) == 16);

struct EventsBody {
  uint64_t oldest = 0;  // number of the oldest event that is kept; newest + 1 when none is
  uint64_t newest = 0;  // number of the last event; 0 before the first
  uint64_t reserved = 0;
  // then item_count EventBody
};
static_assert(sizeof(EventsBody) == 24);

struct EventBody {
  uint64_t number = 0;
  uint64_t unix_ms = 0;
  uint64_t sequence = 0;  // of the block
  Key key;
  GroupId group{};
  uint64_t layout = 0;
  uint64_t scope = 0;
  uint8_t kind = 0;
  std::array<uint8_t, 7> reserved{};
};
static_assert(sizeof(EventBody) == 80);
static_assert(sizeof(EventsBody) + kEventsMost * sizeof(EventBody) <= kBodyBytesMost, "a full ring fits no answer");
static_assert(kEventsMost <= kBatchItemsMost, "an answer holds more events than a frame has items");

// --- building --------------------------------------------------------------------------------------

// Collects a header and a body; finish() fills in lengths and CRCs and gives the bytes away.
class FrameBuilder {
 public:
  explicit FrameBuilder(FrameType type, uint64_t request_id = 0, size_t body_hint = 0);
  FrameHeader& header() { return header_; }
  template <class T>
  void append(const T& value) {
    static_assert(std::has_unique_object_representations_v<T>, "padding would carry bytes of ours to the peer");
    append_bytes(bytes_of(value));
  }
  void append_bytes(ConstByteSpan bytes) {
    CAIRN_CHECK(frame_.size() >= kFrameHeaderBytes, "bytes are added to a frame that was given away");
    frame_.insert(frame_.end(), bytes.begin(), bytes.end());
  }
  void append_text(std::string_view text) { append_bytes(std::as_bytes(std::span(text))); }
  std::vector<std::byte> finish();

 private:
  FrameHeader header_;
  std::vector<std::byte> frame_;
};

// A session-ending or request-ending frame; the reason is cut at kReasonBytesMost.
std::vector<std::byte> build_reason(FrameType type, uint64_t request_id, const SessionTag& tag, Status status,
                                    std::string_view reason);

// --- decoding --------------------------------------------------------------------------------------
// Each gives nullptr when the body is well-formed, else what is wrong. Views point into `body`.

struct HelloView {
  HelloBody fixed;
  std::string_view tenant, token, name;
};
const char* decode_hello(ConstByteSpan body, HelloView& out);

struct ReasonView {
  Status status{};
  std::string_view reason;
};
const char* decode_reason(ConstByteSpan body, ReasonView& out);

struct BatchView {
  BatchBody fixed;
  std::vector<ItemBody> items;  // put, get, prefetch
  std::vector<ExtentBody> extents;
  std::vector<Key> keys;  // the others
};
const char* decode_batch(const FrameHeader& header, ConstByteSpan body, BatchView& out);

const char* decode_watch(ConstByteSpan body, WatchBody& out);

struct EventsView {
  EventsBody fixed;
  std::vector<EventBody> events;
};
const char* decode_events(const FrameHeader& header, ConstByteSpan body, EventsView& out);

// A fixed body of type T with nothing after it.
template <class T>
const char* decode_fixed(ConstByteSpan body, T& out) {
  if (body.size() != sizeof(T)) return "the body's length is not that of its type";
  out = load<T>(body.data());
  return nullptr;
}

// item_count bodies of type T with nothing after them.
template <class T>
const char* decode_array(const FrameHeader& header, ConstByteSpan body, std::vector<T>& out) {
  static_assert(std::is_trivially_copyable_v<T>, "what a peer sent is copied, not constructed");
  static_assert(kBatchItemsMost * sizeof(T) <= kBodyBytesMost, "a full array of these fits no frame");
  if (header.item_count > kBatchItemsMost) return "more items than a batch may hold";
  if (body.size() != header.item_count * sizeof(T)) return "the body's length does not fit its item count";
  out.resize(header.item_count);
  if (!out.empty()) std::memcpy(out.data(), body.data(), body.size());
  return nullptr;
}

}  // namespace cairn
