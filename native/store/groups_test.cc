// Groups, scopes, leases and times to live: what exists, goes and is kept together.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>

#include "testing/store_fixture.h"

namespace cairn {
namespace {

std::function<void(PutCall&)> in_group(uint8_t number, uint16_t members, uint64_t expiry_unix_ms = 0) {
  return [=](PutCall& call) {
    call.group[0] = number;
    call.group_members = members;
    call.expiry_unix_ms = expiry_unix_ms;
  };
}

std::function<void(PutCall&)> in_scope(Scope scope) {
  return [=](PutCall& call) { call.scope = scope; };
}

BlockId id_of(const std::string& name) {
  return {key_of(name), 0, 0};
}

TEST(Groups, AMemberIsThereOnlyOnceAllAre) {
  StoreWorld world;
  ASSERT_EQ(world.put("rank 0", 5000, in_group(1, 3)), Status::ok);
  ASSERT_EQ(world.put("rank 1", 5000, in_group(1, 3)), Status::ok);
  EXPECT_FALSE(world.exists("rank 0"));
  EXPECT_EQ(world.get("rank 0"), Status::not_found);
  EXPECT_EQ(world.put("rank 0", 5000, in_group(1, 3)), Status::exists) << "hidden is not absent: no byte moves again";
  ASSERT_EQ(world.put("rank 2", 5000, in_group(1, 3)), Status::ok);
  for (const char* name : {"rank 0", "rank 1", "rank 2"}) EXPECT_EQ(world.get(name), Status::ok) << name;
  world.crash(1);
  world.open();
  for (const char* name : {"rank 0", "rank 1", "rank 2"}) EXPECT_EQ(world.get(name), Status::ok) << name;
}

TEST(Groups, AnUnfinishedGroupStaysHiddenAcrossACrash) {
  StoreWorld world;
  ASSERT_EQ(world.put("rank 0", 5000, in_group(1, 2)), Status::ok);
  world.crash(1);
  world.open();
  EXPECT_EQ(world.get("rank 0"), Status::not_found);
  ASSERT_EQ(world.put("rank 1", 5000, in_group(1, 2)), Status::ok);
  EXPECT_EQ(world.get("rank 0"), Status::ok);
}

TEST(Groups, OneMemberDeletedTakesTheOthersAlongAndForGood) {
  StoreWorld world;
  for (const char* name : {"a", "b", "c"}) ASSERT_EQ(world.put(name, 5000, in_group(1, 3)), Status::ok);
  ASSERT_EQ(world.put("other", 5000, in_group(2, 1)), Status::ok);
  ASSERT_EQ(world.remove("b"), Status::ok);
  for (const char* name : {"a", "b", "c"}) EXPECT_EQ(world.get(name), Status::not_found) << name;
  EXPECT_EQ(world.get("other"), Status::ok);
  EXPECT_EQ(world.store->stats().blocks, 1U);
  world.crash(3);
  world.open();
  for (const char* name : {"a", "b", "c"}) EXPECT_EQ(world.get(name), Status::not_found) << name;
}

TEST(Groups, AreEvictedAsOne) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  ASSERT_EQ(world.put("first", 300'000, in_group(1, 2)), Status::ok);
  ASSERT_EQ(world.put("filler", 900'000), Status::ok);
  ASSERT_EQ(world.put("second", 300'000, in_group(1, 2)), Status::ok);  // in a later segment
  for (int i = 0; world.exists("first"); ++i) ASSERT_EQ(world.put(std::to_string(i), 200'000), Status::ok);
  EXPECT_FALSE(world.exists("second"));
  EXPECT_EQ(world.get("second"), Status::not_found);
}

TEST(Groups, AreDeletedByNameForGood) {
  StoreWorld world;
  for (const char* name : {"a", "b"}) ASSERT_EQ(world.put(name, 5000, in_group(7, 2)), Status::ok);
  ASSERT_EQ(world.remove_all(DeleteKind::group, [](DeleteCall& call) { call.group[0] = 7; }), Status::ok);
  EXPECT_FALSE(world.exists("a"));
  world.crash(5);
  world.open();
  for (const char* name : {"a", "b"}) EXPECT_EQ(world.get(name), Status::not_found) << name;
}

TEST(Groups, ExpireWithTheFirstOfTheirMembers) {
  StoreWorld world;
  const uint64_t soon = world.clock.unix_ms() + 10'000;
  ASSERT_EQ(world.put("a", 5000, in_group(1, 2, soon)), Status::ok);
  ASSERT_EQ(world.put("b", 5000, in_group(1, 2)), Status::ok);
  EXPECT_EQ(world.get("b"), Status::ok);
  world.clock.advance_ms(11'000);
  EXPECT_EQ(world.get("a"), Status::not_found);
  EXPECT_EQ(world.get("b"), Status::not_found);
}

TEST(Groups, OfTenThousandMembersAreRefused) {
  StoreWorld world;
  EXPECT_EQ(world.put("a", 5000, in_group(1, 10'000)), Status::group_too_large);
  EXPECT_EQ(world.store->stats().groups, 0U);
}

TEST(TimeToLive, ThatIsOverAlreadyIsRefusedAndLeavesNothing) {
  StoreWorld world;
  EXPECT_EQ(world.put("a", 5000, [&](PutCall& call) { call.expiry_unix_ms = world.clock.unix_ms() - 1; }),
            Status::expired);
  EXPECT_EQ(world.store->stats().blocks, 0U);
}

TEST(Scopes, AreDeletedForGoodAndOthersStay) {
  StoreWorld world(64_MiB, 2);
  for (int i = 0; i < 6; ++i)
    ASSERT_EQ(world.put("session " + std::to_string(i), 5000, in_scope(1 + i % 2)), Status::ok);
  ASSERT_EQ(world.remove_all(DeleteKind::scope, [](DeleteCall& call) { call.scope = 2; }), Status::ok);
  ASSERT_EQ(world.put("session 1", 5000, in_scope(2)), Status::ok) << "a deleted key may be put again";
  world.crash(9);
  world.open();
  for (int i = 0; i < 6; ++i)
    EXPECT_EQ(world.get("session " + std::to_string(i)), i % 2 == 0 || i == 1 ? Status::ok : Status::not_found) << i;
}

TEST(Scopes, OfTheTenantAndTheLayoutAreDeletedAsWell) {
  StoreWorld world;
  ASSERT_EQ(world.put("a", 5000, [](PutCall& call) { call.id.layout = 5; }), Status::ok);
  ASSERT_EQ(world.put("b", 5000, [](PutCall& call) { call.id.tenant = 3; }), Status::ok);
  ASSERT_EQ(world.put("c", 5000), Status::ok);
  ASSERT_EQ(world.remove_all(DeleteKind::layout, [](DeleteCall& call) { call.ids[0].layout = 5; }), Status::ok);
  EXPECT_FALSE(world.store->exists({key_of("a"), 5, 0}));
  ASSERT_EQ(world.remove_all(DeleteKind::tenant, [](DeleteCall& call) { call.ids[0].tenant = 3; }), Status::ok);
  world.crash(2);
  world.open();
  EXPECT_FALSE(world.store->exists({key_of("a"), 5, 0}));
  EXPECT_EQ(world.get_as(3, "b"), Status::not_found);
  EXPECT_EQ(world.get("c"), Status::ok);
}

TEST(Leases, KeepABlockWhateverElseIsPut) {
  StoreWorld world(16_MiB, 1, 8_MiB, 1_MiB);
  ASSERT_EQ(world.put("kept", 300'000), Status::ok);
  ASSERT_EQ(world.put("not kept", 300'000), Status::ok);
  ASSERT_EQ(world.store->lease(id_of("kept"), 1, 60'000), Status::ok);
  for (int i = 0; i < 200; ++i) ASSERT_EQ(world.put(std::to_string(i), 300'000), Status::ok) << i;
  EXPECT_FALSE(world.exists("not kept"));
  EXPECT_EQ(world.get("kept"), Status::ok);
  world.crash(1);
  world.open();
  EXPECT_EQ(world.get("kept"), Status::ok) << "moved blocks survive a crash like any other";
}

TEST(Leases, EndWhenTheyAreReleasedOrRunOut) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  for (const char* name : {"released", "ran out"}) ASSERT_EQ(world.put(name, 100'000), Status::ok);
  ASSERT_EQ(world.store->lease(id_of("released"), 1, 60'000), Status::ok);
  ASSERT_EQ(world.store->lease(id_of("ran out"), 1, 50), Status::ok);
  EXPECT_EQ(world.store->release(id_of("released"), 2), Status::not_found) << "somebody else's";
  EXPECT_EQ(world.remove("released"), Status::leased);
  EXPECT_EQ(world.store->release(id_of("released"), 1), Status::ok);
  world.clock.advance_ms(100);
  for (int i = 0; i < 60; ++i) ASSERT_EQ(world.put(std::to_string(i), 300'000), Status::ok) << i;
  EXPECT_FALSE(world.exists("released"));
  EXPECT_FALSE(world.exists("ran out"));
  EXPECT_EQ(world.store->stats().leases, 0U);
}

// An engine that leased one rank's block would lose it by a delete of another's.
TEST(Leases, OfOneMemberHoldItsWholeGroup) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  for (const char* name : {"a", "b"}) ASSERT_EQ(world.put(name, 100'000, in_group(1, 2)), Status::ok);
  ASSERT_EQ(world.store->lease(id_of("a"), 1, 60'000), Status::ok);
  EXPECT_EQ(world.remove("b"), Status::leased);
  for (int i = 0; i < 60; ++i) ASSERT_EQ(world.put(std::to_string(i), 300'000), Status::ok) << i;
  for (const char* name : {"a", "b"}) EXPECT_EQ(world.get(name), Status::ok) << name;
}

TEST(Leases, AreBoundedInTimeAndBytes) {
  StoreWorld world(16_MiB, 1, 8_MiB, 1_MiB);
  ASSERT_EQ(world.put("a", 300'000), Status::ok);
  EXPECT_EQ(world.store->lease(id_of("a"), 1, kLeaseMsMost + 1), Status::lease_too_long);
  EXPECT_EQ(world.store->lease(id_of("absent"), 1, 1000), Status::not_found);
  Status last = Status::ok;
  for (int i = 0; i < 30 && last == Status::ok; ++i) {
    ASSERT_EQ(world.put(std::to_string(i), 300'000), Status::ok);
    last = world.store->lease(id_of(std::to_string(i)), 1, 1000);
  }
  EXPECT_EQ(last, Status::quota_exceeded) << "else nothing new would fit";
}

}  // namespace
}  // namespace cairn
