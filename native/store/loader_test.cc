// Reading what a drive holds: summaries that are not what they should be, drives of version 1, drives that answer late,
// not at all, or otherwise than the first time.
#include "store/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "testing/fault_drive.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

using format::kNumberMost;
using format::kPageBytes;

constexpr uint64_t kFirst = format::kFirstSegmentOffset;  // of the first segment, in worlds whose segments are of 1 MiB
constexpr uint64_t kFirstEnd = kFirst + 1_MiB - kPageBytes;

template <class T>
T read_as(const Platter& platter, uint64_t offset) {
  T body;
  platter.read(offset, reinterpret_cast<std::byte*>(&body), sizeof(body));
  return body;
}

// --- footers ---------------------------------------------------------------------------------------------

struct FooterChange {
  std::string what;
  std::function<void(format::Footer&)> apply;
};

// Not of this place, whoever looks at it.
const std::vector<FooterChange> kForeignFooters = {
    {"no version", [](auto& footer) { footer.version = 0; }},
    {"a newer version", [](auto& footer) { footer.version = format::kVersion + 1; }},
    {"another drive", [](auto& footer) { footer.drive[0] ^= 1; }},
    {"another segment", [](auto& footer) { footer.index = 1; }},
    {"no generation", [](auto& footer) { footer.generation = 0; }},
    {"a generation beyond counting", [](auto& footer) { footer.generation = kNumberMost + 1; }},
    {"a first sequence beyond counting", [](auto& footer) { footer.first_sequence = kNumberMost + 1; }},
};

// Of this place, but its summary is not to be believed.
const std::vector<FooterChange> kMistakenFooters = {
    {"another use of the segment", [](auto& footer) { footer.generation += 1; }},
    {"another nonce", [](auto& footer) { footer.nonce ^= 1; }},
    {"sequences that run backwards", [](auto& footer) { footer.first_sequence = footer.last_sequence + 1; }},
    {"a last sequence beyond counting", [](auto& footer) { footer.last_sequence = kNumberMost + 1; }},
    {"more entries than fit a segment", [](auto& footer) { footer.entry_count = UINT64_MAX / 96; }},
    {"a summary somewhere else", [](auto& footer) { footer.summary_page -= 1; }},
    {"entries of another checksum", [](auto& footer) { footer.summary_crc ^= 1; }},
};

std::vector<FooterChange> all_wrong_footers() {
  std::vector<FooterChange> all = kForeignFooters;
  all.insert(all.end(), kMistakenFooters.begin(), kMistakenFooters.end());
  return all;
}

// A sealed segment with a block and the delete of another.
struct SealedWorld : StoreWorld {
  SealedWorld() : StoreWorld(8_MiB, 1, 8_MiB, 1_MiB) {
    EXPECT_EQ(put("a", 5000), Status::ok);
    EXPECT_EQ(put("deleted", 5000), Status::ok);
    EXPECT_EQ(remove("deleted"), Status::ok);
    close();
  }
};

TEST(Footers, ThatAreNotTheirSegmentsCostAScanAndNothingElse) {
  SealedWorld world;
  const Platter whole = world.platters[0]->copy();
  for (const FooterChange& change : all_wrong_footers()) {
    *world.platters[0] = whole;
    edit_page<format::Footer>(*world.platters[0], kFirstEnd, change.apply);
    world.open();
    EXPECT_EQ(world.store->stats().scanned_segments, 1U) << change.what;
    EXPECT_EQ(world.get("a"), Status::ok) << change.what;
    EXPECT_EQ(world.get("deleted"), Status::not_found) << change.what;
    world.close();
  }
}

TEST(Footers, StandInForAHeaderOnlyWhereTheyAreThisSegments) {
  SealedWorld world;
  edit_page<format::SegmentHeader>(*world.platters[0], kFirst, [](auto& header) { header.magic = 0; });
  const Platter whole = world.platters[0]->copy();
  world.open();
  EXPECT_EQ(world.get("a"), Status::ok) << "the footer says as much as the header did";
  world.close();
  for (const FooterChange& change : kForeignFooters) {
    *world.platters[0] = whole;
    edit_page<format::Footer>(*world.platters[0], kFirstEnd, change.apply);
    world.open();
    EXPECT_EQ(world.get("a"), Status::not_found) << change.what;
    EXPECT_EQ(world.put("b", 5000), Status::ok) << change.what;
    world.close();
  }
}

