// One drive as a log: segments opened in order, records appended by write heads, flushes shared, summaries written.
// What is given up, and when, is decided elsewhere (store/evictor.h). One reactor thread.
//
// Each tenant has a write head of its own while the drive has segments for it, so that what it stored can be given up
// without touching anybody else's. Beyond heads_most() tenants share one head.
//
// The order that deletes rest on: a segment is opened only after the header of the one opened before is flushed, and
// free segments are used in the order in which they were freed. So nothing that was freed later is overwritten
// earlier, and a tombstone is not lost before the blocks that it deletes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/slab.h"
#include "drive/drive.h"
#include "store/ghosts.h"
#include "store/segment.h"
#include "wire/status.h"

namespace cairn {

// Where a record was put.
struct Appended {
  uint32_t segment = 0;
  uint32_t page = 0;
  uint64_t generation = 0;
};

// A record on its way to the drive. Owned by the caller until settled() or, if never appended, for ever.
class AppendOp : public IoRequest {
 public:
  // In: all but the fields that say where (segment, page, generation, nonce) and the checksum.
  format::Page<format::RecordHeader>* header = nullptr;
  Buffer payload;                       // block: bytes [payload_offset, + length) of it; padding is zeroed
  uint64_t payload_offset = 0;          // whole pages
  std::unique_ptr<Pages> tombstones;    // tombstones: the payload
  std::vector<format::Tombstone> dead;  // … its entries, for the summary
  format::Page<format::RecordHeader>* second_header =
      nullptr;  // … and that of the second copy, filled in as it is placed
  // Written to make room: it goes before the others, and may use the segment that is kept for that.
  bool makes_room = false;
  bool moved = false;  // a copy of what was put before
  Appended at;         // out: set before placed()

  // The record has its place; the write was submitted.
  virtual void placed() = 0;
  // ok: on the drive, and flushed. That goes for relaxed blocks too: a later durable put of the same key is
  // answered `exists` from this moment on. io_error, read_only: it is not, or nobody knows.
  virtual void settled(Status status) = 0;

 private:
  friend class DriveLog;
  void completed(int error) final;
  class DriveLog* log_ = nullptr;
  uint64_t generation_least_ = 0;  // no older segment will do
  std::vector<iovec> vectors_;
};

struct LogCounters {
  uint64_t read_bytes = 0, written_bytes = 0, put_bytes = 0, reads = 0, writes = 0, flushes = 0;
  uint64_t read_errors = 0, write_errors = 0, checksum_errors = 0;
  uint64_t evicted_segments = 0, evicted_blocks = 0, moved_blocks = 0, moved_bytes = 0;
  uint64_t discarded_bytes = 0;
};

// loading: its segments are being read. serving. read_only: it takes no writes, by order or after errors. draining:
// its blocks are being moved to the others. drained. failed: set aside, nothing of it is served.
enum class DriveState : uint8_t { loading, serving, read_only, draining, drained, failed };
const char* name_of(DriveState state);

class DriveLog {
 public:
  DriveLog(std::unique_ptr<Drive> drive, const format::Superblock& superblock, uint8_t number, const Clock& clock,
           uint32_t writes_most);
  ~DriveLog();
  DriveLog(const DriveLog&) = delete;
  DriveLog& operator=(const DriveLog&) = delete;

  // Loading: each segment once, then begin().
  void adopt(uint32_t index, const Segment& segment);
  void begin(uint64_t next_generation, bool read_only);
  // … of a drive whose numbers, or the store's, are at their end.
  void begin_spent(uint64_t next_generation);
  // Segments count their uses from here on; index entries with other counts are stale.
  void begin_uses(uint8_t use);
  // Whether an index entry with this count was made since then.
  bool counts_since_start(uint8_t use) const { return static_cast<int8_t>(use - first_use_) >= 0; }
  uint8_t next_use() const;
  // What it holds is not to be believed, or gone: every index entry that points here is stale from now on.
  void distrust();

