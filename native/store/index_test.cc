// The index against std::map, and what it costs.
#include "store/index.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace cairn {
namespace {

BlockId id_of(uint64_t number) {
  BlockId id;
  std::memcpy(id.key.bytes.data(), &number, sizeof(number));
  id.layout = number % 3;
  id.tenant = static_cast<uint32_t>(number % 2);
  return id;
}

TEST(IndexTest, AgreesWithAMapWhateverIsAsked) {
  std::map<uint32_t, bool> gone;  // segments that were used again
  Index index([&](const Place& place) { return !gone.contains(place.segment); });
  std::map<uint64_t, std::pair<uint32_t, uint32_t>> oracle;  // number → (segment, length)
  std::mt19937_64 random(3);
  for (int step = 0; step < 300'000; ++step) {
    const uint64_t number = random() % 20'000;
    const auto kind = random() % 100;
    if (kind < 55) {
      const auto segment = static_cast<uint32_t>(step / 3000);
      const auto length = static_cast<uint32_t>(1 + random() % 60'000'000);
      index.insert(id_of(number), Place{3, segment, 77, static_cast<uint16_t>(segment)}, length, 0,
                   static_cast<uint32_t>(step));
      oracle[number] = {segment, length};
    } else if (kind < 75) {
      const auto known = oracle.find(number);
      const bool there = known != oracle.end() && !gone.contains(known->second.first);
      EXPECT_EQ(index.erase(id_of(number)), there);
      if (known != oracle.end()) oracle.erase(known);
    } else if (kind == 99 && step % 20 == 0) {
      gone[static_cast<uint32_t>(random() % (static_cast<uint64_t>(step) / 3000 + 1))] = true;
      if (gone.contains(static_cast<uint32_t>(step / 3000))) gone.erase(static_cast<uint32_t>(step / 3000));
      index.sweep(500);
    } else {
      const auto known = oracle.find(number);
      const bool there = known != oracle.end() && !gone.contains(known->second.first);
      Index::Entry* entry = index.find(id_of(number));
      ASSERT_EQ(entry != nullptr, there) << step;
      if (there) {
        EXPECT_EQ(entry->length & Index::kLengthMask, known->second.second);
        EXPECT_EQ(Index::place_of(*entry).segment, known->second.first);
        EXPECT_EQ(Index::place_of(*entry).drive, 3);
      }
    }
  }
}

TEST(IndexTest, PlacesAtTheirLimitsSurvivePacking) {
  Index index([](const Place&) { return true; });
  const Place place{31, (1U << 24) - 1, (1U << 18) - 1, 0xFFFF};
  index.insert(id_of(1), place, Index::kLengthMask, 0, UINT32_MAX);
  const Index::Entry* entry = index.find(id_of(1));
  ASSERT_NE(entry, nullptr);
  const Place back = Index::place_of(*entry);
  EXPECT_EQ(back.drive, place.drive);
  EXPECT_EQ(back.segment, place.segment);
  EXPECT_EQ(back.page, place.page);
  EXPECT_EQ(back.use, place.use);
}

TEST(IndexTest, ExpiryIsNeverEarlyAndAtMostATickLate) {
  Index index([](const Place&) { return true; });
  const uint64_t at = Index::kEpochUnixMs + 1'000'001;
  index.insert(id_of(1), Place{}, 1, at, 0);
  EXPECT_FALSE(Index::expired(*index.find(id_of(1)), at - 1));
  EXPECT_TRUE(Index::expired(*index.find(id_of(1)), at + Index::kTickMs));
  index.insert(id_of(2), Place{}, 1, 0, 0);
  EXPECT_FALSE(Index::expired(*index.find(id_of(2)), UINT64_MAX));
}

TEST(IndexTest, ABlockCostsAtMost64BytesOnceThereAreMany) {
  Index index([](const Place&) { return true; });
  for (uint64_t i = 0; i < 1'500'000; ++i) {
    index.insert(id_of(i * 0x9E3779B97F4A7C15ULL), Place{}, 1, 0, 0);
    if (i < 500'000 || i % 25'000 != 0) continue;
    EXPECT_LE(index.memory_bytes(), 64 * index.size()) << i;
  }
  EXPECT_EQ(index.size(), 1'500'000U);
}

}  // namespace
}  // namespace cairn
