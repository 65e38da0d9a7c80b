// Reads what a drive holds, from the drive alone, without ever blocking: headers first, then each segment's summary,
// or, where there is none, its records; from the youngest segment to the oldest. A tombstone never lies in an older
// segment than what it deletes, so what was read may be served before the rest is. One reactor thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "store/recovery.h"

namespace cairn {

struct FoundSegment {
  uint32_t index = 0;
  Segment segment;                            // state: sealed or free; generation, nonce, sequences, next_page
  std::vector<format::SummaryEntry> entries;  // blocks and tombstones
  bool scanned = false;                       // it had no good summary
  uint64_t bad_pages = 0;                     // of a scanned one: what is no record
  bool unreadable = false;  // part of it, or (generation 0) all: it may hold blocks, so it is not free
  int unread = 0;           // … and nothing of what lies behind its header: the errno
  uint64_t evicted_sequence = 0, forgotten_sequence = 0, given_up_sequence = 0;  // as its header has them
};

// Reads what lies in one segment: its summary or, where that is no good, its records. The drive's poll() carries the
// I/O on, poll() here what follows from it. Lives until done().
class SegmentRead {
 public:
  // References outlive it. `known`: index and identity of the segment.
  SegmentRead(Drive& drive, const format::Superblock& superblock, FoundSegment known);
  ~SegmentRead();
  void poll();
  bool done() const { return stage_ == Stage::done; }
  FoundSegment& found() { return found_; }
  // All that was asked of the drive.
  uint64_t bytes_read() const { return bytes_read_ + (scan_ == nullptr ? 0 : scan_->bytes_read()); }

 private:
  enum class Stage : uint8_t { tail, summary, scan, done };
  class Page;
  class Collector;
  uint64_t end() const { return superblock_.first_segment_offset + (found_.index + 1) * superblock_.segment_bytes; }
  void parse(ConstByteSpan pages);
  void scan();

  Drive& drive_;
  const format::Superblock& superblock_;
  FoundSegment found_;
  Stage stage_ = Stage::tail;
  uint64_t bytes_read_ = 0;
  uint64_t tail_bytes_ = 0;
  std::unique_ptr<Page> read_;
  std::unique_ptr<Collector> collector_;
  std::unique_ptr<SegmentScan> scan_;
};

struct FoundDrive {
  format::State state;  // zeros when there is none
  uint64_t next_generation = 1;
  uint64_t last_sequence = 0;  // of any record, or of the store when a segment was opened
  uint64_t evicted_sequence = 0, forgotten_sequence = 0, given_up_sequence = 0;
  uint64_t youngest_generation = 0;
  uint64_t unreadable_headers = 0;
  uint64_t in_use = 0;              // segments that may hold something, by their headers
  uint64_t void_generation = 0;     // those up to it hold nothing, and count for nothing
  uint64_t void_last_sequence = 0;  // of the store when the youngest of those was opened
  uint64_t sealed = 0, scanned = 0, unreadable = 0;
};

class Loader {
 public:
  // Called once for each segment that holds something or could not be read, the youngest first.
  using Taker = std::function<void(FoundSegment& found)>;
  // Called once the headers were read, before anything is written: may raise found.void_generation. Not empty: the
  // drive is left alone, and why.
  using Judge = std::function<std::string(FoundDrive& found)>;
  // Segments up to `void_generation` hold nothing. All outlive the loader. `writable`: a damaged or old superblock is
  // made good, and what an earlier process wrote without living to flush it is flushed before it is believed: else a
  // durable put would be told `exists` of a block that the power could still take.
  Loader(Drive& drive, const format::Superblock& superblock, bool writable, uint64_t void_generation, Taker take,
         Judge judge = {});
  ~Loader();

  // Begins what can be begun; the drive's poll() carries it on.
  void poll();
  bool headers_read() const { return phase_ >= Phase::upgrade; }
  bool done() const { return phase_ == Phase::done; }
  // Not empty: the drive cannot be used, and why.
  const std::string& error() const { return error_; }
  double share() const;
  const FoundDrive& found() const { return found_; }

 private:
  enum class Phase : uint8_t { settle, headers, upgrade, segments, done };
  // A segment's header: the first page, and the last when that is no header.
  struct Probe;
  class Settle;

  void settled(const std::string& error);
  void leave_out_void();
  void start_probes();
  void probe_done(Probe& probe);
  void headers_done();
  void start_segments();
  void take_finished();
  void account(const FoundSegment& one);
  bool reads_fail() const;

  Drive& drive_;
  const format::Superblock& superblock_;
  bool writable_;
  Taker take_;
  Judge judge_;
  Phase phase_ = Phase::settle;
  std::string error_;
  FoundDrive found_;
  std::unique_ptr<Settle> settle_;
  uint32_t next_probe_ = 0, probed_ = 0;
  std::vector<std::unique_ptr<Probe>> probes_;
  std::vector<FoundSegment> known_;  // what the headers said, the youngest first
  size_t next_segment_ = 0, taken_ = 0;
  size_t unread_in_a_row_ = 0;
  int unread_ = 0;  // the errno of the last of them
  std::deque<std::unique_ptr<SegmentRead>> running_;
};

// The whole of it, waited for on the spot: for tools.
FoundDrive load_now(Drive& drive, const format::Superblock& superblock, uint64_t void_generation, Loader::Taker take);

}  // namespace cairn