// The header and the records themselves would be taken for entries.
TEST(Footers, OfASummaryThatTakesTheWholeSegmentAreNotBelieved) {
  SealedWorld world;
  std::vector<std::byte> segment(255 * kPageBytes);
  world.platters[0]->read(kFirst, segment.data(), segment.size());
  edit_page<format::Footer>(*world.platters[0], kFirstEnd, [&](auto& footer) {
    footer.entry_count = segment.size() / sizeof(format::SummaryEntry);
    footer.summary_page = 0;
    footer.summary_crc = crc32c(std::span(segment).first(footer.entry_count * sizeof(format::SummaryEntry)));
  });
  world.open();
  EXPECT_EQ(world.store->stats().scanned_segments, 1U);
  EXPECT_EQ(world.get("a"), Status::ok);
  EXPECT_EQ(world.get("deleted"), Status::not_found);
}

// An operator who looks at a damaged drive read-only must find it afterwards as it was.
TEST(Footers, AreNotWrittenWhereNothingMayBe) {
  SealedWorld world;
  edit_page<format::Footer>(*world.platters[0], kFirstEnd, [](auto& footer) { footer.nonce ^= 1; });
  StoreOptions options;
  options.read_only = true;
  for (int i = 0; i < 2; ++i) {
    world.open(options);
    EXPECT_EQ(world.store->stats().scanned_segments, 1U);
    EXPECT_EQ(world.get("a"), Status::ok);
    EXPECT_EQ(world.get("deleted"), Status::not_found);
    world.close();
  }
}

// --- summaries that are longer than what is read at first ------------------------------------------------

// A segment whose summary takes more than 64 KiB: it has the deletes of a thousand keys of a drive that is away.
struct LongSummaryWorld : StoreWorld {
  LongSummaryWorld() : StoreWorld(8_MiB, 1, 8_MiB, 1_MiB) {
    EXPECT_EQ(put("deleted", 5000), Status::ok);
    EXPECT_EQ(put("a", 5000), Status::ok);
    close();
    StoreOptions options;
    options.absent_drives = 1;
    open(options);
    DeleteCall call;
    for (int i = 0; i < 1000; ++i) call.ids.push_back({key_of("away " + std::to_string(i)), 0, 0});
    call.ids.push_back({key_of("deleted"), 0, 0});
    store->remove(call);
    EXPECT_TRUE(run_until([&] { return call.ended; }));
    close();
    while (read_as<format::Footer>(*platters[0], kFirst + (segment + 1) * 1_MiB - kPageBytes).entry_count < 1000)
      ++segment;
    summary_at =
        kFirst + segment * 1_MiB +
        read_as<format::Footer>(*platters[0], kFirst + (segment + 1) * 1_MiB - kPageBytes).summary_page * kPageBytes;
  }
  uint64_t footer_at() const { return kFirst + (segment + 1) * 1_MiB - kPageBytes; }
  uint64_t segment = 0, summary_at = 0;
};

TEST(LongSummaries, AreReadWhole) {
  LongSummaryWorld world;
  EXPECT_GT(world.footer_at() - world.summary_at, 64_KiB);
  world.open();
  EXPECT_EQ(world.store->stats().scanned_segments, 0U);
  EXPECT_EQ(world.get("deleted"), Status::not_found);
  EXPECT_EQ(world.get("a"), Status::ok);
}

TEST(LongSummaries, OfWhichAPageCannotBeReadAreScannedFor) {
  LongSummaryWorld world;
  world.open_unreadable = {world.summary_at};
  world.open();
  EXPECT_EQ(world.store->stats().scanned_segments, 1U);
  EXPECT_EQ(world.get("deleted"), Status::not_found);
  EXPECT_EQ(world.get("a"), Status::ok);
}

