// The store with more asked of it than it can hold: everything in flight at once over small memory and small drives,
// with completions in any order, errors and sessions that end; and deletes against the turn of the drive.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "testing/store_fixture.h"

namespace cairn {
namespace {

// Every operation is answered once or cancelled; no bytes are wrong; no memory is left behind (the slab checks).
class Crowd {
 public:
  Crowd(uint64_t seed, size_t drives) : random_(seed), world_(8_MiB, drives, 6_MiB, 1_MiB) {
    for (size_t i = 0; i < drives; ++i) world_.drive(i).faults.seed = random_() | 1;
  }

  void run(int steps) {
    for (int step = 0; step < steps; ++step) {
      const std::string name = std::to_string(random_() % 60);
      switch (random_() % 8) {
        case 0:
        case 1:
        case 2:
          begin_put(name);
          break;
        case 3:
        case 4:
        case 5:
          begin_get(name);
          break;
        case 6:
          begin_remove(name);
          break;
        default:
          cancel_some();
          break;
      }
      if (random_() % 40 == 0) world_.drive(random_() % world_.platters.size()).faults.fail_write = 1 + random_() % 5;
      if (random_() % 40 == 0) world_.drive(random_() % world_.platters.size()).faults.fail_read = 1 + random_() % 5;
      for (uint64_t turns = random_() % 3; turns > 0; --turns) world_.store->poll();
      harvest();
    }
    for (int turn = 0; turn < 20'000 && !(gets_.empty() && puts_.empty() && removes_.empty()); ++turn) {
      world_.clock.advance_ms(1);
      world_.store->poll();
      harvest();
    }
    EXPECT_TRUE(gets_.empty()) << gets_.size() << " gets hang";
    EXPECT_TRUE(puts_.empty()) << puts_.size() << " puts hang";
    EXPECT_TRUE(removes_.empty()) << removes_.size() << " deletes hang";
    count_blocks();
  }

 private:
  void begin_put(const std::string& name) {
    puts_.push_back(std::make_unique<PutCall>(name, 1 + seed_of(name) % 400'000));
    PutCall& put = *puts_.back();
    put.store = world_.store.get();
    put.durability = random_() % 3 == 0 ? Durability::relaxed : Durability::durable;
    put.fill_at_once = random_() % 4 != 0;
    world_.store->begin_put(put);
  }
  void begin_get(const std::string& name) {
    gets_.push_back({std::make_unique<GetCall>(name), name});
    if (random_() % 3 == 0) gets_.back().first->length = 1;
    world_.store->get(*gets_.back().first);
  }
  void begin_remove(const std::string& name) {
    removes_.push_back(std::make_unique<DeleteCall>());
    removes_.back()->ids = {{key_of(name), 0, 0}, {key_of(std::to_string(random_() % 60)), 0, 0}};
    world_.store->remove(*removes_.back());
  }
  void cancel_some() {
    if (!gets_.empty()) {
      const size_t victim = random_() % gets_.size();
      world_.store->cancel(*gets_[victim].first);
      gets_.erase(gets_.begin() + static_cast<long>(victim));
    }
    if (!puts_.empty()) {
      const size_t victim = random_() % puts_.size();
      world_.store->cancel(*puts_[victim]);
      puts_.erase(puts_.begin() + static_cast<long>(victim));
    }
  }
  void harvest() {
    std::erase_if(gets_, [&](const auto& one) {
      const auto& [get, name] = one;
      if (get->ended.empty()) return false;
      EXPECT_EQ(get->ended.size(), 1U);
      if (get->ended[0] != Status::ok) return true;
      const std::vector<std::byte> got = get->bytes();
      EXPECT_EQ(check_pattern(got, seed_of(name)), -1) << "wrong bytes under " << name;
      return true;
    });
    std::erase_if(puts_, [&](const auto& put) {
      EXPECT_LE(put->ended.size(), 1U);
      // A slow client: its bytes come some turns after the memory.
      if (put->granted && !put->fill_at_once && put->ended.empty() && put->buffer && random_() % 4 == 0) {
        put->fill_at_once = true;
        put->fill_and_commit();
      }
      return !put->ended.empty();
    });
    std::erase_if(removes_, [](const auto& one) { return one->ended; });
  }
  // What the figures say is there, a look at every name finds.
  void count_blocks() {
    uint64_t there = 0;
    for (int i = 0; i < 60; ++i) there += world_.exists(std::to_string(i)) ? 1 : 0;
    EXPECT_EQ(world_.store->stats().blocks, there);
  }

  std::mt19937_64 random_;
  StoreWorld world_;
  std::vector<std::pair<std::unique_ptr<GetCall>, std::string>> gets_;
  std::vector<std::unique_ptr<PutCall>> puts_;
  std::vector<std::unique_ptr<DeleteCall>> removes_;
};

class StoreStress : public testing::TestWithParam<uint64_t> {};
INSTANTIATE_TEST_SUITE_P(Seeds, StoreStress, testing::Range<uint64_t>(0, 20));

TEST_P(StoreStress, EverythingAtOnceIsAnsweredOnceAndRight) {
  Crowd crowd(GetParam(), 1 + GetParam() % 3);
  crowd.run(1500);
}

// Delete all, turn the drive round any number of times, stop at any moment: nothing deleted is found again.
TEST(StoreStressTest, WhatIsDeletedStaysDeletedHoweverOftenTheDriveTurns) {
  for (int fillers = 0; fillers < 60; fillers += 3) {
    StoreWorld world(8_MiB, 2, 6_MiB, 1_MiB);
    for (int i = 0; i < 12; ++i) ASSERT_EQ(world.put("doomed " + std::to_string(i), 200'000), Status::ok);
    for (int i = 0; i < 12; ++i) ASSERT_EQ(world.remove("doomed " + std::to_string(i)), Status::ok);
    for (int i = 0; i < fillers; ++i) ASSERT_EQ(world.put("filler " + std::to_string(i), 250'000), Status::ok);
    world.crash(static_cast<uint64_t>(fillers));
    world.open();
    for (int i = 0; i < 12; ++i) EXPECT_FALSE(world.exists("doomed " + std::to_string(i))) << i << " after " << fillers;
    const bool kept = fillers == 0 || world.get("filler " + std::to_string(fillers - 1)) == Status::ok;
    EXPECT_TRUE(kept) << "the youngest is gone";
    EXPECT_EQ(world.put("doomed 0", 100), Status::ok) << "a deleted key may be put again";
    world.crash(static_cast<uint64_t>(fillers) + 1);
    world.open();
    EXPECT_EQ(world.get("doomed 0"), Status::ok) << "the later put wins over the tombstone";
  }
}

}  // namespace
}  // namespace cairn
