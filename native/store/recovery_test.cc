// What proves that a page is what it says it is, field by field; and a drive's superblock.
#include "store/recovery.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "store/log.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

using format::kNumberMost;
using format::kPageBytes;
using format::Page;

template <class T>
struct Change {
  std::string what;
  std::function<void(T&)> apply;
};

format::Superblock a_superblock() {
  format::Superblock superblock;
  superblock.drive[0] = 9;
  superblock.total_bytes = 9_MiB;
  superblock.segment_bytes = 1_MiB;
  superblock.segment_count = 8;
  return superblock;
}

// --- proofs ----------------------------------------------------------------------------------------------

Page<format::SegmentHeader> a_header(uint64_t magic) {
  Page<format::SegmentHeader> page;
  page.body.magic = magic;
  page.body.drive = a_superblock().drive;
  page.body.index = 3;
  page.body.generation = 5;
  page.body.first_sequence = 100;
  return page;
}

const std::vector<Change<format::SegmentHeader>> kForeignHeaders = {
    {"no version", [](auto& header) { header.version = 0; }},
    {"a newer version", [](auto& header) { header.version = format::kVersion + 1; }},
    {"another drive", [](auto& header) { header.drive[15] ^= 1; }},
    {"another segment", [](auto& header) { header.index = 4; }},
    {"no generation", [](auto& header) { header.generation = 0; }},
    {"a generation beyond counting", [](auto& header) { header.generation = kNumberMost + 1; }},
    {"a sequence beyond counting", [](auto& header) { header.first_sequence = kNumberMost + 1; }},
    {"an eviction beyond counting", [](auto& header) { header.evicted_sequence = kNumberMost + 1; }},
    {"a tombstone beyond counting", [](auto& header) { header.forgotten_sequence = kNumberMost + 1; }},
    {"what was given up beyond counting", [](auto& header) { header.given_up_sequence = kNumberMost + 1; }},
};

TEST(PageProofs, ASegmentsHeaderBelongsThereFieldByField) {
  for (const bool freed : {false, true}) {
    const auto good = [&](const Page<format::SegmentHeader>& page) {
      return freed ? freed_is_good(page, a_superblock(), 3) : header_is_good(page, a_superblock(), 3);
    };
    Page<format::SegmentHeader> page = a_header(freed ? format::kFreedMagic : format::kSegmentMagic);
    page.seal();
    EXPECT_TRUE(good(page));
    page.body.version = format::kVersionLeast;
    page.seal();
    EXPECT_TRUE(good(page)) << "an older format is read";
    page.body.nonce ^= 1;
    EXPECT_FALSE(good(page)) << "the seal is broken";
    for (const auto& change : kForeignHeaders) {
      page = a_header(freed ? format::kFreedMagic : format::kSegmentMagic);
      change.apply(page.body);
      page.seal();
      EXPECT_FALSE(good(page)) << change.what;
    }
    page = a_header(freed ? format::kSegmentMagic : format::kFreedMagic);
    page.seal();
    EXPECT_FALSE(good(page)) << "in use is not given up";
  }
}

Segment a_segment() {
  Segment segment;
  segment.generation = 5;
  segment.nonce = 0x1234;
  return segment;
}

Page<format::RecordHeader> a_record() {
  Page<format::RecordHeader> page;
  page.body.page = 7;
  page.body.segment = 3;
  page.body.generation = 5;
  page.body.nonce = 0x1234;
  page.body.length = page.body.block_bytes = 200'000;
  page.body.sequence = 100;
  page.body.chunk_count = 4;
  return page;
}

