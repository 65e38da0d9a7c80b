// Promises 1, 4, 5, 6 and 8 across power loss: random work on the fake drive, a crash at a random moment that tears and
// drops what no flush covered, then the oracle: absent, exactly these bytes, or in doubt.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "store/log.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

enum class Known { absent, kept, doubt };

class CrashRun {
 public:
  CrashRun(uint64_t seed, size_t drives, uint64_t drive_bytes)
      : random_(seed), world_(drive_bytes, drives, 16_MiB, 1_MiB) {}

  void life(int operations) {
    for (size_t i = 0; i < world_.platters.size(); ++i) world_.drive(i).faults.seed = random_() | 1;
    std::vector<std::unique_ptr<PutCall>> puts;
    std::vector<std::unique_ptr<DeleteCall>> deletes;
    std::vector<std::string> put_names, delete_names;
    for (int i = 0; i < operations; ++i) {
      const std::string name = std::to_string(random_() % 400);
      if (random_() % 5 == 0) {
        deletes.push_back(std::make_unique<DeleteCall>());
        deletes.back()->ids.push_back({key_of(name), 0, 0});
        delete_names.push_back(name);
        forget_pending(name);
        world_.store->remove(*deletes.back());
      } else {
        puts.push_back(std::make_unique<PutCall>(name, 1 + random_() % 60'000));
        puts.back()->store = world_.store.get();
        puts.back()->durability = random_() % 4 == 0 ? Durability::relaxed : Durability::durable;
        put_names.push_back(name);
        if (known_[name] == Known::absent) known_[name] = Known::doubt;
        world_.store->begin_put(*puts.back());
      }
      for (uint64_t turns = random_() % 4; turns > 0; --turns) world_.store->poll();
      note(puts, put_names, deletes, delete_names);
    }
    world_.crash(random_());
  }

  // The answers that came: in the order they were asked for, so the last word on a name stands.
  void note(std::vector<std::unique_ptr<PutCall>>& puts, std::vector<std::string>& put_names,
            std::vector<std::unique_ptr<DeleteCall>>& deletes, std::vector<std::string>& delete_names) {
    for (size_t i = 0; i < puts.size(); ++i) {
      if (puts[i] == nullptr || puts[i]->ended.empty()) continue;
      const bool durable = puts[i]->durability == Durability::durable;
      const bool there = puts[i]->ended[0] == Status::ok || puts[i]->ended[0] == Status::exists;
      // A delete that is still out may take it away again, or may have come before it: nobody can tell.
      if (delete_pending(put_names[i], deletes, delete_names)) {
        raced_.insert(put_names[i]);
      } else if (there && durable) {
        known_[put_names[i]] = Known::kept;
        sequence_[put_names[i]] = puts[i]->sequence;
      }
      puts[i].reset();
    }
    for (size_t i = 0; i < deletes.size(); ++i) {
      if (deletes[i] == nullptr || !deletes[i]->ended) continue;
      const bool put_out = std::any_of(puts.begin(), puts.end(), [&, k = size_t{0}](const auto& put) mutable {
        return put_names[k++] == delete_names[i] && put != nullptr;
      });
      const bool alone = !put_out && !raced_.contains(delete_names[i]);
      if (deletes[i]->statuses[0] == Status::ok && alone && known_[delete_names[i]] != Known::kept)
        known_[delete_names[i]] = Known::absent;
      deletes[i].reset();
      if (!delete_pending(delete_names[i], deletes, delete_names)) raced_.erase(delete_names[i]);
    }
  }

  void recover(bool crash_in_between) {
    if (crash_in_between) {
      // A recovery that gets half-way: it may write summaries and superblocks, and they may tear.
      auto half = world_.try_open();
      ASSERT_TRUE(half.ok());
      for (size_t i = 0; i < world_.platters.size(); ++i) world_.drive(i).crash(random_());
      half.take().reset();
    }
    world_.open();
  }

  void check(uint64_t seed) {
    std::map<std::string, Status> found;
    for (const auto& [name, state] : known_) found[name] = world_.get(name);  // checks the bytes
    // Afterwards: what is given up meanwhile counts as well.
    uint64_t youngest_eviction = 0;
    for (const DriveStats& drive : world_.store->stats().drives)
      youngest_eviction = std::max(youngest_eviction, drive.oldest_sequence);
    for (auto& [name, state] : known_) {
      const Status status = found[name];
      if (state == Known::kept && sequence_[name] >= youngest_eviction) {
        EXPECT_EQ(status, Status::ok) << "acknowledged block " << name << " was lost, seed " << seed;
      }
      if (state == Known::absent) {
        EXPECT_EQ(status, Status::not_found) << "deleted block " << name << " came back, seed " << seed;
      }
      // What was given up may be back after the next crash, as long as nothing was written over it.
      if (state != Known::absent && status != Status::ok) state = Known::doubt;
    }
    EXPECT_EQ(world_.wrong_bytes, 0U);
  }

 private:
  void forget_pending(const std::string& name) {
    if (known_[name] == Known::kept) known_[name] = Known::doubt;
  }
  static bool delete_pending(const std::string& name, const std::vector<std::unique_ptr<DeleteCall>>& deletes,
                             const std::vector<std::string>& names) {
    for (size_t i = 0; i < deletes.size(); ++i) {
      if (deletes[i] != nullptr && names[i] == name) return true;
    }
    return false;
  }

  std::mt19937_64 random_;
  StoreWorld world_;
  std::map<std::string, Known> known_;
  std::map<std::string, uint64_t> sequence_;
  std::set<std::string> raced_;  // names with a put that ended while a delete was out
};

class StoreCrash : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Seeds, StoreCrash, testing::Range(0, 300));

TEST_P(StoreCrash, NothingAcknowledgedIsLostAndNothingDeletedComesBack) {
  const auto seed = static_cast<uint64_t>(GetParam());
  CrashRun run(seed, 1 + seed % 2, seed % 3 == 0 ? 6_MiB : 24_MiB);
  for (int life = 0; life < 6; ++life) {
    run.life(120);
    run.recover(life % 3 == 1);
    run.check(seed);
    if (testing::Test::HasFailure()) return;
  }
}

// A process killed between write and flush leaves blocks in the device's cache. The next one finds them; before it
// answers `exists` to a durable put they have to be safe from the power.
TEST(StoreCrashTest, WhatAKilledProcessDidNotFlushIsFlushedBeforeItIsBelieved) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
    ASSERT_EQ(world.put("opens a segment", 10), Status::ok);
    world.drive().faults.fail_flush = 1;
    ASSERT_EQ(world.put("a", 50'000), Status::io_error);
    world.kill(seed);
    world.open();
    ASSERT_EQ(world.put("a", 50'000), Status::exists);
    world.crash(seed);
    world.open();
    EXPECT_EQ(world.get("a"), Status::ok) << "seed " << seed;
  }
}

// Segments are overwritten in the order of their age also across power loss. Were the header of the younger one on the
// drive and that of the older one not, the older one's blocks would be back without the tombstones of the younger one.
TEST(StoreCrashTest, ATombstoneIsNeverOverwrittenBeforeWhatItDeletes) {
  StoreWorld world(5_MiB + 4096, 1, 8_MiB, 1_MiB);
  for (const char* name : {"a", "deleted", "b"}) ASSERT_EQ(world.put(name, 340'000), Status::ok);
  ASSERT_EQ(world.remove("deleted"), Status::ok);  // the block in the first segment, the tombstone in the second
  while (world.store->stats().drives[0].evicted_segments == 0) {
    static int fillers = 0;
    ASSERT_EQ(world.put("filler " + std::to_string(fillers++), 340'000), Status::ok);
  }
  world.close();
  const Platter full = world.platters[0]->copy();
  // The first segment was given up and not overwritten yet: the new blocks take it, and the second behind it.
  for (uint64_t seed = 0; seed < 600; ++seed) {
    *world.platters[0] = full;
    world.open();
    world.drive().faults.seed = seed % 3 == 0 ? 0 : seed;
    std::vector<std::unique_ptr<PutCall>> puts;
    for (const char* name : {"new", "newer", "newest"}) {
      puts.push_back(std::make_unique<PutCall>(name, 700'000));  // over half of a segment: the next is opened at once
      puts.back()->store = world.store.get();
      world.store->begin_put(*puts.back());
    }
    for (uint64_t turns = seed % 23; turns > 0; --turns) world.store->poll();
    for (const auto& put : puts) world.store->cancel(*put);
    world.crash(seed);
    world.open();
    ASSERT_EQ(world.get("deleted"), Status::not_found) << "seed " << seed;
    world.crash(seed);
  }
}

// --- damage ----------------------------------------------------------------------------------------------

TEST(StoreDamage, EveryFlippedBitOfMetadataGivesAMissOrTheExactBytes) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  const std::vector<std::string> names = {"a", "b", "c"};
  for (const auto& name : names) ASSERT_EQ(world.put(name, 5000), Status::ok);
  ASSERT_EQ(world.remove("c"), Status::ok);
  world.close();
  const Platter whole = world.platters[0]->copy();
  // Superblocks, the segment's header, the record headers, the summary and the footer.
  std::vector<uint64_t> pages = {
      0, 64_KiB, 1_MiB, 1_MiB + 4096, 1_MiB + 4 * 4096, 1_MiB + 7 * 4096, 2_MiB - 8192, 2_MiB - 4096};
  std::mt19937 random(5);
  int refused = 0, survived = 0;
  for (const uint64_t page : pages) {
    for (int trial = 0; trial < 120; ++trial) {
      *world.platters[0] = whole;
      // The front of a page is where its fields are; the rest is covered as well.
      const uint64_t at = page + (trial < 90 ? random() % 200 : random() % 4096);
      world.platters[0]->flip(at, static_cast<int>(random() % 8));
      auto opened = world.try_open();
      if (!opened.ok()) {
        ++refused;
        continue;
      }
      world.store = opened.take();
      for (const auto& name : names) (void)world.get(name);
      EXPECT_EQ(world.wrong_bytes, 0U) << "at " << at;
      world.store->close();
      world.store.reset();
      ++survived;
    }
  }
  EXPECT_EQ(refused, 0) << "one damaged copy of a superblock must not cost the drive";
  EXPECT_GT(survived, 0);
}

TEST(StoreDamage, BothSuperblocksGoneIsRefusedWithASentence) {
  StoreWorld world(8_MiB);
  world.close();
  world.platters[0]->flip(20, 0);
  world.platters[0]->flip(64_KiB + 20, 0);
  const auto opened = world.try_open();
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.error().message.find("damaged superblock"), std::string::npos) << opened.error().message;
}

TEST(StoreDamage, OneDamagedSuperblockIsMadeGood) {
  StoreWorld world(8_MiB);
  ASSERT_EQ(world.put("a", 100), Status::ok);
  world.close();
  world.platters[0]->flip(20, 0);
  world.open();
  EXPECT_EQ(world.get("a"), Status::ok);
  world.close();
  world.platters[0]->flip(64_KiB + 20, 0);
  world.open();
  EXPECT_EQ(world.get("a"), Status::ok);
}

TEST(StoreDamage, AForeignANewerAndATwinDriveAreRefused) {
  VirtualClock clock;
  const auto slab = Slab::create(4_MiB).take();
  const auto message = [&](std::vector<std::shared_ptr<Platter>> platters) {
    std::vector<std::unique_ptr<Drive>> drives;
    for (const auto& platter : platters) drives.push_back(std::make_unique<MemoryDrive>(platter));
    const auto opened = Store::open(std::move(drives), *slab, clock, {});
    return opened.ok() ? std::string("opened") : opened.error().message;
  };
  const auto blank = std::make_shared<Platter>(8_MiB);
  EXPECT_NE(message({blank}).find("holds no Cairn store"), std::string::npos);
  EXPECT_NE(message({std::make_shared<Platter>(1_MiB)}).find("too small"), std::string::npos);
  {
    MemoryDrive drive(blank);
    ASSERT_TRUE(format_drive(drive, {}, clock).ok());
    EXPECT_NE(format_drive(drive, {}, clock).error().message.find("holds a Cairn store already"), std::string::npos);
  }
  const auto twin = std::make_shared<Platter>(blank->copy());
  EXPECT_NE(message({blank, twin}).find("the same Cairn drive"), std::string::npos);
  format::Page<format::Superblock> page;
  blank->read(0, reinterpret_cast<std::byte*>(&page), sizeof(page));
  page.body.version = page.body.reader_version = format::kVersion + 1;
  page.seal();
  blank->write(0, reinterpret_cast<const std::byte*>(&page), sizeof(page));
  EXPECT_NE(message({blank}).find("newer Cairn"), std::string::npos);
}

TEST(StoreDamage, BytesThatLookLikeARecordAreNotBelieved) {
  // A client stores a forged record of another key inside its payload; the store then loses the outer record's header.
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  format::Page<format::RecordHeader> forged;
  forged.body.page = 3;
  forged.body.generation = 1;
  forged.body.key = key_of("victim");
  forged.body.length = 4096;
  forged.body.sequence = 999;
  forged.body.chunk_count = 1;
  std::vector<std::byte> payload(3 * 4096);
  forged.body.chunk_crcs[0] = forged.body.payload_crc = crc32c(std::span(payload).first(4096));
  forged.seal();
  std::memcpy(payload.data() + 4096, &forged, sizeof(forged));
  PutCall call("attacker", payload.size());
  call.store = world.store.get();
  call.fill_at_once = false;
  world.store->begin_put(call);
  std::vector<iovec> parts;
  call.buffer.slice(0, payload.size(), parts);
  size_t at = 0;
  for (const iovec& part : parts) {
    std::memcpy(part.iov_base, payload.data() + at, part.iov_len);
    at += part.iov_len;
  }
  world.store->commit(call);
  world.run();
  ASSERT_EQ(call.ended, std::vector{Status::ok});
  world.crash(1);  // the segment is not sealed: it will be scanned
  world.platters[0]->flip(1_MiB + 4096 + 10, 1);
  world.open();
  EXPECT_FALSE(world.exists("victim"));
  EXPECT_EQ(world.store->stats().blocks, 0U);
}

// Writes the summary of the first sealed segment anew, with good checksums, after `change`.
void rewrite_summary(Platter& platter, const std::function<void(std::vector<format::SummaryEntry>&)>& change) {
  format::Page<format::Superblock> superblock;
  platter.read(0, reinterpret_cast<std::byte*>(&superblock), sizeof(superblock));
  const uint64_t segment_bytes = superblock.body.segment_bytes;
  for (uint32_t index = 0; index < superblock.body.segment_count; ++index) {
    const uint64_t begins = format::kFirstSegmentOffset + index * segment_bytes;
    format::Page<format::Footer> footer;
    platter.read(begins + segment_bytes - sizeof(footer), reinterpret_cast<std::byte*>(&footer), sizeof(footer));
    if (!footer.intact(format::kFooterMagic)) continue;
    std::vector<format::SummaryEntry> entries(footer.body.entry_count);
    platter.read(begins + footer.body.summary_page * format::kPageBytes, reinterpret_cast<std::byte*>(entries.data()),
                 entries.size() * sizeof(format::SummaryEntry));
    change(entries);
    Segment segment;
    segment.owner = footer.body.owner;
    segment.generation = footer.body.generation;
    segment.nonce = footer.body.nonce;
    segment.first_sequence = footer.body.first_sequence;
    segment.last_sequence = footer.body.last_sequence;
    const auto pages = build_summary(superblock.body, index, segment, entries);
    platter.write(begins + segment_bytes - pages->bytes(), pages->data(), pages->bytes());
    return;
  }
  FAIL() << "no segment is sealed";
}

// The service would not have started on such a drive, however often it was tried.
TEST(StoreDamage, ASummaryOfAPartThatItsBlockDoesNotHaveIsNotBelieved) {
  StoreWorld world;
  ASSERT_EQ(world.put("a", 5000), Status::ok);
  world.close();
  rewrite_summary(*world.platters[0], [](std::vector<format::SummaryEntry>& entries) {
    ASSERT_EQ(entries.size(), 1U);
    for (const uint8_t part : {uint8_t{3}, uint8_t{16}, uint8_t{32}}) {
      entries.push_back(entries[0]);
      entries.back().part = part;
    }
  });
  world.open();
  EXPECT_EQ(world.get("a"), Status::ok);
  EXPECT_EQ(world.store->stats().index_entries, 1U);
}

// The service would have ended when it gave up the segment, and a leased block with it.
TEST(StoreDamage, ASummaryOfARecordWithoutBytesMovesTheBlockThatIsThere) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  ASSERT_EQ(world.put("a", 5000), Status::ok);
  world.close();
  rewrite_summary(*world.platters[0], [](std::vector<format::SummaryEntry>& entries) {
    entries.insert(entries.begin(), entries[0]);
    entries[0].length = entries[0].block_bytes = 0;
  });
  world.open();
  ASSERT_EQ(world.store->lease({key_of("a"), 0, 0}, 1, 600'000), Status::ok);
  for (int i = 0; i < 60; ++i) ASSERT_EQ(world.put(std::to_string(i), 300'000), Status::ok) << i;
  EXPECT_GT(world.store->stats().drives[0].moved_blocks, 0U);
  EXPECT_EQ(world.get("a"), Status::ok);
}

TEST(StoreDamage, CheckFindsWhatInspectDescribes) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  for (int i = 0; i < 20; ++i) ASSERT_EQ(world.put(std::to_string(i), 20'000), Status::ok);
  world.close();
  {
    MemoryDrive drive(world.platters[0]);
    const auto report = check_drive(drive, nullptr);
    ASSERT_TRUE(report.ok());
    EXPECT_EQ(report.value().records, 20U);
    EXPECT_EQ(report.value().bad_records, 0U);
    EXPECT_NE(inspect_drive(drive).value().find("\"records\":20"), std::string::npos);
  }
  world.platters[0]->flip(1_MiB + 2 * 4096 + 7, 0);   // the first record's payload
  world.platters[0]->flip(1_MiB + 7 * 4096 + 50, 0);  // the second record's header
  MemoryDrive drive(world.platters[0]);
  const auto report = check_drive(drive, nullptr);
  EXPECT_EQ(report.value().bad_records, 2U);
  EXPECT_EQ(report.value().findings.size(), 2U);
}

// A segment's header is one page among thousands. When it rots the segment's tombstones must not go with it.
TEST(StoreDamage, ADamagedHeaderFooterOrSummaryDoesNotUndoADelete) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  ASSERT_EQ(world.put("a", 5000), Status::ok);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(world.put("filler " + std::to_string(i), 400'000), Status::ok);
  ASSERT_EQ(world.remove("a"), Status::ok);  // in the second segment
  world.close();
  const Platter whole = world.platters[0]->copy();
  for (const uint64_t offset : {2_MiB, 3_MiB - 4096, 3_MiB - 8192}) {
    for (const bool unreadable : {false, true}) {
      *world.platters[0] = whole;
      if (!unreadable) world.platters[0]->flip(offset + 40, 3);
      world.open_unreadable = unreadable ? std::vector{offset} : std::vector<uint64_t>{};
      world.open();
      EXPECT_EQ(world.get("a"), Status::not_found) << offset;
      EXPECT_EQ(world.get("filler 2"), Status::ok) << offset;
      world.close();
    }
  }
}

// A deleted block was back: while a segment is open no summary tells of its tombstones, and they stood on one page.
TEST(StoreDamage, ABadPageOfAnOpenSegmentDoesNotUndoADelete) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  ASSERT_EQ(world.put("a", 5000), Status::ok);  // pages 1 to 3; the tombstone's copies follow on 4 to 7
  ASSERT_EQ(world.remove("a"), Status::ok);
  ASSERT_EQ(world.put("b", 5000), Status::ok);
  world.crash(1);
  const Platter whole = world.platters[0]->copy();
  for (uint64_t page = 4; page <= 7; ++page) {
    for (const bool unreadable : {false, true}) {
      *world.platters[0] = whole;
      const uint64_t offset = 1_MiB + page * 4096;
      if (!unreadable) world.platters[0]->flip(offset + 30, 3);
      world.open_unreadable = unreadable ? std::vector{offset} : std::vector<uint64_t>{};
      world.open();
      EXPECT_EQ(world.get("a"), Status::not_found) << page;
      EXPECT_EQ(world.get("b"), Status::ok) << page;
      world.close();
    }
  }
}

TEST(StoreDamage, ASegmentThatCannotBeReadIsUsedAgainLast) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  ASSERT_EQ(world.put("a", 5000), Status::ok);
  world.crash(1);                                 // not sealed: no footer stands in for its header
  world.open_unreadable = {1_MiB, 2_MiB - 4096};  // the header, and its copy on the last page
  world.open();
  EXPECT_EQ(world.get("a"), Status::not_found);
  for (int i = 0; i < 5; ++i) ASSERT_EQ(world.put(std::to_string(i), 800'000), Status::ok);
  world.close();
  world.open_unreadable.clear();
  world.open();
  EXPECT_EQ(world.get("a"), Status::ok) << "the cable was loose, not the data gone";
}

TEST(StoreDamage, TheFooterOfAnEarlierUseIsNotBelieved) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  for (const char* name : {"a", "b", "deleted", "c"}) ASSERT_EQ(world.put(name, 300'000), Status::ok);
  ASSERT_EQ(world.remove("deleted"), Status::ok);  // block in the first segment, tombstone in the second
  // Round once, until the first is half full of other records and the second has a new header: the tombstone is gone.
  for (int i = 0; world.store->stats().drives[0].evicted_segments < 2; ++i)
    ASSERT_EQ(world.put(std::to_string(i), 300'000), Status::ok);
  world.run();
  world.crash(1);
  world.platters[0]->flip(1_MiB + 30, 2);  // the first one's header; its last page holds the old footer
  world.open();
  EXPECT_EQ(world.get("deleted"), Status::not_found);
}

}  // namespace
}  // namespace cairn
