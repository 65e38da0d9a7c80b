// Who gets how much of drives and network: by weight, whatever the sessions and blocks, and never more than a window.
#include "server/shares.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "wire/limits.h"

namespace cairn {
namespace {

constexpr uint64_t kTurnNs = 1'000'000;

// Sessions that ask for blocks, and one queue, first come first served, that ends so many bytes a turn.
class World final : public Shares::Starter {
 public:
  explicit World(uint64_t window = 64 * kMiB, uint64_t turn_bytes = 8 * kMiB)
      : turn_bytes_(turn_bytes), shares_(*this, {64 * kMiB, window, 0, 32 * kMiB}) {}
  ~World() {
    for (auto& client : clients_) client->left = 0;
    while (!queue_.empty()) turn();
    for (auto& client : clients_) shares_.leave(*client);
  }

  struct Client : Session {
    uint64_t block_bytes = 0, left = 0;  // items that were not started
    uint64_t done_bytes = 0, done_items = 0;
  };

  Client& client(uint32_t tenant, uint64_t block_bytes, uint64_t items = UINT64_MAX) {
    clients_.push_back(std::make_unique<Client>());
    Client& made = *clients_.back();
    made.block_bytes = block_bytes;
    shares_.join(made, tenant);
    ask(made, items);
    return made;
  }
  void ask(Client& who, uint64_t items) {
    who.left = items;
    if (items > 0) shares_.wake(who, now_ns_);
  }

  void turn() {
    now_ns_ += kTurnNs;
    finish(turn_bytes_);
    shares_.run(now_ns_);
    for (const auto& [number, share] : shares_.all()) most_[number] = std::max(most_[number], share.in_flight_bytes);
  }
  void turns(int count) {
    for (int i = 0; i < count; ++i) turn();
  }

  uint64_t next_bytes(Session& session) override {
    Client& who = of(session);
    return who.left == 0 ? 0 : who.block_bytes;
  }
  void start_next(Session& session, uint64_t bytes) override {
    Client& who = of(session);
    --who.left;
    order.push_back(session.share->number);
    if (at_once) {
      shares_.give_back(session, bytes);
      done(who, bytes);
    } else {
      queue_.push_back({&who, bytes});
    }
  }

  uint64_t most_in_flight(uint32_t tenant) { return most_[tenant]; }
  Shares& shares() { return shares_; }
  bool at_once = false;         // items end while they are started: hits in memory
  std::vector<uint32_t> order;  // whose items were started

 private:
  struct Item {
    Client* who;
    uint64_t bytes;
  };
  static Client& of(Session& session) { return static_cast<Client&>(session); }
  static void done(Client& who, uint64_t bytes) {
    who.done_bytes += bytes;
    ++who.done_items;
  }
  void finish(uint64_t bytes) {
    allowance_ += bytes;
    while (!queue_.empty() && queue_.front().bytes <= allowance_) {
      const Item item = queue_.front();
      queue_.pop_front();
      allowance_ -= item.bytes;
      shares_.give_back(*item.who, item.bytes);
      done(*item.who, item.bytes);
    }
    if (queue_.empty()) allowance_ = 0;
  }