const std::vector<Change<format::RecordHeader>> kForeignRecords = {
    {"no magic", [](auto& header) { header.magic ^= 1; }},
    {"another nonce: a client's bytes", [](auto& header) { header.nonce ^= 1; }},
    {"an earlier use of the segment", [](auto& header) { header.generation = 4; }},
    {"another segment", [](auto& header) { header.segment = 2; }},
    {"another place", [](auto& header) { header.page = 8; }},
    {"no version", [](auto& header) { header.version = 0; }},
    {"a newer version", [](auto& header) { header.version = format::kVersion + 1; }},
    {"no bytes", [](auto& header) { header.length = 0; }},
    {"more bytes than a block has",
     [](auto& header) {
       header.length = kBlockBytesMost + 1;
       header.chunk_shift = 20;
       header.chunk_count = 65;
     }},
    {"more chunks than a header names",
     [](auto& header) {
       header.length = kBlockBytesMost;
       header.chunk_count = 1024;
     }},
    {"a sequence beyond counting", [](auto& header) { header.sequence = kNumberMost + 1; }},
    {"chunks smaller than a page",
     [](auto& header) {
       header.chunk_shift = 11;
       header.chunk_count = 98;
     }},
    {"chunks beyond shifting",
     [](auto& header) {
       header.chunk_shift = 32;
       header.chunk_count = 1;
     }},
    {"a chunk too few", [](auto& header) { header.chunk_count = 3; }},
    {"a chunk too many", [](auto& header) { header.chunk_count = 5; }},
    {"a larger block than there may be", [](auto& header) { header.block_bytes = kBlockBytesMost + 1; }},
    {"more parts than a block has", [](auto& header) { header.part_count = format::kPartsMost + 1; }},
    {"a part behind the last",
     [](auto& header) {
       header.part = 2;
       header.part_count = 2;
     }},
    {"a part of a block in one piece",
     [](auto& header) {
       header.part = 1;
       header.part_count = 0;
     }},
};

TEST(PageProofs, ARecordBelongsThereFieldByField) {
  const auto good = [](const Page<format::RecordHeader>& page) { return record_belongs(page, 3, a_segment(), 7); };
  Page<format::RecordHeader> page = a_record();
  page.seal();
  EXPECT_TRUE(good(page));
  page.body.key.bytes[0] ^= 1;
  EXPECT_FALSE(good(page)) << "the seal is broken";
  for (const auto& change : kForeignRecords) {
    page = a_record();
    change.apply(page.body);
    page.seal();
    EXPECT_FALSE(good(page)) << change.what;
  }
}

TEST(PageProofs, ARecordOfVersion1HasNoPartsAndNoBlockBytes) {
  Page<format::RecordHeader> page = a_record();
  page.body.version = 1;
  page.body.part_count = 0;
  page.body.block_bytes = 0;
  page.seal();
  EXPECT_TRUE(record_belongs(page, 3, a_segment(), 7));
}

TEST(PageProofs, OneRottenByteInAnyChunkIsSeen) {
  std::vector<std::byte> payload(200'000, std::byte{5});
  format::RecordHeader header = a_record().body;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint64_t from = uint64_t{i} << header.chunk_shift;
    header.chunk_crcs[i] = crc32c(std::span(payload).subspan(from, std::min<uint64_t>(65'536, payload.size() - from)));
  }
  EXPECT_TRUE(payload_is_good(header, payload));
  for (const size_t at : {0, 65'535, 65'536, 131'072, 199'999}) {
    payload[at] ^= std::byte{1};
    EXPECT_FALSE(payload_is_good(header, payload)) << at;
    payload[at] ^= std::byte{1};
  }
}

// Version 1 gave all tombstones of a record the record's own sequence. Read as version 2 they would delete nothing.
TEST(Tombstones, OfVersion1AreSmallerAndTakeTheirRecordsSequence) {
  std::vector<std::byte> payload(2 * format::kTombstoneBytesV1);
  for (size_t i = 0; i < 2; ++i) {
    format::Tombstone one;
    one.key.bytes[0] = static_cast<uint8_t>(i + 1);
    one.value = 7;
    one.tenant = 3;
    std::memcpy(payload.data() + i * format::kTombstoneBytesV1, &one, format::kTombstoneBytesV1);
  }
  format::RecordHeader header;
  header.version = 1;
  header.sequence = 42;
  const auto all = tombstones_in(header, payload);
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[1].key.bytes[0], 2);
  EXPECT_EQ(all[1].value, 7U);
  EXPECT_EQ(all[1].tenant, 3U);
  EXPECT_EQ(all[1].sequence, 42U);
}

TEST(Tombstones, ThatAreNoneAreLeftOutAndTheOthersRead) {
  std::array<format::Tombstone, 4> dead;
  for (size_t i = 0; i < dead.size(); ++i) dead[i].sequence = 10 + i;
  dead[0].kind = static_cast<format::Buried>(format::kBuriedMost + 1);
  dead[1].kind = format::Buried::tenant;
  dead[2].sequence = kNumberMost + 1;
  dead[3].sequence = kNumberMost;
  const auto bytes = std::as_bytes(std::span(dead));
  const auto all = tombstones_in({}, bytes);
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].sequence, 11U);
  EXPECT_EQ(all[1].sequence, kNumberMost);
  EXPECT_EQ(tombstones_in({}, bytes.first(bytes.size() - 1)).size(), 1U) << "the last one is cut off";
}

