// One drive as a log: segments opened in order, records appended, flushes shared, summaries written, the
// oldest segment given up when room is needed. One reactor thread.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/slab.h"
#include "drive/drive.h"
#include "store/format.h"
#include "wire/status.h"

namespace cairn {

// Page-aligned heap memory, for what is not payload: headers, summaries, tombstones.
class Pages {
 public:
  explicit Pages(uint64_t pages);
  std::byte* data() const { return memory_.get(); }
  uint64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  uint64_t bytes_;
  std::unique_ptr<std::byte, Free> memory_;
};

// Where a record was put.
struct Appended {
  uint32_t segment = 0;
  uint32_t page = 0;
  uint64_t generation = 0;
  uint64_t first_sequence = 0;  // of its segment
};

// A record on its way to the drive. Owned by the caller until settled() or, if never appended, for ever.
class AppendOp : public IoRequest {
 public:
  // In: all but the fields that say where (segment, page, generation, nonce) and the checksum.
  format::Page<format::RecordHeader>* header = nullptr;
  Buffer payload;                       // block: its padding is zeroed
  std::unique_ptr<Pages> tombstones;    // tombstones: the payload
  std::vector<format::Tombstone> dead;  // … and its entries, for the summary
  Appended at;                          // out: set before placed()

  // The record has its place; the write was submitted.
  virtual void placed() = 0;
  // ok: on the drive, and flushed. That goes for relaxed blocks too: a later durable put of the same key is
  // answered `exists` from this moment on. io_error, read_only: it is not, or nobody knows.
  virtual void settled(Status status) = 0;

 private:
  friend class DriveLog;
  void completed(int error) final;
  class DriveLog* log_ = nullptr;
  std::vector<iovec> vectors_;
};

enum class SegmentState : uint8_t { free, opening, open, sealing, sealed };

struct Segment {
  SegmentState state = SegmentState::free;
  uint64_t generation = 0;  // 0: never used
  uint16_t use = 0;         // how often it was given up since the start; what the index knows it by
  uint64_t nonce = 0;
  uint64_t first_sequence = 0;   // no record in it has a smaller number; the index counts from here
  uint64_t oldest_sequence = 0;  // the smallest number that a record in it does have; 0: no record
  uint64_t last_sequence = 0;
  uint32_t next_page = 1;
  uint32_t writes = 0;                        // submitted and not settled
  uint64_t blocks = 0, payload_bytes = 0;     // live
  std::vector<format::SummaryEntry> entries;  // while open or sealing
};

struct LogCounters {
  uint64_t read_bytes = 0, written_bytes = 0, reads = 0, writes = 0, flushes = 0;
  uint64_t read_errors = 0, write_errors = 0, checksum_errors = 0;
  uint64_t evicted_segments = 0, evicted_blocks = 0;
};

class DriveLog {
 public:
  DriveLog(std::unique_ptr<Drive> drive, const format::Superblock& superblock, uint8_t number, const Clock& clock,
           uint32_t writes_most);
  ~DriveLog();
  DriveLog(const DriveLog&) = delete;
  DriveLog& operator=(const DriveLog&) = delete;

  // Recovery: each segment once, then begin().
  void adopt(uint32_t index, const Segment& segment);
  void begin(uint64_t next_generation, bool read_only);

  // Queues a record; it is placed once a segment is open for it. Never calls back from inside.
  void append(AppendOp& op);
  void poll(uint64_t next_sequence);
  // Seals what is open and waits for the drive.
  void close(uint64_t next_sequence);

  Drive& drive() { return *drive_; }
  const Drive& drive() const { return *drive_; }
  const format::Superblock& superblock() const { return superblock_; }
  uint8_t number() const { return number_; }
  bool writable() const { return !read_only_ && !failed_; }
  bool idle() const { return waiting_.empty() && drive_->in_flight() == 0 && unflushed_.empty() && !opening_; }
  const char* state() const { return failed_ ? "failed" : read_only_ ? "read_only" : "serving"; }
  uint64_t offset_of(uint32_t segment, uint32_t page) const {
    return superblock_.first_segment_offset + segment * superblock_.segment_bytes + page * format::kPageBytes;
  }
  Segment& segment(uint32_t index) { return segments_[index]; }
  const std::vector<Segment>& segments() const { return segments_; }
  uint64_t oldest_sequence() const;
  uint64_t waiting() const { return waiting_.size(); }
  LogCounters counters;

 private:
  friend class AppendOp;
  class HeaderWrite;
  class SummaryWrite;
  class Flush;

  void written(AppendOp& op, int error);
  void start_flush();
  void flushed(std::vector<AppendOp*> covered, int error);
  void settle(AppendOp& op, Status status);
  void fail_waiting(Status status);
  void note_write(int error);

  bool has_room(const Segment& segment, uint64_t pages, uint64_t entries) const;
  void place(AppendOp& op, uint64_t pages);
  void open_next(uint64_t next_sequence);
  void header_written(uint32_t segment, int error);
  bool evict_oldest();
  void seal_ready();
  void summary_written(uint32_t segment, int error);

  std::unique_ptr<Drive> drive_;
  format::Superblock superblock_;
  uint8_t number_;
  const Clock& clock_;
  uint32_t writes_most_;
  bool read_only_ = false;
  bool failed_ = false;
  uint32_t errors_in_a_row_ = 0;

  std::vector<Segment> segments_;
  std::deque<uint32_t> free_;    // in the order they will be used
  std::deque<uint32_t> sealed_;  // oldest first
  std::deque<uint32_t> open_;    // front: being filled; behind it the next, opened early
  std::vector<uint32_t> sealing_;
  bool opening_ = false;
  uint64_t next_generation_ = 1;
  uint64_t segment_pages_;

  std::deque<AppendOp*> waiting_;
  uint32_t writes_ = 0;
  std::vector<AppendOp*> unflushed_;
  bool flushing_ = false;
};

// The pages of a sealed segment's summary, footer last: they go to the end of the segment.
std::unique_ptr<Pages> build_summary(const format::Superblock& superblock, uint32_t index, const Segment& segment,
                                     const std::vector<format::SummaryEntry>& entries);

// One I/O that is waited for on the spot; for formatting, recovery and closing, not for the data path.
int transfer_now(Drive& drive, IoKind kind, uint64_t offset, std::byte* memory, uint64_t bytes);

}  // namespace cairn
