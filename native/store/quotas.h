// A tenant that would be over its quota gives up its own oldest blocks. They leave the index at once, and count no
// more; the room on the drives comes back when their segments are given up (store/evictor.h). Nothing but who is asked
// for room is touched, whatever state the drives are in. Reactor thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "store/jobs.h"

namespace cairn {

// One tenant's walk over the segments that hold its blocks, the oldest first.
class LogStore::Squeeze {
 public:
  Squeeze(LogStore& store, uint32_t tenant) : store_(store), tenant_(tenant) {}

  // Room for a put of that length is wanted. False: the tenant has nothing more to give, now or soon.
  bool ask(uint64_t bytes);
  void poll();
  // Nothing more is read.
  void stop() { stopped_ = true; }
  bool reading() const { return read_ != nullptr; }
  bool reads_from(const DriveLog& log) const { return read_ != nullptr && &stop_log() == &log; }

 private:
  // A segment that held blocks of the tenant when the walk began.
  struct Stop {
    uint8_t drive;
    uint32_t segment;
    uint64_t generation;
    uint64_t first_sequence;
  };
  bool satisfied() const;
  DriveLog& stop_log() const;
  bool still_there() const;
  void plan();
  // True: the next segment's entries are at hand, or there is none. False: they are being read.
  bool load();
  void judge(const format::SummaryEntry& entry);

  LogStore& store_;
  uint32_t tenant_;
  uint64_t wanted_bytes_ = 0;
  bool stopped_ = false;
  bool walking_ = false;
  bool spent_ = false;  // a whole walk did not find enough
  bool again_ = false;  // … but met blocks that may be given up soon
  uint64_t seen_ = 0;   // … and how many changes of the tenant's there had been when it began
  std::vector<Stop> stops_;
  size_t stop_ = 0;
  bool loaded_ = false;  // the entries of the present stop are at hand
  std::unique_ptr<SegmentRead> read_;
  std::vector<format::SummaryEntry> entries_;
  size_t entry_ = 0;
};

}  // namespace cairn