TEST(ReadTries, AreMadeWhereTheNextMayEndOtherwise) {
  EXPECT_TRUE(worth_another_try(EIO));
  for (const int hopeless : {ENODEV, ENXIO, ETIMEDOUT}) EXPECT_FALSE(worth_another_try(hopeless));
}

// --- the superblock --------------------------------------------------------------------------------------

// A drive of any size, of which the first MiB exists.
class LargeDrive final : public Drive {
 public:
  explicit LargeDrive(uint64_t bytes) : Drive(describe(bytes)), platter_(1_MiB) {}
  void poll() override {
    for (std::vector<IoRequest*> all = std::exchange(queue_, {}); IoRequest * request : all) {
      if (request->kind == IoKind::read) platter_.read_cached(request->offset, request->vectors, request->vector_count);
      if (request->kind == IoKind::write)
        platter_.write_cached(request->offset, request->vectors, request->vector_count);
      request->completed(0);
    }
  }
  void wait(int) override { poll(); }
  int event_fd() const override { return -1; }
  uint32_t in_flight() const override { return static_cast<uint32_t>(queue_.size()); }

 private:
  static DriveInfo describe(uint64_t bytes) {
    DriveInfo info;
    info.path = "large";
    info.bytes = bytes;
    return info;
  }
  void start(IoRequest& request) override { queue_.push_back(&request); }
  Platter platter_;
  std::vector<IoRequest*> queue_;
};

// What a drive is refused for whose superblock, in both copies, was changed and sealed again.
Status refusal(const std::function<void(format::Superblock&)>& change) {
  constexpr uint64_t kBytes = 1_MiB + format::kSegmentsMost * 1_MiB;
  LargeDrive drive(kBytes);
  format::Superblock superblock = a_superblock();
  superblock.total_bytes = kBytes;
  change(superblock);
  Pages memory(1);
  auto* page = new (memory.data()) format::Page<format::Superblock>{superblock, {}};
  page->seal();
  for (const uint64_t offset : format::kSuperblockOffsets)
    EXPECT_EQ(transfer_now(drive, IoKind::write, offset, memory.data(), memory.bytes()), 0);
  const auto read = read_superblock(drive);
  return read.ok() ? Status::ok : static_cast<Status>(read.error().status);
}

TEST(Superblocks, WhoseNumbersContradictEachOtherAreRefused) {
  EXPECT_EQ(refusal([](auto&) {}), Status::ok);
  EXPECT_EQ(refusal([](auto& block) { block.segment_count = format::kSegmentsLeast; }), Status::ok);
  EXPECT_EQ(refusal([](auto& block) { block.segment_count = format::kSegmentsMost - 1; }), Status::ok);
  EXPECT_EQ(refusal([](auto& block) { block.segment_bytes = format::kSegmentBytesMost; }), Status::ok);
  const std::vector<Change<format::Superblock>> contradictions = {
      {"segments too small", [](auto& block) { block.segment_bytes = 512_KiB; }},
      {"segments too large", [](auto& block) { block.segment_bytes = 2 * format::kSegmentBytesMost; }},
      {"segments of a size that is no power of two", [](auto& block) { block.segment_bytes = 1_MiB + 4096; }},
      {"too few segments", [](auto& block) { block.segment_count = format::kSegmentsLeast - 1; }},
      {"more segments than a place can name", [](auto& block) { block.segment_count = format::kSegmentsMost; }},
      {"segments that begin elsewhere", [](auto& block) { block.first_segment_offset = 2_MiB; }},
      {"no room for any segment", [](auto& block) { block.total_bytes = 512_KiB; }},
      {"a segment more than there is room for", [](auto& block) { block.total_bytes = 8_MiB; }},
  };
  for (const auto& change : contradictions) EXPECT_EQ(refusal(change.apply), Status::drive_damaged) << change.what;
}