  // Queues a record of the tenant; it is placed once a segment is open for it. Never calls back from inside.
  void append(AppendOp& op, uint32_t tenant);
  // … where the segments of that owner go, whoever's it is: so emptying one segment never takes more than one.
  void append_beside(AppendOp& op, uint32_t tenant, uint32_t owner);
  void poll(uint64_t next_sequence);
  // Seals what is open and waits for the drive.
  void close(uint64_t next_sequence);

  // --- room ---
  // Free segments are fewer than those who wait need: something should be given up.
  bool wants_room() const;
  uint64_t free_segments() const { return free_.size(); }
  // A restart might find blocks that the index does not have (store/ghosts.h).
  bool haunted() const { return wiping_ > 0 || ghosts.any(); }
  const std::deque<uint32_t>& sealed() const { return sealed_; }  // in the order of their generations
  // A sealed segment is about to be given up, and then is: every block in it was dropped or moved. It is wiped, so that
  // a restart does not find it again, and then it is free. unread: nobody could tell what is in it, so index entries
  // that point there are to be taken for stale.
  void begin_evicting(uint32_t segment);
  void release(uint32_t segment, bool unread);
  // Back to the sealed ones: it could not be emptied, or (`untouched`) nobody tried to.
  void keep(uint32_t segment, bool untouched = false);
  // Of those who wait, what is not written to make room ends.
  void refuse_waiting(Status status);
  // The tenant's open segment is sealed at once if it holds anything, so that it can be evicted.
  void seal_open(uint32_t tenant);
  void seal_all();

  // --- state ---
  DriveState state() const { return state_; }
  void set_state(DriveState state);
  bool writable() const { return state_ == DriveState::serving; }
  bool readable() const { return state_ != DriveState::failed; }
  // Ends every append that waits for a place.
  void fail_waiting(Status status);
  // … from now on, and sends no more.
  void fail(const std::string& why);
  const std::string& why_failed() const { return why_failed_; }
  // What people are told: a drive that is tried again after its writes failed takes blocks when one got there.
  DriveState shown_state() const { return on_probation_ ? DriveState::read_only : state_; }
  // Tries again now, and not only when its time has come. False: it is not writes that failed.
  bool retry_now();
  void note_read(int error);
  void note_write(int error);
  bool idle() const;

  Drive& drive() { return *drive_; }
  const Drive& drive() const { return *drive_; }
  const format::Superblock& superblock() const { return superblock_; }
  uint8_t number() const { return number_; }
  uint64_t offset_of(uint32_t segment, uint32_t page) const {
    CAIRN_CHECK(segment < segments_.size(), "a place in a segment that the drive does not have");
    CAIRN_CHECK(page < segment_pages_, "a place beyond the end of its segment");
    return superblock_.first_segment_offset + segment * superblock_.segment_bytes + page * format::kPageBytes;
  }
  uint64_t segment_pages() const { return segment_pages_; }
  Segment& segment(uint32_t index) {
    CAIRN_CHECK(index < segments_.size(), "a segment is asked for that the drive does not have");
    return segments_[index];
  }
  const Segment& segment(uint32_t index) const { return const_cast<DriveLog*>(this)->segment(index); }
  // Whether what an index entry points to is still this drive's: not of a use that was given up unread, nor of a drive
  // that was here before, which may have been larger.
  bool stands(uint64_t index, uint8_t use) const { return index < segments_.size() && segments_[index].use == use; }
  const std::vector<Segment>& segments() const { return segments_; }
  uint64_t waiting_bytes() const { return waiting_bytes_; }
  // Of all segments that are not free, but one.
  OldestBirths oldest_births(uint32_t but_not = UINT32_MAX) const;
  uint32_t heads_most() const;
  uint64_t next_generation() const { return next_generation_; }

  LogCounters counters;
  Ghosts ghosts;
  uint64_t evicted_sequence = 0;    // the youngest block that was evicted from here
  uint64_t forgotten_sequence = 0;  // the youngest tombstone that was given up here
  // The youngest word that is no longer here, whatever took it, and that nothing here supersedes: a drive that did not
  // hear it must not be believed.
  uint64_t given_up_sequence = 0;
  void give_up(uint64_t sequence) { given_up_sequence = given_up_sequence > sequence ? given_up_sequence : sequence; }

