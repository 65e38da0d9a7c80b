// Reads what a drive holds in the background, slowly, so that damage is found before somebody asks; keeps the drive's
// state page: how far it came, what was written in the drive's life; and asks the drive for a page every second, so
// that one that vanished is noticed although nobody wants anything of it. Reactor thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "store/jobs.h"

namespace cairn {

class LogStore::Scrubber final : public RecordRead::Owner {
 public:
  Scrubber(LogStore& store, DriveLog& log);
  ~Scrubber();

  void poll();
  void stop() { stopped_ = true; }
  bool idle() const;
  void tell(DriveStats& stats) const;

 private:
  class StatePage;
  enum class Stage : uint8_t { idle, summary, records };

  void record_read(RecordRead& read, Status status) override;
  void beat();
  void read_state();
  void write_state();
  bool next_segment();
  void next_record();
  bool may_read(uint64_t bytes);

  LogStore& store_;
  DriveLog& log_;
  bool stopped_ = false;
  format::State state_;
  std::unique_ptr<StatePage> pages_[2];  // as they were read; then the one being written
  std::unique_ptr<StatePage> beat_;
  uint64_t beat_ns_ = 0;
  bool state_known_ = false;
  uint64_t state_written_ns_ = 0;
  uint64_t written_before_ = 0, put_before_ = 0;  // of earlier lives

  Stage stage_ = Stage::idle;
  uint32_t segment_ = 0;
  uint64_t generation_ = 0;
  std::unique_ptr<SegmentRead> summary_;
  std::vector<format::SummaryEntry> entries_;
  size_t next_ = 0;
  std::unique_ptr<RecordRead> read_;
  bool reading_ = false;
  BlockId reading_id_;
  int64_t allowance_bytes_ = 0;  // below 0: read ahead of it
  uint64_t allowance_ns_ = 0;
  uint64_t scrubbed_bytes_ = 0, errors_ = 0;
};

}  // namespace cairn
