// What a drive holds, read from the drive alone.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "drive/drive.h"
#include "store/format.h"
#include "store/log.h"

namespace cairn {

// The superblock, from whichever copy is intact. The Error names the path, the cause and what to do.
Result<format::Superblock> read_superblock(Drive& drive);
// Writes both copies and flushes.
Result<Unit> write_superblock(Drive& drive, const format::Superblock& superblock);
// Writes what differs from it among the copies; false when a copy could not be made good.
bool repair_superblock(Drive& drive, const format::Superblock& superblock);
// Whether the first MiB is all zero.
Result<bool> is_blank(Drive& drive);

struct FoundSegment {
  Segment segment;                            // state: sealed or free; generation, nonce, sequences, next_page
  std::vector<format::SummaryEntry> entries;  // blocks and tombstones
  bool scanned = false;                       // it had no good summary
  uint64_t bad_pages = 0;                     // of a scanned one: what is no record
  bool unreadable = false;  // part of it, or (generation 0) all: it may hold blocks, so it is not free
};

struct FoundDrive {
  uint64_t next_generation = 1;
  uint64_t last_sequence = 0;
  uint64_t sealed = 0, scanned = 0, unreadable = 0;
};

// Reads headers, footers and summaries, many at a time; scans the segments that were never sealed, every
// payload checked: a torn record must not be taken for a block. `take` is called once for each segment, in the order
// they come, so that the entries of all are never in memory together. Writes nothing.
using SegmentTaker = std::function<void(uint32_t index, FoundSegment& found)>;
FoundDrive read_segments(Drive& drive, const format::Superblock& superblock, const SegmentTaker& take);

// Reads one segment record by record. `visit` is told of each intact one.
class RecordVisitor {
 public:
  virtual void record(const format::RecordHeader& header, bool payload_good, ConstByteSpan payload) = 0;
  // Pages [first, first + count) hold nothing of this generation.
  virtual void hole(uint64_t first, uint64_t count) = 0;
  virtual void unreadable(uint64_t first, uint64_t count) = 0;

 protected:
  ~RecordVisitor() = default;
};
void scan_segment(Drive& drive, const format::Superblock& superblock, uint32_t index, const Segment& segment,
                  uint64_t end_page, RecordVisitor& visitor);

// A header that says it belongs here: magic, checksum, version, drive, index.
bool header_is_good(const format::Page<format::SegmentHeader>& page, const format::Superblock& superblock,
                    uint64_t index);
bool record_belongs(const format::Page<format::RecordHeader>& page, uint64_t index, const Segment& segment,
                    uint64_t at_page);
// Every chunk of a record's payload against its checksum.
bool payload_is_good(const format::RecordHeader& header, ConstByteSpan payload);

std::string uuid_text(const format::Uuid& uuid);

}  // namespace cairn
