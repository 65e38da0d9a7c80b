// What an operator asks of a drive: format, inspect, check.
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/entropy.h"
#include "base/json.h"
#include "store/loader.h"
#include "store/log.h"
#include "store/store.h"

namespace cairn {

namespace {

constexpr size_t kFindingsMost = 100;

// About 256 segments, but never fewer than 8, and large enough for the largest block on drives that can afford it.
uint64_t default_segment_bytes(uint64_t usable) {
  const uint64_t wanted = std::bit_floor(std::max<uint64_t>(usable / 256, 1));
  const uint64_t least =
      usable + format::kFirstSegmentOffset >= 1 * kGiB ? 128 * kMiB : std::bit_floor(std::max<uint64_t>(usable / 8, 1));
  return std::clamp(std::max(wanted, least), format::kSegmentBytesLeast, format::kSegmentBytesMost);
}

Result<format::Superblock> plan(const Drive& drive, const FormatOptions& options, const Clock& clock) {
  const std::string& path = drive.info().path;
  const uint64_t bytes = drive.info().bytes;
  if (bytes < format::kFirstSegmentOffset + format::kSegmentsLeast * format::kSegmentBytesLeast) {
    return Error{
        0, path + " is too small for a Cairn store: it has " + std::to_string(bytes) + " bytes, 5 MiB are the least"};
  }
  if (drive.info().lba_bytes > format::kPageBytes) {
    return Error{0, path + " has logical blocks of " + std::to_string(drive.info().lba_bytes) +
                        " bytes; up to 4096 are supported"};
  }
  format::Superblock superblock;
  const uint64_t usable = bytes - format::kFirstSegmentOffset;
  superblock.segment_bytes = options.segment_bytes != 0 ? options.segment_bytes : default_segment_bytes(usable);
  const bool sound = std::has_single_bit(superblock.segment_bytes) &&
                     superblock.segment_bytes >= format::kSegmentBytesLeast &&
                     superblock.segment_bytes <= format::kSegmentBytesMost;
  if (!sound)
    return Error{0, "a segment is a power of two from 1 MiB to 1 GiB, not " + std::to_string(superblock.segment_bytes) +
                        " bytes"};
  superblock.segment_count = std::min(usable / superblock.segment_bytes, format::kSegmentsMost - 1);
  if (superblock.segment_count < format::kSegmentsLeast) {
    return Error{0, path + " has room for only " + std::to_string(superblock.segment_count) +
                        " segments of that size; choose smaller ones (at least 4 must fit)"};
  }
  CAIRN_CHECK(superblock.first_segment_offset + superblock.segment_count * superblock.segment_bytes <= bytes,
              "a drive is formatted with segments beyond its end");
  superblock.total_bytes = bytes;
  superblock.fleet = options.fleet;
  superblock.created_unix_ms = clock.unix_ms();
  fill_entropy(std::as_writable_bytes(std::span(superblock.drive)));
  superblock.drive[6] = static_cast<uint8_t>((superblock.drive[6] & 0x0F) | 0x40);  // RFC 9562, version 4
  superblock.drive[8] = static_cast<uint8_t>((superblock.drive[8] & 0x3F) | 0x80);
  return superblock;
}

// The header pages of an earlier store must not be taken for ours; a new identity sees to that, but a drive that
// says "empty" should be so.
Result<Unit> wipe_headers(Drive& drive, const format::Superblock& superblock) {
  Pages zeros(1);
  for (uint64_t i = 0; i < superblock.segment_count; ++i) {
    const int code = transfer_now(drive, IoKind::write, superblock.first_segment_offset + i * superblock.segment_bytes,
                                  zeros.data(), zeros.bytes());
    if (code != 0) return Error::from_errno(code, "cannot write to " + drive.info().path);
  }
  return Unit{};
}

// What lies between the superblocks and the first segment: a table of tenants of nobody would count as a damaged one.
Result<Unit> wipe_tables(Drive& drive) {
  static_assert(format::kSuperblockOffsets[1] + format::kPageBytes <= format::kStateOffsets[0]);
  Pages zeros(32);
  static_assert((format::kFirstSegmentOffset - format::kStateOffsets[0]) % (32 * format::kPageBytes) == 0);
  for (uint64_t at = format::kStateOffsets[0]; at < format::kFirstSegmentOffset; at += zeros.bytes()) {
    const int code = transfer_now(drive, IoKind::write, at, zeros.data(), zeros.bytes());
    if (code != 0) return Error::from_errno(code, "cannot write to " + drive.info().path);
  }
  return Unit{};
}

// Collects what check_drive() reports of one drive.
class Checker final : public RecordVisitor {
 public:
  Checker(CheckReport& report, uint64_t index) : report_(report), index_(index) {}
  void record(const format::RecordHeader& header, bool payload_good, ConstByteSpan) override {
    ++report_.records;
    report_.payload_bytes += header.length;
    if (payload_good) return;
    ++report_.bad_records;
    find(header.page, "a record's payload fails its checksum");
  }
  void hole(uint64_t first, uint64_t count) override {
    holes_ += count;
    last_hole_ = first;
  }
  void unreadable(uint64_t first, uint64_t) override {
    ++report_.bad_records;
    find(first, "the drive cannot read this page");
  }
  void find(uint64_t page, const std::string& what) {
    if (report_.findings.size() < kFindingsMost) {
      report_.findings.push_back("segment " + std::to_string(index_) + ", offset " +
                                 std::to_string(page * format::kPageBytes) + ": " + what);
    }
  }
  uint64_t holes() const { return holes_; }
  uint64_t last_hole() const { return last_hole_; }