// Changes the platter when a read of more than 64 KiB comes: the rest of a summary.
class SecondReadWatcher final : public DriveWatcher {
 public:
  SecondReadWatcher(Platter& platter, uint64_t footer_at, std::function<void(format::Footer&)> change)
      : platter_(platter), footer_at_(footer_at), change_(std::move(change)) {}
  DriveFault before(FaultDrive&, const IoRequest& request) override {
    const bool whole = request.kind == IoKind::read && request.bytes > 64_KiB &&
                       request.offset + request.bytes == footer_at_ + kPageBytes;
    if (whole && !std::exchange(done, true)) edit_page<format::Footer>(platter_, footer_at_, change_);
    return DriveFault::none;
  }
  bool done = false;

 private:
  Platter& platter_;
  uint64_t footer_at_;
  std::function<void(format::Footer&)> change_;
};

// A drive that gives another page the second time: the entries between would have been taken by the wrong footer.
TEST(LongSummaries, WhoseFooterIsAnotherTheSecondTimeAreScannedFor) {
  LongSummaryWorld world;
  const Platter whole = world.platters[0]->copy();
  for (const FooterChange& change :
       {FooterChange{"another use of the segment", [](auto& footer) { footer.generation += 1; }},
        FooterChange{"fewer entries", [](auto& footer) {
                       footer.entry_count = 1;
                       footer.summary_page = 256 - format::summary_pages(1);
                     }}}) {
    const auto platter = std::make_shared<Platter>(whole);
    SecondReadWatcher watcher(*platter, world.footer_at(), change.apply);
    FaultDrive drive(platter, world.clock, &watcher, "memory");
    const format::Superblock superblock = read_superblock(drive).take();
    uint64_t scanned = 0, tombstones = 0;
    load_now(drive, superblock, 0, [&](FoundSegment& found) {
      scanned += found.scanned ? 1 : 0;
      for (const format::SummaryEntry& entry : found.entries)
        tombstones += entry.type == format::RecordType::tombstones ? 1 : 0;
    });
    EXPECT_TRUE(watcher.done) << change.what;
    EXPECT_EQ(scanned, 1U) << change.what;
    EXPECT_EQ(tombstones, 1001U) << change.what;
  }
}

// --- tombstones, written twice ---------------------------------------------------------------------------

// An unsealed segment with a delete: only its two records tell of it.
struct UnsealedWorld : StoreWorld {
  UnsealedWorld() : StoreWorld(8_MiB, 1, 8_MiB, 1_MiB) {
    EXPECT_EQ(put("a", 5000), Status::ok);
    EXPECT_EQ(put("deleted", 5000), Status::ok);
    EXPECT_EQ(remove("deleted"), Status::ok);
    crash(1);
    for (uint64_t at = kFirst + kPageBytes; copies.size() < format::kTombstoneCopies; at += kPageBytes) {
      const auto header = read_as<format::RecordHeader>(*platters[0], at);
      if (header.magic == format::kRecordMagic && header.type == format::RecordType::tombstones) copies.push_back(at);
    }
  }
  std::vector<uint64_t> copies;  // where their headers lie
};

TEST(TombstoneCopies, OneDamagedPageUndoesNoDelete) {
  UnsealedWorld world;
  const Platter whole = world.platters[0]->copy();
  for (const uint64_t header : world.copies) {
    for (const uint64_t page : {header, header + kPageBytes}) {
      for (const bool unreadable : {false, true}) {
        *world.platters[0] = whole;
        if (!unreadable) world.platters[0]->flip(page + 20, 3);
        world.open_unreadable = unreadable ? std::vector{page} : std::vector<uint64_t>{};
        world.open();
        EXPECT_EQ(world.get("deleted"), Status::not_found) << page;
        EXPECT_EQ(world.get("a"), Status::ok) << page;
        world.kill(1);
      }
    }
  }
}

TEST(TombstoneCopies, AreOneRecordToWhoeverReadsThem) {
  UnsealedWorld world;
  const auto tombstones = [&] {
    MemoryDrive drive(world.platters[0]);
    const format::Superblock superblock = read_superblock(drive).take();
    uint64_t count = 0;
    load_now(drive, superblock, 0, [&](FoundSegment& found) {
      for (const format::SummaryEntry& entry : found.entries)
        count += entry.type == format::RecordType::tombstones ? 1 : 0;
    });
    return count;
  };
  EXPECT_EQ(tombstones(), 1U);
  edit_page<format::RecordHeader>(*world.platters[0], world.copies[1], [](auto& header) { header.sequence += 1; });
  EXPECT_EQ(tombstones(), 2U) << "the second of another record, of which the first is not there";
}

