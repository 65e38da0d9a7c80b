// One drive as a log, without the store around it: where records go, when they are safe, how segments live and end.
#include "store/log.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "store/recovery.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

using format::kPageBytes;
using format::RecordType;

// A record on its way; the bytes of a block's payload do not matter here.
class Record final : public AppendOp {
 public:
  Record(Slab& slab, uint64_t sequence, uint64_t length, RecordType type = RecordType::block)
      : pages_(format::kTombstoneCopies) {
    header = new (pages_.data()) format::Page<format::RecordHeader>{};
    header->body.type = type;
    header->body.sequence = sequence;
    header->body.length = length;
    if (type == RecordType::block) {
      payload = slab.allocate(length);
    } else {
      dead.push_back({key_of("deleted"), 0, 0, format::Buried::key, {}, sequence});
      tombstones = std::make_unique<Pages>(1);
      second_header = new (pages_.data() + kPageBytes) format::Page<format::RecordHeader>{};
    }
  }
  void placed() override { was_placed = true; }
  void settled(Status status) override { ended.push_back(status); }
  bool was_placed = false;
  std::vector<Status> ended;

 private:
  Pages pages_;
};

struct LogWorld {
  explicit LogWorld(uint64_t segments, bool volatile_cache = true, uint32_t writes_most = 32)
      : slab(Slab::create(32_MiB).take()),
        platter(std::make_shared<Platter>((segments + 1) * 1_MiB)),
        volatile_cache_(volatile_cache) {
    FormatOptions options;
    options.segment_bytes = 1_MiB;
    MemoryDrive fresh(platter, volatile_cache);
    EXPECT_TRUE(format_drive(fresh, options, clock).ok());
    start(writes_most);
    log->begin(1, false);
  }
  ~LogWorld() {
    if (log != nullptr) run();
  }
  // A new log over the drive as it is, which was not begun yet.
  void start(uint32_t writes_most = 32) {
    log.reset();
    auto own = std::make_unique<MemoryDrive>(platter, volatile_cache_);
    drive = own.get();
    const format::Superblock superblock = read_superblock(*drive).take();
    log = std::make_unique<DriveLog>(std::move(own), superblock, 0, clock, writes_most);
  }
  void run(int turns = 50) {
    for (int i = 0; i < turns; ++i) log->poll(next_sequence);
  }
  Record& record(uint64_t length, RecordType type = RecordType::block) {
    return records.emplace_back(*slab, next_sequence++, length, type);
  }
  // … appended and settled.
  Record& append(uint32_t tenant, uint64_t length, RecordType type = RecordType::block) {
    Record& one = record(length, type);
    log->append(one, tenant);
    run();
    return one;
  }
  SegmentState state(uint32_t segment) const { return log->segments()[segment].state; }

  VirtualClock clock;
  std::unique_ptr<Slab> slab;
  std::shared_ptr<Platter> platter;
  std::list<Record> records;  // outlive the log
  MemoryDrive* drive = nullptr;
  std::unique_ptr<DriveLog> log;
  uint64_t next_sequence = 1;

 private:
  bool volatile_cache_;
};

const std::vector<Status> kOk = {Status::ok};

// --- flushing --------------------------------------------------------------------------------------------

TEST(DriveLogTest, AWriteIsSafeOnceAFlushBehindItEnded) {
  LogWorld world(8);
  world.append(0, 5000);
  Record& one = world.record(5000);
  world.drive->faults.fail_flush = 1;
  world.log->append(one, 0);
  world.run();
  EXPECT_TRUE(one.was_placed);
  EXPECT_EQ(one.ended, std::vector{Status::io_error}) << "nobody knows whether it is there";
  EXPECT_EQ(world.append(0, 5000).ended, kOk);
}

// A drive that says it has no volatile cache would be slowed down by flushes that it does not need.
TEST(DriveLogTest, ADriveWithoutAVolatileCacheIsNeverFlushed) {
  LogWorld world(8, false);
  EXPECT_EQ(world.append(0, 5000).ended, kOk);
  world.log->seal_all();
  world.run();
  world.log->begin_evicting(0);
  world.log->release(0, false);
  world.run();
  EXPECT_EQ(world.state(0), SegmentState::free) << "wiped without a flush";
  world.append(0, 5000);
  world.log->close(world.next_sequence);
  EXPECT_EQ(world.log->counters.flushes, 0U);
  EXPECT_EQ(world.platter->cached_writes(), 0U);
}

// --- order of deletes ------------------------------------------------------------------------------------