// Both copies unreadable: "holds no Cairn store, format it" would have an operator format a drive full of blocks.
TEST(Superblocks, ThatCannotBeReadAreNotTakenForNone) {
  const auto platter = std::make_shared<Platter>(9_MiB);
  MemoryDrive drive(platter);
  ASSERT_TRUE(write_superblock(drive, a_superblock()).ok());
  drive.faults.unreadable = {format::kSuperblockOffsets[0]};
  EXPECT_TRUE(read_superblock(drive).ok()) << "the copy is enough";
  drive.faults.unreadable = {format::kSuperblockOffsets[0], format::kSuperblockOffsets[1]};
  const auto read = read_superblock(drive);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().system_errno, EIO);
  EXPECT_NE(read.error().message.find("cannot read the superblock of memory"), std::string::npos);
}

TEST(Superblocks, ThatCannotBeWrittenOrFlushedAreAnErrorWithItsCause) {
  for (const bool flush : {false, true}) {
    MemoryDrive drive(std::make_shared<Platter>(9_MiB));
    (flush ? drive.faults.fail_flush : drive.faults.fail_write) = 1;
    const auto written = write_superblock(drive, a_superblock());
    ASSERT_FALSE(written.ok());
    EXPECT_EQ(written.error().system_errno, EIO);
    EXPECT_NE(written.error().message.find(flush ? "cannot flush" : "cannot write"), std::string::npos);
  }
}

TEST(BlankDrives, HoldNothingButZerosInTheirFirstMebibyte) {
  const auto blank = [](uint64_t bytes, uint64_t byte_at) {
    const auto platter = std::make_shared<Platter>(bytes);
    const std::byte one{1};
    if (byte_at != UINT64_MAX) platter->write(byte_at, &one, 1);
    MemoryDrive drive(platter);
    return is_blank(drive).value();
  };
  EXPECT_TRUE(blank(9_MiB, UINT64_MAX));
  EXPECT_TRUE(blank(9_MiB, 1_MiB));
  EXPECT_FALSE(blank(9_MiB, 0));
  EXPECT_FALSE(blank(9_MiB, 1_MiB - 1));
  EXPECT_TRUE(blank(8192, UINT64_MAX)) << "smaller than a mebibyte";
  EXPECT_TRUE(blank(0, UINT64_MAX)) << "an empty file";
  MemoryDrive unreadable(std::make_shared<Platter>(9_MiB));
  unreadable.faults.fail_read = 1;
  EXPECT_FALSE(is_blank(unreadable).ok()) << "nobody knows what is lost when it is formatted";
}

// --- scanning --------------------------------------------------------------------------------------------

struct Met final : RecordVisitor {
  void record(const format::RecordHeader& header, bool payload_good, ConstByteSpan) override {
    records.emplace_back(header.page, payload_good);
  }
  void hole(uint64_t, uint64_t count) override { holes += count; }
  void unreadable(uint64_t, uint64_t count) override { unread += count; }
  std::vector<std::pair<uint32_t, bool>> records;
  uint64_t holes = 0, unread = 0;
};

// A record of two pages of payload.
void write_record(Platter& platter, uint64_t base, uint32_t at_page) {
  const std::vector<std::byte> payload(2 * kPageBytes, std::byte{7});
  Page<format::RecordHeader> page = a_record();
  page.body.page = at_page;
  page.body.length = page.body.block_bytes = payload.size();
  page.body.chunk_count = 1;
  page.body.chunk_crcs[0] = crc32c(payload);
  page.seal();
  platter.write(base + at_page * kPageBytes, reinterpret_cast<const std::byte*>(&page), kPageBytes);
  platter.write(base + (at_page + 1) * kPageBytes, payload.data(), payload.size());
}

