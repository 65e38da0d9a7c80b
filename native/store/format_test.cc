// The structures on the drive against the golden bytes of docs/on-disk-format.md.
#include "store/format.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <string_view>

#include "testing/golden.h"

namespace cairn::format {
namespace {

constexpr uint64_t kWhen = 1'700'000'000'000;

Uuid counting_uuid() {
  Uuid uuid{};
  std::iota(uuid.begin(), uuid.end(), uint8_t{0});
  return uuid;
}

Page<Superblock> superblock() {
  Page<Superblock> page;
  page.body.drive = counting_uuid();
  page.body.total_bytes = 64 * kMiB;
  page.body.segment_bytes = 4 * kMiB;
  page.body.segment_count = 15;
  page.body.created_unix_ms = kWhen;
  page.seal();
  return page;
}

Page<SegmentHeader> segment() {
  Page<SegmentHeader> page;
  page.body.drive = counting_uuid();
  page.body.index = 3;
  page.body.generation = 9;
  page.body.nonce = 0x1122334455667788;
  page.body.first_sequence = 100;
  page.body.opened_unix_ms = kWhen;
  page.seal();
  return page;
}

Page<RecordHeader> record() {
  Page<RecordHeader> page;
  RecordHeader& header = page.body;
  header.page = 1;
  header.segment = 3;
  header.generation = 9;
  header.nonce = 0x1122334455667788;
  for (size_t i = 0; i < 16; ++i) header.key.bytes[i] = static_cast<uint8_t>(i * 0x11);
  header.layout = 7;
  header.length = 5;
  header.sequence = 100;
  header.stored_unix_ms = kWhen;
  header.chunk_count = 1;
  const std::string_view payload = "hello";
  header.payload_crc = header.chunk_crcs[0] = crc32c(std::as_bytes(std::span(payload)));
  page.seal();
  return page;
}

SummaryEntry entry() {
  const Page<RecordHeader> page = record();
  SummaryEntry entry;
  entry.key = page.body.key;
  entry.layout = page.body.layout;
  entry.length = page.body.length;
  entry.sequence = page.body.sequence;
  entry.page = page.body.page;
  entry.payload_crc = page.body.payload_crc;
  return entry;
}

Page<Footer> footer() {
  const SummaryEntry one = entry();
  Page<Footer> page;
  page.body.drive = counting_uuid();
  page.body.index = 3;
  page.body.generation = 9;
  page.body.nonce = 0x1122334455667788;
  page.body.entry_count = 1;
  page.body.summary_page = 1024 - summary_pages(1);
  page.body.summary_crc = crc32c(bytes_of(one));
  page.body.first_sequence = page.body.last_sequence = 100;
  page.seal();
  return page;
}

Tombstone tombstone() {
  const SummaryEntry one = entry();
  return {one.key, one.layout, one.tenant, Buried::key, {}, 100};
}

Page<Membership> membership() {
  Page<Membership> page;
  Membership& record = page.body;
  record.drive = counting_uuid();
  record.origin.fill(0xaa);
  record.store.fill(0xbb);
  record.counter = 5;
  record.epoch = 3;
  record.void_generation = 8;
  record.lost_sequence = 90;
  record.member_count = record.base_count = 1;
  record.members[0] = record.base[0] = counting_uuid();
  record.departed_count = 1;
  record.departed[0].drive.fill(0xcc);
  record.departed[0].sequence = 95;
  page.seal();
  return page;
}

std::string first_bytes(const void* page, size_t from, size_t count) {
  return hex({static_cast<const std::byte*>(page) + from, count});
}

TEST(OnDiskFormat, TheGoldenBytesOfThePageAreWhatTheCodeWrites) {
  const auto super = superblock();
  const auto header = segment();
  const auto block = record();
  const auto summary = entry();
  EXPECT_EQ(golden_in_page("on-disk-format.md", "superblock"), first_bytes(&super, 0, sizeof(Superblock)));
  EXPECT_EQ(golden_in_page("on-disk-format.md", "segment"), first_bytes(&header, 0, sizeof(SegmentHeader)));
  EXPECT_EQ(golden_in_page("on-disk-format.md", "record"), first_bytes(&block, 0, 160));
  EXPECT_EQ(golden_in_page("on-disk-format.md", "record-crc"), first_bytes(&block, offsetof(RecordHeader, crc), 4));
  EXPECT_EQ(golden_in_page("on-disk-format.md", "entry"), first_bytes(&summary, 0, sizeof(summary)));
  const auto end = footer();
  const auto dead = tombstone();
  EXPECT_EQ(golden_in_page("on-disk-format.md", "footer"), first_bytes(&end, 0, sizeof(Footer)));
  EXPECT_EQ(golden_in_page("on-disk-format.md", "tombstone"), first_bytes(&dead, 0, sizeof(dead)));
  const auto record_of_members = membership();
  EXPECT_EQ(golden_in_page("on-disk-format.md", "membership"), first_bytes(&record_of_members, 0, 128));
  EXPECT_EQ(golden_in_page("on-disk-format.md", "membership-base"),
            first_bytes(&record_of_members, offsetof(Membership, base), 16));
  EXPECT_EQ(golden_in_page("on-disk-format.md", "membership-departed"),
            first_bytes(&record_of_members, offsetof(Membership, departed), sizeof(Departed)));
}

TEST(OnDiskFormat, EveryFlippedBitOfAPageIsNoticed) {
  Page<RecordHeader> page = record();
  ASSERT_TRUE(page.intact(kRecordMagic));
  auto* bytes = reinterpret_cast<std::byte*>(&page);
  for (size_t bit = 0; bit < kPageBytes * 8; bit += 7) {
    bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_FALSE(page.intact(kRecordMagic)) << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
  }
  EXPECT_TRUE(page.intact(kRecordMagic));
}

TEST(OnDiskFormat, TheLargestBlockFitsItsChunksAndTheSmallestSegmentItHasRoomIn) {
  for (const uint64_t length : {uint64_t{1}, 32 * kMiB, 32 * kMiB + 1, kBlockBytesMost}) {
    EXPECT_LE(((length - 1) >> chunk_shift_for(length)) + 1, kChunksMost) << length;
  }
  EXPECT_GE(payload_bytes_most(8 * kMiB), kPartBytes);
  EXPECT_LT(payload_bytes_most(4 * kMiB), kPartBytes);
}

TEST(OnDiskFormat, ThePartsOfABlockMakeUpTheWhole) {
  for (const uint64_t length :
       {uint64_t{1}, kPartBytes, kPartBytes + 1, 2 * kPartBytes, kBlockBytesMost - 1, kBlockBytesMost}) {
    uint64_t sum = 0;
    for (uint32_t part = 0; part < part_count_for(length); ++part) {
      const uint64_t bytes = part_bytes_for(length, part);
      EXPECT_GT(bytes, 0U);
      EXPECT_LE(bytes, kPartBytes);
      sum += bytes;
    }
    EXPECT_EQ(sum, length);
    EXPECT_LE(part_count_for(length), kPartsMost);
  }
}

}  // namespace
}  // namespace cairn::format