// A drive is loaded from its youngest segment to its oldest: a tombstone in an older segment than the block would be
// read too late, and the deleted block served meanwhile.
TEST(DriveLogTest, ATombstoneLiesInNoOlderSegmentThanItsTenantsBlocks) {
  LogWorld world(64);  // enough for several heads
  world.append(format::kSharedOwner, 5000);
  Record& block = world.append(1, 5000);
  ASSERT_GT(block.at.generation, world.records.front().at.generation);
  Record& tombstone = world.record(40, RecordType::tombstones);
  tombstone.makes_room = true;
  world.log->append_beside(tombstone, 1, format::kSharedOwner);
  world.run();
  EXPECT_EQ(tombstone.ended, kOk);
  EXPECT_GT(tombstone.at.generation, block.at.generation) << "the shared head's segment was too old for it";
  Record& other = world.append(1, 40, RecordType::tombstones);
  EXPECT_GE(other.at.generation, block.at.generation);
}

TEST(DriveLogTest, HeadsTakeTurnsWhenWritesAreFew) {
  LogWorld world(64, true, 1);
  for (const uint32_t tenant : {1, 2}) world.append(tenant, 5000);
  std::vector<Record*> all;
  for (int i = 0; i < 4; ++i) {
    for (const uint32_t tenant : {1, 2}) {
      all.push_back(&world.record(5000));
      world.log->append(*all.back(), tenant);
    }
  }
  world.drive->faults.hold = true;
  world.run();
  int placed = 0;
  for (const Record* one : all) placed += one->was_placed ? 1 : 0;
  EXPECT_EQ(placed, 1);
  world.drive->faults.hold = false;
  world.run();
  for (const Record* one : all) EXPECT_EQ(one->ended, kOk);
}

// --- room ------------------------------------------------------------------------------------------------

