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
  // Nothing on the drive may go for now, so whoever waits for room there is told that there is none.
  bool jammed() const { return jammed_; }
  // A lease ended: what had to stay may go.
  void lease_ended() {
    passed_over_.clear();
    jammed_ = false;
  }
  bool idle() const { return stage_ == Stage::idle && moves_.empty() && carrying_ == 0; }

  bool moves_to(const DriveLog& log) const;

 private:
  friend class LogStore::MoveJob;
  class Carry;
  static constexpr uint32_t kPressureMost = 3;  // from there on nobody's share is protected
  static constexpr uint64_t kYieldPart = 4;     // of a segment: what giving it up has to free
  static constexpr uint64_t kInUse = 2;         // segments of a full drive that are being filled, or kept to make room
  static_assert(kInUse < format::kSegmentsLeast, "the smallest drive has no segments to share out");
  enum class Stage : uint8_t { idle, reading, weighing, walking, settling };
  // A segment in which too much has to stay: to move that would free next to nothing, and never end.
  struct PassedOver {
    uint64_t generation = 0;
    uint32_t pressure = 0;  // … as long as those within their shares are protected so well
    uint64_t until_ms = 0;
  };

  // Which segment goes next; false: none.
  bool choose(uint32_t& segment);
  bool choose_for_room(uint32_t& segment);
  bool choose_of(uint32_t owner, uint32_t& segment) const;
  bool choose_shared(uint32_t& segment);
  bool may_choose(uint32_t index, uint32_t pressure) const;
  bool choose_any(uint32_t& segment) const;
  bool choose_to_drain(uint32_t& segment);
  void begin(uint32_t segment);
  void weigh();
  bool stays(const BlockId& id, const Index::Entry& head, uint64_t bytes, std::map<uint32_t, uint64_t>& spare) const;
  uint64_t spare_of(uint32_t tenant) const;
  void walk();
  // False: not now, try the same entry again.
  bool judge(const format::SummaryEntry& entry);
  bool move(const format::SummaryEntry& entry, const Index::Entry& live, bool must);
  bool may_reinsert(uint64_t bytes);
  void note_shares(uint32_t pressure);
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
  OldestBirths oldest_;  // of a block in other segments
  // What tenants hold beyond what they keep of their shares, and may lose; and whether they keep any.
  std::map<uint32_t, uint64_t> spare_, weighed_spare_;
  bool protects_ = false;
  std::map<uint32_t, PassedOver> passed_over_;  // by segment
  bool jammed_ = false;
  uint32_t pressure_ = 0;                   // how much less those within their shares are protected: halved so often
  uint64_t put_bytes_before_ = UINT64_MAX;  // when open segments were last sealed to be given up
  uint64_t stays_bytes_ = 0;                // what has to be moved out of the segment
  uint64_t spent_bytes_ = 0;                // of the budget for reinsertion
  uint64_t retry_ms_ = 0;                   // after a walk that could not end
  uint32_t failures_ = 0;                   // such walks, one after another
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