// What a scan of segment 3 meets; segments are of that size.
Met scanned(MemoryDrive& drive, uint64_t segment_bytes) {
  format::Superblock superblock = a_superblock();
  superblock.segment_bytes = segment_bytes;
  Met met;
  SegmentScan scan(drive, superblock, 3, a_segment(), segment_bytes / kPageBytes, met);
  scan.start();
  while (!scan.done()) drive.wait(10);
  return met;
}

using Records = std::vector<std::pair<uint32_t, bool>>;

// A record that claims to be longer than its segment: what lies in the next segment must not be read as its payload.
TEST(Scans, ARecordThatRunsOverTheEndOfItsSegmentIsAHole) {
  const auto platter = std::make_shared<Platter>(9_MiB);
  write_record(*platter, 4_MiB, 1);
  write_record(*platter, 4_MiB, 253);  // its payload ends with the segment
  write_record(*platter, 4_MiB, 254);  // … and this one's a page behind it
  MemoryDrive drive(platter);
  const Met met = scanned(drive, 1_MiB);
  // 254 lies in the payload of 253, which is rotten by that.
  EXPECT_EQ(met.records, (Records{{1, true}, {253, false}}));
  EXPECT_EQ(met.holes, 256U - 1 - 3 - 1);
}

// A stretch of bad pages costs what lies on it. Tried to its end, a drive that answers nothing would take hours.
TEST(Scans, GoOnBehindBadPagesButNotForEver) {
  const uint64_t base = 1_MiB + 3 * 2_MiB;
  for (const uint32_t bad : {kBadPagesMost - 1, kBadPagesMost}) {
    const auto platter = std::make_shared<Platter>(9_MiB);
    write_record(*platter, base, 1 + bad);
    MemoryDrive drive(platter);
    for (uint64_t page = 1; page <= bad; ++page) drive.faults.unreadable.push_back(base + page * kPageBytes);
    const Met met = scanned(drive, 2_MiB);
    if (bad < kBadPagesMost) {
      EXPECT_EQ(met.records, (Records{{1 + bad, true}}));
      EXPECT_EQ(met.unread, bad);
    } else {
      EXPECT_TRUE(met.records.empty());
      EXPECT_EQ(met.unread, 511U) << "all that was not tried counts as unreadable";
    }
  }
}

TEST(Scans, CountBadPagesAnewBehindAGoodOne) {
  const uint64_t base = 1_MiB + 3 * 2_MiB;
  const auto platter = std::make_shared<Platter>(9_MiB);
  MemoryDrive drive(platter);
  uint32_t page = 1;
  for (int stretch = 0; stretch < 2; ++stretch) {
    for (int i = 0; i < 200; ++i) drive.faults.unreadable.push_back(base + page++ * kPageBytes);
    write_record(*platter, base, page);
    page += 3;
  }
  EXPECT_EQ(scanned(drive, 2_MiB).records, (Records{{201, true}, {404, true}}));
}

TEST(Scans, EndEarlyOnADriveThatIsLateOrGone) {
  for (const auto& [error, reads] : {std::pair{ETIMEDOUT, kLatePagesMost}, {ENODEV, 1U}}) {
    MemoryDrive drive(std::make_shared<Platter>(9_MiB));
    drive.faults.error = error;
    drive.faults.fail_read = 1;
    drive.faults.for_ever = true;
    Met met;
    SegmentScan scan(drive, a_superblock(), 3, a_segment(), 256, met);
    scan.start();
    uint32_t asked = 0;
    for (; !scan.done(); ++asked) drive.poll();  // one read each
    EXPECT_EQ(asked, 2 * reads) << "each page in a window, and alone";
    EXPECT_EQ(met.unread, 255U);
    EXPECT_FALSE(scan.read_anything());
  }
}

}  // namespace
}  // namespace cairn
