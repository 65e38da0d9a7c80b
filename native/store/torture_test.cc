// A user would have lost deletes: after a crash blocks were back whose delete had been answered ok or not_found. Each
// was found by cairn-torture.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "store/format.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

Status put_member(StoreWorld& world, const std::string& name) {
  PutCall call(name, 500);
  call.store = world.store.get();
  call.group[0] = 1;
  call.group_members = 2;
  world.store->begin_put(call);
  world.run();
  return call.ended.at(0);
}

// crash-points --random 1 --seed 779: the index drops the second member as stale only while the delete looks for it,
// after start_removal() has asked any_hidden(). No tombstone is written.
TEST(StoreFound, AMemberOfABrokenGroupStaysDeleted) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  ASSERT_EQ(put_member(world, "first"), Status::ok);
  ASSERT_EQ(put_member(world, "second"), Status::ok);
  ASSERT_EQ(world.remove("first"), Status::ok);
  ASSERT_EQ(world.remove("second"), Status::not_found);
  ASSERT_EQ(put_member(world, "first"), Status::ok);
  world.crash(1);
  world.open();
  EXPECT_EQ(world.get("second"), Status::not_found);
}

// crash-points --random 1 --seed 22: a group that broke up has no name any more, so its delete finds nothing to delete.
TEST(StoreFound, ABrokenGroupStaysDeleted) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  ASSERT_EQ(put_member(world, "first"), Status::ok);
  ASSERT_EQ(put_member(world, "second"), Status::ok);
  ASSERT_EQ(world.remove("first"), Status::ok);
  DeleteCall call;
  call.kind = DeleteKind::group;
  call.ids.push_back({});
  call.group[0] = 1;
  world.store->remove(call);
  world.run();
  ASSERT_EQ(call.statuses.at(0), Status::ok);
  ASSERT_EQ(put_member(world, "first"), Status::ok);
  world.crash(1);
  world.open();
  EXPECT_EQ(world.get("second"), Status::not_found);
}

// crash-points --random 1 --seed 359, 3371, 6918: a reader would have got the bytes of an earlier put. A member of a
// group that broke up was put anew on another drive; once that one was gone a restart found what lay on the first.
TEST(StoreFound, WhatWasPutAnewIsNotFollowedByWhatWasThereBefore) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  ASSERT_EQ(put_member(world, "first"), Status::ok);
  ASSERT_EQ(put_member(world, "second"), Status::ok);
  ASSERT_EQ(world.remove("first"), Status::ok);
  ASSERT_TRUE(world.attach(world.add_platter(8_MiB)).ok());
  ASSERT_TRUE(world.run_until([&] { return world.store->loaded(); }));
  const auto on_the_other = [&] { return world.store->stats().drives[1].blocks; };
  uint64_t before = UINT64_MAX;
  for (int i = 0; before != on_the_other(); ++i) {
    before = on_the_other();
    ASSERT_EQ(world.put("filler " + std::to_string(i), 500), Status::ok);
  }
  ASSERT_EQ(put_member(world, "second"), Status::ok);
  ASSERT_EQ(on_the_other(), before + 1) << "drives take turns";
  ASSERT_EQ(put_member(world, "first"), Status::ok);
  ASSERT_EQ(world.get("second"), Status::ok);
  world.crash(1);
  world.platters = {world.platters[0]};
  StoreOptions alone;
  alone.without_missing_drives = true;
  world.open(alone);
  EXPECT_EQ(world.get("first"), Status::not_found) << "it lies on the other";
  EXPECT_EQ(world.get("second"), Status::not_found);
}

// The same, where the drive with the earlier put was away while the later one was made.
TEST(StoreFound, AnEarlierPutThatComesBackIsBuriedUnderTheLater) {
  StoreWorld world(8_MiB, 2, 8_MiB, 1_MiB);
  ASSERT_EQ(world.put("a", 500), Status::ok);
  const size_t first = world.store->stats().drives[0].blocks > 0 ? 0 : 1;
  world.vanish(first);
  ASSERT_TRUE(world.run_until([&] { return world.store->stats().drives[first].state == "failed"; }));
  world.run(5);
  ASSERT_EQ(world.get("a"), Status::not_found);
  ASSERT_EQ(world.put("a", 600), Status::ok);
  ASSERT_TRUE(world.attach(first).ok());
  ASSERT_TRUE(world.run_until([&] { return world.store->loaded(); }));
  EXPECT_FALSE(world.store->stats().drives[first].distrusted) << "it missed nothing that is not known";
  EXPECT_EQ(world.get("a"), Status::ok);
  world.crash(1);
  StoreOptions alone;
  alone.without_missing_drives = true;
  world.platters = {world.platters[first]};
  world.open(alone);
  EXPECT_EQ(world.get("a"), Status::not_found) << "the earlier one";
}

// fault-sites, "read …, and all after it". Both pages that say what the segment is cannot be read once: its sequences
// are given out again, and what it holds wins over what is acknowledged now.
TEST(StoreFound, WhatIsAcknowledgedWhileASegmentIsUnreadableOutlivesIt) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  ASSERT_EQ(world.put("other", 500), Status::ok);
  ASSERT_EQ(world.put("a", 500), Status::ok);
  world.crash(1);
  world.open_unreadable = {1_MiB, 2_MiB - 4096};
  world.open();
  (void)world.remove("a");
  world.run();
  world.close();
  world.open_unreadable.clear();
  world.open();
  EXPECT_EQ(world.get("a"), Status::not_found) << "its delete was answered";
  EXPECT_EQ(world.get("other"), Status::ok);
}

}  // namespace
}  // namespace cairn
