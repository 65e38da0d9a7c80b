// Drives that come, go, come back, are drained, and are not what they seem; blocks on several of them.
#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "store/recovery.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

std::string state_of(const StoreWorld& world, const std::string& uuid) {
  for (const DriveStats& drive : world.store->stats().drives) {
    if (drive.uuid == uuid) return drive.state;
  }
  return "";
}

void rewrite_superblock(Platter& platter, const std::function<void(format::Superblock&)>& change) {
  for (const uint64_t offset : format::kSuperblockOffsets) edit_page(platter, offset, change);
}

TEST(Striping, AnyRangeOfALargeBlockIsExact) {
  StoreWorld world(256_MiB, 3, 160_MiB);
  ASSERT_EQ(world.put("large", 33'333'333), Status::ok);
  uint64_t drives = 0;
  for (const DriveStats& drive : world.store->stats().drives) drives += drive.payload_bytes > 0 ? 1 : 0;
  EXPECT_EQ(drives, 3U) << "one large get should use them all";
  world.crash(4);
  world.open();
  EXPECT_EQ(world.get("large"), Status::ok);
  for (const auto& [offset, length] : {std::pair<uint64_t, uint64_t>{0, 1},
                                       {4'194'303, 2},
                                       {4'194'304, 4'194'304},
                                       {33'333'332, 1},
                                       {1'000'000, 20'000'000}})
    EXPECT_EQ(world.get_range("large", offset, length), Status::ok) << offset;
  EXPECT_EQ(world.get_range("large", 33'333'333, 1), Status::bad_range);
  EXPECT_EQ(world.remove("large"), Status::ok);
  world.crash(5);
  world.open();
  EXPECT_EQ(world.get("large"), Status::not_found);
}

TEST(Striping, ADamagedPartIsAMissOfTheWholeBlock) {
  StoreWorld world(128_MiB, 2, 64_MiB);
  ASSERT_EQ(world.put("large", 10'000'000), Status::ok);
  world.close();
  // Somewhere in the payload of the record that comes first on the second drive.
  world.platters[1]->flip(format::kFirstSegmentOffset + 3 * 4096 + 77, 3);
  world.open();
  EXPECT_EQ(world.get("large"), Status::corrupt);
  EXPECT_EQ(world.get("large"), Status::not_found);
}

