// Making room on one drive: chooses the segment to give up, reads what is in it, drops the blocks, moves those that
// stay, carries tombstones on that are still needed, and frees it. The same walk drains a drive. Reactor thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "store/jobs.h"

namespace cairn {

class LogStore::Evictor {
 public:
  Evictor(LogStore& store, DriveLog& log) : store_(store), log_(log) {}
  ~Evictor() {
    CAIRN_CHECK(moves_.empty(), "an evictor ends with blocks on their way");
    CAIRN_CHECK(carrying_ == 0, "an evictor ends with deletes on their way");
  }

  void poll();
  // Begins nothing new.
  void stop() { stopped_ = true; }
  bool idle() const { return stage_ == Stage::idle && moves_.empty() && carrying_ == 0; }

  bool moves_to(const DriveLog& log) const;
  // Whether this drive holds sealed blocks of the tenant that were not tried yet; then one segment of them is next.
  bool squeeze(uint32_t tenant);
  bool squeezing(uint32_t tenant) const {
    return wanted_tenant_ == tenant || (stage_ != Stage::idle && only_ == tenant);
  }

 private:
  friend class LogStore::MoveJob;
  class Carry;
  enum class Stage : uint8_t { idle, reading, walking, settling };
  static constexpr uint64_t kNobody = UINT64_MAX;

  // Which segment goes next; false: none.
  bool choose(uint32_t& segment);
  bool choose_for_room(uint32_t& segment);
  bool choose_of(uint64_t owner, uint32_t& segment) const;
  bool choose_any(uint32_t& segment) const;
  bool choose_to_drain(uint32_t& segment);
  void begin(uint32_t segment);
  void walk();
  // False: not now, try the same entry again.
  bool judge(const format::SummaryEntry& entry);
  bool move(const format::SummaryEntry& entry, const Index::Entry& live, bool must);
  bool may_reinsert(uint64_t bytes);
  void bury_again(const format::SummaryEntry& entry);
  void note_oldest();
  bool still_needed(const format::Tombstone& tombstone) const;
  void carry();
  void moved(MoveJob& job, bool kept);
  void keep();
  void finish();
  // Between two walks, and at the end of one.
  void check_still(Stage stage) const {
    CAIRN_CHECK(stage_ == stage, "a walk begins before another ended, or ends before it was made");
    CAIRN_CHECK(moves_.empty(), "a walk begins or ends with blocks on their way");
    CAIRN_CHECK(carrying_ == 0, "a walk begins or ends with deletes on their way");
    CAIRN_CHECK(read_ == nullptr, "a walk begins or ends while its segment is being read");
  }
  // From the beginning of a walk to its end.
  void check_walk() const {
    CAIRN_CHECK(log_.segment(segment_).state == SegmentState::evicting, "a segment is emptied that is not given up");
    CAIRN_CHECK(next_ <= entries_.size(), "more of a segment was met than is in it");
  }

  LogStore& store_;
  DriveLog& log_;
  Stage stage_ = Stage::idle;
  bool stopped_ = false;
  uint64_t wanted_tenant_ = kNobody;  // who is to give up blocks
  uint64_t only_ = kNobody;           // … and whose alone are dropped in this walk
  bool draining_ = false;
  bool whole_ = true;   // everything in the segment was met
  bool stuck_ = false;  // a block that has to stay could not be moved
  uint32_t segment_ = 0;
  uint32_t owner_ = 0;  // of the segment
  std::unique_ptr<SegmentRead> read_;
  std::vector<format::SummaryEntry> entries_;
  size_t next_ = 0;
  std::list<std::unique_ptr<MoveJob>> moves_;
  std::map<uint32_t, std::vector<format::Tombstone>> carried_;  // by tenant
  size_t carrying_ = 0;
  bool carry_failed_ = false;
  uint64_t forgotten_ = 0;
  OldestBirths oldest_;                  // of a block in other segments
  std::map<uint64_t, uint64_t> tried_;   // shared segments walked for a tenant, up to this generation
  std::map<uint32_t, uint64_t> futile_;  // tenants that had nothing to give, and until when they are not asked
  uint64_t held_before_ = 0;             // by the tenant that gives up blocks, when the walk began
  uint64_t spent_bytes_ = 0;             // of the budget for reinsertion
  uint64_t retry_ms_ = 0;                // after a walk that could not end
  uint32_t failures_ = 0;                // such walks, one after another
};

// One record on its way from a segment that is given up to one that stays.
class LogStore::MoveJob final : public RecordRead::Owner, public AppendOp {
 public:
  MoveJob(Evictor& evictor, const BlockId& block, const Index::Entry& entry, DriveLog& target, Buffer memory,
          const RecordRead::Expected& expected);
  void start();
  void placed() override {}
  void settled(Status status) override;

  BlockId id;
  uint8_t part;
  uint64_t birth;
  Place from;
  DriveLog& to;
  std::list<std::unique_ptr<MoveJob>>::iterator self;

 private:
  void record_read(RecordRead& read, Status status) override;
  void check_begun() const {
    CAIRN_CHECK(static_cast<bool>(buffer_), "a block is moved through no memory");
    CAIRN_CHECK(from.segment == evictor_.segment_, "a block is moved out of a segment that stays");
    CAIRN_CHECK(birth > 0, "a block is moved that was never put");
  }
  void check_read(const RecordRead& read) const {
    CAIRN_CHECK(&read == &read_, "a block is moved with the record of another");
    CAIRN_CHECK(header == nullptr, "a block is moved twice with one reading");
  }
  void check_verified(const format::RecordHeader& record) const {
    CAIRN_CHECK(record.length == bytes_, "a record that was verified is of another length");
    CAIRN_CHECK(record.key == id.key, "a record that was verified is of another key");
    CAIRN_CHECK(record.tenant == id.tenant, "a record that was verified is of another tenant");
  }

  Evictor& evictor_;
  Buffer buffer_;
  uint64_t bytes_;
  Pages page_;
  RecordRead read_;
};

inline bool LogStore::Evictor::moves_to(const DriveLog& log) const {
  return std::any_of(moves_.begin(), moves_.end(), [&](const auto& job) { return &job->to == &log; });
}

}  // namespace cairn
