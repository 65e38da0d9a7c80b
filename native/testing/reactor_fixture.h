// A reactor over a store in memory, and clients that speak frames to it in the same thread.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/reactor.h"
#include "testing/fake_channel.h"
#include "testing/store_fixture.h"
#include "transport/stream_client.h"
#include "transport/stream_server.h"

namespace cairn {

inline constexpr uint64_t kBlock = 256 * kKiB;

// A client that speaks frames: it says hello, puts blocks, and asks for them without end.
class Caller final : public ClientLinkHandler {
 public:
  // From an address, or from none as over shm. `speaks`: says hello. `room`: for bytes on their way, either way; by
  // default the link is not what holds anybody up.
  Caller(Reactor& reactor, const std::string& tenant, const std::string& host = {}, bool speaks = true,
         size_t room = 64 * kMiB)
      : pair_(ChannelFaults{.capacity = room}) {
    link_ = std::make_unique<StreamClientLink>(pair_.take_client());
    link_->set_handler(this);
    auto server = std::make_unique<StreamServerLink>(pair_.take_server(), "caller", host);
    reactor.adopt(std::move(server));
    if (speaks) say_hello(tenant);
  }

  void say_hello(const std::string& tenant, const SessionTag& join = {}) {
    FrameBuilder frame(FrameType::hello);
    HelloBody hello;
    hello.join = join;
    hello.tenant_bytes = static_cast<uint16_t>(tenant.size());
    frame.append(hello);
    frame.append_text(tenant);
    link_->send(frame.finish());
  }

  void step() {
    if (closed.empty() && !asleep) link_->progress(!deaf, true);
    while (flooding && welcomed && open_ < 4) ask(FrameType::get, names);
  }
  // A batch of keys, or a command without any.
  uint64_t ask_of_keys(FrameType type, const std::vector<std::string>& blocks, uint64_t duration_ms = 0) {
    FrameBuilder frame(type, ++last_request_);
    frame.header().tag = tag_;
    frame.header().item_count = static_cast<uint32_t>(blocks.size());
    BatchBody body;
    body.duration_ms = duration_ms;
    if (!blocks.empty()) frame.append(body);
    for (const std::string& name : blocks) frame.append(key_of(name));
    link_->send(frame.finish());
    return last_request_;
  }
  uint64_t ask(FrameType type, const std::vector<std::string>& blocks, uint64_t room = kBlock) {
    FrameBuilder frame(type, ++last_request_);
    frame.header().tag = tag_;
    frame.header().item_count = static_cast<uint32_t>(blocks.size());
    frame.append(BatchBody{});
    for (const std::string& name : blocks) {
      ItemBody item;
      item.key = key_of(name);
      item.length = room;
      frame.append(item);
    }
    ++open_;
    link_->send(frame.finish());
    return last_request_;
  }
  void send(std::vector<std::byte> bytes) { link_->send(std::move(bytes)); }
  void goodbye() {
    FrameBuilder frame(FrameType::goodbye);
    frame.header().tag = tag_;
    link_->send(frame.finish());
  }
  void ask_stats() {
    FrameBuilder frame(FrameType::stats, ++last_request_);
    frame.header().tag = tag_;
    link_->send(frame.finish());
  }

  bool source(uint64_t, uint32_t, uint64_t, uint64_t length, std::vector<iovec>& out) override {
    memory_.resize(kBlock);
    out.push_back({memory_.data(), length});
    return true;
  }
  bool destination(uint64_t, uint32_t, uint64_t length, std::vector<iovec>& out) override {
    memory_.resize(kBlock);
    out.push_back({memory_.data(), length});
    return true;
  }
  void on_frame(const FrameHeader& header, ConstByteSpan body) override {
    ++frames;
    if (header.type == FrameType::statuses) {
      ASSERT_EQ(decode_array(header, body, statuses), nullptr);
      finished = header.request_id;
    }
    if (header.type == FrameType::matched) matched = load<uint64_t>(body.data());
    if (header.type == FrameType::welcome) {
      welcomed = true;
      tag_ = header.tag;
    }
    if (header.type == FrameType::refuse) {
      ReasonView view;
      ASSERT_EQ(decode_reason(body, view), nullptr);
      refused = view.status;
      why = view.reason;
    }
    if (header.type == FrameType::text) text.assign(reinterpret_cast<const char*>(body.data()), body.size());
    if (header.type != FrameType::results) return;
    std::vector<ResultBody> results;
    ASSERT_EQ(decode_array(header, body, results), nullptr);
    for (const ResultBody& result : results) {
      ++(result.status == Status::ok ? ok_items : other_items);
      got_bytes += result.length;
    }
    if ((header.flags & kFrameLast) == 0) return;
    --open_;
    finished = header.request_id;
  }
  void on_closed(Status, std::string_view reason) override { closed = reason; }

  const SessionTag& tag() const { return tag_; }
  bool welcomed = false, flooding = false, asleep = false;
  bool deaf = false;  // it sends and takes nothing in
  std::vector<Status> statuses;
  uint64_t frames = 0, matched = 0;
  Status refused = Status::ok;
  std::string closed, why, text;
  std::vector<std::string> names;
  uint64_t ok_items = 0, other_items = 0, got_bytes = 0, finished = 0;

 private:
  ChannelPair pair_;
  std::unique_ptr<ClientLink> link_;
  SessionTag tag_{};
  uint64_t last_request_ = 0;
  int open_ = 0;
  std::vector<std::byte> memory_;
};

class ReactorTest : public testing::Test {
 protected:
  ReactorTest() : world_(64_MiB) {}
  ~ReactorTest() override {
    if (reactor_ != nullptr) reactor_->close_sessions();
    callers_.clear();
    reactor_.reset();
    world_.close();
  }

  void begin(const ReactorOptions& options = {}) {
    reactor_ = std::make_unique<Reactor>(*world_.store, clock_, options);
  }
  Caller& call(const std::string& tenant, const std::string& host = {}, bool speaks = true, size_t room = 64 * kMiB) {
    callers_.push_back(std::make_unique<Caller>(*reactor_, tenant, host, speaks, room));
    turns(3);
    return *callers_.back();
  }
  // A caller whose tenant holds `count` blocks.
  Caller& call_with_blocks(const std::string& tenant, int count) {
    Caller& caller = call(tenant);
    for (int i = 0; i < count; ++i) caller.names.push_back("block " + std::to_string(i));
    const uint64_t asked = caller.ask(FrameType::put, caller.names);
    for (int i = 0; i < 1'000 && caller.finished != asked; ++i) turn();
    EXPECT_EQ(caller.ok_items, static_cast<uint64_t>(count));
    return caller;
  }
  void turn() {
    world_.clock.advance_ms(1);
    reactor_->turn(0);
    for (auto& caller : callers_) caller->step();
  }
  void turns(int count) {
    for (int i = 0; i < count; ++i) turn();
  }
  const Share& share_of(uint32_t tenant) { return reactor_->shares().all().at(tenant); }

  StoreWorld world_;
  TurnClock clock_{world_.clock};
  std::unique_ptr<Reactor> reactor_;
  std::vector<std::unique_ptr<Caller>> callers_;
};

inline TenantOptions named(const std::string& name, uint32_t number, uint32_t weight = 1,
                           uint64_t in_flight_bytes = 0) {
  TenantOptions options;
  options.name = name;
  options.number = number;
  options.weight = weight;
  options.in_flight_bytes = in_flight_bytes;
  return options;
}

}  // namespace cairn
