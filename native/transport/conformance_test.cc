// The promises of transport.h, by number, over every link there is and the fake.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "testing/link_pair.h"

namespace cairn {
namespace {

class LinkTest : public testing::TestWithParam<LinkKind> {
 protected:
  LinkTest() : slab(Slab::create(32 * kMiB).take()), pair(std::make_unique<LinkPair>(GetParam(), 7, *slab)) {}

  void give_memory(uint64_t request, uint32_t item, std::vector<std::byte>& bytes) {
    pair->memory[{request, item}] = {{bytes.data(), bytes.size()}};
  }
  std::vector<std::byte> command(uint64_t request) {
    FrameBuilder frame(FrameType::stats, request);
    return frame.finish();
  }
  ResultItem result(uint32_t index, Buffer buffer) {
    ResultItem item;
    item.body.index = index;
    item.body.length = buffer.length();
    item.buffer = std::move(buffer);
    return item;
  }
  // The peer broke a rule: it is told which, and the link ends when it has gone.
  void expect_refused(const std::string& why) {
    const auto told = [&] {
      return !pair->at_client.empty() && pair->at_client.back().header.type == FrameType::refuse;
    };
    ASSERT_TRUE(pair->run_until(told));
    EXPECT_EQ(pair->violations, std::vector{why});
    ReasonView view;
    ASSERT_EQ(decode_reason(pair->at_client.back().body, view), nullptr);
    EXPECT_EQ(std::string(status_row(view.status).name) + ": " + std::string(view.reason), why);
    pair->client->close();
    ASSERT_TRUE(pair->run_until([&] { return !pair->server_closed.empty(); }));
    EXPECT_EQ(pair->server_closed.size(), 1U);
  }
  std::unique_ptr<Slab> slab;
  std::unique_ptr<LinkPair> pair;
};

INSTANTIATE_TEST_SUITE_P(Links, LinkTest, testing::ValuesIn(link_kinds()),
                         [](const auto& kind) { return name_of(kind.param); });

// Of links whose payload travels in frames.
class StreamLinkTest : public LinkTest {};

INSTANTIATE_TEST_SUITE_P(Links, StreamLinkTest, testing::ValuesIn(stream_kinds()),
                         [](const auto& kind) { return name_of(kind.param); });

TEST_P(LinkTest, Promise1FramesArriveWholeOnceInOrder) {
  for (uint64_t i = 1; i <= 500; ++i) pair->client->send(command(i));
  ASSERT_TRUE(pair->run_until([&] { return pair->at_server.size() == 500; }));
  for (uint64_t i = 0; i < 500; ++i) EXPECT_EQ(pair->at_server[i].header.request_id, i + 1);
}

// What its peer may send waits with the peer, and what is sent to it arrives all the same.
TEST_P(LinkTest, AHeldLinkHandsOnNothingAndLosesNothing) {
  constexpr size_t kFrames = 210;
  pair->hold_each = 7;
  for (uint64_t i = 1; i <= kFrames; ++i) pair->client->send(command(i));
  for (size_t seen = 7; seen <= kFrames; seen += 7) {
    ASSERT_TRUE(pair->run_until([&] { return pair->server->held(); }));
    EXPECT_EQ(pair->at_server.size(), seen);
    FrameBuilder frame(FrameType::pong, seen);
    pair->server->send(frame.finish());
    ASSERT_TRUE(pair->run_until([&] { return pair->at_client.size() == seen / 7; })) << "its output stands still, too";
    EXPECT_EQ(pair->at_server.size(), seen) << "it was heard while it was held";
    EXPECT_EQ(pair->server->queued_bytes(), 0U);
    pair->server->hold(false);
  }
  for (uint64_t i = 0; i < kFrames; ++i) EXPECT_EQ(pair->at_server[i].header.request_id, i + 1);
}

// A body that takes several turns, and comes in pieces.
TEST_P(LinkTest, TheLongestFrameArrivesWhole) {
  FrameBuilder frame(FrameType::exists, 5);
  std::vector<std::byte> body(kBodyBytesMost);
  fill_pattern(body, 3);
  frame.append_bytes(body);
  pair->client->send(frame.finish());
  pair->client->send(command(6));
  ASSERT_TRUE(pair->run_until([&] { return pair->at_server.size() == 2; }));
  EXPECT_EQ(pair->at_server[0].body, body);
}

TEST_P(LinkTest, Promise2BytesAreInPlaceBeforeTheResultIsSeen) {
  std::vector<std::byte> a(300'001), b(5);
  give_memory(9, 0, a);
  give_memory(9, 1, b);
  std::vector<ResultItem> items;
  items.push_back(result(0, patterned(*slab, a.size(), 1)));
  items.push_back(result(1, patterned(*slab, b.size(), 2)));
  pair->send_results(9, items, kFrameLast);
  ASSERT_TRUE(pair->run_until([&] { return !pair->at_client.empty(); }));
  EXPECT_EQ(check_pattern(a, 1), -1);
  EXPECT_EQ(check_pattern(b, 2), -1);
  EXPECT_EQ(pair->payload_sent, a.size() + b.size());
  EXPECT_EQ(slab->free_bytes(), slab->total_bytes());
}

TEST_P(LinkTest, Promise3PulledBytesAreExact) {
  std::vector<std::byte> bytes(3 * kMiB + 17);
  fill_pattern(bytes, 5);
  give_memory(4, 2, bytes);
  RecordedPull pull(*slab, 4, 2, bytes.size());
  pair->pull(pull);
  ASSERT_TRUE(pair->run_until([&] { return !pull.ended.empty(); }));
  EXPECT_EQ(pull.ended, std::vector{Status::ok});
  EXPECT_TRUE(holds_pattern(pull.buffer, 5));
}

TEST_P(LinkTest, Promise3ManyPullsOfSeveralRequestsInterleave) {
  constexpr uint32_t kPulls = 60;
  std::vector<std::vector<std::byte>> sources(kPulls, std::vector<std::byte>(20'000));
  std::vector<std::unique_ptr<RecordedPull>> pulls;
  for (uint32_t i = 0; i < kPulls; ++i) {
    fill_pattern(sources[i], 100 + i);
    give_memory(1 + i % 3, i, sources[i]);
    pulls.push_back(std::make_unique<RecordedPull>(*slab, 1 + i % 3, i, sources[i].size()));
    pair->pull(*pulls.back());
  }
  ASSERT_TRUE(pair->run_until(
      [&] { return std::all_of(pulls.begin(), pulls.end(), [](const auto& one) { return !one->ended.empty(); }); }));
  for (uint32_t i = 0; i < kPulls; ++i) EXPECT_TRUE(holds_pattern(pulls[i]->buffer, 100 + i)) << i;
}

TEST_P(StreamLinkTest, Promise4ACancelledPullWritesNothingMore) {
  std::vector<std::byte> bytes(4 * kMiB);
  fill_pattern(bytes, 5);
  give_memory(4, 0, bytes);
  RecordedPull pull(*slab, 4, 0, bytes.size());
  pair->pull(pull);
  const uint64_t before = pair->server->moved_bytes();
  pair->run_until([&] { return pair->server->moved_bytes() > before + 2000; });
  if (pull.ended.empty()) pair->server->cancel(pull);
  std::vector<iovec> parts;
  pull.buffer.slice(0, pull.length, parts);
  for (const iovec& part : parts) std::memset(part.iov_base, 0x5A, part.iov_len);
  pair->client->send(command(77));
  ASSERT_TRUE(pair->run_until([&] { return !pair->at_server.empty(); }));
  for (const iovec& part : parts) {
    const auto* at = static_cast<const unsigned char*>(part.iov_base);
    EXPECT_TRUE(std::all_of(at, at + part.iov_len, [](unsigned char byte) { return byte == 0x5A; }));
  }
}

TEST_P(StreamLinkTest, Promise5AForgottenPutIsNeverReportedAsPulled) {
  std::vector<std::byte> bytes(8 * kMiB);
  fill_pattern(bytes, 5);
  give_memory(4, 0, bytes);
  RecordedPull pull(*slab, 4, 0, bytes.size());
  pair->pull(pull);
  const uint64_t before = pair->server->moved_bytes();
  pair->run_until([&] { return pair->server->moved_bytes() > before + 1000 || !pull.ended.empty(); });
  const bool had_ended = !pull.ended.empty();
  pair->memory.clear();
  pair->client->forget(4);
  std::memset(bytes.data(), 0, bytes.size());  // the caller uses its memory again
  ASSERT_TRUE(pair->run_until([&] { return !pull.ended.empty(); }));
  if (!had_ended && pull.ended[0] == Status::ok) {
    // All of it had left before forget(): then it is exact.
    EXPECT_TRUE(holds_pattern(pull.buffer, 5));
  }
  pair->client->send(command(1));
  EXPECT_TRUE(pair->run_until([&] { return !pair->at_server.empty(); })) << "the stream lost its step";
}

TEST_P(StreamLinkTest, Promise5AForgottenGetIsNotWritten) {
  std::vector<std::byte> target(8 * kMiB);
  give_memory(6, 0, target);
  std::vector<ResultItem> items;
  items.push_back(result(0, patterned(*slab, target.size(), 3)));
  pair->send_results(6, items, kFrameLast);
  pair->run_until([&] { return target[0] != std::byte{0}; });
  pair->memory.clear();
  pair->client->forget(6);
  std::memset(target.data(), 0x11, target.size());
  pair->server->send(command(8));
  ASSERT_TRUE(pair->run_until([&] { return pair->at_client.size() == 2; }));
  EXPECT_TRUE(std::all_of(target.begin(), target.end(), [](std::byte byte) { return byte == std::byte{0x11}; }));
}

TEST_P(LinkTest, Promise6ABrokenLinkSaysSoOnceAndEndsItsPulls) {
  std::vector<std::byte> bytes(8 * kMiB);
  fill_pattern(bytes, 5);
  give_memory(4, 0, bytes);
  RecordedPull pull(*slab, 4, 0, bytes.size());
  pair->pull(pull);
  pair->cut();
  ASSERT_TRUE(pair->run_until([&] { return !pair->server_closed.empty() && !pair->client_closed.empty(); }));
  ASSERT_EQ(pull.ended.size(), 1U);
  // An RDMA device moves bytes by itself, and may have got all of them before the cut. Then they are exact.
  const bool whole = GetParam() == LinkKind::rdma && pull.ended[0] == Status::ok;
  EXPECT_TRUE(whole ? holds_pattern(pull.buffer, 5) : pull.ended[0] == Status::disconnected);
  EXPECT_EQ(pair->server_closed.size(), 1U);
  EXPECT_EQ(pair->client_closed.size(), 1U);
}

// Whoever sent a bad frame was not told: the link was closed, and only the service's log knew why.
TEST_P(LinkTest, Promise7GarbageIsToldWhyAndEndsTheLink) {
  pair->inject(std::vector<std::byte>(256, std::byte{0x42}));
  expect_refused("invalid: not a Cairn frame (wrong magic)");
}

// A stream that is closed with bytes unread is reset, and what the peer had not read yet is lost.
TEST_P(LinkTest, Promise7WhoeverGoesOnSendingIsToldAllTheSame) {
  pair->inject(std::vector<std::byte>(256, std::byte{0x42}));
  for (uint64_t i = 0; i < 2000; ++i) pair->inject(std::vector<std::byte>(1024, std::byte{0x42}));
  expect_refused("invalid: not a Cairn frame (wrong magic)");
}

TEST_P(LinkTest, Promise7TheLastWordGoesBehindWhatIsQueued) {
  std::vector<std::byte> target(3 * kMiB);
  give_memory(9, 0, target);
  std::vector<std::byte> source(1 * kMiB);
  give_memory(4, 0, source);
  std::vector<ResultItem> items;
  items.push_back(result(0, patterned(*slab, target.size(), 1)));
  RecordedPull pull(*slab, 4, 0, source.size());
  pair->pull(pull);
  pair->send_results(9, items, kFrameLast);
  pair->server->leave(build_reason(FrameType::refuse, 0, SessionTag{}, Status::timeout, "enough"));
  EXPECT_EQ(pull.ended, std::vector{Status::disconnected});
  ASSERT_TRUE(pair->run_until([&] { return pair->at_client.size() >= 2; }));
  EXPECT_EQ(pair->at_client[0].header.type, FrameType::results);
  EXPECT_EQ(pair->at_client[1].header.type, FrameType::refuse);
  EXPECT_EQ(check_pattern(target, 1), -1);
  EXPECT_TRUE(pair->run_until([&] { return pair->payload_sent == target.size(); }));
}

TEST_P(StreamLinkTest, Promise7DataNobodyAskedForIsDrained) {
  FrameBuilder frame(FrameType::data, 5);
  frame.header().payload_bytes = 1000 + sizeof(DataTrailer);
  frame.append(DataBody{0, 0, 0, 1000});
  auto bytes = frame.finish();
  bytes.resize(bytes.size() + 1008);
  pair->inject(std::move(bytes));
  pair->client->send(command(3));
  ASSERT_TRUE(pair->run_until([&] { return !pair->at_server.empty(); }));
  EXPECT_EQ(pair->at_server[0].header.request_id, 3U);
}

// Every answer on the link was lost: the length of the data wrapped around to the payload that the frame announced, and
// all that came behind it was swallowed as its payload, for ever.
TEST_P(StreamLinkTest, Promise7DataWhoseLengthWrapsAroundClosesTheLink) {
  FrameBuilder frame(FrameType::data, 5);
  frame.header().payload_bytes = 1;
  frame.append(DataBody{0, 0, 0, UINT64_MAX - sizeof(DataTrailer) + 2});
  auto bytes = frame.finish();
  bytes.resize(bytes.size() + 10'000);
  pair->inject(std::move(bytes));
  expect_refused("invalid: data longer than a block can be");
}

// The caller of a get never came back, whatever its deadline: its link went round for ever about a result that said it
// had payload and had no bytes of it.
TEST_P(StreamLinkTest, Promise7AResultWithPayloadOfNoBytesIsPassed) {
  std::vector<std::byte> target(100);
  give_memory(6, 1, target);
  FrameBuilder frame(FrameType::results, 6);
  frame.header().item_count = 2;
  frame.header().payload_bytes = target.size();
  ResultBody empty, full;
  empty.flags = full.flags = kResultPayload;
  full.index = 1;
  full.length = target.size();
  frame.append(empty);
  frame.append(full);
  auto bytes = frame.finish();
  bytes.resize(bytes.size() + target.size(), std::byte{0x33});
  pair->server->send(std::move(bytes));
  ASSERT_TRUE(pair->run_until([&] { return !pair->at_client.empty(); }));
  EXPECT_TRUE(std::all_of(target.begin(), target.end(), [](std::byte byte) { return byte == std::byte{0x33}; }));
}

TEST_P(LinkTest, Promise7AWrongTagIsDenied) {
  SessionTag tag{};
  tag[0] = 1;
  pair->server->set_tag(tag);
  pair->client->send(command(3));
  expect_refused("denied: a frame without the session's tag");
}

TEST_P(LinkTest, Promise9AbsurdLengthsAreRefusedBeforeAnythingIsAllocated) {
  FrameBuilder frame(FrameType::put, 1);
  auto bytes = frame.finish();
  auto header = load<FrameHeader>(bytes.data());
  header.body_bytes = UINT32_MAX;
  header.header_crc = crc32c(bytes_of(header).first(60));
  store_bytes(bytes.data(), header);
  pair->inject(std::move(bytes));
  expect_refused("invalid: the body is longer than its type allows");
}

// Memory is named by extents where the service reads and writes it by itself. Over a stream nobody but the client
// touches its memory.
TEST_P(StreamLinkTest, Promise5ExtentsReachNothing) {
  const ExtentBody extent{4096, 15'000, 1, 0};
  std::vector<ResultItem> items;
  items.push_back(result(0, patterned(*slab, 15'000, 8)));
  items[0].to = {&extent, 1};
  pair->server->send_results(9, items, kFrameLast);
  ASSERT_TRUE(pair->run_until([&] { return pair->at_client.size() == 1; }));
  EXPECT_EQ(load<ResultBody>(pair->at_client[0].body.data()).status, Status::bad_region);
  RecordedPull pull(*slab, 4, 0, 15'000);
  pull.from = {&extent, 1};
  pair->server->pull(pull);
  EXPECT_EQ(pull.ended, std::vector{Status::bad_region});
}

}  // namespace
}  // namespace cairn
