// The index against std::map, and what it costs.
#include "store/index.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <utility>

namespace cairn {
namespace {

IndexKey key_of(uint64_t number) {
  IndexKey key;
  std::memcpy(key.key.bytes.data(), &number, sizeof(number));
  key.keyspace = static_cast<uint32_t>(1 + number % 3);
  key.part = static_cast<uint8_t>(number % 16);
  return key;
}

Index::Entry entry_of(uint64_t number, const Place& place, uint64_t length = 1, uint64_t birth = 1) {
  const IndexKey key = key_of(number);
  Index::Entry entry;
  entry.key = key.key;
  entry.keyspace = key.keyspace & 0xFFFFFF;
  entry.part = key.part & 15;
  entry.length_less_one = (length - 1) & ((1U << 26) - 1);
  entry.birth = birth & Index::kBirthMost;
  entry.set_place(place);
  return entry;
}

// An index in which everything stands, but for what lies in the segments of `gone`.
struct Indexed {
  std::set<uint32_t> gone;
  uint64_t dropped = 0;
  Index index{[this](const Index::Entry& entry) { return !gone.contains(static_cast<uint32_t>(entry.segment)); },
              [this](const Index::Entry&) { ++dropped; }};
};

TEST(IndexTest, AgreesWithAMapWhateverIsAsked) {
  Indexed world;
  Index& index = world.index;
  std::map<uint64_t, std::pair<uint32_t, uint32_t>> oracle;  // number → (segment, length)
  uint64_t inserted = 0, erased = 0;
  std::mt19937_64 random(3);
  for (int step = 0; step < 300'000; ++step) {
    const uint64_t number = random() % 20'000;
    const auto kind = random() % 100;
    const auto known = oracle.find(number);
    const bool there = known != oracle.end() && !world.gone.contains(known->second.first);
    if (kind < 55) {
      const auto segment = static_cast<uint32_t>(step / 3000);
      const auto length = static_cast<uint32_t>(1 + random() % 60'000'000);
      if (Index::Entry* old = index.find(key_of(number))) {
        index.erase(*old);
        ++erased;
      }
      index.insert(entry_of(number, {3, segment, 77, 9}, length, static_cast<uint64_t>(step)));
      ++inserted;
      oracle[number] = {segment, length};
    } else if (kind < 75) {
      Index::Entry* entry = index.find(key_of(number));
      EXPECT_EQ(entry != nullptr, there);
      if (entry != nullptr) {
        index.erase(*entry);
        ++erased;
      }
      if (known != oracle.end()) oracle.erase(known);
    } else if (kind == 99 && step % 20 == 0) {
      world.gone.insert(static_cast<uint32_t>(random() % (static_cast<uint64_t>(step) / 3000 + 1)));
      world.gone.erase(static_cast<uint32_t>(step / 3000));
      index.sweep(500);
    } else {
      Index::Entry* entry = index.find(key_of(number));
      ASSERT_EQ(entry != nullptr, there) << step;
      if (!there) continue;
      EXPECT_EQ(entry->length(), known->second.second);
      EXPECT_EQ(entry->segment, known->second.first);
      EXPECT_EQ(entry->drive, 3);
    }
    ASSERT_EQ(index.size(), inserted - erased - world.dropped) << "an entry went and nobody was told";
  }
}

TEST(IndexTest, EachMeetsWhatStandsOnceAndASweepDropsTheRest) {
  Indexed world;
  for (uint64_t i = 0; i < 10'000; ++i) world.index.insert(entry_of(i, {0, static_cast<uint32_t>(i % 10), 1, 0}));
  world.gone = {3, 7};
  std::set<uint64_t> met;
  world.index.each([&](Index::Entry& entry) {
    uint64_t number = 0;
    std::memcpy(&number, entry.key.bytes.data(), sizeof(number));
    EXPECT_TRUE(met.insert(number).second);
  });
  EXPECT_EQ(met.size(), 8000U);
  world.index.sweep(2 * world.index.slots() + 2 * 4096);
  EXPECT_EQ(world.index.size(), 8000U);
  EXPECT_EQ(world.dropped, 2000U);
}

// One key in many layouts, and in parts: they meet in the same slots, and none may be taken for another.
TEST(IndexTest, TheSameKeyUnderOtherNamesIsAnotherEntry) {
  Indexed world;
  constexpr uint32_t kNames = 200'000;
  const auto name = [](uint32_t number) {  // 64 of one key: four layouts of sixteen parts
    IndexKey key = key_of(number / 64);
    key.keyspace = 1 + number / 16 % 4;
    key.part = static_cast<uint8_t>(number % 16);
    return key;
  };
  const auto entry = [&](uint32_t number) {
    Index::Entry one;
    one.key = name(number).key;
    one.keyspace = name(number).keyspace & 0xFFFFFF;
    one.part = number % 16;
    one.set_place({0, number, 1, 0});
    return one;
  };
  for (uint32_t i = 0; i < kNames; i += 2) world.index.insert(entry(i));
  for (uint32_t i = 0; i < kNames; ++i) {
    const Index::Entry* found = world.index.find(name(i));
    ASSERT_EQ(found != nullptr, i % 2 == 0) << i;
    if (found == nullptr) continue;
    ASSERT_EQ(found->segment, i);
  }
}

// What is stale is left behind when a shard grows: told of once, and its slots are free for others.
TEST(IndexTest, GrowingDropsWhatIsStale) {
  Indexed world;
  for (uint64_t i = 0; i < 40'000; ++i) world.index.insert(entry_of(i, {0, static_cast<uint32_t>(i % 2), 1, 0}));
  const uint64_t slots = world.index.slots();
  world.gone = {1};
  for (uint64_t i = 40'000; i < 55'000; ++i) world.index.insert(entry_of(i, {0, 2, 1, 0}));
  EXPECT_GT(world.dropped, 10'000U);
  EXPECT_EQ(world.index.size(), 55'000 - world.dropped);
  EXPECT_LT(world.index.slots(), slots + slots / 4) << "the room of those that went was used again";
  for (uint64_t i = 0; i < 55'000; ++i) ASSERT_EQ(world.index.find(key_of(i)) != nullptr, i >= 40'000 || i % 2 == 0);
}

TEST(IndexTest, PlacesAndNumbersAtTheirLimitsSurvivePacking) {
  Indexed world;
  const Place place{31, (1U << 24) - 1, (1U << 18) - 1, 0xFF};
  Index::Entry entry = entry_of(15, place, kBlockBytesMost, Index::kBirthMost);
  entry.set_group(0xFFFFFFFF);
  entry.scope = 0xFFFFFF;
  entry.expiry_ticks = UINT32_MAX;
  world.index.insert(entry);
  Index::Entry* back = world.index.find(key_of(15));
  ASSERT_NE(back, nullptr);
  EXPECT_TRUE(back->place() == place);
  EXPECT_EQ(back->length(), kBlockBytesMost);
  EXPECT_EQ(back->birth, Index::kBirthMost);
  EXPECT_EQ(back->group(), 0xFFFFFFFF);
  EXPECT_EQ(back->scope, 0xFFFFFFU);
  for (int i = 0; i < 10; ++i) back->hit();
  EXPECT_EQ(back->hits, Index::kHitsMost);
  EXPECT_EQ(back->length(), kBlockBytesMost) << "a hit runs into its neighbour";
}

TEST(IndexTest, ExpiryIsNeverEarlyAndAtMostATickLate) {
  const uint64_t at = Index::kEpochUnixMs + 1'000'001;
  EXPECT_FALSE(Index::expired(Index::ticks_of(at), at - 1));
  EXPECT_TRUE(Index::expired(Index::ticks_of(at), at + Index::kTickMs));
  EXPECT_FALSE(Index::expired(Index::ticks_of(0), UINT64_MAX));
  EXPECT_FALSE(Index::expired(Index::ticks_of(UINT64_MAX), UINT64_MAX)) << "beyond what it can count is for ever";
  EXPECT_TRUE(Index::expired(Index::ticks_of(1), Index::kEpochUnixMs + Index::kTickMs)) << "long ago is not never";
}

TEST(IndexTest, ABlockCostsAtMost64BytesOnceThereAreMany) {
  Indexed world;
  for (uint64_t i = 0; i < 1'500'000; ++i) {
    world.index.insert(entry_of(i * 0x9E3779B97F4A7C15ULL, {0, 1, 1, 0}));
    if (i < 500'000 || i % 25'000 != 0) continue;
    EXPECT_LE(world.index.memory_bytes(), 64 * world.index.size()) << i;
  }
  EXPECT_EQ(world.index.size(), 1'500'000U);
}

TEST(IndexDeathTest, WhatOnlyWeCanBreakStopsTheProcess) {
  Indexed world;
  world.index.insert(entry_of(1, {0, 1, 1, 0}));
  EXPECT_DEATH(world.index.insert(entry_of(1, {0, 1, 1, 0})), "put into the index twice");
  EXPECT_DEATH(world.index.insert(Index::Entry{}), "without a place");
  Index::Entry entry;
  EXPECT_DEATH(entry.set_place({0, 1, 0, 0}), "does not fit the index");
}

}  // namespace
}  // namespace cairn
