// Drives that version 1 wrote: read whole, and carried on. They are made of our own by putting back what version 2
// changed (docs/on-disk-format.md, at its end).
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "store/recovery.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

using format::kPageBytes;

constexpr uint64_t kFirst = format::kFirstSegmentOffset;
constexpr uint64_t kSegmentPages = 1_MiB / kPageBytes;

uint64_t base_of(uint64_t segment) {
  return kFirst + segment * 1_MiB;
}
uint64_t last_of(uint64_t segment) {
  return base_of(segment) + 1_MiB - kPageBytes;
}

template <class T>
T read_as(const Platter& platter, uint64_t offset) {
  T body;
  platter.read(offset, reinterpret_cast<std::byte*>(&body), sizeof(body));
  return body;
}

// Forty bytes a tombstone become 32; their sequence is the record's.
void age_tombstones(Platter& platter, uint64_t offset, format::RecordHeader& header) {
  std::vector<std::byte> before(header.length);
  platter.read(offset + kPageBytes, before.data(), before.size());
  std::vector<std::byte> after;
  for (const format::Tombstone& one : tombstones_in(header, before)) {
    const ConstByteSpan bytes = bytes_of(one).first(format::kTombstoneBytesV1);
    after.insert(after.end(), bytes.begin(), bytes.end());
  }
  platter.write(offset + kPageBytes, after.data(), after.size());
  header.length = after.size();
  header.payload_crc = header.chunk_crcs[0] = crc32c(after);
}

void age_records(Platter& platter, uint64_t segment) {
  for (uint64_t page = 1; page + 1 < kSegmentPages;) {
    const uint64_t offset = base_of(segment) + page * kPageBytes;
    const auto before = read_as<format::RecordHeader>(platter, offset);
    if (before.magic != format::kRecordMagic) break;
    const uint64_t pages = format::record_pages(before.length);
    page += pages;
    if (before.part > 0) {  // version 1 wrote tombstones once
      const std::vector<std::byte> zeros(pages * kPageBytes);
      platter.write(offset, zeros.data(), zeros.size());
      continue;
    }
    edit_page<format::RecordHeader>(platter, offset, [&](format::RecordHeader& header) {
      if (header.type == format::RecordType::tombstones) age_tombstones(platter, offset, header);
      header.version = 1;
      header.part_count = 1;
      header.block_bytes = 0;
    });
  }
}

void age_summary(Platter& platter, uint64_t segment) {
  edit_page<format::Footer>(platter, last_of(segment), [&](format::Footer& footer) {
    std::vector<format::SummaryEntry> entries(footer.entry_count);
    const uint64_t at = base_of(segment) + footer.summary_page * kPageBytes;
    platter.read(at, reinterpret_cast<std::byte*>(entries.data()), entries.size() * sizeof(entries[0]));
    for (format::SummaryEntry& entry : entries) {
      entry.part = entry.part_count = 0;
      entry.block_bytes = 0;
    }
    const auto bytes = std::as_bytes(std::span(entries));
    platter.write(at, bytes.data(), bytes.size());
    footer.version = 1;
    footer.owner = 0;
    footer.summary_crc = crc32c(bytes);
  });
}

// Version 1 wrote no copy of a header to the last page; what an earlier use left there stayed.
void age(Platter& platter, uint64_t segments) {
  for (const uint64_t offset : format::kSuperblockOffsets)
    edit_page<format::Superblock>(platter, offset, [](auto& block) { block.version = block.reader_version = 1; });
  for (uint64_t i = 0; i < segments; ++i) {
    age_records(platter, i);
    edit_page<format::SegmentHeader>(platter, base_of(i), [](auto& header) {
      header.version = 1;
      header.owner = 0;
    });
    if (read_as<uint64_t>(platter, last_of(i)) == format::kFooterMagic) {
      age_summary(platter, i);
    } else {
      const std::vector<std::byte> zeros(kPageBytes);
      platter.write(last_of(i), zeros.data(), zeros.size());
    }
  }
}

struct OldWorld : StoreWorld {
  OldWorld() : StoreWorld(8_MiB, 1, 8_MiB, 1_MiB) {
    for (const char* name : {"a", "b", "deleted"}) EXPECT_EQ(put(name, 5000), Status::ok);
    EXPECT_EQ(remove("deleted"), Status::ok);
  }
  void expect_all_as_it_was() {
    for (const char* name : {"a", "b"}) EXPECT_EQ(get(name), Status::ok) << name;
    EXPECT_EQ(get("deleted"), Status::not_found);
  }
};

TEST(Version1, ASealedSegmentIsReadFromItsSummary) {
  OldWorld world;
  world.close();
  age(*world.platters[0], 1);
  world.open();
  EXPECT_EQ(world.store->stats().scanned_segments, 0U);
  world.expect_all_as_it_was();
}

TEST(Version1, AnUnsealedSegmentIsScannedItsSmallerTombstonesToo) {
  OldWorld world;
  world.crash(1);
  age(*world.platters[0], 1);
  world.open();
  EXPECT_EQ(world.store->stats().scanned_segments, 1U);
  world.expect_all_as_it_was();
}

TEST(Version1, ADriveIsCarriedOnAsVersion2) {
  OldWorld world;
  world.crash(1);
  age(*world.platters[0], 1);
  world.open();
  EXPECT_EQ(world.put("new", 5000), Status::ok);
  EXPECT_EQ(world.remove("b"), Status::ok);
  world.crash(2);
  const auto superblock = read_as<format::Superblock>(*world.platters[0], format::kSuperblockOffsets[0]);
  EXPECT_EQ(superblock.reader_version, format::kVersion) << "what version 1 cannot read must not look as if it could";
  world.open();
  EXPECT_EQ(world.get("a"), Status::ok);
  EXPECT_EQ(world.get("new"), Status::ok);
  EXPECT_EQ(world.get("b"), Status::not_found);
}

// Version 1 left the footer of an earlier use in a segment that was opened again. Believed, it would bring back blocks
// that were given up long ago, without the deletes that followed.
TEST(Version1, AFooterWithoutAHeaderIsBelievedForOneRoundOfTheDrive) {
  for (const uint64_t behind : {0, 1}) {
    OldWorld world;
    world.close();
    world.open();
    ASSERT_EQ(world.put("later", 5000), Status::ok);
    world.close();
    age(*world.platters[0], 2);
    const auto segments = read_as<format::Superblock>(*world.platters[0], 0).segment_count;
    const auto generation = read_as<format::SegmentHeader>(*world.platters[0], kFirst).generation;
    edit_page<format::SegmentHeader>(*world.platters[0], kFirst, [](auto& header) { header.magic = 0; });
    edit_page<format::SegmentHeader>(*world.platters[0], base_of(1),
                                     [&](auto& header) { header.generation = generation + segments + behind; });
    world.open();
    EXPECT_EQ(world.get("a"), behind == 0 ? Status::ok : Status::not_found);
    EXPECT_EQ(world.get("deleted"), Status::not_found);
  }
}

}  // namespace
}  // namespace cairn
