// What a peer may say and what not: the limits of every type of frame, and each way in which a body can be wrong.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "wire/frame.h"

namespace cairn {
namespace {

FrameHeader sealed(FrameHeader header) {
  header.header_crc = crc32c(bytes_of(header).first(offsetof(FrameHeader, header_crc)));
  return header;
}

std::string wrong_with(const FrameHeader& header) {
  const char* wrong = check_header(sealed(header));
  return wrong == nullptr ? "" : wrong;
}

std::string text(const char* wrong) {
  return wrong == nullptr ? "" : wrong;
}

struct Limits {
  uint64_t body = 0, payload = 0;
};

std::map<FrameType, Limits> limits_of_types() {
  std::map<FrameType, Limits> all = {
      {FrameType::hello, {sizeof(HelloBody) + 3 * kNameBytesMost}},
      {FrameType::welcome, {sizeof(WelcomeBody)}},
      {FrameType::refuse, {sizeof(ReasonBody) + kReasonBytesMost}},
      {FrameType::failed, {sizeof(ReasonBody) + kReasonBytesMost}},
      {FrameType::watch, {sizeof(WatchBody)}},
      {FrameType::matched, {sizeof(uint64_t)}},
      {FrameType::data, {sizeof(DataBody), kBlockBytesMost + sizeof(DataTrailer)}},
      {FrameType::results, {kBodyBytesMost, kBatchItemsMost * kBlockBytesMost}},
  };
  for (const FrameType type : {FrameType::goodbye, FrameType::ping, FrameType::pong, FrameType::stats,
                               FrameType::cancel, FrameType::cancelled})
    all[type] = {};
  for (const FrameType type : {FrameType::put, FrameType::get, FrameType::exists, FrameType::match, FrameType::touch,
                               FrameType::remove, FrameType::prefetch, FrameType::lease, FrameType::release,
                               FrameType::statuses, FrameType::text, FrameType::pull, FrameType::events})
    all[type] = {kBodyBytesMost};
  return all;
}

TEST(FrameLimits, EveryTypeTakesWhatItMayHoldAndNotAByteMore) {
  for (const auto& [type, limits] : limits_of_types()) {
    FrameHeader header;
    header.type = type;
    header.body_bytes = static_cast<uint32_t>(limits.body);
    header.payload_bytes = limits.payload;
    EXPECT_EQ(wrong_with(header), "") << static_cast<int>(type);
    header.body_bytes += 1;
    EXPECT_EQ(wrong_with(header), "the body is longer than its type allows") << static_cast<int>(type);
    header.body_bytes -= 1;
    header.payload_bytes += 1;
    EXPECT_EQ(wrong_with(header), "the payload is longer than its type allows") << static_cast<int>(type);
  }
}

TEST(FrameLimits, ANumberThatIsNoTypeIsRefused) {
  const auto known = limits_of_types();
  for (int number = 0; number < 256; ++number) {
    FrameHeader header;
    header.type = static_cast<FrameType>(number);
    EXPECT_EQ(wrong_with(header), known.contains(header.type) ? "" : "an unknown frame type") << number;
  }
}

std::string wrong_hello(uint16_t tenant, uint16_t token, uint16_t name) {
  std::vector<std::byte> body(sizeof(HelloBody) + size_t{tenant} + token + name, std::byte{'x'});
  HelloBody hello;
  hello.tenant_bytes = tenant;
  hello.token_bytes = token;
  hello.name_bytes = name;
  store_bytes(body.data(), hello);
  HelloView view;
  return text(decode_hello(body, view));
}

TEST(FrameBodies, NamesOfAHelloAreBoundedEachForItself) {
  const uint16_t most = kNameBytesMost, more = kNameBytesMost + 1;
  EXPECT_EQ(wrong_hello(most, most, most), "");
  for (const std::string& wrong : {wrong_hello(more, 0, 0), wrong_hello(0, more, 0), wrong_hello(0, 0, more)})
    EXPECT_EQ(wrong, "a name in the hello is too long");
}

TEST(FrameBodies, AReasonIsReadBackAndCutWhereItIsTooLong) {
  const auto frame = build_reason(FrameType::refuse, 3, {}, Status::denied, std::string(kReasonBytesMost + 9, 'y'));
  const ConstByteSpan body = std::span(frame).subspan(kFrameHeaderBytes);
  ASSERT_EQ(check_header(load<FrameHeader>(frame.data())), nullptr);
  ReasonView view;
  ASSERT_EQ(decode_reason(body, view), nullptr);
  EXPECT_EQ(view.status, Status::denied);
  EXPECT_EQ(view.reason, std::string(kReasonBytesMost, 'y'));
  EXPECT_EQ(text(decode_reason(body.first(sizeof(ReasonBody) - 1), view)), "the reason is too short");
  EXPECT_EQ(text(decode_reason(body.first(body.size() - 1), view)), "the reason's length does not fit its text");
}

// A batch of a type whose items are keys, or ItemBody where `type` moves payload; `bytes` more than it should have.
std::string wrong_batch(FrameType type, const BatchBody& fixed, uint32_t items, long more = 0) {
  const bool moves = type == FrameType::put || type == FrameType::get || type == FrameType::prefetch;
  const size_t each = moves ? sizeof(ItemBody) : sizeof(Key);
  const size_t honest = sizeof(fixed) + items * each + (moves ? fixed.extent_count * sizeof(ExtentBody) : 0);
  std::vector<std::byte> body(static_cast<size_t>(static_cast<long>(honest) + more));
  store_bytes(body.data(), fixed);
  FrameHeader header;
  header.type = type;
  header.item_count = items;
  BatchView view;
  return text(decode_batch(header, body, view));
}

TEST(FrameBodies, ABatchThatContradictsItselfIsRefused) {
  for (const FrameType type : {FrameType::put, FrameType::get, FrameType::prefetch, FrameType::exists}) {
    EXPECT_EQ(wrong_batch(type, {}, 3), "");
    EXPECT_EQ(wrong_batch(type, {}, kBatchItemsMost), "");
    EXPECT_EQ(wrong_batch(type, {}, 0), "an empty batch");
    EXPECT_EQ(wrong_batch(type, {}, kBatchItemsMost + 1), "more items than a batch may hold");
    EXPECT_NE(wrong_batch(type, {}, 3, 1), "") << "a byte too many";
    EXPECT_NE(wrong_batch(type, {}, 3, -1), "") << "a byte too few";
    for (const int durability : {0, 1, 2, 255}) {
      BatchBody batch;
      batch.durability = static_cast<Durability>(durability);
      EXPECT_EQ(wrong_batch(type, batch, 1), durability < 2 ? "" : "an unknown durability");
    }
  }
}

TEST(FrameBodies, ExtentsAreCountedAndOnlyWherePayloadMoves) {
  BatchBody batch;
  batch.extent_count = 1;
  EXPECT_EQ(wrong_batch(FrameType::get, batch, 1), "");
  EXPECT_EQ(wrong_batch(FrameType::touch, batch, 1), "extents in a batch that moves no payload");
  batch.extent_count = kBatchExtentsMost;
  EXPECT_EQ(wrong_batch(FrameType::get, batch, 1), "");
  batch.extent_count += 1;
  EXPECT_EQ(wrong_batch(FrameType::get, batch, 1), "more extents than a batch may hold");
}

TEST(FrameBodies, AScopeGoesWithAPutOrItsOwnDelete) {
  BatchBody batch;
  batch.scope = 7;
  EXPECT_EQ(wrong_batch(FrameType::put, batch, 1), "");
  EXPECT_EQ(wrong_batch(FrameType::get, batch, 1), "a scope in a batch that has no use for one");
}

TEST(FrameBodies, OfFixedLengthHaveThatLength) {
  WatchBody watch;
  const std::vector<std::byte> bytes(sizeof(WatchBody) + 1);
  EXPECT_NE(decode_watch(bytes, watch), nullptr);
  EXPECT_NE(decode_watch(std::span(bytes).first(sizeof(WatchBody) - 1), watch), nullptr);
  EXPECT_EQ(decode_watch(std::span(bytes).first(sizeof(WatchBody)), watch), nullptr);
}

TEST(FrameBodies, AnArrayHasItsItemsAndNoMoreThanABatch) {
  std::vector<Status> statuses;
  FrameHeader header;
  const std::vector<std::byte> bytes((kBatchItemsMost + 1) * sizeof(Status));
  header.item_count = kBatchItemsMost + 1;
  EXPECT_EQ(text(decode_array(header, bytes, statuses)), "more items than a batch may hold");
  header.item_count = 2;
  EXPECT_EQ(text(decode_array(header, bytes, statuses)), "the body's length does not fit its item count");
  EXPECT_EQ(decode_array(header, std::span(bytes).first(2 * sizeof(Status)), statuses), nullptr);
  EXPECT_EQ(statuses.size(), 2U);
  header.item_count = 0;
  EXPECT_EQ(decode_array(header, {}, statuses), nullptr);
  EXPECT_TRUE(statuses.empty());
}

}  // namespace
}  // namespace cairn
