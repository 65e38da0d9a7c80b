// The real reactor over the real store, on drives and links in memory: who gets how much, who is let in, what is told.
#include "server/reactor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "testing/reactor_fixture.h"

namespace cairn {
namespace {

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
    TurnClock clock(system_clock());
    Reactor reactor(*store, clock, {});
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

class RecordingClock final : public Clock {
 public:
  uint64_t now_ns() const override { return last_ns = system_clock().now_ns(); }
  uint64_t unix_ms() const override { return system_clock().unix_ms(); }
  mutable uint64_t last_ns = 0;
};

// What a user would have lost: up to a tenth of a second of every deadline, to a request that wakes the service.
TEST_F(ReactorTest, ATurnThatSleptHasTheTimeAfterItsSleep) {
  constexpr int kSleepMs = 20;
  const RecordingClock source;
  TurnClock clock(source);
  Reactor reactor(*world_.store, clock, {});
  const uint64_t began_ns = system_clock().now_ns();
  reactor.turn(kSleepMs);
  EXPECT_GE(source.last_ns, began_ns + kSleepMs * 1'000'000);
}

}  // namespace
}  // namespace cairn
