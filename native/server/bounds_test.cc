// What one peer can make the service keep or do has a bound, and costs that peer and its tenant.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "testing/reactor_fixture.h"

namespace cairn {
namespace {

class BoundsTest : public ReactorTest {
 protected:
  uint64_t figure(const std::string& name) {
    const std::string all = reactor_->stats_json();
    const size_t at = all.find("\"" + name + "\":");
    EXPECT_NE(at, std::string::npos) << name;
    return std::stoull(all.substr(at + name.size() + 3));
  }
};

struct Flood {
  FrameType type;
  size_t keys;
};

// What a user would have lost: two gigabytes of the machine's memory, to one client that asks and never reads.
TEST_F(BoundsTest, AnAnswerThatIsNotReadStopsTheReading) {
  begin();
  for (const Flood flood : {Flood{FrameType::ping, 0}, Flood{FrameType::stats, 0}, Flood{FrameType::exists, 4096},
                            Flood{FrameType::match, 64}, Flood{FrameType::touch, 64}, Flood{FrameType::remove, 64},
                            Flood{FrameType::lease, 64}, Flood{FrameType::release, 64}, Flood{FrameType::cancel, 0}}) {
    const size_t frames = flood.keys == 4096 ? 200 : 5'000;
    Caller& deaf = call("flood", {}, true, 64 * kKiB);
    deaf.deaf = true;
    std::vector<std::string> keys;
    for (size_t i = 0; i < flood.keys; ++i) keys.push_back("key " + std::to_string(i));
    const uint64_t before = figure("links_paused");
    for (size_t i = 0; i < frames; ++i) deaf.ask_of_keys(flood.type, keys, flood.type == FrameType::lease ? 1'000 : 0);
    for (int i = 0; i < 600; ++i) {
      turn();
      ASSERT_LE(reactor_->output_bytes(), 512 * kKiB) << "frame type " << static_cast<int>(flood.type);
    }
    EXPECT_GT(figure("links_paused"), before) << "frame type " << static_cast<int>(flood.type);
    deaf.deaf = false;
    const uint64_t had = deaf.frames;
    for (int i = 0; i < 20'000 && deaf.frames - had < frames; ++i) turn();
    EXPECT_EQ(deaf.frames - had, frames) << "an answer was lost, of frame type " << static_cast<int>(flood.type);
    EXPECT_TRUE(deaf.closed.empty()) << deaf.closed;
    EXPECT_EQ(reactor_->output_bytes(), 0U);
  }
}

TEST_F(BoundsTest, WhoNeverReadsIsHungUpOn) {
  ReactorOptions options;
  options.stall_timeout_ms = 2'000;
  begin(options);
  Caller& deaf = call("flood", {}, true, 64 * kKiB);
  deaf.deaf = true;
  for (int i = 0; i < 20'000; ++i) deaf.ask_of_keys(FrameType::ping, {});
  turns(1'000);
  EXPECT_EQ(figure("sessions"), 1U);
  turns(2'500);
  EXPECT_EQ(figure("sessions"), 0U);
  EXPECT_EQ(reactor_->output_bytes(), 0U);
}

// What a user would have lost: the slab's memory, for as long as somebody's deadline allows, to puts whose bytes never
// come although their client goes on talking.
TEST_F(BoundsTest, APullThatIsNeverAnsweredEndsItsLink) {
  ReactorOptions options;
  options.stall_timeout_ms = 2'000;
  begin(options);
  Caller& silent = call("hog");
  silent.deaf = true;
  silent.ask(FrameType::put, {"never sent"});
  turns(5);
  EXPECT_EQ(figure("held_bytes"), kBlock);
  for (int i = 0; i < 30; ++i) {
    silent.ask_of_keys(FrameType::ping, {});
    turns(100);
  }
  EXPECT_EQ(figure("sessions"), 0U);
  EXPECT_EQ(figure("timeouts"), 1U);
  EXPECT_EQ(figure("held_bytes"), 0U);
}

TEST_F(BoundsTest, AGetIsChargedWhatIsReadAndNotWhatItsClientClaims) {
  begin();
  ASSERT_TRUE(reactor_->set_tenants({named("team", 1)}).ok());
  Caller& caller = call_with_blocks("team", 1);
  const uint64_t before = share_of(1).started_bytes;
  const uint64_t asked = caller.ask(FrameType::get, caller.names, kBlockBytesMost);
  for (int i = 0; i < 50 && caller.finished != asked; ++i) turn();
  EXPECT_EQ(share_of(1).started_bytes - before, kBlock);
  const uint64_t second = caller.ask(FrameType::prefetch, caller.names);
  for (int i = 0; i < 50 && caller.finished != second; ++i) turn();
  EXPECT_EQ(share_of(1).started_bytes - before, 2 * kBlock) << "a prefetch, too";
  const uint64_t third = caller.ask(FrameType::get, {"absent"}, kBlockBytesMost);
  for (int i = 0; i < 50 && caller.finished != third; ++i) turn();
  EXPECT_LE(share_of(1).started_bytes - before, 2 * kBlock + 4 * kKiB) << "and a miss is next to nothing";
}

// A batch that takes several turns is answered whole, in order, and what comes behind it waits.
TEST_F(BoundsTest, ALongBatchIsAnsweredOverSeveralTurns) {
  begin();
  Caller& caller = call_with_blocks("team", 3);
  std::vector<std::string> keys;
  for (int i = 0; i < 4096; ++i) keys.push_back("absent " + std::to_string(i));
  keys[0] = "block 0";
  keys[1] = "block 1";
  keys[4095] = "block 2";
  const uint64_t asked = caller.ask_of_keys(FrameType::exists, keys);
  caller.ask_of_keys(FrameType::match, keys);
  for (int i = 0; i < 200 && caller.matched == 0; ++i) turn();
  EXPECT_EQ(caller.finished, asked);
  ASSERT_EQ(caller.statuses.size(), 4096U);
  for (size_t i = 0; i < 4096; ++i)
    EXPECT_EQ(caller.statuses[i], i < 2 || i == 4095 ? Status::ok : Status::not_found) << i;
  EXPECT_EQ(caller.matched, 2U);
}

TEST_F(BoundsTest, ALinkThatVanishesInTheMiddleOfALongBatchTakesNothingAlong) {
  begin();
  Caller& caller = call("team");
  std::vector<std::string> keys(4096, "absent");
  caller.ask_of_keys(FrameType::exists, keys);
  caller.step();
  world_.clock.advance_ms(1);
  reactor_->turn(0);
  callers_.clear();
  turns(20);
  EXPECT_EQ(figure("sessions"), 0U);
}

// Another is answered in its turn however many flood.
TEST_F(BoundsTest, AFloodOfCommandsHoldsUpNobodyElse) {
  begin();
  Caller& victim = call_with_blocks("victim", 1);
  for (int i = 0; i < 20; ++i) {
    Caller& flood = call("flood");
    for (int frame = 0; frame < 3'000; ++frame) flood.ask_of_keys(FrameType::stats, {});
  }
  for (int round = 0; round < 20; ++round) {
    const uint64_t asked = victim.ask(FrameType::get, victim.names);
    int waited = 0;
    for (; victim.finished != asked && waited < 50; ++waited) turn();
    EXPECT_LE(waited, 6) << "round " << round;
  }
  EXPECT_GT(figure("links_deferred"), 0U);
}

TEST_F(BoundsTest, WhatOpenRequestsTakeOfMemoryIsBounded) {
  begin();
  world_.drive().faults.hold = true;
  Caller& greedy = call("greedy");
  std::vector<std::string> keys;
  for (int i = 0; i < 4096; ++i) keys.push_back("block " + std::to_string(i));
  for (int i = 0; i < 40; ++i) {
    for (auto& key : keys) key += "x";
    greedy.ask(FrameType::put, keys);
  }
  turns(300);
  EXPECT_GT(figure("requests_refused"), 0U);
  EXPECT_LE(share_of(static_cast<uint32_t>(figure("number"))).request_bytes, 8 * kMiB);
  world_.drive().faults.hold = false;
  callers_.clear();
  turns(50);
}

// What a user would have lost: a name for a new tenant, after somebody had made up sixty-five thousand; and a line of
// figures for each of them, for ever.
TEST_F(BoundsTest, NamesThatHaveNothingAreForgottenAndTheirFiguresAreKept) {
  begin();
  for (int i = 0; i < 1'500; ++i) {
    Caller& caller = call("tenant " + std::to_string(i));
    if (i % 100 == 0) {
      const uint64_t asked = caller.ask(FrameType::get, {"absent"});
      for (int waited = 0; waited < 20 && caller.finished != asked; ++waited) turn();
    }
    callers_.clear();
    turn();
  }
  EXPECT_GE(figure("names"), 400U);
  Caller& fresh = call("tenant 3");
  EXPECT_TRUE(fresh.welcomed);
  const std::string all = reactor_->stats_json();
  const std::string forgotten = all.substr(all.find("\"tenants_forgotten\""));
  EXPECT_NE(forgotten.find("\"gets\":5,"), std::string::npos) << forgotten.substr(0, 200);
  EXPECT_EQ(all.find("\"tenant 7\""), std::string::npos);
  EXPECT_NE(all.find("\"tenant 1400\""), std::string::npos);
}

TEST_F(BoundsTest, ANameWithBlocksIsKept) {
  begin();
  call_with_blocks("keeper", 1);
  callers_.clear();
  for (int i = 0; i < 1'100; ++i) {
    call("passer-by " + std::to_string(i));
    callers_.clear();
    turn();
  }
  world_.clock.advance_ms(700'000);
  turns(1'000);
  EXPECT_NE(reactor_->stats_json().find("\"keeper\""), std::string::npos);
  Caller& keeper = call("keeper");
  const uint64_t asked = keeper.ask(FrameType::get, {"block 0"});
  for (int i = 0; i < 50 && keeper.finished != asked; ++i) turn();
  EXPECT_EQ(keeper.ok_items, 1U);
}

// Nothing that another tenant does changes a figure that a client is told.
TEST_F(BoundsTest, AClientsFiguresAreItsOwnTenants) {
  begin();
  Caller& mine = call_with_blocks("mine", 2);
  const auto told = [&] {
    mine.text.clear();
    world_.clock.advance_ms(200);
    mine.ask_stats();
    for (int i = 0; i < 20 && mine.text.empty(); ++i) turn();
    // What differs from one time to the next for what it did itself, and the time.
    std::string text = mine.text;
    for (const std::string name : {"uptime_seconds", "\"stats\""}) {
      const size_t at = text.find(name);
      EXPECT_NE(at, std::string::npos);
      text.erase(at, text.find(name == "uptime_seconds" ? "," : "}}", at) - at);
    }
    return text;
  };
  told();
  const std::string before = told();
  Caller& other = call_with_blocks("other", 4);
  const uint64_t asked = other.ask(FrameType::get, {"block 0", "absent"});
  for (int i = 0; i < 50 && other.finished != asked; ++i) turn();
  other.ask_of_keys(FrameType::lease, {"block 1"}, 1'000);
  turns(5);
  EXPECT_EQ(told(), before);
}

TEST_F(BoundsTest, ALeaseIsOneEntryHoweverOftenItIsRenewed) {
  begin();
  Caller& caller = call_with_blocks("team", 1);
  for (int i = 0; i < 200; ++i) {
    caller.ask_of_keys(FrameType::lease, {"block 0"}, 1'000 + static_cast<uint64_t>(i));
    turn();
  }
  turns(5);
  ASSERT_EQ(caller.statuses.size(), 1U);
  EXPECT_EQ(caller.statuses[0], Status::ok);
  EXPECT_EQ(figure("leases"), 1U);
  turns(1'300);
  EXPECT_EQ(figure("leases"), 0U) << "it ended when the last of them was to";
}

}  // namespace
}  // namespace cairn