TEST(Drives, ThatVanishAreMissesAndTheRestServesOn) {
  StoreWorld world(64_MiB, 2, 8_MiB);
  for (int i = 0; i < 40; ++i) ASSERT_EQ(world.put(std::to_string(i), 300'000), Status::ok);
  const std::string uuid = world.uuid(1);
  world.vanish(1);
  ASSERT_TRUE(world.run_until([&] { return state_of(world, uuid) == "failed"; }, 5000))
      << "nobody asked, yet it is noticed";
  int found = 0;
  for (int i = 0; i < 40; ++i) {
    const Status status = world.get(std::to_string(i));
    EXPECT_TRUE(status == Status::ok || status == Status::not_found) << i;
    found += status == Status::ok ? 1 : 0;
  }
  EXPECT_GT(found, 5);
  EXPECT_LT(found, 35);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(world.put("new " + std::to_string(i), 300'000), Status::ok);
}

// A drive that was unplugged held a copy of what was deleted meanwhile: the delete has to reach it when it is back.
TEST(Drives, ThatComeBackAreReadAgainAndLearnWhatWasDeleted) {
  StoreWorld world(64_MiB, 2, 8_MiB);
  for (int i = 0; i < 40; ++i) ASSERT_EQ(world.put(std::to_string(i), 100'000), Status::ok);
  const std::string uuid = world.uuid(1);
  world.vanish(1);
  ASSERT_TRUE(world.run_until([&] { return state_of(world, uuid) == "failed"; }, 5000));
  for (int i = 0; i < 40; i += 2) {
    const Status status = world.remove(std::to_string(i));
    EXPECT_TRUE(status == Status::ok || status == Status::not_found);
  }
  ASSERT_TRUE(world.attach(1).ok());
  ASSERT_TRUE(world.run_until([&] { return world.store->loaded(); }));
  for (int i = 0; i < 40; ++i)
    EXPECT_EQ(world.get(std::to_string(i)), i % 2 == 0 ? Status::not_found : Status::ok) << i;
  world.run(100);
  // The other drive may forget those deletes now.
  world.crash(3);
  world.platters = {world.platters[1]};
  StoreOptions alone;
  alone.without_missing_drives = true;
  world.open(alone);
  int found = 0;
  for (int i = 1; i < 40; i += 2) found += world.get(std::to_string(i)) == Status::ok ? 1 : 0;
  EXPECT_GT(found, 5);
  for (int i = 0; i < 40; i += 2) EXPECT_EQ(world.get(std::to_string(i)), Status::not_found) << i;
}

// A delete would have been undone: a drive whose reads failed for ever was taken for one with unreadable segments,
// which were given up with the tombstones in them. Where every read takes its whole time limit, it was never loaded at
// all.
TEST(Drives, OfWhichNothingCanBeReadAreSetAside) {
  for (const int error : {EIO, ETIMEDOUT}) {
    StoreWorld world(64_MiB, 2, 8_MiB, 1_MiB);
    for (int i = 0; i < 40; ++i) ASSERT_EQ(world.put(std::to_string(i), 300'000), Status::ok);
    const std::string uuid = world.uuid(1);
    world.vanish(1);
    ASSERT_TRUE(world.run_until([&] { return state_of(world, uuid) == "failed"; }, 5000));
    ASSERT_TRUE(world.attach(1).ok());
    world.drive(1).faults.error = error;
    world.drive(1).faults.fail_read = 70;  // its 63 headers can be read, and little more
    world.drive(1).faults.for_ever = true;
    ASSERT_TRUE(world.run_until([&] { return state_of(world, uuid) == "failed"; }, 5000));
    EXPECT_EQ(world.store->stats().drives[1].reason, "reads fail, one after another: " + cause_and_advice(error));
    EXPECT_TRUE(world.store->loaded());
    EXPECT_EQ(world.put("late", 300'000), Status::ok);
    ASSERT_TRUE(world.attach(1).ok());
    ASSERT_TRUE(world.run_until([&] { return state_of(world, uuid) == "serving"; }));
    for (int i = 0; i < 40; ++i) EXPECT_EQ(world.get(std::to_string(i)), Status::ok) << i;
  }
}

// While a drive is absent a delete of what nobody has is written all the same: the absent one may hold it. Once it is
// there that would only wear out the others, until the next restart.
TEST(Drives, ThatAreAbsentNoLongerCostNothing) {
  StoreWorld world(64_MiB, 1, 8_MiB);
  world.close();
  StoreOptions options;
  options.absent_drives = 1;
  world.open(options);
  const auto written = [&] { return world.store->stats().drives[0].written_bytes; };
  const uint64_t before = written();
  EXPECT_EQ(world.remove("unknown"), Status::not_found);
  const uint64_t with_one_absent = written();
  EXPECT_GT(with_one_absent, before);
  world.store->set_absent_drives(0);
  EXPECT_EQ(world.remove("unknown, too"), Status::not_found);
  EXPECT_EQ(written(), with_one_absent);
}

TEST(Drives, AreDrainedWithoutLosingABlock) {
  StoreWorld world(64_MiB, 2, 8_MiB, 1_MiB);
  for (int i = 0; i < 60; ++i) ASSERT_EQ(world.put(std::to_string(i), 200'000), Status::ok);
  const std::string uuid = world.uuid(0);
  ASSERT_TRUE(world.store->drain(uuid).ok());
  const auto early = world.store->detach(uuid);
  ASSERT_FALSE(early.ok());
  EXPECT_EQ(early.error().status, static_cast<uint16_t>(Status::drive_draining));
  ASSERT_TRUE(world.run_until([&] { return state_of(world, uuid) == "drained"; }));
  ASSERT_TRUE(world.store->detach(uuid).ok());
  for (int i = 0; i < 60; ++i) EXPECT_EQ(world.get(std::to_string(i)), Status::ok) << i;
  EXPECT_EQ(world.store->stats().drives.size(), 1U);
  // Another one takes its place.
  const size_t added = world.add_platter(64_MiB);
  ASSERT_TRUE(world.attach(added).ok());
  ASSERT_TRUE(world.run_until([&] { return state_of(world, world.uuid(added)) == "serving"; }));
  for (int i = 0; i < 40; ++i) ASSERT_EQ(world.put("new " + std::to_string(i), 200'000), Status::ok);
  EXPECT_GT(world.store->stats().drives[0].blocks + world.store->stats().drives[1].blocks, 90U);
  EXPECT_EQ(world.wrong_bytes, 0U);
}

TEST(Drives, TakenOutWithoutDrainingLoseWhatTheyHeldAndNothingElse) {
  StoreWorld world(64_MiB, 2, 8_MiB);
  for (int i = 0; i < 40; ++i) ASSERT_EQ(world.put(std::to_string(i), 100'000), Status::ok);
  const uint64_t there = world.store->stats().drives[1].blocks;
  ASSERT_TRUE(world.store->detach(world.uuid(0)).ok());
  int found = 0;
  for (int i = 0; i < 40; ++i) found += world.get(std::to_string(i)) == Status::ok ? 1 : 0;
  EXPECT_EQ(static_cast<uint64_t>(found), there);
}

// A forged block would have been served to whoever asks for its key: any drive of any store was taken in.
TEST(Drives, OfAnotherStoreAreRefused) {
  StoreWorld other(64_MiB, 1, 8_MiB);
  ASSERT_EQ(other.put("forged", 5000), Status::ok);
  other.close();
  StoreWorld world(64_MiB, 1, 8_MiB);
  ASSERT_EQ(world.put("ours", 5000), Status::ok);
  world.platters.push_back(other.platters[0]);
  const auto attached = world.attach(1);
  ASSERT_FALSE(attached.ok());
  EXPECT_EQ(attached.error().status, static_cast<uint16_t>(Status::drive_foreign));
  EXPECT_NE(attached.error().message.find("another store"), std::string::npos) << attached.error().message;
  world.close();
  world.open();
  EXPECT_EQ(state_of(world, world.uuid(1)), "failed") << "at a start as well";
  EXPECT_EQ(world.get("ours"), Status::ok);
  EXPECT_EQ(world.get("forged"), Status::not_found);
  world.close();
  StoreWorld again(64_MiB, 1, 8_MiB);
  again.close();
  again.platters = other.platters;
  again.open();
  EXPECT_EQ(again.get("forged"), Status::ok) << "nothing was written to it";
}

// The store's own numbers would have been at their end, and every drive read-only for ever.
TEST(Drives, WhoseNumbersLeapAreRefused) {
  StoreWorld world(8_MiB, 2, 8_MiB, 1_MiB);
  for (int i = 0; i < 4; ++i) ASSERT_EQ(world.put(std::to_string(i), 5000), Status::ok);
  const std::string uuid = world.uuid(1);
  world.vanish(1);
  ASSERT_TRUE(world.run_until([&] { return state_of(world, uuid) == "failed"; }));
  world.run(5);
  world.platters[1]->flush();
  edit_page<format::SegmentHeader>(*world.platters[1], format::kFirstSegmentOffset,
                                   [](auto& header) { header.first_sequence = format::kNumberMost - 1000; });
  ASSERT_TRUE(world.attach(1).ok());
  ASSERT_TRUE(world.run_until([&] { return world.store->loaded(); }));
  EXPECT_EQ(state_of(world, uuid), "failed");
  const std::string reason = world.store->stats().drives[1].reason;
  EXPECT_NE(reason.find(std::to_string(format::kNumberMost - 1000)), std::string::npos) << reason;
  PutCall put("after", 5000);
  put.store = world.store.get();
  world.store->begin_put(put);
  ASSERT_TRUE(world.run_until([&] { return !put.ended.empty(); }));
  EXPECT_EQ(put.ended[0], Status::ok);
  EXPECT_LT(put.sequence, 100U);
}

// Deletes would have been undone by the first new record on a drive that was not believed, and by a restart.
TEST(Drives, ThatMissedWhatNobodyRemembersGiveUpWhatTheyHeldForGood) {
  StoreWorld world(8_MiB, 2, 32_MiB, 1_MiB);
  for (int i = 0; i < 20; ++i) ASSERT_EQ(world.put(std::to_string(i), 20'000), Status::ok);
  const std::string uuid = world.uuid(0);
  world.vanish(0);
  ASSERT_TRUE(world.run_until([&] { return state_of(world, uuid) == "failed"; }));
  world.run(5);
  for (int i = 0; i < 20; ++i) (void)world.remove(std::to_string(i));
  for (int i = 0; i < 40; ++i) ASSERT_EQ(world.put("churn " + std::to_string(i), 900'000), Status::ok);
  ASSERT_TRUE(world.attach(0).ok());
  ASSERT_TRUE(world.run_until([&] { return state_of(world, uuid) == "serving" && world.store->loaded(); }));
  for (int i = 0; i < 20; ++i) ASSERT_EQ(world.put("after " + std::to_string(i), 5000), Status::ok);
  world.crash(3);
  world.open();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(world.get(std::to_string(i)), Status::not_found) << i;
  StoreOptions alone;
  alone.without_missing_drives = true;
  world.close();
  world.platters = {world.platters[0]};
  world.open(alone);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(world.get(std::to_string(i)), Status::not_found) << i;
}

// The service would have ended: a block striped over two drives was on its way when one of them was taken out.
TEST(Drives, TakenOutWhileABlockIsOnItsWayToThemEndThatPutAndNothingElse) {
  StoreWorld world(64_MiB, 2, 32_MiB, 8_MiB);
  PutCall put("striped", 10'000'000);
  put.store = world.store.get();
  world.drive(1).faults.hold = true;
  world.store->begin_put(put);
  world.run(20);
  ASSERT_TRUE(put.ended.empty());
  ASSERT_TRUE(world.store->detach(world.uuid(0)).ok());
  world.drive(1).faults.hold = false;
  ASSERT_TRUE(world.run_until([&] { return !put.ended.empty(); }));
  EXPECT_NE(put.ended[0], Status::ok);
  EXPECT_EQ(world.get("striped"), Status::not_found);
  EXPECT_EQ(world.put("after", 5000), Status::ok);
}

// The service would have ended: blocks of the drive that came back were still on their way to the one that stayed.
TEST(Drives, ThatComeBackWhileTheirBlocksAreOnTheirWayToAnotherAreAskedToWait) {
  StoreWorld world(64_MiB, 2, 32_MiB, 1_MiB);
  for (int i = 0; i < 60; ++i) ASSERT_EQ(world.put(std::to_string(i), 200'000), Status::ok);
  const std::string uuid = world.uuid(0);
  world.drive(1).faults.hold = true;
  ASSERT_TRUE(world.store->drain(uuid).ok());
  world.run(20);
  world.vanish(0);
  ASSERT_TRUE(world.run_until([&] { return state_of(world, uuid) == "failed"; }, 5000));
  world.run(5);
  const auto early = world.attach(0);
  ASSERT_FALSE(early.ok());
  EXPECT_EQ(early.error().status, static_cast<uint16_t>(Status::busy));
  world.drive(1).faults.hold = false;
  ASSERT_TRUE(world.run_until([&] { return world.attach(0).ok(); }, 5000));
  ASSERT_TRUE(world.run_until([&] { return world.store->loaded(); }));
  for (int i = 0; i < 60; ++i) EXPECT_EQ(world.get(std::to_string(i)), Status::ok) << i;
}

// The drained drive would never have been empty, and every delete of such a block would have waited for ever.
TEST(Drives, AreDrainedAlthoughOneThatBlocksWereOnTheirWayToIsTakenOut) {
  StoreWorld world(64_MiB, 3, 32_MiB, 1_MiB);
  for (int i = 0; i < 60; ++i) ASSERT_EQ(world.put(std::to_string(i), 200'000), Status::ok);
  const std::string drained = world.uuid(0);
  world.drive(0).faults.seed = 3;  // it takes its time
  ASSERT_TRUE(world.store->drain(drained).ok());
  ASSERT_TRUE(world.run_until([&] { return world.drive(0).in_flight() > 3; }, 5000));
  world.drive(0).faults.hold = true;
  ASSERT_TRUE(world.store->detach(world.uuid(1), true).ok());
  world.drive(0).faults.hold = false;
  EXPECT_TRUE(world.run_until([&] { return state_of(world, drained) == "drained"; }, 5000));
  for (int i = 0; i < 60; ++i) {
    const Status removed = world.remove(std::to_string(i));
    EXPECT_TRUE(removed == Status::ok || removed == Status::not_found) << i;
  }
}

// Memory beyond the smaller drive's segments was read, and changed when it happened to look right.
TEST(Drives, ThatTakeThePlaceOfALargerOneAreNotTakenForIt) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  const size_t large = world.add_platter(256_MiB);
  ASSERT_TRUE(world.attach(large).ok());
  ASSERT_TRUE(world.run_until([&] { return world.store->loaded(); }));
  for (int i = 0; i < 150; ++i) ASSERT_EQ(world.put(std::to_string(i), 800'000), Status::ok);
  ASSERT_TRUE(world.store->detach(world.uuid(large)).ok());
  ASSERT_TRUE(world.attach(world.add_platter(8_MiB)).ok());
  int found = 0;
  for (int i = 0; i < 150; ++i) found += world.exists(std::to_string(i)) ? 1 : 0;
  EXPECT_LE(found, 7) << "what the first drive holds, and no more";
  ASSERT_TRUE(world.run_until([&] { return world.store->loaded(); }));
  EXPECT_EQ(world.put("after", 5000), Status::ok);
}

TEST(Drives, TheLastOneCannotBeDrained) {
  StoreWorld world;
  const auto drained = world.store->drain(world.uuid(0));
  ASSERT_FALSE(drained.ok());
  EXPECT_EQ(drained.error().status, static_cast<uint16_t>(Status::no_space));
}

TEST(Drives, ThatAreNotWhatTheyShouldBeAreRefusedByName) {
  StoreWorld world(64_MiB, 1);
  const auto refusal = [&](size_t platter) {
    const auto attached = world.attach(platter);
    return attached.ok() ? Status::ok : static_cast<Status>(attached.error().status);
  };
  EXPECT_EQ(refusal(0), Status::drive_in_use) << "the same drive twice";
  world.platters.push_back(std::make_shared<Platter>(world.platters[0]->copy()));
  EXPECT_EQ(refusal(1), Status::drive_in_use) << "two drives with one identity";
  world.platters.push_back(std::make_shared<Platter>(64_MiB));
  EXPECT_EQ(refusal(2), Status::drive_foreign) << "blank";
  const size_t newer = world.add_platter(64_MiB);
  rewrite_superblock(*world.platters[newer],
                     [](auto& block) { block.reader_version = block.version = format::kVersion + 1; });
  EXPECT_EQ(refusal(newer), Status::drive_newer);
  const size_t shrunk = world.add_platter(64_MiB);
  rewrite_superblock(*world.platters[shrunk], [](auto& block) { block.total_bytes += 4096; });
  EXPECT_EQ(refusal(shrunk), Status::drive_smaller);
  const size_t damaged = world.add_platter(64_MiB);
  for (const uint64_t offset : format::kSuperblockOffsets) world.platters[damaged]->flip(offset + 50, 1);
  EXPECT_EQ(refusal(damaged), Status::drive_damaged);
  const size_t older = world.add_platter(64_MiB);
  rewrite_superblock(*world.platters[older], [](auto& block) { block.reader_version = block.version = 1; });
  EXPECT_EQ(refusal(older), Status::ok) << "an older format is read, and becomes ours";
  EXPECT_EQ(world.store->drain("no-such-drive").error().status, static_cast<uint16_t>(Status::drive_unknown));
}

// One of 16 KiB logical blocks, as Linux takes them by now.
class WideDrive final : public Drive {
 public:
  WideDrive() : Drive(DriveInfo{.path = "wide", .kind = "memory", .bytes = 64_MiB, .lba_bytes = 16'384}) {}
  void poll() override {}
  void wait(int) override {}
  int event_fd() const override { return -1; }
  uint32_t in_flight() const override { return 0; }

 private:
  void start(IoRequest&) override { FAIL() << "it was asked for less than a logical block"; }
};

// The service would have ended at the first look at such a drive, rather than say what is wrong with it.
TEST(Drives, OfLogicalBlocksLargerThanAPageAreRefused) {
  const auto identified = Store::identify(std::make_unique<WideDrive>());
  ASSERT_FALSE(identified.ok());
  EXPECT_NE(identified.error().message.find("16384"), std::string::npos) << identified.error().message;
}

TEST(Drives, OfAnotherFleetAreRefused) {
  const auto platter = std::make_shared<Platter>(64_MiB);
  StoreWorld world(64_MiB, 1);
  rewrite_superblock(*world.platters[0], [](auto& block) { block.fleet[0] = 7; });
  std::array<uint8_t, 16> ours{};
  ours[0] = 8;
  world.close();
  auto identified = Store::identify(std::make_unique<MemoryDrive>(world.platters[0]), ours);
  ASSERT_FALSE(identified.ok());
  EXPECT_EQ(identified.error().status, static_cast<uint16_t>(Status::drive_foreign));
  ours[0] = 7;
  EXPECT_TRUE(Store::identify(std::make_unique<MemoryDrive>(world.platters[0]), ours).ok());
  world.open();
}

// The drive would have been read without a pause, and the service have used its core for nothing: summaries were free
// of charge, and these segments hold no block any more.
TEST(Scrub, PaysForSummariesToo) {
  StoreWorld world(32_MiB, 1, 8_MiB, 1_MiB);
  for (int i = 0; i < 60; ++i) ASSERT_EQ(world.put(std::to_string(i), 200'000), Status::ok);
  for (int i = 0; i < 60; ++i) ASSERT_EQ(world.remove(std::to_string(i)), Status::ok);
  world.close();
  StoreOptions options;
  options.scrub_bytes_per_second = 1_MiB;
  world.open(options);
  constexpr uint64_t kSeconds = 20;
  ASSERT_FALSE(world.run_until([] { return false; }, 1000 * kSeconds));
  EXPECT_LT(world.store->stats().drives[0].scrub_passes, kSeconds * 1_MiB / (10 * 64_KiB) + 2);
  EXPECT_GT(world.store->stats().drives[0].scrub_passes, 2U);
}

TEST(Scrub, FindsDamageThatNobodyAskedForAndKeepsItsPlaceAcrossARestart) {
  StoreWorld world(32_MiB, 1, 8_MiB, 1_MiB);
  for (int i = 0; i < 60; ++i) ASSERT_EQ(world.put(std::to_string(i), 200'000), Status::ok);
  world.close();
  // In the middle of the second record of the first segment.
  world.platters[0]->flip(format::kFirstSegmentOffset + 4096 + 50 * 4096 + 20'000, 2);
  StoreOptions options;
  options.scrub_bytes_per_second = 1_MiB;
  world.open(options);
  ASSERT_TRUE(world.run_until([&] { return world.store->stats().drives[0].scrub_share > 0.5; }, 200'000));
  EXPECT_EQ(world.store->stats().drives[0].scrub_errors, 1U);
  EXPECT_EQ(world.store->stats().corrupt, 1U);
  ASSERT_TRUE(world.run_until([&] { return world.store->stats().drives[0].scrub_passes > 0; }, 200'000));
  int missing = 0;
  for (int i = 0; i < 60; ++i) missing += world.get(std::to_string(i)) == Status::ok ? 0 : 1;
  EXPECT_EQ(missing, 1);
}

}  // namespace
}  // namespace cairn