// --- the course of it ------------------------------------------------------------------------------------

TEST(LoaderTest, TakesSegmentsFromTheYoungestToTheOldestHoweverManyThereAre) {
  StoreWorld world(200_MiB, 1, 8_MiB, 1_MiB);
  constexpr int kBlocks = 140;  // more than are probed at once, and read at once
  for (int i = 0; i < kBlocks; ++i) ASSERT_EQ(world.put(std::to_string(i), 550'000), Status::ok);
  world.close();
  MemoryDrive drive(world.platters[0]);
  drive.faults.seed = 5;  // answers in any order
  const format::Superblock superblock = read_superblock(drive).take();
  std::vector<uint64_t> generations;
  load_now(drive, superblock, 0, [&](FoundSegment& found) {
    // The last one was opened early, for what would come next.
    if (!found.entries.empty()) generations.push_back(found.segment.generation);
  });
  EXPECT_EQ(generations.size(), static_cast<size_t>(kBlocks));
  EXPECT_TRUE(std::is_sorted(generations.rbegin(), generations.rend()));
}

TEST(LoaderTest, SaysHowFarItCame) {
  StoreWorld world(200_MiB, 1, 8_MiB, 1_MiB);
  for (int i = 0; i < 40; ++i) ASSERT_EQ(world.put(std::to_string(i), 550'000), Status::ok);
  world.close();
  MemoryDrive drive(world.platters[0]);
  const format::Superblock superblock = read_superblock(drive).take();
  Loader loader(drive, superblock, false, 0, [](FoundSegment&) {});
  EXPECT_EQ(loader.share(), 0);
  double before = 0;
  bool between = false;
  while (!loader.done()) {
    loader.poll();
    drive.poll();
    EXPECT_GE(loader.share(), before);
    before = loader.share();
    between |= before > 0 && before < 1;
  }
  EXPECT_TRUE(between);
  EXPECT_EQ(loader.share(), 1);
}

TEST(LoaderTest, OfAnEmptyDriveIsDoneOnceTheHeadersAreRead) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  world.close();
  MemoryDrive drive(world.platters[0]);
  const format::Superblock superblock = read_superblock(drive).take();
  Loader loader(drive, superblock, false, 0, [](FoundSegment&) { ADD_FAILURE() << "there is none"; });
  while (!loader.done()) {
    loader.poll();
    drive.poll();
  }
  EXPECT_EQ(loader.share(), 1);
  EXPECT_EQ(loader.found().next_generation, 1U);
}

// Were it read to its end, each page tried again and again, the others could not serve for hours; and of its deletes
// nothing would be known.
TEST(LoaderTest, GivesUpADriveOfWhichSegmentAfterSegmentCannotBeRead) {
  StoreWorld world(200_MiB, 1, 8_MiB, 1_MiB);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(world.put(std::to_string(i), 550'000), Status::ok);
  world.close();
  MemoryDrive drive(world.platters[0]);
  const format::Superblock superblock = read_superblock(drive).take();
  int taken = 0;
  Loader loader(drive, superblock, false, 0, [&](FoundSegment& found) { taken += found.unread ? 1 : 0; });
  while (!loader.done()) {
    loader.poll();
    if (loader.headers_read()) {  // … and nothing behind them
      drive.faults.error = ETIMEDOUT;
      drive.faults.fail_read = 1;
      drive.faults.for_ever = true;
    }
    drive.poll();
  }
  EXPECT_TRUE(loader.error().starts_with("reads fail, one after another")) << loader.error();
  EXPECT_GE(taken, 16);
  EXPECT_LT(taken, 100) << "not all of them";
}

// A service that is stopped while it still loads: the drive would have written into memory that was given back.
TEST(LoaderTest, ThatEndsEarlyWaitsForItsReads) {
  SealedWorld world;
  MemoryDrive drive(world.platters[0]);
  const format::Superblock superblock = read_superblock(drive).take();
  {
    Loader loader(drive, superblock, false, 0, [](FoundSegment&) {});
    loader.poll();
    EXPECT_GT(drive.in_flight(), 0U);
  }
  EXPECT_EQ(drive.in_flight(), 0U);
}

}  // namespace
}  // namespace cairn
