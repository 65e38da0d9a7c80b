// Bytes on the drive: docs/on-disk-format.md, which carries golden bytes of each structure.
//
// A drive is a superblock, a state page, a membership record (two copies each) and segments of equal size. A segment is
// a header page, records, and, once sealed, a summary that ends in a footer on its last page; until then that page is a
// copy of the header. Everything lies on 4 KiB pages and is little-endian. Fields that version 2 added stand behind the
// checksum of version 1's structures, where version 1 wrote zeros: one structure reads both.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "wire/limits.h"
#include "wire/types.h"

namespace cairn::format {

inline constexpr uint64_t kPageBytes = 4096;
inline constexpr uint32_t kVersion = 3;
inline constexpr uint32_t kVersionLeast = 1;  // the oldest that is read; a drive of it is carried on in kVersion
inline constexpr uint64_t kSuperblockOffsets[] = {0, 64 * kKiB};
inline constexpr uint64_t kStateOffsets[] = {128 * kKiB, 192 * kKiB};
inline constexpr uint64_t kMembershipOffsets[] = {256 * kKiB, 320 * kKiB};
inline constexpr uint64_t kFirstSegmentOffset = 1 * kMiB;
inline constexpr uint64_t kSegmentBytesLeast = 1 * kMiB;
inline constexpr uint64_t kSegmentBytesMost = 1 * kGiB;
inline constexpr uint64_t kSegmentsLeast = 4;
inline constexpr uint64_t kSegmentsMost = uint64_t{1} << 24;
// A larger generation or sequence is damage: we count from 1, and the index has 48 bits.
inline constexpr uint64_t kNumberMost = (uint64_t{1} << 48) - 1;
// Whoever has counted so near to it writes no more: the next start would take what was written for damage. No service
// comes there by counting.
inline constexpr uint64_t kNumbersKept = uint64_t{1} << 25;
static_assert(std::has_single_bit(kPageBytes), "pages are not aligned to their own size");
static_assert(kVersionLeast <= kVersion, "what is written could not be read again");
static_assert(kSuperblockOffsets[0] + kPageBytes <= kSuperblockOffsets[1], "the superblock's copies overlap");
static_assert(kSuperblockOffsets[1] + kPageBytes <= kStateOffsets[0], "a state page lies over the superblock");
static_assert(kStateOffsets[0] + kPageBytes <= kStateOffsets[1], "the state's copies overlap");
static_assert(kStateOffsets[1] + kPageBytes <= kMembershipOffsets[0], "a membership record lies over a state page");
static_assert(kMembershipOffsets[0] + kPageBytes <= kMembershipOffsets[1], "the copies of the record overlap");
static_assert(kMembershipOffsets[1] + kPageBytes <= kFirstSegmentOffset, "the first segment lies over a record");
static_assert(kFirstSegmentOffset % kPageBytes == 0, "segments begin within a page");
static_assert(std::has_single_bit(kSegmentBytesLeast), "the smallest segment is no power of two");
static_assert(std::has_single_bit(kSegmentBytesMost), "the largest segment is no power of two");
static_assert(kSegmentBytesLeast % kPageBytes == 0, "a segment ends within a page");
static_assert(kSegmentBytesMost / kPageBytes <= UINT32_MAX, "a page's number in its segment needs more than 32 bits");
static_assert(kSegmentsMost <= UINT32_MAX, "a segment's number needs more than 32 bits");
static_assert(kSegmentsMost * kSegmentBytesMost <= INT64_MAX, "an offset on the largest drive does not fit the system");

inline constexpr uint64_t kSuperblockMagic = 0x3156524E52494143;  // "CAIRNRV1"
inline constexpr uint64_t kSegmentMagic = 0x3147455352494143;     // "CAIRSEG1"
inline constexpr uint64_t kRecordMagic = 0x3143455252494143;      // "CAIRREC1"
inline constexpr uint64_t kFooterMagic = 0x31544F4652494143;      // "CAIRFOT1"
inline constexpr uint64_t kFreedMagic = 0x3145524652494143;  // "CAIRFRE1": a segment header's page that says it is free

inline constexpr uint64_t kStateMagic = 0x3141545352494143;       // "CAIRSTA1"
inline constexpr uint64_t kMembershipMagic = 0x314D454D52494143;  // "CAIRMEM1"

// Blocks larger than this are cut into parts of it, each a record of its own, on as many drives as there are.
inline constexpr uint64_t kPartBytes = 4 * kMiB;
inline constexpr uint32_t kPartsMost = kBlockBytesMost / kPartBytes;
static_assert(kPartsMost == 16);
static_assert(kPartBytes % kPageBytes == 0, "a part of a block ends within a page of its buffer");
static_assert(kPartBytes * kPartsMost == kBlockBytesMost, "the largest block is not whole parts");
static_assert(kBlockBytesMost <= UINT32_MAX, "the length of a block does not fit a summary entry");
static_assert(kGroupMembersMost <= UINT16_MAX, "the members of a group do not fit a record's header");

// A segment whose records are of more than one tenant.
inline constexpr uint32_t kSharedOwner = UINT32_MAX;

using Uuid = std::array<uint8_t, 16>;

// Every page-sized structure ends its fixed part in `crc`: CRC32C of the whole page with that field zero.
struct Superblock {
  uint64_t magic = kSuperblockMagic;
  uint32_t version = kVersion;
  uint32_t reader_version = kVersion;  // the oldest reader that understands this drive
  Uuid drive{};
  Uuid fleet{};  // zero: not in a fleet
  uint64_t total_bytes = 0;
  uint64_t segment_bytes = 0;
  uint64_t segment_count = 0;
  uint64_t first_segment_offset = kFirstSegmentOffset;
  uint64_t created_unix_ms = 0;
  uint32_t reserved = 0;
  uint32_t crc = 0;
};
static_assert(sizeof(Superblock) == 96 && offsetof(Superblock, crc) == 92);
static_assert(std::has_unique_object_representations_v<Superblock>, "a superblock has padding of no known value");
static_assert(offsetof(Superblock, version) == 8 && offsetof(Superblock, reader_version) == 12);
static_assert(offsetof(Superblock, drive) == 16 && offsetof(Superblock, fleet) == 32);
static_assert(offsetof(Superblock, total_bytes) == 48 && offsetof(Superblock, segment_bytes) == 56);
static_assert(offsetof(Superblock, segment_count) == 64 && offsetof(Superblock, first_segment_offset) == 72);

struct SegmentHeader {
  uint64_t magic = kSegmentMagic;
  uint32_t version = kVersion;
  uint8_t placement = 0;  // class of the data, as the drive was told with each write of the segment
  std::array<uint8_t, 3> reserved{};
  Uuid drive{};
  uint64_t index = 0;
  uint64_t generation = 0;  // grows by one with every segment opened on the drive
  uint64_t nonce =
      0;  // random and never told to a client: repeated in every record, so that stored bytes cannot pose as one
  uint64_t first_sequence = 0;
  uint64_t opened_unix_ms = 0;
  uint32_t reserved2 = 0;
  uint32_t crc = 0;
  // Since version 2.
  uint32_t owner = 0;  // the tenant whose records these are, or kSharedOwner
  uint32_t reserved3 = 0;
  uint64_t evicted_sequence = 0;    // the youngest block that this drive had evicted when the segment was opened
  uint64_t forgotten_sequence = 0;  // the youngest tombstone that this drive had given up then
  // Since version 3; before, zero.
  uint64_t given_up_sequence =
      0;  // the youngest word that this drive no longer has: evicted, expired, dropped, forgotten
};
static_assert(sizeof(SegmentHeader) == 112 && offsetof(SegmentHeader, crc) == 76);
static_assert(std::has_unique_object_representations_v<SegmentHeader>, "a segment's header has padding");
static_assert(offsetof(SegmentHeader, drive) == 16 && offsetof(SegmentHeader, index) == 32);
static_assert(offsetof(SegmentHeader, generation) == 40 && offsetof(SegmentHeader, nonce) == 48);
static_assert(offsetof(SegmentHeader, owner) == 80, "version 2 begins elsewhere than behind the checksum of version 1");

enum class RecordType : uint8_t { block = 1, tombstones = 2 };
static_assert(static_cast<uint8_t>(RecordType::block) != 0, "an entry of zeros would be taken for a block");

inline constexpr uint32_t kChunksMost = 512;

struct RecordHeader {
  uint64_t magic = kRecordMagic;
  uint16_t version = kVersion;
  RecordType type = RecordType::block;
  uint8_t chunk_shift = 16;
  uint32_t page = 0;  // where in the segment this record lies: catches misdirected writes and reads
  uint64_t segment = 0;
  uint64_t generation = 0;
  uint64_t nonce = 0;
  Key key;
  uint64_t layout = 0;
  uint32_t tenant = 0;
  Durability durability = Durability::durable;
  std::array<uint8_t, 3> reserved{};
  GroupId group{};
  uint64_t scope = 0;
  uint64_t length = 0;  // payload bytes; zero-padded to whole pages on the drive
  uint64_t expiry_unix_ms = 0;
  uint64_t sequence = 0;  // of the put: equal in all parts of a block, and kept when the record is moved
  uint64_t stored_unix_ms = 0;
  uint16_t part = 0;
  uint16_t part_count = 1;
  uint32_t payload_crc = 0;  // CRC32C of the payload
  uint32_t chunk_count = 0;
  std::array<uint32_t, kChunksMost> chunk_crcs{};  // CRC32C of each chunk of 2^chunk_shift bytes
  uint32_t crc = 0;
  // Since version 2.
  uint64_t block_bytes = 0;    // of the whole block; 0 (version 1): `length`
  uint16_t group_members = 0;  // how many blocks the group has when it is whole; 0: nobody said
  std::array<uint8_t, 6> reserved2{};
};
static_assert(offsetof(RecordHeader, chunk_crcs) == 140 && offsetof(RecordHeader, crc) == 2188 &&
              sizeof(RecordHeader) == 2208 && sizeof(RecordHeader) <= kPageBytes);
static_assert(std::has_unique_object_representations_v<RecordHeader>, "a record's header has padding");
static_assert(offsetof(RecordHeader, page) == 12 && offsetof(RecordHeader, segment) == 16);
static_assert(offsetof(RecordHeader, generation) == 24 && offsetof(RecordHeader, nonce) == 32);
static_assert(offsetof(RecordHeader, key) == 40 && offsetof(RecordHeader, layout) == 56);
static_assert(offsetof(RecordHeader, tenant) == 64 && offsetof(RecordHeader, durability) == 68);
static_assert(offsetof(RecordHeader, group) == 72 && offsetof(RecordHeader, scope) == 88);
static_assert(offsetof(RecordHeader, length) == 96 && offsetof(RecordHeader, expiry_unix_ms) == 104);
static_assert(offsetof(RecordHeader, sequence) == 112 && offsetof(RecordHeader, part) == 128);
static_assert(offsetof(RecordHeader, payload_crc) == 132 && offsetof(RecordHeader, chunk_count) == 136);
static_assert(offsetof(RecordHeader, block_bytes) == 2192 && offsetof(RecordHeader, group_members) == 2200);

// What a tombstone deletes: all of that name with a smaller sequence.
// earlier: what was put under a key before a put that is kept elsewhere; it concerns the drive that it lies on, no
// other.
enum class Buried : uint8_t { key = 0, group = 1, scope = 2, layout = 3, tenant = 4, earlier = 5 };
inline constexpr uint8_t kBuriedMost = static_cast<uint8_t>(Buried::earlier);
inline constexpr bool names_one_key(Buried kind) {
  return kind == Buried::key || kind == Buried::earlier;
}
static_assert(static_cast<uint8_t>(Buried::key) == 0 && static_cast<uint8_t>(Buried::tenant) == 4 && kBuriedMost == 5,
              "a drive written before would be read with other kinds of deletes");

struct Tombstone {
  Key key;             // the key, or the group's id; else zero
  uint64_t value = 0;  // key, group, layout: the layout. scope: the scope
  uint32_t tenant = 0;
  Buried kind = Buried::key;
  std::array<uint8_t, 3> reserved{};
  uint64_t sequence = 0;  // version 1 has no such field: the record's
};
static_assert(sizeof(Tombstone) == 40);
static_assert(std::has_unique_object_representations_v<Tombstone>, "a tombstone has padding of no known value");
static_assert(offsetof(Tombstone, value) == 16 && offsetof(Tombstone, tenant) == 24 && offsetof(Tombstone, kind) == 28);
inline constexpr uint64_t kTombstoneBytesV1 = 32;
static_assert(offsetof(Tombstone, sequence) == kTombstoneBytesV1,
              "a tombstone of version 1 is not the beginning of ours");

struct SummaryEntry {
  Key key;
  uint64_t layout = 0;
  uint32_t tenant = 0;
  RecordType type = RecordType::block;
  // Since version 2; before, zero.
  uint8_t part = 0;
  uint8_t part_count = 0;     // 0: one
  Buried kind = Buried::key;  // of a tombstone
  GroupId group{};
  uint64_t length = 0;  // of the record's payload
  uint64_t expiry_unix_ms = 0;
  uint64_t sequence = 0;
  uint32_t page = 0;
  uint32_t payload_crc = 0;
  uint64_t scope = 0;
  uint32_t block_bytes = 0;  // of the whole block; 0: `length`
  uint16_t group_members = 0;
  uint16_t reserved = 0;
};
static_assert(sizeof(SummaryEntry) == 96);
static_assert(std::has_unique_object_representations_v<SummaryEntry>, "a summary entry has padding");
static_assert(offsetof(SummaryEntry, tenant) == 24 && offsetof(SummaryEntry, type) == 28);
static_assert(offsetof(SummaryEntry, part) == 29 && offsetof(SummaryEntry, kind) == 31);
static_assert(offsetof(SummaryEntry, group) == 32 && offsetof(SummaryEntry, length) == 48);
static_assert(offsetof(SummaryEntry, sequence) == 64 && offsetof(SummaryEntry, page) == 72);
static_assert(offsetof(SummaryEntry, scope) == 80 && offsetof(SummaryEntry, block_bytes) == 88);
static_assert(kPartsMost <= UINT8_MAX, "a part's number does not fit a summary entry");

// What a segment's summary says of a block's record.
inline SummaryEntry entry_of(const RecordHeader& header) {
  CAIRN_CHECK(header.page > 0, "a record lies where its segment's header is");
  CAIRN_CHECK(header.part < kPartsMost, "a record's part does not fit a summary entry");
  CAIRN_CHECK(header.block_bytes <= kBlockBytesMost, "a record is of a block longer than any");
  SummaryEntry entry;
  entry.key = header.key;
  entry.layout = header.layout;
  entry.tenant = header.tenant;
  entry.type = header.type;
  entry.part = static_cast<uint8_t>(header.part);
  entry.part_count = static_cast<uint8_t>(header.part_count);
  entry.group = header.group;
  entry.length = header.length;
  entry.expiry_unix_ms = header.expiry_unix_ms;
  entry.sequence = header.sequence;
  entry.page = header.page;
  entry.payload_crc = header.payload_crc;
  entry.scope = header.scope;
  entry.block_bytes = static_cast<uint32_t>(header.block_bytes);
  entry.group_members = header.group_members;
  return entry;
}

// … and of one tombstone in a record of them; and back.
inline SummaryEntry entry_of(const RecordHeader& header, const Tombstone& tombstone) {
  SummaryEntry entry = entry_of(header);
  entry.key = tombstone.key;
  entry.layout = tombstone.value;
  entry.tenant = tombstone.tenant;
  entry.kind = tombstone.kind;
  entry.sequence = tombstone.sequence;
  return entry;
}
inline Tombstone tombstone_of(const SummaryEntry& entry) {
  CAIRN_CHECK(entry.type == RecordType::tombstones, "a block is taken for a delete");
  return {entry.key, entry.layout, entry.tenant, entry.kind, {}, entry.sequence};
}

struct Footer {
  uint64_t magic = kFooterMagic;
  uint32_t version = kVersion;
  uint32_t summary_crc = 0;  // CRC32C of the entries
  Uuid drive{};
  uint64_t index = 0;
  uint64_t generation = 0;
  uint64_t nonce = 0;
  uint64_t entry_count = 0;
  uint64_t summary_page = 0;  // where the entries begin, in pages of the segment
  uint64_t first_sequence = 0;
  uint64_t last_sequence = 0;
  uint32_t reserved = 0;
  uint32_t crc = 0;
  // Since version 2.
  uint32_t owner = 0;
  uint32_t reserved2 = 0;
};
static_assert(sizeof(Footer) == 104 && offsetof(Footer, crc) == 92);
static_assert(std::has_unique_object_representations_v<Footer>, "a footer has padding of no known value");
static_assert(offsetof(Footer, drive) == 16 && offsetof(Footer, generation) == 40 && offsetof(Footer, nonce) == 48);
static_assert(offsetof(Footer, entry_count) == 56 && offsetof(Footer, summary_page) == 64);
static_assert(offsetof(Footer, owner) == 96, "version 2 begins elsewhere than behind the checksum of version 1");

// Which drives are one store: docs/decisions/0010-drives-that-come-and-go.md. On every drive of a store, two copies
// written in turn; a drive that was formatted and never used has none. Since version 3.
inline constexpr size_t kMembersMost = 32;
struct Departed {
  Uuid drive{};
  uint64_t sequence = 0;  // the first word that it did not hear
};
struct Membership {
  uint64_t magic = kMembershipMagic;
  uint32_t version = kVersion;
  uint8_t left = 0;  // 1: it was let go in good order, and belongs to no store
  uint8_t member_count = 0, base_count = 0, departed_count = 0;
  Uuid drive{};
  Uuid origin{};                 // given when the store was first formed; kept but by a format
  Uuid store{};                  // of this line of it: new where drives go on without knowing what the others heard
  uint64_t counter = 0;          // the copy with the larger one counts
  uint64_t epoch = 0;            // grows with every change of the members
  uint64_t void_generation = 0;  // segments of this drive up to this generation hold nothing
  uint64_t lost_sequence = 0;    // the youngest word that left with drives which nobody waits for any more
  uint64_t next_sequence = 0;    // how far the store had counted: drives that joined empty know no number of its own
  uint32_t reserved2 = 0;
  uint32_t crc = 0;
  std::array<Uuid, kMembersMost> members{};
  std::array<Uuid, kMembersMost> base{};  // of the last epoch that all of its members are known to have heard of
  std::array<Departed, kMembersMost> departed{};  // members that went and may come back
};
static_assert(sizeof(Departed) == 24);
static_assert(offsetof(Membership, drive) == 16 && offsetof(Membership, origin) == 32);
static_assert(offsetof(Membership, store) == 48 && offsetof(Membership, counter) == 64);
static_assert(offsetof(Membership, crc) == 108 && offsetof(Membership, members) == 112);
static_assert(offsetof(Membership, base) == 624 && offsetof(Membership, departed) == 1136);
static_assert(sizeof(Membership) == 1904);
static_assert(std::has_unique_object_representations_v<Membership>, "a membership record has padding");

constexpr uint64_t pages_of(uint64_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes;
}

// What an operator wants to know of a drive across restarts; a drive without it (version 1) is as good. Two copies,
// written in turn.
struct State {
  uint64_t magic = kStateMagic;
  uint32_t version = kVersion;
  uint32_t reserved = 0;
  Uuid drive{};
  uint64_t counter = 0;                // the copy with the larger one counts
  uint64_t scrub_generation = 0;       // segments up to this generation were read in the present pass
  uint64_t scrub_passes = 0;           // whole passes that ended
  uint64_t scrub_started_unix_ms = 0;  // when the present pass began
  uint64_t written_bytes = 0;          // to the device, since the drive was formatted
  uint64_t put_bytes = 0;              // payload of blocks put to it, since then
  uint32_t reserved2 = 0;
  uint32_t crc = 0;
};
static_assert(sizeof(State) == 88 && offsetof(State, crc) == 84);
static_assert(std::has_unique_object_representations_v<State>, "a state page has padding of no known value");
static_assert(offsetof(State, counter) == 32 && offsetof(State, written_bytes) == 64);

// The parts of a block of that length, and the bytes of one of them.
constexpr uint32_t part_count_for(uint64_t length) {
  return length <= kPartBytes ? 1 : static_cast<uint32_t>((length + kPartBytes - 1) / kPartBytes);
}
constexpr uint64_t part_bytes_for(uint64_t length, uint32_t part) {
  CAIRN_CHECK(part < part_count_for(length), "a part beyond the end of its block");
  return length - part * kPartBytes < kPartBytes ? length - part * kPartBytes : kPartBytes;
}

static_assert(part_count_for(kPartBytes) == 1 && part_count_for(kPartBytes + 1) == 2);
static_assert(part_count_for(kBlockBytesMost) == kPartsMost, "the largest block has more parts than there may be");
static_assert(part_bytes_for(kPartBytes + 1, 1) == 1 && part_bytes_for(kBlockBytesMost, kPartsMost - 1) == kPartBytes);

// Pages a record of `length` payload bytes takes, its header included.
constexpr uint64_t record_pages(uint64_t length) {
  return 1 + pages_of(length);
}
// … and what it takes of a segment with so many pages when others like it fill the rest: nothing else fits beside a
// record of more than half of one.
constexpr uint64_t packed_pages(uint64_t length, uint64_t segment_pages) {
  const uint64_t usable = segment_pages - 3;  // header, summary, footer
  return usable / std::max<uint64_t>(1, usable / record_pages(length));
}
// What the records of a block of that length take.
constexpr uint64_t taken_bytes(uint64_t length) {
  return (part_count_for(length) + pages_of(length)) * kPageBytes;
}

// … and what is appended for it: a record of tombstones is written twice, so that one bad page undoes no delete.
constexpr uint32_t kTombstoneCopies = 2;
constexpr uint64_t appended_pages(RecordType type, uint64_t length) {
  return record_pages(length) * (type == RecordType::tombstones ? kTombstoneCopies : 1);
}

// Pages at the end of a segment for a summary of that many entries, its footer included.
constexpr uint64_t summary_pages(uint64_t entries) {
  return 1 + pages_of(entries * sizeof(SummaryEntry));
}

// The chunk of a block of that length: 64 KiB, or as much as keeps the count within kChunksMost.
constexpr uint8_t chunk_shift_for(uint64_t length) {
  return length > kChunksMost * (64 * kKiB) ? 17 : 16;
}
static_assert(kBlockBytesMost <= uint64_t{kChunksMost} << 17);
static_assert(kPartBytes % (uint64_t{1} << chunk_shift_for(kPartBytes)) == 0, "a part begins within a chunk");
static_assert((uint64_t{1} << chunk_shift_for(1)) % kPageBytes == 0, "a chunk begins within a page");

// The largest record that fits a segment with nothing else in it.
constexpr uint64_t payload_bytes_most(uint64_t segment_bytes) {
  CAIRN_CHECK(segment_bytes >= kSegmentBytesLeast, "a segment is smaller than the smallest");
  return segment_bytes - (1 + 1 + summary_pages(1)) * kPageBytes;
}
static_assert(record_pages(payload_bytes_most(kSegmentBytesLeast)) + summary_pages(1) + 1 ==
                  kSegmentBytesLeast / kPageBytes,
              "a record that should just fit a segment does not, or leaves pages over");
static_assert(payload_bytes_most(kSegmentBytesMost) >= kBlockBytesMost, "no segment holds the largest block");

// A page that holds a T and zeros; seal() and intact() know where its checksum is.
template <class T>
struct alignas(kPageBytes) Page {
  static_assert(sizeof(T) < kPageBytes, "a structure does not fit its page");
  T body;
  std::array<std::byte, kPageBytes - sizeof(T)> rest{};

  uint32_t compute_crc() const {
    T copy = body;
    copy.crc = 0;
    return crc32c(rest, crc32c(bytes_of(copy)));
  }
  void seal() { body.crc = compute_crc(); }
  bool intact(uint64_t magic) const { return body.magic == magic && body.crc == compute_crc(); }
};
static_assert(sizeof(Page<RecordHeader>) == kPageBytes && sizeof(Page<Footer>) == kPageBytes);

}  // namespace cairn::format
