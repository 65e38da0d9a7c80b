#include "store/recovery.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "store/log.h"
#include "wire/status.h"

namespace cairn {

using format::kPageBytes;
using format::Page;

namespace {

constexpr uint64_t kScanPages = 4 * kMiB / kPageBytes;
static_assert(kScanPages >= format::record_pages(1), "a scan reads less at once than the smallest record");

Error refuse(const Drive& drive, Status status, const std::string& why) {
  return Error{0, drive.info().path + " " + why, static_cast<uint16_t>(status)};
}

bool readable_version(uint32_t version) {
  return version >= format::kVersionLeast && version <= format::kVersion;
}

// Numbers that do not contradict each other.
bool sound(const format::Superblock& found) {
  return found.segment_bytes >= format::kSegmentBytesLeast && found.segment_bytes <= format::kSegmentBytesMost &&
         std::has_single_bit(found.segment_bytes) && found.segment_count >= format::kSegmentsLeast &&
         found.segment_count < format::kSegmentsMost && found.first_segment_offset == format::kFirstSegmentOffset &&
         found.total_bytes > found.first_segment_offset &&
         found.segment_count <= (found.total_bytes - found.first_segment_offset) / found.segment_bytes;
}

}  // namespace

std::string uuid_text(const format::Uuid& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.size(); ++i) {
    char digits[4];
    std::snprintf(digits, sizeof(digits), i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
    text += digits;
  }
  return text;
}

// --- proofs ----------------------------------------------------------------------------------------------

namespace {

bool names_segment(const Page<format::SegmentHeader>& page, uint64_t magic, const format::Superblock& superblock,
                   uint64_t index) {
  return page.intact(magic) && readable_version(page.body.version) && page.body.drive == superblock.drive &&
         page.body.index == index && page.body.generation > 0 && page.body.generation <= format::kNumberMost &&
         page.body.first_sequence <= format::kNumberMost && page.body.evicted_sequence <= format::kNumberMost &&
         page.body.forgotten_sequence <= format::kNumberMost && page.body.given_up_sequence <= format::kNumberMost;
}

}  // namespace

bool header_is_good(const Page<format::SegmentHeader>& page, const format::Superblock& superblock, uint64_t index) {
  return names_segment(page, format::kSegmentMagic, superblock, index);
}

bool freed_is_good(const Page<format::SegmentHeader>& page, const format::Superblock& superblock, uint64_t index) {
  return names_segment(page, format::kFreedMagic, superblock, index);
}

bool record_belongs(const Page<format::RecordHeader>& page, uint64_t index, const Segment& segment, uint64_t at_page) {
  const format::RecordHeader& header = page.body;
  // The cheap comparisons first: a scan asks this of every page.
  if (header.magic != format::kRecordMagic || header.nonce != segment.nonce || header.generation != segment.generation)
    return false;
  if (header.segment != index || header.page != at_page || !readable_version(header.version)) return false;
  if (!page.intact(format::kRecordMagic)) return false;
  if (header.length == 0 || header.length > kBlockBytesMost || header.chunk_count > format::kChunksMost ||
      header.sequence > format::kNumberMost || header.chunk_shift < 12 || header.chunk_shift >= 32 ||
      header.chunk_count != ((header.length - 1) >> header.chunk_shift) + 1) {
    return false;
  }
  return header.block_bytes <= kBlockBytesMost && header.part_count <= format::kPartsMost &&
         header.part < std::max<uint16_t>(header.part_count, 1);
}

bool payload_is_good(const format::RecordHeader& header, ConstByteSpan payload) {
  CAIRN_CHECK(payload.size() == header.length, "a record is verified by the bytes of another");
  CAIRN_CHECK(header.chunk_count <= format::kChunksMost, "a record is verified before it was known for one");
  for (uint32_t i = 0; i < header.chunk_count; ++i) {
    const uint64_t from = uint64_t{i} << header.chunk_shift;
    const uint64_t count = std::min<uint64_t>(uint64_t{1} << header.chunk_shift, header.length - from);
    if (crc32c(payload.subspan(from, count)) != header.chunk_crcs[i]) return false;
  }
  return true;
}

std::vector<format::Tombstone> tombstones_in(const format::RecordHeader& header, ConstByteSpan payload) {
  std::vector<format::Tombstone> all;
  const uint64_t step = header.version == 1 ? format::kTombstoneBytesV1 : sizeof(format::Tombstone);
  for (uint64_t at = 0; at + step <= payload.size(); at += step) {
    format::Tombstone one;
    std::memcpy(&one, payload.data() + at, step);
    if (header.version == 1) one.sequence = header.sequence;
    if (static_cast<uint8_t>(one.kind) > format::kBuriedMost || one.sequence > format::kNumberMost) continue;
    all.push_back(one);
  }
  return all;
}

bool worth_another_try(int error) {
  return error != ENODEV && error != ENXIO && error != ETIMEDOUT;
}

// --- scanning --------------------------------------------------------------------------------------------

SegmentScan::SegmentScan(Drive& drive, const format::Superblock& superblock, uint32_t index, const Segment& segment,
                         uint64_t end_page, RecordVisitor& visitor)
    : drive_(drive),
      index_(index),
      base_(superblock.first_segment_offset + index * superblock.segment_bytes),
      end_page_(end_page),
      visitor_(visitor) {
  CAIRN_CHECK(index < superblock.segment_count, "a segment is scanned that the drive does not have");
  CAIRN_CHECK(end_page <= superblock.segment_bytes / kPageBytes, "a scan goes beyond its segment");
  segment_.nonce = segment.nonce;
  segment_.generation = segment.generation;
}

void SegmentScan::send(uint64_t count) {
  CAIRN_CHECK(!waiting_, "a scan reads twice at a time");
  CAIRN_CHECK(count > 0, "a scan reads nothing");
  CAIRN_CHECK(page_ + count <= end_page_, "a scan reads beyond its end");
  if (memory_ == nullptr || memory_->bytes() < count * kPageBytes) memory_ = std::make_unique<Pages>(count);
  asked_ = count;
  kind = IoKind::read;
  offset = base_ + page_ * kPageBytes;
  vector_ = {memory_->data(), count * kPageBytes};
  vectors = &vector_;
  vector_count = 1;
  bytes = count * kPageBytes;
  bytes_read_ += bytes;
  waiting_ = true;
  drive_.submit(*this);
}

void SegmentScan::fetch(uint64_t least) {
  CAIRN_CHECK(least > 0, "a scan wants nothing");
  CAIRN_CHECK(page_ + least <= end_page_, "a scan wants what lies beyond its end");
  least_ = least;
  tries_left_ = kReadTries;
  have_ = 0;
  send(std::min(std::max(least, kScanPages), end_page_ - page_));
}

void SegmentScan::completed(int error) {
  CAIRN_CHECK(waiting_, "a scan is answered that asked nothing");
  CAIRN_CHECK(!done_, "a scan is answered after its end");
  CAIRN_CHECK(asked_ >= least_, "a scan asked for less than it wants");
  waiting_ = false;
  if (error == 0) {
    from_ = page_;
    have_ = asked_;
    bad_pages_in_a_row_ = 0;
    read_anything_ = true;
  } else if (asked_ > least_) {
    return send(least_);  // part of it may be readable: the least that was wanted is tried alone
  } else if (worth_another_try(error) && --tries_left_ > 0) {
    return send(least_);
  } else {
    unreadable(error);
  }
  go_on();
}

void SegmentScan::unreadable(int error) {
  const uint32_t most = error == ETIMEDOUT ? kLatePagesMost : worth_another_try(error) ? kBadPagesMost : 1;
  if (++bad_pages_in_a_row_ >= most) {
    visitor_.unreadable(page_, end_page_ - page_);
    page_ = end_page_;
    return;
  }
  visitor_.unreadable(page_, least_);
  ++page_;
}

// Looks at the page it stands on and moves on; false when more has to be read first.
bool SegmentScan::look_at_page() {
  if (!holds(1)) {
    fetch(1);
    return false;
  }
  const auto& record = *reinterpret_cast<const Page<format::RecordHeader>*>(at_page());
  const bool ours = record_belongs(record, index_, segment_, page_);
  const uint64_t pages = ours ? format::record_pages(record.body.length) : 0;
  if (!ours || page_ + pages > end_page_) {
    visitor_.hole(page_++, 1);
    return true;
  }
  if (!holds(pages)) {
    fetch(pages);
    return false;
  }
  const ConstByteSpan payload(at_page() + kPageBytes, record.body.length);
  const bool good = payload_is_good(record.body, payload);
  visitor_.record(record.body, good, payload);
  // Behind a damaged payload nothing says that its length was meant: look at every page.
  page_ += good ? pages : 1;
  return true;
}

void SegmentScan::go_on() {
  while (page_ < end_page_) {
    if (!look_at_page()) return;
  }
  done_ = true;
}

// --- the superblock --------------------------------------------------------------------------------------

Result<format::Superblock> read_superblock(Drive& drive) {
  if (drive.info().lba_bytes > kPageBytes) {
    return refuse(drive, Status::drive_foreign,
                  "has logical blocks of " + std::to_string(drive.info().lba_bytes) + " bytes; up to " +
                      std::to_string(kPageBytes) + " are supported");
  }
  if (drive.info().bytes < format::kFirstSegmentOffset + format::kSegmentsLeast * format::kSegmentBytesLeast) {
    return refuse(drive, Status::drive_foreign, "is too small for a Cairn store");
  }
  Pages memory(1);
  bool any_ours = false, contradictory = false;
  int error = 0;
  for (const uint64_t offset : format::kSuperblockOffsets) {
    const int code = transfer_now(drive, IoKind::read, offset, memory.data(), kPageBytes);
    if (code != 0) {
      error = code;
      continue;
    }
    const auto& page = *reinterpret_cast<const Page<format::Superblock>*>(memory.data());
    any_ours |= page.body.magic == format::kSuperblockMagic;
    if (!page.intact(format::kSuperblockMagic)) continue;
    const format::Superblock& found = page.body;
    if (found.reader_version > format::kVersion) {
      return refuse(drive, Status::drive_newer,
                    "was written by a newer Cairn (format " + std::to_string(found.version) +
                        ", this one reads up to " + std::to_string(format::kVersion) + "); upgrade cairn-dpu");
    }
    if (found.total_bytes > drive.info().bytes) {
      return refuse(drive, Status::drive_smaller,
                    "is smaller than when it was formatted (" + std::to_string(drive.info().bytes) + " bytes, was " +
                        std::to_string(found.total_bytes) + "); it is truncated or another drive");
    }
    if (sound(found)) return found;
    contradictory = true;
  }
  if (error != 0) return Error::from_errno(error, "cannot read the superblock of " + drive.info().path);
  if (contradictory) {
    return refuse(drive, Status::drive_damaged,
                  "has a superblock whose numbers contradict each other; restore it or format it anew");
  }
  if (any_ours) {
    return refuse(drive, Status::drive_damaged,
                  "has a damaged superblock in both copies; `cairn-dpu format --drive PATH --yes --overwrite` makes it "
                  "empty");
  }
  return refuse(drive, Status::drive_foreign,
                "holds no Cairn store; to format it: cairn-dpu format --drive " + drive.info().path + " --yes");
}

Result<Unit> write_superblock(Drive& drive, const format::Superblock& superblock) {
  CAIRN_CHECK(sound(superblock), "a superblock is written whose numbers contradict each other");
  CAIRN_CHECK(superblock.total_bytes <= drive.info().bytes, "a superblock is written for a larger drive");
  CAIRN_CHECK(superblock.version == format::kVersion, "a superblock is written in an older format");
  Pages memory(1);
  auto* page = new (memory.data()) Page<format::Superblock>{};
  page->body = superblock;
  page->seal();
  for (const uint64_t offset : format::kSuperblockOffsets) {
    const int code = transfer_now(drive, IoKind::write, offset, memory.data(), kPageBytes);
    if (code != 0) return Error::from_errno(code, "cannot write the superblock of " + drive.info().path);
  }
  const int code = transfer_now(drive, IoKind::flush, 0, nullptr, 0);
  if (code != 0) return Error::from_errno(code, "cannot flush " + drive.info().path);
  return Unit{};
}

Result<bool> is_blank(Drive& drive) {
  const uint64_t bytes = std::min<uint64_t>(drive.info().bytes, format::kFirstSegmentOffset);
  Pages memory(std::max<uint64_t>(format::pages_of(bytes), 1));
  if (bytes == 0) return true;
  const int code = transfer_now(drive, IoKind::read, 0, memory.data(), round_down(bytes, drive.info().lba_bytes));
  if (code != 0) return Error::from_errno(code, "cannot read " + drive.info().path);
  return std::all_of(memory.data(), memory.data() + memory.bytes(),
                     [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace cairn
