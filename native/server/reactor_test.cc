// The real reactor over the real store, on drives and links in memory: who gets how much, who is let in, what is told.
#include "server/reactor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "testing/fake_channel.h"
#include "testing/store_fixture.h"
#include "transport/stream_client.h"
#include "transport/stream_server.h"

namespace cairn {
namespace {

constexpr uint64_t kBlock = 256 * kKiB;

// A client that speaks frames: it says hello, puts blocks, and asks for them without end.
class Caller final : public ClientLinkHandler {
 public:
  Caller(Reactor& reactor, const std::string& tenant) {
    link_ = std::make_unique<StreamClientLink>(pair_.take_client());
    link_->set_handler(this);
    auto server = std::make_unique<StreamServerLink>(pair_.take_server(), "caller", true);
    reactor.adopt(std::move(server));
    FrameBuilder frame(FrameType::hello);
    HelloBody hello;
    hello.tenant_bytes = static_cast<uint16_t>(tenant.size());
    frame.append(hello);
    frame.append_text(tenant);
    link_->send(frame.finish());
  }

  void step() {
    if (closed.empty() && !asleep) link_->progress(true, true);
    while (flooding && welcomed && open_ < 4) ask(FrameType::get, names);
  }
  uint64_t ask(FrameType type, const std::vector<std::string>& blocks) {
    FrameBuilder frame(type, ++last_request_);
    frame.header().tag = tag_;
    frame.header().item_count = static_cast<uint32_t>(blocks.size());
    frame.append(BatchBody{});
    for (const std::string& name : blocks) {
      ItemBody item;
      item.key = key_of(name);
      item.length = kBlock;
      frame.append(item);
    }
    ++open_;
    link_->send(frame.finish());
    return last_request_;
  }
  void send(std::vector<std::byte> bytes) { link_->send(std::move(bytes)); }
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
    if (header.type == FrameType::welcome) {
      welcomed = true;
      tag_ = header.tag;
    }
    if (header.type == FrameType::refuse) {
      ReasonView view;
      ASSERT_EQ(decode_reason(body, view), nullptr);
      refused = view.status;
      reason = view.reason;
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

  bool welcomed = false, flooding = false, asleep = false;
  Status refused = Status::ok;
  std::string closed, reason, text;
  std::vector<std::string> names;
  uint64_t ok_items = 0, other_items = 0, got_bytes = 0, finished = 0;

 private:
  ChannelPair pair_{ChannelFaults{.capacity = 64 * kMiB}};  // the link is not what holds anybody up
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
    reactor_ = std::make_unique<Reactor>(*world_.store, world_.clock, options);
  }
  Caller& call(const std::string& tenant) {
    callers_.push_back(std::make_unique<Caller>(*reactor_, tenant));
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
  std::unique_ptr<Reactor> reactor_;
  std::vector<std::unique_ptr<Caller>> callers_;
};

TenantOptions named(const std::string& name, uint32_t number, uint32_t weight = 1, uint64_t in_flight_bytes = 0) {
  TenantOptions options;
  options.name = name;
  options.number = number;
  options.weight = weight;
  options.in_flight_bytes = in_flight_bytes;
  return options;
}

TEST_F(ReactorTest, TwoTenantsGetBytesByTheirWeights) {
  begin();
  ASSERT_TRUE(reactor_->set_tenants({named("light", 1, 1), named("heavy", 2, 3)}).ok());
  Caller& light = call_with_blocks("light", 16);
  Caller& heavy = call_with_blocks("heavy", 16);
  light.flooding = heavy.flooding = true;
  turns(50);
  const uint64_t light_before = light.got_bytes, heavy_before = heavy.got_bytes;
  turns(100);
  const auto got_light = static_cast<double>(light.got_bytes - light_before);
  const auto got_heavy = static_cast<double>(heavy.got_bytes - heavy_before);
  ASSERT_GT(got_light, 0);
  EXPECT_NEAR(got_heavy / got_light, 3, 0.3);
  light.flooding = heavy.flooding = false;
  turns(200);
}

TEST_F(ReactorTest, AnInFlightLimitHolds) {
  begin();
  ASSERT_TRUE(reactor_->set_tenants({named("small", 1, 1, 1 * kMiB)}).ok());
  Caller& small = call_with_blocks("small", 16);
  Caller& second = call("small");
  second.names = small.names;
  small.flooding = second.flooding = true;
  uint64_t most = 0;
  world_.drive().faults.seed = 5;  // answers come late
  for (int i = 0; i < 200; ++i) {
    turn();
    most = std::max(most, share_of(1).in_flight_bytes);
  }
  EXPECT_LE(most, 1 * kMiB);
  EXPECT_GT(small.got_bytes, 0U);
  small.flooding = second.flooding = false;
  turns(300);
  EXPECT_EQ(share_of(1).in_flight_bytes, 0U);
}

TEST_F(ReactorTest, ASmallGetIsAnsweredWhileAnotherTenantFloods) {
  begin();
  Caller& victim = call_with_blocks("victim", 1);
  Caller& flood = call_with_blocks("flood", 16);
  for (int i = 0; i < 7; ++i) {
    Caller& more = call("flood");
    more.names = flood.names;
    more.flooding = true;
  }
  flood.flooding = true;
  turns(50);
  for (int round = 0; round < 20; ++round) {
    const uint64_t asked = victim.ask(FrameType::get, victim.names);
    int waited = 0;
    while (victim.finished != asked && waited < 50) {
      turn();
      ++waited;
    }
    EXPECT_LE(waited, 8) << "round " << round;
  }
  for (auto& caller : callers_) caller->flooding = false;
  turns(300);
}

TEST_F(ReactorTest, ConfiguredTenantsHaveTheirNumbersAndOthersAreRefusedIfToldSo) {
  ReactorOptions options;
  options.accept_unknown_tenants = false;
  begin(options);
  ASSERT_TRUE(reactor_->set_tenants({named("known", 7)}).ok());
  EXPECT_TRUE(call("known").welcomed);
  EXPECT_TRUE(call("default").welcomed);
  Caller& stranger = call("stranger");
  EXPECT_FALSE(stranger.welcomed);
  EXPECT_EQ(stranger.refused, Status::denied);
  EXPECT_EQ(share_of(7).sessions, 1U);
}

TEST_F(ReactorTest, AClientIsToldOfItsOwnTenantOnly) {
  begin();
  ASSERT_TRUE(reactor_->set_tenants({named("mine", 7), named("theirs", 8)}).ok());
  Caller& mine = call("mine");
  call("theirs");
  mine.ask_stats();
  turns(5);
  EXPECT_NE(mine.text.find("\"mine\""), std::string::npos);
  EXPECT_EQ(mine.text.find("theirs"), std::string::npos);
  const std::string all = reactor_->stats_json();
  EXPECT_NE(all.find("\"mine\""), std::string::npos);
  EXPECT_NE(all.find("\"theirs\""), std::string::npos);
}

TEST_F(ReactorTest, AClientThatVanishesGivesBackWhatItHeld) {
  begin();
  ASSERT_TRUE(reactor_->set_tenants({named("gone", 1)}).ok());
  Caller& caller = call_with_blocks("gone", 4);
  world_.drive().faults.hold = true;
  caller.ask(FrameType::put, {"new one", "and another"});
  turns(5);
  EXPECT_EQ(share_of(1).in_flight_bytes, 2 * kBlock);
  callers_.clear();
  world_.drive().faults.hold = false;
  turns(50);
  EXPECT_EQ(share_of(1).in_flight_bytes, 0U);
  EXPECT_EQ(share_of(1).sessions, 0U);
}

// A get that the drive had answered would have waited for the next event, whenever that came.
TEST_F(ReactorTest, DoesNotSleepWhileADriveIsBehind) {
  ASSERT_EQ(world_.put("a", kBlock), Status::ok);
  ASSERT_EQ(world_.put("b", kBlock), Status::ok);
  world_.close();
  world_.open();  // nothing is in memory
  world_.drive().faults.a_poll = 1;
  begin();
  GetCall first("a"), second("b");
  world_.store->get(first);
  world_.store->get(second);
  const uint64_t began_ms = system_clock().now_ms();
  while (first.ended.empty() || second.ended.empty()) {
    reactor_->turn(5000);
    ASSERT_LT(system_clock().now_ms() - began_ms, 2500U) << "it slept";
  }
  EXPECT_EQ(first.ended[0], Status::ok);
  EXPECT_EQ(second.ended[0], Status::ok);
}

// A get would have begun when something else happened, whenever that was.
TEST_F(ReactorTest, DoesNotSleepOnARequestThatItsDriveHasNotHeardOf) {
  const std::string path = std::filesystem::current_path() / ("reactor_test." + std::to_string(getpid()));
  DriveOptions on_file;
  on_file.create = true;
  on_file.create_bytes = 64_MiB;
  auto drive = open_drive(path, on_file).take();
  std::filesystem::remove(path);  // the name goes, the open file stays
  ASSERT_TRUE(format_drive(*drive, FormatOptions{}, system_clock()).ok());
  std::vector<std::unique_ptr<Drive>> drives;
  drives.push_back(std::move(drive));
  const auto slab = Slab::create(4_MiB).take();
  const auto store = Store::open(std::move(drives), *slab, system_clock(), StoreOptions{}).take();
  const auto put = [&](const std::string& name) {
    PutCall call(name, 2_MiB);  // the slab holds two
    call.store = store.get();
    store->begin_put(call);
    while (call.ended.empty()) store->poll();
    EXPECT_EQ(call.ended[0], Status::ok);
  };
  for (const char* name : {"wanted", "other", "another"}) put(name);
  {
    Reactor reactor(*store, system_clock(), {});
    // Until what came before is heeded, and it looks no longer without sleeping.
    const uint64_t quiet_ns = system_clock().now_ns() + 1'000'000;
    while (system_clock().now_ns() < quiet_ns) reactor.turn(0);
    GetCall call("wanted");
    store->get(call);
    const uint64_t began_ms = system_clock().now_ms();
    reactor.turn(5000);
    EXPECT_LT(system_clock().now_ms() - began_ms, 2500U) << "it slept";
    while (call.ended.empty()) reactor.turn(100);
    EXPECT_EQ(call.ended[0], Status::ok);
  }
  store->close();
}

// A client heard nothing any more, neither of its put nor of anything else on its connection: the put was granted while
// the reactor flushed its links, because another client that put the same key had vanished, and the link was never
// flushed again.
TEST_F(ReactorTest, APutThatTakesOverFromAClientThatVanishedIsGoneOnWith) {
  begin();
  Caller& heir = call("team");
  Caller& gone = call("team");
  gone.ask(FrameType::put, {"the block"});
  world_.clock.advance_ms(1);
  reactor_->turn(0);  // its bytes are asked for, and do not come
  const uint64_t asked = heir.ask(FrameType::put, {"the block"});
  world_.clock.advance_ms(1);
  reactor_->turn(0);  // this one waits for the other
  gone.ask(FrameType::get, {"no block"});
  callers_.pop_back();  // the answer finds nobody
  for (int i = 0; i < 200 && heir.finished != asked; ++i) turn();
  EXPECT_EQ(heir.finished, asked);
  EXPECT_EQ(heir.ok_items, 1U);
}

// Whoever broke a rule was hung up on without a word.
TEST_F(ReactorTest, WhoBreaksARuleIsToldWhichAndCostsNobodyElseAnything) {
  begin();
  ASSERT_TRUE(reactor_->set_tenants({named("bad", 1), named("good", 2)}).ok());
  Caller& bad = call_with_blocks("bad", 4);
  Caller& good = call_with_blocks("good", 4);
  world_.drive().faults.hold = true;
  bad.ask(FrameType::put, {"new one"});
  turns(5);
  ASSERT_EQ(share_of(1).in_flight_bytes, kBlock);
  bad.send(std::vector<std::byte>(64, std::byte{0x42}));
  turns(5);
  EXPECT_EQ(bad.refused, Status::invalid);
  EXPECT_EQ(bad.reason, "not a Cairn frame (wrong magic)");
  EXPECT_EQ(bad.closed, "the peer closed the connection") << "the stream ends behind the reason";
  world_.drive().faults.hold = false;
  turns(50);
  EXPECT_EQ(share_of(1).in_flight_bytes, 0U);
  const uint64_t asked = good.ask(FrameType::get, good.names);
  turns(50);
  EXPECT_EQ(good.finished, asked);
  EXPECT_EQ(good.refused, Status::ok);
  EXPECT_EQ(reactor_->complaints().take().size(), 1U);
}

TEST_F(ReactorTest, WhoWasToldAndStaysIsHungUpOn) {
  begin();
  ASSERT_TRUE(reactor_->set_tenants({named("deaf", 1)}).ok());
  for (int i = 0; i < 100; ++i) {
    Caller& deaf = call("deaf");
    deaf.send(std::vector<std::byte>(64, std::byte{0x42}));
    deaf.asleep = true;
  }
  turns(2);
  EXPECT_LE(share_of(1).sessions, 64U) << "too many wait to be hung up on";
  EXPECT_GT(share_of(1).sessions, 0U) << "nobody had time to read why";
  turns(1'100);  // a millisecond each
  EXPECT_EQ(share_of(1).sessions, 0U);
}

TEST_F(ReactorTest, QuotasReachTheStore) {
  begin();
  TenantOptions tight = named("tight", 3);
  tight.quota_bytes = 1'000'000;
  ASSERT_TRUE(reactor_->set_tenants({tight}).ok());
  EXPECT_NE(reactor_->stats_json().find("\"quota_bytes\":1000000"), std::string::npos);
  const auto refused = reactor_->set_tenants({tight, tight});
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(reactor_->stats_json().find("\"quota_bytes\":1000000"), std::string::npos) << "nothing was changed";
}

}  // namespace
}  // namespace cairn
