// What is remembered of deletes: which blocks they cover, which drives still have to be told, and how far back.
#include "store/graveyard.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace cairn {
namespace {

using format::Buried;
using format::Tombstone;

Key key_of(uint64_t number) {
  Key key;
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  return key;
}

Tombstone of_key(uint64_t number, uint64_t sequence, uint64_t layout = 0, uint32_t tenant = 0) {
  return {key_of(number), layout, tenant, Buried::key, {}, sequence};
}

Tombstone of_name(Buried kind, uint64_t value, uint64_t sequence, uint32_t tenant = 0) {
  return {Key{}, value, tenant, kind, {}, sequence};
}

GroupId group_of(uint8_t number) {
  GroupId group{};
  group[0] = number;
  return group;
}

std::vector<uint64_t> sequences(const std::vector<Tombstone>& all) {
  std::vector<uint64_t> found;
  for (const Tombstone& one : all) found.push_back(one.sequence);
  return found;
}

TEST(GraveyardTest, ADeleteCoversWhatWasPutBeforeItUnderItsNameAlone) {
  Graveyard graveyard;
  EXPECT_FALSE(graveyard.covers({key_of(1), 0, 0}, {}, 0, 1)) << "nothing was deleted";
  graveyard.bury(of_key(1, 10, 5, 2), 1);
  EXPECT_TRUE(graveyard.covers({key_of(1), 5, 2}, {}, 0, 9));
  EXPECT_FALSE(graveyard.covers({key_of(1), 5, 2}, {}, 0, 10)) << "put again after the delete";
  EXPECT_FALSE(graveyard.covers({key_of(2), 5, 2}, {}, 0, 9)) << "another key";
  EXPECT_FALSE(graveyard.covers({key_of(1), 6, 2}, {}, 0, 9)) << "another layout";
  EXPECT_FALSE(graveyard.covers({key_of(1), 5, 3}, {}, 0, 9)) << "another tenant's";
}

TEST(GraveyardTest, ADeleteOfANameCoversAllThatHasIt) {
  const BlockId id{key_of(1), 5, 2};
  const auto covered = [&](const Tombstone& tombstone, const GroupId& group, Scope scope, uint64_t birth) {
    Graveyard graveyard;
    graveyard.bury(tombstone, 1);
    return graveyard.covers(id, group, scope, birth);
  };
  const Tombstone group{Key{group_of(7)}, 5, 2, Buried::group, {}, 10};
  EXPECT_TRUE(covered(group, group_of(7), 0, 9));
  EXPECT_FALSE(covered(group, group_of(7), 0, 10));
  EXPECT_FALSE(covered(group, group_of(8), 0, 9));
  EXPECT_FALSE(covered(group, {}, 0, 9)) << "a block of no group";
  EXPECT_TRUE(covered(of_name(Buried::scope, 3, 10, 2), {}, 3, 9));
  EXPECT_FALSE(covered(of_name(Buried::scope, 3, 10, 2), {}, 3, 10));
  EXPECT_FALSE(covered(of_name(Buried::scope, 3, 10, 2), {}, 4, 9));
  EXPECT_FALSE(covered(of_name(Buried::scope, 3, 10, 2), {}, 0, 9)) << "a block without a scope";
  EXPECT_TRUE(covered(of_name(Buried::layout, 5, 10, 2), {}, 0, 9));
  EXPECT_FALSE(covered(of_name(Buried::layout, 6, 10, 2), {}, 0, 9));
  EXPECT_TRUE(covered(of_name(Buried::tenant, 0, 10, 2), {}, 0, 9));
  EXPECT_FALSE(covered(of_name(Buried::tenant, 0, 10, 2), {}, 0, 10));
  EXPECT_FALSE(covered(of_name(Buried::tenant, 0, 10, 3), {}, 0, 9)) << "another tenant";
}

// What was put under a key before a later put that lies elsewhere.
TEST(GraveyardTest, WhatWasPutEarlierIsCoveredAndOwedToNobodyElse) {
  Graveyard graveyard;
  graveyard.bury({key_of(1), 5, 2, Buried::earlier, {}, 10}, 0b01);
  EXPECT_TRUE(graveyard.covers({key_of(1), 5, 2}, {}, 0, 9));
  EXPECT_FALSE(graveyard.covers({key_of(1), 5, 2}, {}, 0, 10)) << "the later put itself";
  EXPECT_FALSE(graveyard.covers({key_of(2), 5, 2}, {}, 0, 9));
  EXPECT_TRUE(graveyard.missing_on(1).empty()) << "it concerns the drive that it lies on";
}

TEST(GraveyardTest, OfOneNameTheYoungestDeleteCounts) {
  Graveyard graveyard;
  graveyard.bury(of_key(1, 20), 1);
  graveyard.bury(of_key(1, 10), 1);  // read later, from another drive
  EXPECT_EQ(graveyard.size(), 1U);
  EXPECT_TRUE(graveyard.covers({key_of(1), 0, 0}, {}, 0, 19));
  graveyard.bury(of_key(1, 30), 1);
  EXPECT_TRUE(graveyard.covers({key_of(1), 0, 0}, {}, 0, 29));
}

TEST(GraveyardTest, ADriveThatHoldsNoTombstoneOfTheYoungestDeleteIsOwedIt) {
  Graveyard graveyard;
  graveyard.bury(of_key(2, 21), 0b01);
  graveyard.bury(of_key(1, 10), 0b10);
  graveyard.bury(of_key(1, 20), 0b01);
  EXPECT_EQ(sequences(graveyard.missing_on(1)), (std::vector<uint64_t>{20, 21}))
      << "the older delete of a name is not owed, whoever holds it";
  EXPECT_TRUE(graveyard.missing_on(0).empty());
  graveyard.bury(of_key(1, 20), 0b10);
  EXPECT_EQ(sequences(graveyard.missing_on(1)), std::vector<uint64_t>{21}) << "it was told of this one";
  EXPECT_EQ(graveyard.size(), 3U);
}

TEST(GraveyardTest, SinceGivesTheYoungerOnesInOrder) {
  Graveyard graveyard;
  for (const uint64_t sequence : {30, 10, 20}) graveyard.bury(of_key(sequence, sequence), 1);
  EXPECT_EQ(sequences(graveyard.since(20)), (std::vector<uint64_t>{20, 30}));
  EXPECT_TRUE(graveyard.since(31).empty());
}

// Were the youngest forgotten, or the floor not raised, a drive that comes back would bring deleted blocks with it.
TEST(GraveyardTest, TrimForgetsTheOldestAndSaysHowFar) {
  Graveyard graveyard;
  const uint64_t most = Graveyard::kRememberedMost;
  graveyard.bury(of_name(Buried::tenant, 0, 1, 9), 1);
  graveyard.bury({key_of(0), 0, 8, Buried::earlier, {}, 2}, 1);
  // Names are deleted again, the youngest first: an old delete of a name that has a younger one is forgotten alone.
  for (uint64_t i = most; i > 2; --i) graveyard.bury(of_key(i, i), 1);
  ASSERT_TRUE(graveyard.covers({key_of(0), 0, 9}, {}, 0, 0));
  graveyard.trim();
  EXPECT_EQ(graveyard.size(), most) << "not before there are too many";
  EXPECT_EQ(graveyard.floor(), 0U);
  graveyard.bury(of_key(3, most + 1), 1);
  graveyard.trim();
  EXPECT_EQ(graveyard.size(), most / 4 * 3);
  EXPECT_EQ(graveyard.floor(), most / 4 + 1) << "the youngest that was forgotten";
  EXPECT_FALSE(graveyard.covers({key_of(0), 0, 9}, {}, 0, 0)) << "the tenant's delete is forgotten";
  EXPECT_FALSE(graveyard.covers({key_of(0), 0, 8}, {}, 0, 1));
  EXPECT_FALSE(graveyard.covers({key_of(4), 0, 0}, {}, 0, 3));
  EXPECT_TRUE(graveyard.covers({key_of(3), 0, 0}, {}, 0, most)) << "its first delete was forgotten, its second not";
  EXPECT_TRUE(graveyard.covers({key_of(most / 4 + 2), 0, 0}, {}, 0, most / 4 + 1));
  graveyard.raise_floor(5);
  EXPECT_EQ(graveyard.floor(), most / 4 + 1) << "a floor never sinks";
}

}  // namespace
}  // namespace cairn
