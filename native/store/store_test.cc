// What the store promises, on the fake drive: round trips, first writer wins, memory, errors, eviction.
#include "store/store.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "store/format.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

TEST(StoreTest, EverySizeComesBackFromMemoryAndFromTheDrive) {
  StoreWorld world(768_MiB, 1, 256_MiB, 128_MiB);
  const std::vector<uint64_t> sizes = {1,      4095,  4096,  4097,      65'535, 65'536,
                                       65'537, 1_MiB, 4_MiB, 4_MiB + 1, 33_MiB, 64_MiB};
  for (const uint64_t size : sizes) {
    EXPECT_EQ(world.put(std::to_string(size), size), Status::ok);
    EXPECT_EQ(world.get(std::to_string(size)), Status::ok);
  }
  world.close();
  world.open();
  for (const uint64_t size : sizes) EXPECT_EQ(world.get(std::to_string(size)), Status::ok) << size;
  EXPECT_EQ(world.store->stats().scanned_segments, 0U) << "a clean stop leaves nothing to scan";
}

TEST(StoreTest, RangesAreExactFromTheDriveAndFromMemory) {
  StoreWorld world;
  const uint64_t size = 300'000;
  ASSERT_EQ(world.put("a", size), Status::ok);
  for (int life = 0; life < 2; ++life) {
    for (const auto& [offset, length] : {std::pair<uint64_t, uint64_t>{0, 1},
                                         {65'535, 2},
                                         {65'536, 65'536},
                                         {100'000, 0},
                                         {299'999, 1},
                                         {0, 300'000},
                                         {1, 299'999}}) {
      EXPECT_EQ(world.get_range("a", offset, length), Status::ok) << offset << "+" << length;
    }
    EXPECT_EQ(world.get_range("a", 300'000, 0), Status::bad_range);
    EXPECT_EQ(world.get_range("a", 299'999, 2), Status::bad_range);
    EXPECT_EQ(world.get_range("a", UINT64_MAX, 2), Status::bad_range);
    EXPECT_EQ(world.get_range("a", 1, UINT64_MAX), Status::bad_range);
    world.close();
    world.open();
  }
}

TEST(StoreTest, TheFirstWriterWinsAlsoWhileItStillWrites) {
  StoreWorld world;
  PutCall first("a", 5000), second("a", 5000), third("a", 5000);
  for (PutCall* call : {&first, &second, &third}) call->store = world.store.get();
  first.fill_at_once = false;
  second.content = third.content = "other bytes";
  world.store->begin_put(first);
  world.store->begin_put(second);
  world.store->begin_put(third);
  EXPECT_TRUE(first.granted);
  world.run();
  EXPECT_FALSE(second.granted);
  EXPECT_TRUE(second.ended.empty()) << "a put must not report exists before the first is durable";
  first.fill_and_commit();
  world.run();
  EXPECT_EQ(first.ended, std::vector{Status::ok});
  EXPECT_EQ(second.ended, std::vector{Status::exists});
  EXPECT_EQ(third.ended, std::vector{Status::exists});
  EXPECT_EQ(second.sequence, first.sequence);
  EXPECT_EQ(world.get("a"), Status::ok);
}

TEST(StoreTest, WhenTheFirstWriterGivesUpTheNextHasItsTurn) {
  StoreWorld world;
  PutCall first("a", 5000), second("a", 5000);
  first.store = second.store = world.store.get();
  first.fill_at_once = false;
  world.store->begin_put(first);
  world.store->begin_put(second);
  world.store->cancel(first);
  first.buffer = {};
  world.run();
  EXPECT_TRUE(first.ended.empty());
  EXPECT_EQ(second.ended, std::vector{Status::ok});
}

TEST(StoreTest, AWrongChecksumIsRefusedAndTheKeyStaysFree) {
  StoreWorld world;
  PutCall call("a", 5000);
  call.store = world.store.get();
  call.has_crc = true;
  call.crc = 1;
  world.store->begin_put(call);
  world.run();
  EXPECT_EQ(call.ended, std::vector{Status::bad_checksum});
  EXPECT_FALSE(world.exists("a"));
  EXPECT_EQ(world.put("a", 5000), Status::ok);
}

TEST(StoreTest, ARelaxedPutIsAnsweredBeforeTheDriveAndServedMeanwhile) {
  StoreWorld world;
  ASSERT_EQ(world.put("opens a segment", 10), Status::ok);
  world.drive().faults.hold = true;
  PutCall relaxed("r", 5000), durable("r", 5000);
  relaxed.store = durable.store = world.store.get();
  relaxed.durability = Durability::relaxed;
  world.store->begin_put(relaxed);
  world.run();
  EXPECT_EQ(relaxed.ended, std::vector{Status::ok});
  EXPECT_EQ(world.get("r"), Status::ok);
  world.store->begin_put(durable);
  world.run();
  EXPECT_TRUE(durable.ended.empty()) << "exists would claim a durability the block does not have yet";
  world.drive().faults.hold = false;
  world.run();
  EXPECT_EQ(durable.ended, std::vector{Status::exists});
}

TEST(StoreTest, ARelaxedPutWhoseWriteFailsIsAMissAfterwards) {
  StoreWorld world;
  ASSERT_EQ(world.put("opens a segment", 10), Status::ok);
  world.drive().faults.hold = true;
  world.drive().faults.fail_write = 1;
  PutCall relaxed("r", 5000);
  relaxed.store = world.store.get();
  relaxed.durability = Durability::relaxed;
  world.store->begin_put(relaxed);
  world.run();
  world.drive().faults.hold = false;
  world.run();
  EXPECT_EQ(world.get("r"), Status::not_found);
  EXPECT_EQ(world.put("r", 5000), Status::ok);
}

TEST(StoreTest, AnExpiredBlockDoesNotExist) {
  StoreWorld world;
  PutCall call("a", 100);
  call.store = world.store.get();
  call.expiry_unix_ms = world.clock.unix_ms() + 1000;
  world.store->begin_put(call);
  world.run();
  EXPECT_EQ(world.get("a"), Status::ok);
  world.clock.advance_ms(2000);
  EXPECT_FALSE(world.exists("a"));
  EXPECT_EQ(world.get("a"), Status::not_found);
  EXPECT_EQ(world.put("a", 100), Status::ok) << "an expired key may be put again";
}

TEST(StoreTest, RotIsAMissOnceAndThenTheKeyIsFree) {
  StoreWorld world;
  ASSERT_EQ(world.put("a", 100'000), Status::ok);
  world.close();
  // The record begins on the first page of the first segment: its payload on the next.
  world.platters[0]->flip(format::kFirstSegmentOffset + 2 * format::kPageBytes + 50'000, 3);
  world.open();
  EXPECT_EQ(world.get("a"), Status::corrupt);
  EXPECT_EQ(world.get("a"), Status::not_found);
  EXPECT_EQ(world.store->stats().corrupt, 1U);
  EXPECT_EQ(world.put("a", 100'000), Status::ok);
  EXPECT_EQ(world.get("a"), Status::ok);
}

TEST(StoreTest, AReadErrorIsAMissOfThatBlockOnly) {
  StoreWorld world;
  ASSERT_EQ(world.put("a", 5000), Status::ok);
  ASSERT_EQ(world.put("b", 5000), Status::ok);
  world.close();
  world.open();
  world.drive().faults.fail_read = 1;
  EXPECT_EQ(world.get("a"), Status::io_error);
  EXPECT_EQ(world.get("b"), Status::ok);
  EXPECT_EQ(world.get("a"), Status::ok);
}

TEST(StoreTest, AWriteErrorFailsThatPutAndThreeInARowTheDrive) {
  StoreWorld world;
  ASSERT_EQ(world.put("a", 5000), Status::ok);
  world.drive().faults.fail_write = 1;
  EXPECT_EQ(world.put("b", 5000), Status::io_error);
  EXPECT_EQ(world.put("b", 5000), Status::ok);
  world.run();  // what may lie there of the first one is buried
  world.drive().faults.fail_write = 1;
  world.drive().faults.for_ever = true;
  for (const char* name : {"c", "d", "e"}) EXPECT_EQ(world.put(name, 5000), Status::io_error);
  EXPECT_EQ(world.put("c", 5000), Status::read_only);
  EXPECT_EQ(world.store->stats().drives[0].state, "read_only");
  EXPECT_EQ(world.get("a"), Status::ok) << "what is stored serves on";
}

TEST(StoreTest, AFlushErrorIsNotAnAcknowledgement) {
  StoreWorld world;
  ASSERT_EQ(world.put("a", 5000), Status::ok);
  world.drive().faults.fail_flush = 1;
  EXPECT_EQ(world.put("b", 5000), Status::io_error);
  EXPECT_FALSE(world.exists("b"));
}

TEST(StoreTest, GetsOfOneBlockShareARead) {
  StoreWorld world;
  ASSERT_EQ(world.put("a", 1_MiB), Status::ok);
  world.close();
  world.open();
  const uint64_t before = world.store->stats().drives[0].reads;
  std::vector<std::unique_ptr<GetCall>> calls;
  for (int i = 0; i < 10; ++i) {
    calls.push_back(std::make_unique<GetCall>("a"));
    world.store->get(*calls.back());
  }
  world.store->cancel(*calls[4]);
  world.run();
  for (size_t i = 0; i < calls.size(); ++i) EXPECT_EQ(calls[i]->ended.size(), i == 4 ? 0U : 1U);
  EXPECT_EQ(world.store->stats().drives[0].reads, before + 1);
  calls.clear();
}

TEST(StoreTest, WhenMemoryIsShortOperationsWaitTheirTurn) {
  StoreWorld world(128_MiB, 1, 8_MiB);
  for (int i = 0; i < 8; ++i) ASSERT_EQ(world.put("block " + std::to_string(i), 3_MiB), Status::ok);
  std::vector<std::unique_ptr<GetCall>> calls;
  for (int i = 0; i < 8; ++i) {
    calls.push_back(std::make_unique<GetCall>("block " + std::to_string(i)));
    world.store->get(*calls.back());
  }
  world.run();
  EXPECT_TRUE(world.store->hungry());
  for (auto& call : calls) {
    for (int i = 0; i < 100 && call->ended.empty(); ++i) world.store->poll();
    EXPECT_EQ(call->ended, std::vector{Status::ok});
    call->buffer = {};  // sent: the next one finds memory
  }
  EXPECT_FALSE(world.store->hungry());
  EXPECT_EQ(world.put("too large for such a slab", 5_MiB), Status::too_large);
}

TEST(StoreTest, FullDrivesMakeRoomByAgeAndSaySo) {
  StoreWorld world(32_MiB, 1, 96_MiB, 2_MiB);
  std::vector<uint64_t> sequences;
  for (int i = 0; i < 300; ++i) ASSERT_EQ(world.put(std::to_string(i), 200'000), Status::ok) << i;
  int first = 0;
  while (first < 300 && !world.exists(std::to_string(first))) ++first;
  EXPECT_GT(first, 0);
  for (int i = first; i < 300; ++i) EXPECT_EQ(world.get(std::to_string(i)), Status::ok) << i;
  const StoreStats stats = world.store->stats();
  EXPECT_EQ(stats.blocks, 300U - static_cast<uint64_t>(first));
  EXPECT_EQ(stats.drives[0].evicted_blocks, static_cast<uint64_t>(first));
  GetCall oldest(std::to_string(first));
  world.store->get(oldest);
  world.run();
  EXPECT_EQ(stats.drives[0].oldest_sequence, oldest.sequence);
  oldest.buffer = {};
  world.close();
  world.open();
  // What was given up and not yet overwritten is back.
  EXPECT_GE(world.store->stats().blocks, stats.blocks);
  EXPECT_LE(world.store->stats().drives[0].oldest_sequence, stats.drives[0].oldest_sequence);
  const int back = static_cast<int>(300 - world.store->stats().blocks);
  for (int i = 0; i < 300; ++i) EXPECT_EQ(world.get(std::to_string(i)), i < back ? Status::not_found : Status::ok) << i;
}

TEST(StoreTest, DrivesShareTheLoadAndOneMayFail) {
  StoreWorld world(64_MiB, 2);
  for (int i = 0; i < 20; ++i) ASSERT_EQ(world.put(std::to_string(i), 100'000), Status::ok);
  const StoreStats stats = world.store->stats();
  EXPECT_GT(stats.drives[0].blocks, 0U);
  EXPECT_GT(stats.drives[1].blocks, 0U);
  world.drive(1).faults.fail_write = 1;
  world.drive(1).faults.for_ever = true;
  int failed = 0;
  for (int i = 20; i < 60; ++i) failed += world.put(std::to_string(i), 100'000) == Status::ok ? 0 : 1;
  EXPECT_LE(failed, 3);
  EXPECT_EQ(world.put("after", 1000), Status::ok);
}

TEST(StoreTest, AReadOnlyStoreServesAndRefuses) {
  StoreWorld world;
  ASSERT_EQ(world.put("a", 5000), Status::ok);
  world.close();
  StoreOptions options;
  options.read_only = true;
  world.open(options);
  EXPECT_EQ(world.get("a"), Status::ok);
  EXPECT_EQ(world.put("b", 5000), Status::read_only);
  EXPECT_EQ(world.remove("a"), Status::read_only);
  EXPECT_EQ(world.get("a"), Status::ok);
}

TEST(StoreTest, CancelledOperationsAreNotCalledAgain) {
  StoreWorld world;
  ASSERT_EQ(world.put("a", 1_MiB), Status::ok);
  world.close();
  world.open();
  {
    GetCall get("a");
    PutCall put("b", 5000);
    put.store = world.store.get();
    world.store->get(get);
    world.store->begin_put(put);  // committed by now
    world.store->cancel(get);
    world.store->cancel(put);
    EXPECT_TRUE(get.ended.empty());
    EXPECT_TRUE(put.ended.empty());
  }
  world.run();
  EXPECT_EQ(world.get("a"), Status::ok);
  const Status later = world.put("b", 5000);
  EXPECT_TRUE(later == Status::ok || later == Status::exists);
}

// Does with another operation, from inside its own done(), what a session that ends does.
class CancellingGet final : public GetOp {
 public:
  void done(Status) override { store->cancel(*other); }
  Store* store = nullptr;
  GetOp* other = nullptr;
};

class CancellingPut final : public PutOp {
 public:
  void ready() override { ADD_FAILURE(); }
  void done(Status) override { store->cancel(*other); }
  Store* store = nullptr;
  PutOp* other = nullptr;
};

// Both were called after their cancel(), when cancelled by the callback of another that ended with them.
TEST(StoreTest, ACallbackMayCancelAnotherGetOfTheSameRead) {
  StoreWorld world;
  ASSERT_EQ(world.put("a", 5000), Status::ok);
  world.close();
  world.open();
  CancellingGet first;
  first.id.key = key_of("a");
  GetCall second("a");
  first.store = world.store.get();
  first.other = &second;
  world.store->get(first);
  world.store->get(second);
  world.run();
  EXPECT_TRUE(first.buffer);
  EXPECT_TRUE(second.ended.empty());
  first.buffer = {};
}

TEST(StoreTest, ACallbackMayCancelAnotherPutOfTheSameKey) {
  StoreWorld world;
  PutCall first("a", 5000), third("a", 5000);
  CancellingPut second;
  second.id.key = key_of("a");
  second.length = 5000;
  first.store = third.store = second.store = world.store.get();
  second.other = &third;
  first.fill_at_once = false;
  world.store->begin_put(first);
  world.store->begin_put(second);
  world.store->begin_put(third);
  first.fill_and_commit();
  world.run();
  EXPECT_EQ(first.ended, std::vector{Status::ok});
  EXPECT_TRUE(third.ended.empty());
}

// A put whose deadline had passed while it was written came into being after the delete that followed it.
TEST(StoreTest, ADeleteComesBehindAPutThatIsBeingWritten) {
  for (const Durability durability : {Durability::durable, Durability::relaxed}) {
    StoreWorld world;
    ASSERT_EQ(world.put("opens a segment", 10), Status::ok);
    world.drive().faults.hold = true;
    {
      PutCall put("a", 5000);
      put.store = world.store.get();
      put.durability = durability;
      world.store->begin_put(put);
      world.store->cancel(put);
    }
    DeleteCall remove;
    remove.ids = {
        {key_of("a"), 0, 0}, {key_of("opens a segment"), 0, 0}, {key_of("never was"), 0, 0}, {key_of("a"), 0, 0}};
    world.store->remove(remove);
    PutCall again("a", 5000);
    again.store = world.store.get();
    world.store->begin_put(again);
    world.store->cancel(again);
    world.run();
    EXPECT_FALSE(remove.ended);
    world.drive().faults.hold = false;
    world.run();
    EXPECT_TRUE(remove.ended);
    EXPECT_EQ(remove.statuses, (std::vector{Status::ok, Status::ok, Status::not_found, Status::not_found}));
    EXPECT_EQ(world.get("a"), Status::not_found);
    world.crash(7);
    world.open();
    EXPECT_EQ(world.get("a"), Status::not_found);
  }
}

}  // namespace
}  // namespace cairn