 private:
  CheckReport& report_;
  uint64_t index_;
  uint64_t holes_ = 0;
  uint64_t last_hole_ = 0;
};

// What inspect and check need to know of a segment.
struct Surveyed {
  Segment segment;
  bool scanned = false, unreadable = false;
  uint64_t blocks = 0, payload_bytes = 0;
};

std::vector<Surveyed> survey(Drive& drive, const format::Superblock& superblock, FoundDrive& found) {
  std::vector<Surveyed> all(superblock.segment_count);
  found = load_now(drive, superblock, [&](FoundSegment& one) {
    CAIRN_CHECK(one.index < all.size(), "a segment is found that the drive does not have");
    CAIRN_CHECK(one.segment.state == SegmentState::free || one.segment.state == SegmentState::sealed,
                "a segment of a drive that nobody writes to is in use");
    Surveyed& row = all[one.index];
    CAIRN_CHECK(row.segment.generation == 0, "a segment is found twice");
    row.segment = one.segment;
    row.scanned = one.scanned;
    row.unreadable = one.unreadable;
    for (const format::SummaryEntry& entry : one.entries) {
      if (entry.type != format::RecordType::block) continue;
      ++row.blocks;
      row.payload_bytes += entry.length;
    }
  });
  return all;
}

}  // namespace

Result<Unit> format_drive(Drive& drive, const FormatOptions& options, const Clock& clock) {
  if (!options.overwrite) {
    const auto blank = is_blank(drive);
    if (!blank) return blank.error();
    if (!blank.value()) {
      const bool ours = read_superblock(drive).ok();
      return Error{0, drive.info().path + (ours ? " holds a Cairn store already" : " is not empty") +
                          "; to lose what it holds, add --overwrite"};
    }
  }
  const auto planned = plan(drive, options, clock);
  if (!planned) return planned.error();
  // Superblocks last: an interrupted format leaves no store that looks whole.
  if (auto wiped = wipe_headers(drive, planned.value()); !wiped) return wiped.error();
  if (auto wiped = wipe_tables(drive); !wiped) return wiped.error();
  return write_superblock(drive, planned.value());
}

Result<bool> is_formatted(const std::string& path, DriveOptions options) {
  struct stat file{};
  if (stat(path.c_str(), &file) != 0) {
    if (errno == ENOENT) return false;
    return Error::from_errno(errno, "cannot look at " + path);
  }
  options.read_only = true;
  auto drive = open_drive(path, options);
  if (!drive) return drive.error();
  const auto blank = is_blank(*drive.value());
  if (!blank) return blank.error();
  if (blank.value()) return false;
  const auto superblock = read_superblock(*drive.value());
  if (superblock.ok() || superblock.error().message.find("holds no Cairn store") == std::string::npos) return true;
  return Error{0, path + " holds something that is no Cairn store; nothing was touched",
               static_cast<uint16_t>(Status::drive_foreign)};
}

Result<std::string> inspect_drive(Drive& drive) {
  const auto read = read_superblock(drive);
  if (!read) return read.error();
  const format::Superblock& superblock = read.value();
  FoundDrive found;
  const std::vector<Surveyed> segments = survey(drive, superblock, found);
  JsonWriter json;
  json.begin_object()
      .text("path", drive.info().path)
      .text("kind", drive.info().kind)
      .text("uuid", uuid_text(superblock.drive))
      .text("fleet", superblock.fleet == format::Uuid{} ? "" : uuid_text(superblock.fleet));
  json.number("format_version", superblock.version).number("bytes", superblock.total_bytes);
  json.number("segment_bytes", superblock.segment_bytes).number("segment_count", superblock.segment_count);
  json.number("created_unix_ms", superblock.created_unix_ms)
      .boolean("volatile_write_cache", drive.info().volatile_write_cache);
  json.number("segments_sealed", found.sealed)
      .number("segments_unsealed", found.scanned)
      .number("segments_unreadable", found.unreadable);
  json.number("last_sequence", found.last_sequence);
  uint64_t blocks = 0, bytes = 0;
  json.begin_array("segments");
  for (uint64_t i = 0; i < segments.size(); ++i) {
    const Surveyed& one = segments[i];
    if (one.segment.state != SegmentState::sealed) continue;
    blocks += one.blocks;
    bytes += one.payload_bytes;
    json.begin_object().number("index", i).number("generation", one.segment.generation).boolean("sealed", !one.scanned);
    json.number("records", one.blocks)
        .number("payload_bytes", one.payload_bytes)
        .number("first_sequence", one.segment.first_sequence);
    json.number("last_sequence", one.segment.last_sequence).end_object();
  }
  json.end_array().number("records", blocks).number("payload_bytes", bytes);
  return json.end_object().take();
}

Result<CheckReport> check_drive(Drive& drive, CheckProgress* progress) {
  const auto read = read_superblock(drive);
  if (!read) return read.error();
  const format::Superblock& superblock = read.value();
  FoundDrive found;
  const std::vector<Surveyed> segments = survey(drive, superblock, found);
  CheckReport report;
  const uint64_t total = superblock.segment_count * superblock.segment_bytes;
  for (uint32_t i = 0; i < segments.size(); ++i) {
    if (progress != nullptr && !progress->advance(i * superblock.segment_bytes, total)) return report;
    const Surveyed& one = segments[i];
    Checker checker(report, i);
    if (one.unreadable && one.segment.generation == 0) {
      ++report.bad_segments;
      checker.find(0, "the drive cannot read the segment's header");
      continue;
    }
    if (one.segment.state != SegmentState::sealed) continue;
    ++report.segments;
    const uint64_t before = report.records;
    SegmentScan scan(drive, superblock, i, one.segment,
                     one.scanned ? superblock.segment_bytes / format::kPageBytes : one.segment.next_page, checker);
    scan.start();
    while (!scan.done()) drive.wait(1000);
    // A sealed segment's summary says how many blocks there are; a record whose header is gone is not met by the scan.
    const uint64_t met = report.records - before;
    if (!one.scanned && met < one.blocks) {
      report.bad_records += one.blocks - met;
      checker.find(checker.last_hole(),
                   std::to_string(one.blocks - met) + " records of the summary are not where they should be");
    }
  }
  if (progress != nullptr) (void)progress->advance(total, total);
  return report;
}

}  // namespace cairn