  uint64_t turn_bytes_, allowance_ = 0, now_ns_ = kTurnNs;
  Shares shares_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::deque<Item> queue_;
  std::map<uint32_t, uint64_t> most_;
};

TenantOptions tenant(uint32_t number, uint32_t weight, uint64_t in_flight_bytes = 0) {
  TenantOptions options;
  options.number = number;
  options.weight = weight;
  options.in_flight_bytes = in_flight_bytes;
  return options;
}

void expect_ratio(uint64_t more, uint64_t less, double ratio) {
  ASSERT_GT(less, 0U);
  EXPECT_NEAR(static_cast<double>(more) / static_cast<double>(less), ratio, ratio / 10);
}

TEST(Shares, BytesFollowTheWeightsWhateverTheSizeOfBlocks) {
  for (const auto& [light, heavy] : std::vector<std::pair<uint64_t, uint64_t>>{
           {4 * kMiB, 4 * kMiB}, {64 * kKiB, 4 * kMiB}, {6 * kMiB, 64 * kKiB}, {16 * kMiB, 1 * kMiB}}) {
    World world;
    world.shares().configure({tenant(1, 1), tenant(2, 3)});
    auto& a = world.client(1, light);
    auto& b = world.client(2, heavy);
    world.turns(2'000);
    expect_ratio(b.done_bytes, a.done_bytes, 3);
  }
}

TEST(Shares, BytesFollowTheWeightsOfHitsInMemory) {
  World world;
  world.at_once = true;
  world.shares().configure({tenant(1, 1), tenant(2, 3)});
  auto& a = world.client(1, 4 * kMiB);
  auto& b = world.client(2, 64 * kKiB);
  world.turns(300);
  expect_ratio(b.done_bytes, a.done_bytes, 3);
}

TEST(Shares, ManySessionsGetNoMoreThanOne) {
  World world;
  uint64_t many = 0;
  std::vector<World::Client*> eight;
  for (int i = 0; i < 8; ++i) eight.push_back(&world.client(1, 1 * kMiB));
  auto& one = world.client(2, 1 * kMiB);
  world.turns(2'000);
  for (const auto* client : eight) many += client->done_bytes;
  expect_ratio(many, one.done_bytes, 1);
  for (const auto* client : eight) expect_ratio(client->done_bytes, many / 8, 1);
}

TEST(Shares, SessionsOfATenantShareBytesNotItems) {
  World world;
  auto& small = world.client(1, 64 * kKiB);
  auto& large = world.client(1, 8 * kMiB);
  world.client(2, 1 * kMiB);
  world.turns(3'000);
  expect_ratio(small.done_bytes, large.done_bytes, 1);
}

TEST(Shares, AWindowIsNeverExceeded) {
  for (const uint64_t block : {uint64_t{4096}, uint64_t{300'000}, uint64_t{1 * kMiB}}) {
    World world;
    world.shares().configure({tenant(1, 5, 8 * kMiB)});
    for (int i = 0; i < 4; ++i) world.client(1, block);
    world.client(2, block);
    world.turns(200);
    EXPECT_LE(world.most_in_flight(1), 8 * kMiB);
    EXPECT_GT(world.most_in_flight(1), 7 * kMiB);
  }
}

TEST(Shares, ABlockLargerThanEveryWindowGoesAlone) {
  World world(1 * kMiB);
  world.shares().configure({tenant(1, 1, 1 * kMiB)});
  auto& large = world.client(1, 32 * kMiB);
  world.client(2, 4096);
  world.turns(2'000);
  EXPECT_GT(large.done_items, 20U);
  EXPECT_EQ(world.most_in_flight(1), 32 * kMiB);
}

TEST(Shares, OneTenantAloneHasItsSessionsWindows) {
  World world;
  for (int i = 0; i < 4; ++i) world.client(1, 4 * kMiB);
  world.turns(100);
  EXPECT_EQ(world.most_in_flight(1), 256 * kMiB);
}

// Without it a drive that tells of all its requests at once stood still while the next ones were copied, all of them
// before the first was sent: a third of what it could write.
TEST(Shares, ATurnStartsNoMoreThanItMay) {
  for (const uint32_t tenants : {1U, 2U}) {
    class Counting final : public Shares::Starter {
     public:
      uint64_t next_bytes(Session&) override { return 2 * kMiB; }
      void start_next(Session&, uint64_t bytes) override { started += bytes; }
      uint64_t started = 0;
    } starter;
    Shares shares(starter, {64 * kMiB, 64 * kMiB, 0, 2 * kMiB});
    Session sessions[4];
    for (uint32_t i = 0; i < 4; ++i) {
      shares.join(sessions[i], 1 + i % tenants);
      shares.wake(sessions[i], kTurnNs);
    }
    for (uint64_t turn = 1; turn <= 10; ++turn) {
      starter.started = 0;
      shares.run(turn * kTurnNs);
      EXPECT_LE(starter.started, tenants * 2 * kMiB);
      EXPECT_GT(starter.started, 0U);
      EXPECT_TRUE(shares.runnable()) << "the rest waits for another event";
    }
    for (Session& session : sessions) {
      shares.give_back(session, session.window_used);
      shares.leave(session);
    }
  }
}

TEST(Shares, AVictimIsServedAtOnceWhileAnotherFloods) {
  World world;
  for (int i = 0; i < 8; ++i) world.client(1, 4 * kMiB);
  world.turns(100);  // the flood has everything
  auto& victim = world.client(2, 4096, 1);
  world.order.clear();
  world.turn();
  EXPECT_EQ(victim.left, 0U) << "it was not started in the first turn";
  EXPECT_EQ(std::count(world.order.begin(), world.order.end(), 2U), 1);
}

TEST(Shares, AVictimThatAsksOneByOneFindsDrivesThatAreNotFull) {
  World world;
  for (int i = 0; i < 8; ++i) world.client(1, 4 * kMiB);
  auto& victim = world.client(2, 4096, 0);
  uint64_t asked = 0, waited_most = 0;
  for (int turn = 0; turn < 1'000; ++turn) {
    if (victim.done_items == asked) {
      world.ask(victim, 1);
      ++asked;
      waited_most = turn < 100 ? 0 : waited_most;  // what was on its way before there were two
    }
    const uint64_t before = victim.done_items;
    uint64_t waited = 0;
    while (victim.done_items == before && waited < 100) {
      world.turn();
      ++waited;
    }
    waited_most = std::max(waited_most, waited);
  }
  // 64 MiB at 8 MiB a turn, and the block that was begun.
  EXPECT_LE(waited_most, 10U);
}

TEST(Shares, ATenantWhoseItemsStandStillHoldsUpNobody) {
  // Its sessions' windows fill, and the other goes on.
  class Stuck final : public Shares::Starter {
   public:
    uint64_t next_bytes(Session&) override { return 1 * kMiB; }
    void start_next(Session& session, uint64_t bytes) override {
      if (session.share->number == 2) shares->give_back(session, bytes);
      started[session.share->number] += bytes;
    }
    Shares* shares = nullptr;
    std::map<uint32_t, uint64_t> started;
  } starter;
  Shares shares(starter, {64 * kMiB, 64 * kMiB, 0, 32 * kMiB});
  starter.shares = &shares;
  Session stuck[4], moving;
  for (Session& session : stuck) {
    shares.join(session, 1);
    shares.wake(session, 1);
  }
  shares.join(moving, 2);
  shares.wake(moving, 1);
  for (uint64_t turn = 1; turn <= 1'000; ++turn) shares.run(turn * kTurnNs);
  EXPECT_LE(starter.started[1], 256 * kMiB);
  EXPECT_GT(starter.started[2], 1'000 * kMiB);
  for (Session& session : stuck) {
    shares.give_back(session, session.window_used);
    shares.leave(session);
  }
  shares.leave(moving);
}

TEST(Shares, WhatOneLeavesTheOthersTake) {
  World world;
  world.shares().configure({tenant(1, 1), tenant(2, 100)});
  auto& light = world.client(1, 1 * kMiB);
  auto& heavy = world.client(2, 1 * kMiB, 10);
  world.turns(1'000);
  EXPECT_EQ(heavy.done_items, 10U);
  EXPECT_GT(light.done_bytes, 7'900 * kMiB) << "the queue ends 8 MiB a turn";
}

TEST(Shares, WeightsChangeWhileItRuns) {
  World world;
  auto& a = world.client(1, 1 * kMiB);
  auto& b = world.client(2, 1 * kMiB);
  world.turns(1'000);
  expect_ratio(a.done_bytes, b.done_bytes, 1);
  world.shares().configure({tenant(1, 4)});
  const uint64_t a_before = a.done_bytes, b_before = b.done_bytes;
  world.turns(1'000);
  expect_ratio(a.done_bytes - a_before, b.done_bytes - b_before, 4);
}

TEST(Shares, TheSameQuestionsHaveTheSameOrder) {
  std::vector<uint32_t> first;
  for (int run = 0; run < 2; ++run) {
    std::vector<std::unique_ptr<char[]>> noise;  // so that addresses differ
    World world;
    std::mt19937_64 random(7);
    for (uint32_t i = 0; i < 12; ++i) {
      noise.push_back(std::make_unique<char[]>(1 + run * 977 * i));
      world.client(1 + i % 5, 1 + random() % (4 * kMiB), 50 + random() % 50);
    }
    world.turns(500);
    if (run == 0) first = world.order;
    EXPECT_EQ(world.order, first);
  }
  EXPECT_GT(first.size(), 600U);
}

TEST(Shares, ASessionMayLeaveWithItemsThatWereNeverStarted) {
  World world;
  auto& other = world.client(1, 1 * kMiB, 3);
  {
    Session session;
    world.shares().join(session, 1);
    world.shares().wake(session, 1);
    world.shares().leave(session);
  }
  world.turns(10);
  EXPECT_EQ(other.done_items, 3U);
}

}  // namespace
}  // namespace cairn
