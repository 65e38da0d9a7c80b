// Bytes on the drive: docs/on-disk-format.md, which carries golden bytes of each structure.
//
// A drive is a superblock (two copies) and segments of equal size. A segment is a header page, records, and, once
// sealed, a summary that ends in a footer on its last page. Everything lies on 4 KiB pages and is little-endian.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "wire/limits.h"
#include "wire/types.h"

namespace cairn::format {

inline constexpr uint64_t kPageBytes = 4096;
inline constexpr uint32_t kVersion = 1;
inline constexpr uint64_t kSuperblockOffsets[] = {0, 64 * kKiB};
inline constexpr uint64_t kFirstSegmentOffset = 1 * kMiB;
inline constexpr uint64_t kSegmentBytesLeast = 1 * kMiB;
inline constexpr uint64_t kSegmentBytesMost = 1 * kGiB;
inline constexpr uint64_t kSegmentsLeast = 4;
inline constexpr uint64_t kSegmentsMost = uint64_t{1} << 24;
inline constexpr uint64_t kNumberMost = uint64_t{1}
                                        << 62;  // a larger generation or sequence is damage: we count from 1

inline constexpr uint64_t kSuperblockMagic = 0x3156524E52494143;  // "CAIRNRV1"
inline constexpr uint64_t kSegmentMagic = 0x3147455352494143;     // "CAIRSEG1"
inline constexpr uint64_t kRecordMagic = 0x3143455252494143;      // "CAIRREC1"
inline constexpr uint64_t kFooterMagic = 0x31544F4652494143;      // "CAIRFOT1"

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

struct SegmentHeader {
  uint64_t magic = kSegmentMagic;
  uint32_t version = kVersion;
  uint8_t placement = 0;  // placement class; one in version 1
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
};
static_assert(sizeof(SegmentHeader) == 80 && offsetof(SegmentHeader, crc) == 76);

enum class RecordType : uint8_t { block = 1, tombstones = 2 };

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
  uint64_t sequence = 0;
  uint64_t stored_unix_ms = 0;
  uint16_t stripe_index = 0;  // striping is not used in version 1
  uint16_t stripe_count = 1;
  uint32_t payload_crc = 0;  // CRC32C of the payload
  uint32_t chunk_count = 0;
  std::array<uint32_t, kChunksMost> chunk_crcs{};  // CRC32C of each chunk of 2^chunk_shift bytes
  uint32_t crc = 0;
};
static_assert(offsetof(RecordHeader, chunk_crcs) == 140 && sizeof(RecordHeader) == 2192 &&
              sizeof(RecordHeader) <= kPageBytes);

struct Tombstone {
  Key key;
  uint64_t layout = 0;
  uint32_t tenant = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(Tombstone) == 32);

struct SummaryEntry {
  Key key;
  uint64_t layout = 0;
  uint32_t tenant = 0;
  RecordType type = RecordType::block;
  std::array<uint8_t, 3> reserved{};
  GroupId group{};
  uint64_t length = 0;
  uint64_t expiry_unix_ms = 0;
  uint64_t sequence = 0;
  uint32_t page = 0;
  uint32_t payload_crc = 0;
  uint64_t scope = 0;
  uint64_t reserved2 = 0;
};
static_assert(sizeof(SummaryEntry) == 96);

// What a segment's summary says of a record. The names of a tombstones record come from its payload instead.
inline SummaryEntry entry_of(const RecordHeader& header) {
  SummaryEntry entry;
  entry.key = header.key;
  entry.layout = header.layout;
  entry.tenant = header.tenant;
  entry.type = header.type;
  entry.group = header.group;
  entry.length = header.length;
  entry.expiry_unix_ms = header.expiry_unix_ms;
  entry.sequence = header.sequence;
  entry.page = header.page;
  entry.payload_crc = header.payload_crc;
  entry.scope = header.scope;
  return entry;
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
};
static_assert(sizeof(Footer) == 96 && offsetof(Footer, crc) == 92);

constexpr uint64_t pages_of(uint64_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes;
}

// Pages a record of `length` payload bytes takes, its header included.
constexpr uint64_t record_pages(uint64_t length) {
  return 1 + pages_of(length);
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

// The largest block that fits a segment with nothing else in it.
constexpr uint64_t block_bytes_most(uint64_t segment_bytes) {
  return segment_bytes - (1 + 1 + summary_pages(1)) * kPageBytes;
}

// A page that holds a T and zeros; seal() and intact() know where its checksum is.
template <class T>
struct alignas(kPageBytes) Page {
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
