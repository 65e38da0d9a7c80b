// What RDMA carries besides frames: the golden bytes of docs/wire-format.md, messages cut and put together, and what
// the decoders say to damage.
#include "wire/rdma.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "testing/golden.h"

namespace cairn {
namespace {

RdmaRequest good_request() {
  RdmaRequest request;
  request.credits = 32;
  request.message_bytes = 4096;
  request.features = kRdmaWindows;
  request.tenant = tenant_mark("default");
  return request;
}

std::vector<std::byte> frame_of(size_t body_bytes) {
  FrameBuilder frame(FrameType::text, 7, body_bytes);
  for (size_t i = 0; i < body_bytes; ++i) frame.append(static_cast<uint8_t>(i * 7));
  return frame.finish();
}

std::vector<std::byte> message(ConstByteSpan piece, uint16_t flags, uint16_t credits = 0) {
  MessagePrefix prefix;
  prefix.bytes = static_cast<uint32_t>(piece.size());
  prefix.flags = flags;
  prefix.credits = credits;
  const ConstByteSpan head = bytes_of(prefix);
  std::vector<std::byte> out(head.begin(), head.end());
  out.insert(out.end(), piece.begin(), piece.end());
  return out;
}

std::vector<std::vector<std::byte>> cut(ConstByteSpan frame, size_t piece_bytes) {
  std::vector<std::vector<std::byte>> messages;
  for (size_t at = 0; at < frame.size(); at += piece_bytes) {
    const ConstByteSpan piece = frame.subspan(at, std::min(piece_bytes, frame.size() - at));
    const int flags = (at == 0 ? kMessageFirst : 0) | (at + piece.size() == frame.size() ? kMessageLast : 0);
    messages.push_back(message(piece, static_cast<uint16_t>(flags)));
  }
  return messages;
}

TEST(RdmaWire, TheGoldenBytesOfTheDocumentAreOurs) {
  EXPECT_EQ(golden_in_page("wire-format.md", "rdma_request"), hex(bytes_of(good_request())));
  RdmaReply reply;
  reply.credits = 24;
  reply.message_bytes = 2048;
  reply.features = kRdmaWindows;
  EXPECT_EQ(golden_in_page("wire-format.md", "rdma_reply"), hex(bytes_of(reply)));
  const auto ping = FrameBuilder(FrameType::ping, 3).finish();
  EXPECT_EQ(golden_in_page("wire-format.md", "rdma_message"), hex(message(ping, kMessageFirst | kMessageLast, 2)));
}

TEST(RdmaWire, ARequestIsTakenAsItIsAndRefusedWithAReason) {
  const RdmaRequest good = good_request();
  std::vector<std::byte> padded(120);
  store_bytes(padded.data(), good);
  RdmaRequest read;
  EXPECT_EQ(decode_rdma_request(padded, read), nullptr);
  EXPECT_EQ(read.tenant, good.tenant);
  EXPECT_STREQ(decode_rdma_request(std::span(padded).first(55), read), "private data that is too short");
  const auto told = [&](auto&& change) {
    RdmaRequest bad = good;
    change(bad);
    return std::string(decode_rdma_request(bytes_of(bad), read));
  };
  EXPECT_EQ(told([](RdmaRequest& one) { one.magic = 0; }), "private data that is not Cairn's (wrong magic)");
  EXPECT_EQ(told([](RdmaRequest& one) { one.version_least = 2; }), "this service speaks version 1 over RDMA only");
  EXPECT_EQ(told([](RdmaRequest& one) { one.version_most = 0; }), "this service speaks version 1 over RDMA only");
  for (const uint16_t credits : {0, 3, 1025, 65535})
    EXPECT_EQ(told([&](RdmaRequest& one) { one.credits = credits; }), "a number of credits that no side may grant");
  for (const uint32_t bytes : {0U, 511U, (1U << 20) + 1, UINT32_MAX})
    EXPECT_EQ(told([&](RdmaRequest& one) { one.message_bytes = bytes; }), "a size of messages that no side may have");
}

TEST(RdmaWire, ARejectCarriesItsReasonAsFarAsItFits) {
  const RdmaReject reject = build_rdma_reject(Status::busy, std::string(500, 'x'));
  Status status{};
  std::string reason;
  ASSERT_TRUE(decode_rdma_reject(bytes_of(reject), status, reason));
  EXPECT_EQ(status, Status::busy);
  EXPECT_EQ(reason, std::string(136, 'x'));
  RdmaReject long_one = reject;
  long_one.reason_bytes = 137;
  EXPECT_FALSE(decode_rdma_reject(bytes_of(long_one), status, reason));
  EXPECT_FALSE(decode_rdma_reject(bytes_of(reject).first(100), status, reason)) << "somebody else's";
}

TEST(RdmaWire, AFrameCutAnywhereIsPutTogether) {
  for (const size_t body : {size_t{0}, size_t{1}, size_t{3000}, size_t{100'000}}) {
    const auto frame = frame_of(body);
    for (const size_t piece : {size_t{64}, size_t{65}, size_t{2032}, frame.size()}) {
      FrameAssembly assembly;
      bool ended = false;
      Status status{};
      const auto messages = cut(frame, piece);  // of a frame in one message the body lies there
      for (const auto& one : messages) {
        ASSERT_FALSE(ended);
        ASSERT_EQ(assembly.take(one, ended, status), nullptr);
      }
      ASSERT_TRUE(ended);
      EXPECT_EQ(assembly.header().request_id, 7U);
      EXPECT_TRUE(std::equal(assembly.body().begin(), assembly.body().end(), frame.begin() + kFrameHeaderBytes));
      EXPECT_FALSE(assembly.mid_frame());
    }
  }
}

TEST(RdmaWire, AMessageThatOnlyGivesCreditIsNoFrame) {
  FrameAssembly assembly;
  bool ended = true;
  Status status{};
  EXPECT_EQ(assembly.take(message({}, 0, 16), ended, status), nullptr);
  EXPECT_FALSE(ended);
  EXPECT_FALSE(assembly.carries_frame());
  EXPECT_EQ(assembly.credits(), 16);
}

TEST(RdmaWire, WhatIsNoFrameIsRefusedWithAReason) {
  const auto frame = frame_of(1000);
  const ConstByteSpan all(frame);
  bool ended = false;
  Status status{};
  const auto told = [&](std::vector<std::vector<std::byte>> messages) {
    FrameAssembly assembly;
    const char* wrong = nullptr;
    for (const auto& one : messages) wrong = assembly.take(one, ended, status);
    return std::string(wrong == nullptr ? "nothing" : wrong);
  };
  auto lying = message(all, kMessageFirst | kMessageLast);
  lying[0] = std::byte{1};
  EXPECT_EQ(told({std::vector<std::byte>(15)}), "a message that is shorter than its prefix");
  EXPECT_EQ(told({lying}), "a message whose length is not what it says");
  EXPECT_EQ(told({message({}, kMessageFirst)}), "a message with a piece of a frame and no bytes");
  EXPECT_EQ(told({message(all.first(100), 0)}), "a piece of a frame that never began");
  EXPECT_EQ(told({message(all.first(100), kMessageLast)}), "a piece of a frame that never began");
  EXPECT_EQ(told({message(all.first(100), kMessageFirst), message(all, kMessageFirst)}),
            "a frame begins within another");
  EXPECT_EQ(told({message(all.first(63), kMessageFirst)}), "a frame whose first message does not hold its header");
  EXPECT_EQ(told({message(all.first(63), kMessageFirst | kMessageLast)}), "a frame that is shorter than its header");
  EXPECT_EQ(told({message(all.first(100), kMessageFirst), message(all, 0)}), "a frame longer than it says");
  EXPECT_EQ(told({message(all.first(500), kMessageFirst | kMessageLast)}), "a frame whose length is not what it says");
  EXPECT_EQ(told({message(all.first(500), kMessageFirst), message(all.subspan(500, 100), kMessageLast)}),
            "a frame whose length is not what it says");
  auto damaged = frame;
  damaged.back() ^= std::byte{1};
  EXPECT_EQ(told({message(damaged, kMessageFirst | kMessageLast)}), "the frame body fails its checksum");
  FrameBuilder paying(FrameType::results, 1);
  paying.header().payload_bytes = 10;
  EXPECT_EQ(told({message(paying.finish(), kMessageFirst | kMessageLast)}),
            "payload behind a frame, where payload is read and written in place");
}

}  // namespace
}  // namespace cairn