 private:
  friend class AppendOp;
  // Free segments that only what makes room may open.
  static constexpr uint64_t kFreeKept = 1;
  class HeaderWrite;
  class SummaryWrite;
  class Wipe;
  class Flush;
  // Where one tenant's records go.
  struct Head {
    uint32_t owner = format::kSharedOwner;
    uint8_t placement = 0;
    std::deque<uint32_t> open;  // front: being filled; behind it the next, opened early
    std::deque<AppendOp*> making_room, deletes, waiting;
    uint64_t share_bytes = 0;  // what it may still place in this round
  };

  Head& head_for(uint32_t tenant);
  Head& head_for_tombstones(uint32_t tenant);
  uint64_t youngest_used(uint32_t owner) const;
  void enqueue(Head& head, AppendOp& op, uint32_t tenant);
  void uncount(const AppendOp& op);  // it waits no longer
  std::deque<AppendOp*>* next_queue(Head& head);
  bool place_next(Head& head);
  void serve_heads();
  bool has_room(const Segment& segment, uint64_t pages, uint64_t entries) const;
  void place(Head& head, AppendOp& op, uint64_t pages);
  void retire_front(Head& head);

  void written(AppendOp& op, int error);
  void start_flush();
  void flushed(std::vector<AppendOp*> covered, int error);
  void settle(AppendOp& op, Status status);
  void check_counts() const;
  void try_again();
  uint32_t writes_at_once() const { return !on_probation_ ? writes_most_ : opening_ == nullptr ? 1 : 0; }

  void refuse_the_stuck();
  void open_where_needed(uint64_t next_sequence);
  bool may_open(const Head& head) const;
  void open_next(Head& head, uint64_t next_sequence);
  void fill_header(format::SegmentHeader& header, uint32_t segment) const;
  void header_written(uint32_t segment, int error);
  void seal_ready();
  void summary_written(uint32_t segment, int error);
  void insert_sealed(uint32_t segment);
  void wiped(uint32_t segment, int error);

  std::unique_ptr<Drive> drive_;
  format::Superblock superblock_;
  uint8_t number_;
  const Clock& clock_;
  uint32_t writes_most_;
  DriveState state_ = DriveState::loading;
  std::string why_failed_;
  uint32_t write_errors_in_a_row_ = 0, read_errors_in_a_row_ = 0;
  // After its writes failed: what it was before, when it is tried again, and whether that is under way.
  DriveState before_ = DriveState::serving;
  bool rests_ = false, on_probation_ = false;
  uint64_t retry_at_ms_ = 0, retry_ms_ = 0;

  std::vector<Segment> segments_;
  std::deque<uint32_t> free_;    // in the order they will be used
  std::deque<uint32_t> sealed_;  // oldest first
  std::vector<uint32_t> sealing_;
  uint32_t wiping_ = 0;
  bool discards_ = false;              // the drive is told what nobody wants any more
  std::map<uint32_t, Head> heads_;     // by owner
  std::map<uint32_t, uint64_t> used_;  // the generation of the youngest segment with a record in it, by owner
  uint32_t next_head_ = 0;             // the owner whose turn it is
  Head* opening_ = nullptr;
  uint64_t next_generation_ = 1;
  uint64_t segment_pages_;
  uint8_t first_use_ = 0;

  uint64_t waiting_bytes_ = 0;
  uint32_t writes_ = 0;
  std::vector<AppendOp*> unflushed_;
  bool flushing_ = false;
};

// The pages of a sealed segment's summary, footer last: they go to the end of the segment.
std::unique_ptr<Pages> build_summary(const format::Superblock& superblock, uint32_t index, const Segment& segment,
                                     const std::vector<format::SummaryEntry>& entries);

// One I/O that is waited for on the spot; for formatting, identifying and closing, not for the data path.
int transfer_now(Drive& drive, IoKind kind, uint64_t offset, std::byte* memory, uint64_t bytes);

}  // namespace cairn
