// Frames: the golden bytes of docs/wire-format.md, and what decoders say to damage.
#include "wire/frame.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "testing/golden.h"

namespace cairn {
namespace {

SessionTag counting_tag() {
  SessionTag tag{};
  std::iota(tag.begin(), tag.end(), uint8_t{0});
  return tag;
}

Key repeating_key() {
  Key key;
  for (size_t i = 0; i < 16; ++i) key.bytes[i] = static_cast<uint8_t>(i * 0x11);
  return key;
}

std::vector<std::byte> golden_hello() {
  FrameBuilder frame(FrameType::hello);
  HelloBody hello;
  hello.tenant_bytes = 7;
  hello.name_bytes = 5;
  frame.append(hello);
  frame.append_text("default");
  frame.append_text("cairn");
  return frame.finish();
}

std::vector<std::byte> golden_exists() {
  FrameBuilder frame(FrameType::exists, 5);
  frame.header().tag = counting_tag();
  frame.header().deadline_ms = 1000;
  frame.header().item_count = 1;
  BatchBody batch;
  batch.layout = 7;
  frame.append(batch);
  frame.append(repeating_key());
  return frame.finish();
}

std::vector<std::byte> golden_put() {
  FrameBuilder frame(FrameType::put, 6);
  frame.header().tag = counting_tag();
  frame.header().item_count = 1;
  BatchBody batch;
  batch.extent_count = 1;
  frame.append(batch);
  ItemBody item;
  item.key = repeating_key();
  item.length = 4096;
  item.ttl_ms = 60'000;
  item.extent_count = 1;
  item.flags = kItemHasCrc;
  item.crc = 0xDEADBEEF;
  frame.append(item);
  frame.append(ExtentBody{8192, 4096, 3, 0});
  return frame.finish();
}

std::vector<std::byte> golden_results() {
  FrameBuilder frame(FrameType::results, 6);
  frame.header().tag = counting_tag();
  frame.header().flags = kFrameLast;
  frame.header().item_count = 1;
  ResultBody result;
  result.length = 4096;
  result.sequence = 42;
  frame.append(result);
  return frame.finish();
}

std::vector<std::byte> golden_failed() {
  return build_reason(FrameType::failed, 6, counting_tag(), Status::draining, "bye");
}

GroupId some_group() {
  GroupId group;
  group.fill(0x47);
  return group;
}

std::vector<std::byte> golden_keys(FrameType type, uint64_t request, const BatchBody& batch, const Key& key) {
  FrameBuilder frame(type, request);
  frame.header().tag = counting_tag();
  frame.header().item_count = 1;
  frame.append(batch);
  frame.append(key);
  return frame.finish();
}

std::vector<std::byte> golden_put_group() {
  FrameBuilder frame(FrameType::put, 7);
  frame.header().tag = counting_tag();
  frame.header().item_count = 1;
  BatchBody batch;
  batch.layout = 7;
  batch.durability = Durability::relaxed;
  batch.scope = 0x53;
  frame.append(batch);
  ItemBody item;
  item.key = repeating_key();
  item.group = some_group();
  item.group_members = 8;
  item.length = 100;
  frame.append(item);
  return frame.finish();
}

std::vector<std::byte> golden_lease() {
  BatchBody batch;
  batch.layout = 7;
  batch.duration_ms = 60'000;
  return golden_keys(FrameType::lease, 8, batch, repeating_key());
}

std::vector<std::byte> golden_remove_group() {
  BatchBody batch;
  batch.layout = 7;
  batch.delete_kind = kRemoveGroup;
  return golden_keys(FrameType::remove, 9, batch, Key{some_group()});
}

std::vector<std::byte> golden_watch() {
  FrameBuilder frame(FrameType::watch, 10);
  frame.header().tag = counting_tag();
  frame.header().deadline_ms = 30'000;
  frame.append(WatchBody{41, 16, 0});
  return frame.finish();
}

std::vector<std::byte> golden_events() {
  FrameBuilder frame(FrameType::events, 10);
  frame.header().tag = counting_tag();
  frame.header().flags = kFrameLast;
  frame.header().item_count = 1;
  frame.append(EventsBody{1, 42, 0});
  EventBody event;
  event.number = 42;
  event.unix_ms = 1'700'000'000'000;
  event.sequence = 9;
  event.key = repeating_key();
  event.group = some_group();
  event.layout = 7;
  event.scope = 0x53;
  event.kind = 1;
  frame.append(event);
  return frame.finish();
}

TEST(WireFormat, TheGoldenBytesOfThePageAreWhatTheCodeBuilds) {
  EXPECT_EQ(golden_in_page("wire-format.md", "hello"), hex(golden_hello()));
  EXPECT_EQ(golden_in_page("wire-format.md", "exists"), hex(golden_exists()));
  EXPECT_EQ(golden_in_page("wire-format.md", "put"), hex(golden_put()));
  EXPECT_EQ(golden_in_page("wire-format.md", "results"), hex(golden_results()));
  EXPECT_EQ(golden_in_page("wire-format.md", "failed"), hex(golden_failed()));
  EXPECT_EQ(golden_in_page("wire-format.md", "put-group"), hex(golden_put_group()));
  EXPECT_EQ(golden_in_page("wire-format.md", "lease"), hex(golden_lease()));
  EXPECT_EQ(golden_in_page("wire-format.md", "remove-group"), hex(golden_remove_group()));
  EXPECT_EQ(golden_in_page("wire-format.md", "watch"), hex(golden_watch()));
  EXPECT_EQ(golden_in_page("wire-format.md", "events"), hex(golden_events()));
}

TEST(WireFormat, WhatIsBuiltIsDecoded) {
  const auto frame = golden_put();
  const auto header = load<FrameHeader>(frame.data());
  const ConstByteSpan body = std::span(frame).subspan(kFrameHeaderBytes);
  ASSERT_EQ(check_header(header), nullptr);
  ASSERT_EQ(check_body(header, body), nullptr);
  BatchView batch;
  ASSERT_EQ(decode_batch(header, body, batch), nullptr);
  ASSERT_EQ(batch.items.size(), 1U);
  EXPECT_EQ(batch.items[0].key, repeating_key());
  EXPECT_EQ(batch.items[0].crc, 0xDEADBEEF);
  ASSERT_EQ(batch.extents.size(), 1U);
  EXPECT_EQ(batch.extents[0].region, 3U);
  HelloView hello;
  const auto greeting = golden_hello();
  ASSERT_EQ(decode_hello(std::span(greeting).subspan(kFrameHeaderBytes), hello), nullptr);
  EXPECT_EQ(hello.tenant, "default");
  EXPECT_EQ(hello.name, "cairn");
}

TEST(WireFormat, FieldsThatBelongToOneTypeAreRefusedInOthers) {
  const auto wrong = [](FrameType type, const BatchBody& fixed, const std::vector<Key>& keys) {
    FrameHeader header;
    header.type = type;
    header.item_count = static_cast<uint32_t>(keys.size());
    std::vector<std::byte> body(sizeof(fixed) + keys.size() * sizeof(Key));
    store_bytes(body.data(), fixed);
    if (!keys.empty()) std::memcpy(body.data() + sizeof(fixed), keys.data(), keys.size() * sizeof(Key));
    BatchView batch;
    return decode_batch(header, body, batch) != nullptr;
  };
  const std::vector<Key> none{Key{}}, one{repeating_key()}, two{Key{}, Key{}};
  const auto kind = [](uint8_t number, uint64_t scope = 0) {
    BatchBody batch;
    batch.delete_kind = number;
    batch.scope = scope;
    return batch;
  };
  EXPECT_FALSE(wrong(FrameType::remove, kind(kRemoveKeys), two));
  EXPECT_FALSE(wrong(FrameType::remove, kind(kRemoveGroup), one));
  EXPECT_TRUE(wrong(FrameType::remove, kind(kRemoveGroup), none)) << "no group";
  EXPECT_FALSE(wrong(FrameType::remove, kind(kRemoveScope, 5), none));
  EXPECT_TRUE(wrong(FrameType::remove, kind(kRemoveScope), none)) << "no scope";
  EXPECT_TRUE(wrong(FrameType::remove, kind(kRemoveKeys, 5), one)) << "a scope beside keys";
  for (const uint8_t wide : {kRemoveLayout, kRemoveTenant}) {
    EXPECT_FALSE(wrong(FrameType::remove, kind(wide), none));
    EXPECT_TRUE(wrong(FrameType::remove, kind(wide), one)) << "a key beside the name";
    EXPECT_TRUE(wrong(FrameType::remove, kind(wide), two)) << "two keys";
  }
  EXPECT_TRUE(wrong(FrameType::remove, kind(5), none));
  EXPECT_TRUE(wrong(FrameType::exists, kind(kRemoveTenant), none)) << "a delete that is none";
  BatchBody lasting;
  lasting.duration_ms = 1;
  EXPECT_FALSE(wrong(FrameType::lease, lasting, one));
  EXPECT_TRUE(wrong(FrameType::release, lasting, one));
}

TEST(WireFormat, AWatchAndItsAnswer) {
  WatchBody watch;
  const auto asked = golden_watch();
  ASSERT_EQ(decode_watch(std::span(asked).subspan(kFrameHeaderBytes), watch), nullptr);
  EXPECT_EQ(watch.after, 41U);
  ASSERT_EQ(decode_watch(bytes_of(WatchBody{0, 0, 0}), watch), nullptr);
  EXPECT_EQ(watch.events_most, kEventsMost) << "0 stands for the most";
  EXPECT_NE(decode_watch(bytes_of(WatchBody{0, kEventsMost + 1, 0}), watch), nullptr);
  const auto frame = golden_events();
  const auto header = load<FrameHeader>(frame.data());
  const ConstByteSpan body = std::span(frame).subspan(kFrameHeaderBytes);
  EventsView events;
  ASSERT_EQ(check_header(header), nullptr);
  ASSERT_EQ(decode_events(header, body, events), nullptr);
  EXPECT_EQ(events.fixed.newest, 42U);
  ASSERT_EQ(events.events.size(), 1U);
  EXPECT_EQ(events.events[0].group, some_group());
  for (size_t length = 0; length < body.size(); ++length)
    EXPECT_NE(decode_events(header, body.first(length), events), nullptr) << length;
}

TEST(WireFormat, EveryFlippedBitOfAFrameIsNoticed) {
  for (const auto& frame : {golden_hello(), golden_exists(), golden_put(), golden_results(), golden_failed(),
                            golden_lease(), golden_watch(), golden_events()}) {
    for (size_t bit = 0; bit < frame.size() * 8; ++bit) {
      auto damaged = frame;
      damaged[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
      const auto header = load<FrameHeader>(damaged.data());
      const bool noticed = check_header(header) != nullptr ||
                           check_body(header, std::span(damaged).subspan(kFrameHeaderBytes)) != nullptr;
      EXPECT_TRUE(noticed) << "bit " << bit;
    }
  }
}

TEST(WireFormat, EveryTruncationOfABodyIsRefused) {
  const auto put = golden_put();
  const auto header = load<FrameHeader>(put.data());
  const ConstByteSpan body = std::span(put).subspan(kFrameHeaderBytes);
  for (size_t length = 0; length < body.size(); ++length) {
    BatchView batch;
    EXPECT_NE(decode_batch(header, body.first(length), batch), nullptr) << length;
  }
  const auto hello = golden_hello();
  const ConstByteSpan greeting = std::span(hello).subspan(kFrameHeaderBytes);
  for (size_t length = 0; length < greeting.size(); ++length) {
    HelloView view;
    EXPECT_NE(decode_hello(greeting.first(length), view), nullptr) << length;
  }
}

FrameHeader sealed(FrameHeader header) {
  header.header_crc = crc32c(bytes_of(header).first(60));
  return header;
}

TEST(WireFormat, LengthsBeyondTheLimitsAreRefusedByTheHeaderAlone) {
  FrameHeader header;
  header.type = FrameType::put;
  header.body_bytes = kBodyBytesMost;
  EXPECT_EQ(check_header(sealed(header)), nullptr);
  header.body_bytes = kBodyBytesMost + 1;
  EXPECT_NE(check_header(sealed(header)), nullptr);
  header.body_bytes = 0;
  header.payload_bytes = 1;
  EXPECT_NE(check_header(sealed(header)), nullptr) << "a put carries no payload";
  header.type = FrameType::data;
  header.payload_bytes = kBlockBytesMost + sizeof(DataTrailer);
  EXPECT_EQ(check_header(sealed(header)), nullptr);
  ++header.payload_bytes;
  EXPECT_NE(check_header(sealed(header)), nullptr);
  header.payload_bytes = 0;
  header.item_count = kBatchItemsMost + 1;
  EXPECT_NE(check_header(sealed(header)), nullptr);
  header.item_count = 0;
  header.type = static_cast<FrameType>(200);
  EXPECT_NE(check_header(sealed(header)), nullptr);
  header.type = FrameType::ping;
  header.version = 2;
  EXPECT_NE(check_header(sealed(header)), nullptr);
}

TEST(WireFormat, ItemsThatNameExtentsThatAreNotThereAreRefused) {
  FrameHeader header;
  header.type = FrameType::get;
  header.item_count = 1;
  for (const auto& [first, count, wrong] : {std::tuple{0U, 2, true},
                                            {1U, 1, true},
                                            {UINT32_MAX, 1, true},
                                            {0U, 129, true},
                                            {0U, 1, false},
                                            {1U, 0, false}}) {
    FrameBuilder frame(FrameType::get);
    BatchBody batch;
    batch.extent_count = 1;
    frame.append(batch);
    ItemBody item;
    item.extent_first = first;
    item.extent_count = static_cast<uint16_t>(count);
    frame.append(item);
    frame.append(ExtentBody{});
    const auto bytes = frame.finish();
    BatchView view;
    EXPECT_EQ(decode_batch(header, std::span(bytes).subspan(kFrameHeaderBytes), view) != nullptr, wrong)
        << first << " " << count;
  }
}

TEST(Crc, AgreesWithTheStandardAndCombines) {
  const std::string digits = "123456789";
  EXPECT_EQ(crc32c(std::as_bytes(std::span(digits))), 0xE3069283);
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::byte> bytes(random() % 5000);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    const size_t cut = bytes.empty() ? 0 : random() % bytes.size();
    const ConstByteSpan all(bytes);
    const uint32_t a = crc32c(all.first(cut)), b = crc32c(all.subspan(cut));
    EXPECT_EQ(crc32c_combine(a, b, bytes.size() - cut), crc32c(all));
    EXPECT_EQ(crc32c(all.subspan(cut), a), crc32c(all));
  }
}

}  // namespace
}  // namespace cairn