// Nothing but what is moved could free a segment, and that has no place to go: left waiting, it would wait for ever,
// and the eviction with it.
TEST(DriveLogTest, WhatMakesRoomIsToldWhenThereIsNone) {
  LogWorld world(4);
  std::vector<Record*> all;
  for (int i = 0; i < 6; ++i) {
    Record& one = *all.emplace_back(&world.record(900'000));
    one.makes_room = true;
    world.log->append_beside(one, 0, 0);
  }
  world.run();
  for (size_t i = 0; i < all.size(); ++i)
    EXPECT_EQ(all[i]->ended, std::vector{i < 4 ? Status::ok : Status::no_space}) << i;
  EXPECT_EQ(world.log->waiting_bytes(), 0U);
}

TEST(DriveLogTest, WhatMakesRoomAndOnlyWaitsItsTurnIsNotRefused) {
  LogWorld world(4, true, 1);
  std::vector<Record*> all;
  for (int i = 0; i < 9; ++i) {  // two for each segment, and one
    Record& one = *all.emplace_back(&world.record(400'000));
    one.makes_room = true;
    world.log->append_beside(one, 0, 0);
  }
  world.run();
  for (size_t i = 0; i < all.size(); ++i)
    EXPECT_EQ(all[i]->ended, std::vector{i < 8 ? Status::ok : Status::no_space}) << i;
}

TEST(DriveLogTest, ThatIsReadOnlyWantsNoRoom) {
  LogWorld world(4);
  for (int i = 0; i < 3; ++i) world.append(0, 900'000);
  world.log->seal_all();
  world.run();
  EXPECT_TRUE(world.log->wants_room());
  world.log->set_state(DriveState::read_only);
  EXPECT_FALSE(world.log->wants_room()) << "what is given up there is lost for nothing";
}

TEST(DriveLogTest, IsBusyAsLongAsAnythingIsOnItsWay) {
  LogWorld world(8);
  EXPECT_TRUE(world.log->idle());
  world.drive->faults.hold = true;
  Record& one = world.record(5000);
  world.log->append(one, 0);
  EXPECT_FALSE(world.log->idle()) << "a record waits for a place";
  world.run(1);
  EXPECT_FALSE(world.log->idle()) << "a segment is being opened";
  world.drive->faults.hold = false;
  world.run();
  EXPECT_EQ(one.ended, kOk);
  EXPECT_TRUE(world.log->idle());
}

// --- segments --------------------------------------------------------------------------------------------

TEST(DriveLogTest, AnOpenSegmentWithNothingInItIsNotSealed) {
  LogWorld world(64);
  world.log->seal_open(0);  // a tenant that never wrote
  Record& one = world.record(5000);
  world.log->append(one, 0);
  while (world.state(0) != SegmentState::open) world.run(1);
  ASSERT_FALSE(one.was_placed);
  world.log->seal_open(0);
  world.log->seal_all();
  EXPECT_EQ(world.state(0), SegmentState::open);
  world.run();
  EXPECT_EQ(one.ended, kOk);
  EXPECT_EQ(one.at.segment, 0U);
  world.log->seal_open(0);
  world.run();
  EXPECT_EQ(world.state(0), SegmentState::sealed);
}

// Of a segment that was given up unread nobody knows which blocks it held: entries that point there must not be
// followed once other records lie there.
TEST(DriveLogTest, ASegmentGivenUpUnreadIsAnotherFromThenOn) {
  LogWorld world(8);
  world.append(0, 5000);
  world.log->seal_all();
  world.run();
  const uint8_t use = world.log->segments()[0].use;
  world.log->begin_evicting(0);
  world.log->release(0, true);
  EXPECT_TRUE(world.log->haunted()) << "until it is wiped, a restart would find what lay there";
  world.run();
  EXPECT_NE(world.log->segments()[0].use, use);
  EXPECT_FALSE(world.log->haunted());
}

TEST(DriveLogTest, ASegmentThatCannotBeWipedIsFreeButMayHaunt) {
  LogWorld world(8);
  world.append(0, 5000);
  world.log->seal_all();
  world.run();
  world.log->begin_evicting(0);
  world.drive->faults.fail_write = 1;
  world.log->release(0, false);
  world.run();
  EXPECT_EQ(world.state(0), SegmentState::free);
  EXPECT_TRUE(world.log->haunted());
}

TEST(DriveLogTest, ADriveThatKnowsNoDiscardIsAskedOnce) {
  LogWorld world(8);
  for (int i = 0; i < 3; ++i) world.append(0, 900'000);
  world.log->seal_all();
  world.run();
  const auto wipe = [&](uint32_t segment) {
    world.log->begin_evicting(segment);
    world.log->release(segment, false);
    world.run();
    return world.log->counters.discarded_bytes;
  };
  const uint64_t once = wipe(0);
  EXPECT_EQ(once, 1_MiB - 2 * kPageBytes) << "all but the two pages that say that it is free";
  world.drive->faults.fail_discard = 1;
  world.drive->faults.error = EIO;
  EXPECT_EQ(wipe(1), 2 * once) << "an error is no reason to stop asking";
  EXPECT_EQ(world.state(1), SegmentState::free);
  world.drive->faults.fail_discard = 1;
  world.drive->faults.error = EOPNOTSUPP;
  const uint64_t refused = wipe(2);
  world.append(0, 900'000);
  world.log->seal_all();
  world.run();
  const uint32_t last = world.records.back().at.segment;
  EXPECT_EQ(wipe(last), refused);
  EXPECT_EQ(world.state(last), SegmentState::free);
}

// A segment that had to be scanned is given the summary it lacks, if there is room for one.
TEST(DriveLogTest, AScannedSegmentIsSummarisedIfItsEndIsFree) {
  for (const bool room : {true, false}) {
    LogWorld world(8);
    world.append(0, 5000);
    Segment found = world.log->segments()[0];
    ASSERT_EQ(found.entries.size(), 1U);
    found.state = SegmentState::sealed;
    if (!room) found.next_page = static_cast<uint32_t>(world.log->segment_pages() - 1);
    world.start();
    world.log->adopt(0, found);
    world.log->begin(found.generation + 1, false);
    EXPECT_EQ(world.log->idle(), !room);
    world.run();
    EXPECT_EQ(world.state(0), SegmentState::sealed);
    EXPECT_EQ(world.log->segments()[0].summarised, room);
    EXPECT_EQ(world.log->segments()[0].entries.empty(), room) << "without a summary they are all that tells";
  }
}

TEST(DriveLogTest, ThatEndsInTheMiddleWaitsForItsRequests) {
  LogWorld world(8);
  Record& one = world.record(5000);
  world.log->append(one, 0);
  world.log->poll(1);
  ASSERT_GT(world.drive->in_flight(), 0U);
  world.log->poll(1);
  ASSERT_GT(world.drive->in_flight(), 0U);
  world.log->fail_waiting(Status::io_error);  // its owner answers whom it took something from
  EXPECT_EQ(one.ended, std::vector{Status::io_error});
  world.log.reset();  // the drive would say so were anything left
}

// --- drives that fail ------------------------------------------------------------------------------------

TEST(DriveLogTest, ThatIsGoneHasFailedAtTheFirstError) {
  for (const int error : {ENODEV, ENXIO}) {
    LogWorld world(8);
    world.append(0, 5000);
    world.drive->faults.fail_write = 1;
    world.drive->faults.error = error;
    EXPECT_EQ(world.append(0, 5000).ended, std::vector{Status::io_error});
    EXPECT_EQ(world.log->state(), DriveState::failed);
    EXPECT_TRUE(world.log->why_failed().starts_with("the drive is gone")) << world.log->why_failed();
    world.log->note_read(error);
    EXPECT_EQ(world.log->state(), DriveState::failed);
  }
}

TEST(DriveLogTest, ThreeWritesThatFailInARowEndWritingAlsoWhileItIsDrained) {
  for (const DriveState state : {DriveState::serving, DriveState::draining}) {
    LogWorld world(8);
    world.append(0, 5000);
    world.log->set_state(state);
    world.drive->faults.for_ever = true;
    world.drive->faults.fail_write = 1;
    for (int i = 0; i < 2; ++i) world.append(0, 5000);
    EXPECT_EQ(world.log->state(), state);
    world.append(0, 5000);
    EXPECT_EQ(world.log->state(), DriveState::read_only);
    EXPECT_EQ(world.append(0, 5000).ended, std::vector{Status::read_only});
    EXPECT_TRUE(world.log->readable());
  }
}

// A volume that is full for a while, or a path that comes back, cost an operator what the drive held: nothing but "lose
// what is left" made it take blocks again.
TEST(DriveLogTest, WritesAreTriedAgainAfterARestThatGrows) {
  for (const DriveState state : {DriveState::serving, DriveState::draining}) {
    LogWorld world(8);
    const Record& kept = world.append(0, 5000);
    EXPECT_EQ(kept.ended, std::vector{Status::ok});
    world.log->set_state(state);
    world.drive->faults.for_ever = true;
    world.drive->faults.fail_write = 1;
    for (int i = 0; i < 3; ++i) world.append(0, 5000);
    ASSERT_EQ(world.log->shown_state(), DriveState::read_only);
    for (uint64_t rest_ms = 1000; rest_ms < 200'000; rest_ms *= 2) {
      const uint64_t errors = world.log->counters.write_errors;
      world.clock.advance_ms(std::min<uint64_t>(rest_ms, 60'000) - 1);
      EXPECT_EQ(world.append(0, 5000).ended, std::vector{Status::read_only});
      EXPECT_EQ(world.log->counters.write_errors, errors) << "it rests";
      world.clock.advance_ms(1);
      world.append(0, 5000);
      EXPECT_EQ(world.log->counters.write_errors, errors + 1) << "one write, and no more";
      EXPECT_EQ(world.log->shown_state(), DriveState::read_only);
    }
    world.drive->faults = {};
    world.clock.advance_ms(60'000);
    EXPECT_EQ(world.append(0, 5000).ended, std::vector{Status::ok});
    EXPECT_EQ(world.log->shown_state(), state);
    EXPECT_EQ(world.log->why_failed(), "");
  }
}

TEST(DriveLogTest, AnOrderTriesAtOnceAndWithoutABlock) {
  LogWorld world(8);
  world.append(0, 5000);
  EXPECT_FALSE(world.log->retry_now()) << "nothing is wrong with it";
  world.drive->faults.for_ever = true;
  world.drive->faults.fail_write = 1;
  for (int i = 0; i < 3; ++i) world.append(0, 5000);
  ASSERT_EQ(world.log->shown_state(), DriveState::read_only);
  world.drive->faults = {};
  ASSERT_TRUE(world.log->retry_now());
  world.run();
  EXPECT_EQ(world.log->shown_state(), DriveState::serving) << "the next segment was opened early";
  world.log->set_state(DriveState::read_only);
  EXPECT_FALSE(world.log->retry_now()) << "that was an order";
}

TEST(DriveLogTest, SixteenReadsThatFailInARowSetItAside) {
  LogWorld world(8);
  for (int i = 0; i < 15; ++i) world.log->note_read(EIO);
  world.log->note_read(0);
  for (int i = 0; i < 15; ++i) world.log->note_read(EIO);
  EXPECT_EQ(world.log->state(), DriveState::serving) << "one good read between them: it is not the drive";
  world.log->note_read(EIO);
  EXPECT_EQ(world.log->state(), DriveState::failed);
  EXPECT_TRUE(world.log->why_failed().starts_with("reads fail, one after another")) << world.log->why_failed();
  world.log->fail("it was removed");
  EXPECT_TRUE(world.log->why_failed().starts_with("reads fail, one after another"))
      << world.log->why_failed() << "the first reason stands";
  EXPECT_EQ(world.append(0, 5000).ended, std::vector{Status::io_error});
}

}  // namespace
}  // namespace cairn
