// Who is let in, who is not, and how links end: the real reactor, on drives and links in memory.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "testing/reactor_fixture.h"

namespace cairn {
namespace {

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
  EXPECT_EQ(bad.why, "not a Cairn frame (wrong magic)");
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

// One host, or one tenant, that opened all the sessions there were locked out everybody else.
TEST_F(ReactorTest, NoHostAndNoTenantTakesAllSessions) {
  ReactorOptions options;
  options.sessions_most = 16;
  begin(options);
  const auto welcomed = [&](const std::string& tenant, const std::string& host) { return call(tenant, host).welcomed; };
  for (int i = 0; i < 12; ++i) EXPECT_TRUE(welcomed("t" + std::to_string(i), "10.0.0.1")) << i;
  Caller& host_over = call("another", "10.0.0.1");
  EXPECT_EQ(host_over.refused, Status::busy);
  EXPECT_EQ(host_over.why, "this address has as many sessions as one may: 12 (sessions_per_peer_most)");
  callers_.clear();
  turns(5);
  for (int i = 0; i < 12; ++i) EXPECT_TRUE(welcomed("greedy", "10.0.1." + std::to_string(i))) << i;
  Caller& tenant_over = call("greedy", "10.0.0.2");
  EXPECT_EQ(tenant_over.refused, Status::busy);
  EXPECT_EQ(tenant_over.why, "the tenant has as many sessions as it may: 12 (sessions_per_tenant_most)");
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(welcomed("other", "10.0.0.3")) << i;
  Caller& one_over = call("other", "10.0.0.4");
  EXPECT_EQ(one_over.why, "the service has as many sessions as it takes: 16 (sessions_most)");
  EXPECT_NE(reactor_->stats_json().find("\"sessions_refused\":3,"), std::string::npos);
}

TEST_F(ReactorTest, ATenantsOwnLimitHoldsForIt) {
  ReactorOptions options;
  options.sessions_most = 16;
  options.sessions_per_tenant_most = 3;
  begin(options);
  TenantOptions few = named("few", 1), many = named("many", 2);
  few.sessions_most = 1;
  many.sessions_most = 5;
  ASSERT_TRUE(reactor_->set_tenants({few, many}).ok());
  const auto let_in = [&](const std::string& tenant) {
    int count = 0;
    while (count < 100 && call(tenant).welcomed) ++count;
    return count;
  };
  EXPECT_EQ(let_in("few"), 1);
  EXPECT_EQ(callers_.back()->why, "the tenant has as many sessions as it may: 1 (sessions, in the setting tenant)");
  EXPECT_EQ(let_in("many"), 5);
  EXPECT_EQ(let_in("unknown"), 3);
  many.sessions_most = 2;  // who is in stays
  ASSERT_TRUE(reactor_->set_tenants({few, many}).ok());
  EXPECT_EQ(let_in("many"), 0);
  EXPECT_EQ(share_of(2).sessions, 5U);
}

TEST_F(ReactorTest, ConnectionsThatSayNothingHoldNobodyElseUp) {
  ReactorOptions options;
  options.sessions_per_peer_most = 20;
  begin(options);
  for (int i = 0; i < 20; ++i) call("", "10.0.0.1", false);
  Caller& over = call("default", "10.0.0.1");
  EXPECT_EQ(over.refused, Status::busy);
  EXPECT_EQ(over.why, "this address has as many connections without a session as one may: 20 (sessions_per_peer_most)");
  EXPECT_TRUE(call("default", "10.0.0.2").welcomed);
  callers_[0]->say_hello("default");
  turns(3);
  EXPECT_TRUE(callers_[0]->welcomed);
  EXPECT_EQ(call("default", "10.0.0.1").refused, Status::busy) << "it and the others count together";
  turns(6'000);  // until they are refused for saying nothing
  EXPECT_EQ(callers_[1]->refused, Status::timeout);
  EXPECT_TRUE(call("default", "10.0.0.1").welcomed);
}

TEST_F(ReactorTest, LanesAreNoSessionsAndAFullHostStillGainsThem) {
  ReactorOptions options;
  options.sessions_per_peer_most = 2;
  options.sessions_per_tenant_most = 2;
  begin(options);
  Caller& first = call("default", "10.0.0.1");
  call("default", "10.0.0.1");
  for (uint32_t lane = 1; lane < kSessionLanesMost; ++lane) {
    Caller& more = call("", "10.0.0.1", false);
    more.say_hello("default", first.tag());
    turns(3);
    EXPECT_TRUE(more.welcomed) << lane;
  }
  EXPECT_EQ(share_of(0).sessions, 2U);
  EXPECT_EQ(call("default", "10.0.0.1").refused, Status::busy);
}

// Whatever way sessions end: a place that is not given back is lost until the service starts again.
TEST_F(ReactorTest, EveryPlaceComesBack) {
  ReactorOptions options;
  options.sessions_per_peer_most = 8;
  options.idle_timeout_ms = 300;
  begin(options);
  for (int round = 0; round < 50; ++round) {
    for (int i = 0; i < 8; ++i) ASSERT_TRUE(call("default", "10.0.0.1").welcomed) << round << " " << i;
    ASSERT_EQ(call("default", "10.0.0.1").refused, Status::busy);
    for (size_t i = 0; i < 8 && round % 2 == 0; ++i) {
      if (i % 4 == 0) callers_[i]->send(std::vector<std::byte>(64, std::byte{0x42}));
      if (i % 4 == 1) callers_[i]->goodbye();
      if (i % 4 == 2) callers_[i]->asleep = true;  // until it was idle for too long, and was told so in vain
    }
    turns(round % 2 == 0 ? 1'700 : 0);
    callers_.clear();
    turns(5);
    ASSERT_EQ(share_of(0).sessions, 0U);
  }
}

}  // namespace
}  // namespace cairn
