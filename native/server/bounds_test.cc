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

// A get of as many items as a batch has, none of which is there.
std::vector<std::byte> long_get(const Caller& caller, uint64_t request_id) {
  FrameBuilder frame(FrameType::get, request_id);
  frame.header().tag = caller.tag();
  frame.header().item_count = kBatchItemsMost;
  frame.append(BatchBody{});
  for (uint32_t i = 0; i < kBatchItemsMost; ++i) {
    ItemBody item;
    item.key = key_of("absent " + std::to_string(i));
    item.length = kBlock;
    frame.append(item);
  }
  return frame.finish();
}

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

// What a user would have lost: as many megabytes as there are connections, to frames that are never whole.
TEST_F(BoundsTest, WhatFramesThatAreComingInTakeOfMemoryIsBounded) {
  begin();
  constexpr size_t kLinks = 60;
  std::vector<Caller*> slow;
  std::vector<std::vector<std::byte>> frames;
  for (size_t i = 0; i < kLinks; ++i) slow.push_back(&call("flood"));
  for (Caller* caller : slow) {
    frames.push_back(long_get(*caller, 1));
    const size_t half = frames.back().size() / 2;
    caller->send({frames.back().begin(), frames.back().begin() + static_cast<ptrdiff_t>(half)});
    frames.back().erase(frames.back().begin(), frames.back().begin() + static_cast<ptrdiff_t>(half));
  }
  for (int i = 0; i < 200; ++i) {
    turn();
    ASSERT_LE(reactor_->input_bytes(), 5 * kMiB);
  }
  EXPECT_GE(reactor_->input_bytes(), 4 * kMiB) << "the flood was none";
  Caller& other = call("other");
  other.send(long_get(other, 7));
  for (int i = 0; i < 100 && other.finished != 7; ++i) turn();
  EXPECT_EQ(other.finished, 7U) << "another tenant waits for frames of the flood";
  for (size_t i = 0; i < kLinks; ++i) slow[i]->send(frames[i]);
  turns(3'000);
  for (const Caller* caller : slow)
    EXPECT_GT(caller->frames, 1U) << "a frame that became whole has no answer, not even busy: " << caller->closed;
  EXPECT_EQ(reactor_->input_bytes(), 0U);
}

TEST_F(BoundsTest, AFrameThatComesInByDribsAndDrabsEndsItsLink) {
  ReactorOptions options;
  options.stall_timeout_ms = 2'000;
  begin(options);
  Caller& slow = call("flood");
  const std::vector<std::byte> frame = long_get(slow, 1);
  constexpr size_t kDrib = 128;
  for (size_t at = 0; at < 40 * kDrib; at += kDrib) {
    slow.send({frame.begin() + static_cast<ptrdiff_t>(at), frame.begin() + static_cast<ptrdiff_t>(at + kDrib)});
    turns(100);
  }
  EXPECT_EQ(figure("sessions"), 0U);
  EXPECT_EQ(reactor_->input_bytes(), 0U);
}

// What a user would have lost: memory to whoever can reach the port, or the way in for whoever comes next.
TEST_F(BoundsTest, WhoHasNotSaidHelloSendsNothingLarge) {
  begin();
  for (int i = 0; i < 60; ++i) {
    Caller& stranger = call("", "10.0.0." + std::to_string(i), false);
    std::vector<std::byte> frame = long_get(stranger, 1);
    frame.resize(frame.size() / 2);
    stranger.send(frame);
  }
  Caller& fresh = call("fresh");
  turns(20);
  EXPECT_TRUE(fresh.welcomed);
  EXPECT_EQ(reactor_->input_bytes(), 0U);
  for (auto& caller : callers_) EXPECT_EQ(caller->refused, caller.get() == &fresh ? Status::ok : Status::invalid);
}

// An item that is refused before it is started is over before its neighbours begin.
TEST_F(BoundsTest, ItemsThatAreRefusedTakeNothingFromTheirNeighbours) {
  begin();
  Caller& caller = call("team");
  FrameBuilder frame(FrameType::put, 1);
  frame.header().tag = caller.tag();
  frame.header().item_count = 130;
  frame.append(BatchBody{});
  for (int i = 0; i < 130; ++i) {
    ItemBody item;
    item.key = key_of("block " + std::to_string(i));
    item.length = i == 129 || i == 70 ? 4 * kKiB : kBlockBytesMost + 1;
    frame.append(item);
  }
  caller.send(frame.finish());
  for (int i = 0; i < 1'000 && caller.finished != 1; ++i) turn();
  EXPECT_EQ(caller.finished, 1U);
  EXPECT_EQ(caller.ok_items, 2U);
  EXPECT_EQ(caller.other_items, 128U);
}

struct Counted {
  Counted() { ++alive; }
  ~Counted() { --alive; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  static inline int alive = 0;
};

// What a user would have lost: a quarter of a kilobyte for each item of each batch that has begun, uncounted.
TEST(OperationsTest, OnlyWhatIsUnderWayOfABatchTakesMemory) {
  Operations<Counted> operations;
  operations.begin(200);
  EXPECT_EQ(Counted::alive, 0);
  operations.ended(5);  // of an item that is refused no operation is asked for
  operations.ended(198);
  const Counted* first = &operations.at(0);
  const Counted* last = &operations.at(199);
  EXPECT_LE(Counted::alive, 2 * 64);
  for (uint32_t i = 1; i < 198; ++i) {
    if (i == 5) continue;
    operations.at(i);
    operations.ended(i);
    operations.release();
  }
  EXPECT_LE(Counted::alive, 2 * 64) << "what ended is kept";
  EXPECT_EQ(&operations.at(0), first);
  EXPECT_EQ(&operations.at(199), last);
  operations.ended(0);
  operations.ended(199);
  operations.release();
  EXPECT_EQ(Counted::alive, 0);
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
