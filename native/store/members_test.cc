// Drives as members of one store: late ones, those that take no writes for a while, records that no store has written.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "store/format.h"
#include "store/graveyard.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

// What a user would have lost: all that a warm store of two drives held, to one that the machine found a moment late.
TEST(Members, FoundLateAtAStartOnHalfOfThemLoseNothing) {
  StoreWorld world(64_MiB, 2);
  for (int i = 0; i < 8; ++i) ASSERT_EQ(world.put("block " + std::to_string(i), 100'000), Status::ok);
  world.close();
  const auto late = world.platters.back();
  world.platters.pop_back();
  StoreOptions options;
  options.half_waits_ms = 60'000;
  world.open(options);
  EXPECT_EQ(world.store->stats().members_state, "waiting");
  EXPECT_EQ(world.get("block 0"), Status::not_found);
  EXPECT_EQ(world.put("too early", 1000), Status::read_only);
  world.clock.advance_ms(30'000);
  world.run();
  world.platters.push_back(late);
  ASSERT_TRUE(world.attach(1).ok());
  ASSERT_TRUE(world.run_until([&] { return world.put("in time", 1000) == Status::ok; }));
  for (int i = 0; i < 8; ++i) EXPECT_EQ(world.get("block " + std::to_string(i)), Status::ok) << i;
  EXPECT_EQ(world.store->stats().members_state, "whole");
}

TEST(Members, ThatNeverComeAreNotWaitedForForEver) {
  StoreWorld world(64_MiB, 2);
  ASSERT_EQ(world.put("block", 100'000), Status::ok);
  world.close();
  world.platters.pop_back();
  StoreOptions options;
  options.half_waits_ms = 60'000;
  world.open(options);
  world.clock.advance_ms(59'000);
  world.run(10);
  EXPECT_EQ(world.put("fresh", 1000), Status::read_only);
  world.clock.advance_ms(1'000);
  ASSERT_TRUE(world.run_until([&] { return world.put("fresh", 1000) == Status::ok; }));
  EXPECT_EQ(world.store->stats().members_state, "begun_empty");
  EXPECT_EQ(world.get("block"), Status::not_found);
}

// A record or a table that no store has written, under a good seal: it ends no service, and is not counted on from.
TEST(Members, ThatSayWhatNoStoreHasWrittenAreNotBelieved) {
  using format::Membership;
  const auto edits = std::vector<std::pair<const char*, std::function<void(Membership&)>>>{
      {"an epoch", [](Membership& one) { one.epoch = format::kNumberMost; }},
      {"a counter", [](Membership& one) { one.counter = UINT64_MAX; }},
      {"members", [](Membership& one) { one.member_count = 33; }},
      {"departed", [](Membership& one) { one.departed_count = 1; }},
      {"a line of its own", [](Membership& one) { one.store[3] ^= 1; }},
      {"another base", [](Membership& one) { one.base[0][0] ^= 1; }},
      {"a void generation", [](Membership& one) { one.void_generation = format::kNumberMost; }},
      {"what is lost", [](Membership& one) { one.lost_sequence = format::kNumberMost; }},
      {"members twice", [](Membership& one) { one.members[1] = one.members[0]; }},
  };
  for (const auto& [what, edit] : edits) {
    StoreWorld world(64_MiB, 2);
    ASSERT_EQ(world.put("a", 100'000), Status::ok);
    ASSERT_EQ(world.put("b", 100'000), Status::ok);
    world.close();
    for (const uint64_t offset : format::kMembershipOffsets) edit_page<Membership>(*world.platters[1], offset, edit);
    if (!world.try_open().ok()) continue;
    world.open();
    world.run();
    (void)world.put("fresh", 1000);
    for (const char* name : {"a", "b"}) {
      const Status got = world.get(name);
      EXPECT_TRUE(got == Status::ok || got == Status::not_found) << what;
    }
    EXPECT_EQ(world.wrong_bytes, 0U) << what;
    world.close();
    world.open();
    world.run();
  }
}

DriveStats drive_of(StoreWorld& world, size_t platter) {
  for (DriveStats& one : world.store->stats().drives) {
    if (one.uuid == world.uuid(platter)) return one;
  }
  return {};
}

// Both are written to; then the second takes no writes.
void fill_up(StoreWorld& world) {
  for (int i = 0; i < 40; ++i) ASSERT_EQ(world.put("block " + std::to_string(i), 100'000), Status::ok);
  DriveFaults& faults = world.drive(1).faults;
  faults.error = ENOSPC;
  faults.fail_write = 1;
  faults.for_ever = true;
  for (int i = 0; i < 20 && drive_of(world, 1).state != "read_only"; ++i)
    (void)world.put("late " + std::to_string(i), 100'000);
  ASSERT_EQ(drive_of(world, 1).state, "read_only");
}

int hits(StoreWorld& world) {
  int count = 0;
  for (int i = 0; i < 40; ++i) count += world.get("block " + std::to_string(i)) == Status::ok ? 1 : 0;
  return count;
}

// What a user would have lost: all that lay on a drive that was full for longer than a second.
TEST(Members, ThatTakeNoWritesForAWhileServeWhatTheyHold) {
  StoreWorld world(64_MiB, 2);
  fill_up(world);
  ASSERT_EQ(hits(world), 40);
  for (int i = 0; i < 12; ++i) {
    world.clock.advance_ms(1'000);
    world.run(20);
    (void)world.put("other " + std::to_string(i), 10'000);
    (void)world.remove("other " + std::to_string(i / 2));
    ASSERT_EQ(drive_of(world, 1).state, "read_only") << drive_of(world, 1).reason;
    ASSERT_EQ(hits(world), 40) << "after " << i << " s";
  }
  world.drive(1).faults = {};
  ASSERT_TRUE(world.run_until([&] {
    (void)world.put("more " + std::to_string(world.clock.now_ms()), 10'000);
    return drive_of(world, 1).state == "serving";
  }));
  EXPECT_EQ(hits(world), 40);
  world.close();
  world.open();
  EXPECT_EQ(hits(world), 40);
}

// Deleted blocks were back: a drive that took no writes for a while was told only what was still remembered.
TEST(Members, ThatMissedWhatNobodyRemembersAreNotServedAfterwards) {
  constexpr uint32_t kTenant = 5;
  StoreWorld world(512_MiB, 2);
  TenantOptions tenant;
  tenant.name = "tight";
  tenant.number = kTenant;
  tenant.quota_bytes = 2'000'000;
  ASSERT_TRUE(world.store->set_tenants({tenant}).ok());
  const auto as_tenant = [](PutCall& call) { call.id.tenant = kTenant; };
  // Of these the quota keeps twenty. Of the others only the drives know.
  for (int i = 0; i < 40; ++i) ASSERT_EQ(world.put("tight " + std::to_string(i), 100'000, as_tenant), Status::ok);
  fill_up(world);
  std::vector<std::string> deleted;
  for (int i = 0; i < 40; ++i) {
    DeleteCall call;
    call.ids.push_back({key_of("tight " + std::to_string(i)), 0, kTenant});
    world.store->remove(call);
    ASSERT_TRUE(world.run_until([&] { return call.ended; }));
    if (call.statuses[0] == Status::ok || call.statuses[0] == Status::not_found)
      deleted.push_back("tight " + std::to_string(i));
  }
  ASSERT_GE(deleted.size(), 20U);
  std::vector<BlockId> ids(kBatchItemsMost);
  for (size_t i = 0; i < Graveyard::kRememberedMost + 3 * kBatchItemsMost; i += ids.size()) {
    DeleteCall call;
    for (size_t at = 0; at < ids.size(); ++at) ids[at] = {key_of("gone " + std::to_string(i + at)), 0, 0};
    call.ids = ids;
    world.store->remove(call);
    ASSERT_TRUE(world.run_until([&] { return call.ended; }));
  }
  world.drive(1).faults = {};
  for (int i = 0; i < 5; ++i) {
    world.clock.advance_ms(70'000);
    world.run(50);
    (void)world.put("more " + std::to_string(i), 10'000);
  }
  for (const std::string& name : deleted) EXPECT_EQ(world.get_as(kTenant, name), Status::not_found) << name;
  EXPECT_EQ(drive_of(world, 1).state, "failed") << "it is believed";
  EXPECT_NE(drive_of(world, 1).reason.find("missed deletes"), std::string::npos) << drive_of(world, 1).reason;
  // The other drive lets go of what it was told.
  for (int i = 0; i < 6'000; ++i) (void)world.put("churn " + std::to_string(i), 200'000);
  world.close();
  world.open();
  for (const std::string& name : deleted) EXPECT_EQ(world.get_as(kTenant, name), Status::not_found) << name;
}

// What a user would have lost: the machine's memory, to a tenant that puts the same keys again and again.
TEST(Members, RememberSoManyTombstonesAndNoMore) {
  Graveyard graveyard;
  for (uint64_t i = 1; i <= Graveyard::kRememberedMost + 100'000; ++i) {
    format::Tombstone one;
    one.key = key_of("key " + std::to_string(i));
    one.kind = format::Buried::earlier;
    one.sequence = i;
    graveyard.bury(one, 1);
    if (i % 1'000 == 0) graveyard.trim_some();
  }
  graveyard.trim_some();
  EXPECT_LE(graveyard.size(), Graveyard::kRememberedMost);
  EXPECT_GE(graveyard.floor(), 100'000U) << "who asks is told that they may be forgotten";
}

// The second drive vanishes, the first is let go, and both come back.
void let_the_first_go_last(StoreWorld& world) {
  world.vanish(1);
  ASSERT_TRUE(world.run_until([&] { return drive_of(world, 1).state == "failed"; }));
  world.run();
  ASSERT_TRUE(world.store->detach(world.uuid(0)).ok());
  world.run();
  world.close();
  world.open();
  world.run();
}

// What a user would have lost: all that had been moved to the other drive.
TEST(Members, GoneBeforeTheLastOneWasLetGoAreBelieved) {
  StoreWorld world(64_MiB, 2);
  for (int i = 0; i < 40; ++i) ASSERT_EQ(world.put("block " + std::to_string(i), 100'000), Status::ok);
  ASSERT_TRUE(world.store->drain(world.uuid(0)).ok());
  ASSERT_TRUE(world.run_until([&] { return drive_of(world, 0).state == "drained"; }));
  let_the_first_go_last(world);
  EXPECT_EQ(hits(world), 40);
}

// … but not if they missed a delete, which went with the last one.
TEST(Members, GoneBeforeADeleteThatWentWithTheLastOneAreNotBelieved) {
  StoreWorld world(64_MiB, 2);
  for (int i = 0; i < 40; ++i) ASSERT_EQ(world.put("block " + std::to_string(i), 100'000), Status::ok);
  world.vanish(1);
  ASSERT_TRUE(world.run_until([&] {
    return world.put("more " + std::to_string(world.clock.now_ms()), 1'000) == Status::ok &&
           drive_of(world, 1).state == "failed";
  }));
  for (int i = 0; i < 40; ++i) {
    const Status deleted = world.remove("block " + std::to_string(i));
    ASSERT_TRUE(deleted == Status::ok || deleted == Status::not_found) << i;
  }
  let_the_first_go_last(world);
  EXPECT_EQ(hits(world), 0);
  world.close();
  world.open();
  EXPECT_EQ(hits(world), 0);
}

// While a newcomer is told, a member goes: it was left off the list of those that are waited for.
TEST(Members, GoneWhileANewcomerIsToldLoseNothing) {
  for (int turns = 0; turns < 60; ++turns) {
    StoreWorld world(64_MiB, 2);
    for (int i = 0; i < 40; ++i) ASSERT_EQ(world.put("block " + std::to_string(i), 100'000), Status::ok);
    world.close();
    world.open();  // nothing is in memory
    const size_t newcomer = world.add_platter(64_MiB);
    ASSERT_TRUE(world.attach(newcomer).ok());
    for (size_t i = 0; i < 3; ++i) world.drive(i).faults.a_poll = 1;
    for (int i = 0; i < turns; ++i) world.store->poll();
    // What the newcomer is asked to write takes its time; meanwhile a get finds the other drive gone.
    world.drive(newcomer).faults.hold = true;
    world.run(10);
    world.vanish(1);
    (void)hits(world);
    world.drive(newcomer).faults.hold = false;
    ASSERT_TRUE(world.run_until([&] { return world.put("later", 1'000) == Status::exists; }));
    world.close();
    world.open();
    world.run();
    EXPECT_EQ(hits(world), 40) << "after " << turns << " turns";
  }
}

// A drive that a waiting store lets go keeps its own record.
TEST(Members, LetGoByAStoreThatWaitsStayWhatTheyWere) {
  StoreWorld world(64_MiB, 3);
  ASSERT_EQ(world.put("a", 1'000), Status::ok);
  world.close();
  const auto platters = world.platters;
  world.platters = {platters[0]};
  world.add_platter(64_MiB);
  world.open();
  ASSERT_EQ(world.store->stats().members_state, "waiting");
  ASSERT_TRUE(world.store->detach(world.uuid(0), true).ok());
  world.run();
  world.close();
  world.platters = platters;
  world.open();
  EXPECT_EQ(world.store->stats().members_state, "whole");
  EXPECT_EQ(world.get("a"), Status::ok);
  for (const uint64_t offset : format::kMembershipOffsets) {
    format::Page<format::Membership> page;
    platters[0]->read(offset, reinterpret_cast<std::byte*>(&page), sizeof(page));
    EXPECT_EQ(page.body.left, 0);
  }
}

}  // namespace
}  // namespace cairn
