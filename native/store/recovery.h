// Reading a drive: its superblock, and what proves that a page is what it says it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "drive/drive.h"
#include "store/format.h"
#include "store/segment.h"

namespace cairn {

// The superblock, from whichever copy is intact. The Error names the path, the cause and what to do, and has a status
// of wire/status.h: drive_foreign, drive_newer, drive_smaller, drive_damaged.
Result<format::Superblock> read_superblock(Drive& drive);
// Writes both copies and flushes.
Result<Unit> write_superblock(Drive& drive, const format::Superblock& superblock);
// Whether the first MiB is all zero.
Result<bool> is_blank(Drive& drive);

// A header that says it belongs here: magic, checksum, version, drive, index.
bool header_is_good(const format::Page<format::SegmentHeader>& page, const format::Superblock& superblock,
                    uint64_t index);
// … or one that says that the segment here was given up.
bool freed_is_good(const format::Page<format::SegmentHeader>& page, const format::Superblock& superblock,
                   uint64_t index);
bool record_belongs(const format::Page<format::RecordHeader>& page, uint64_t index, const Segment& segment,
                    uint64_t at_page);
// Every chunk of a record's payload against its checksum.
bool payload_is_good(const format::RecordHeader& header, ConstByteSpan payload);
// The tombstones in a record's payload, whatever its version.
std::vector<format::Tombstone> tombstones_in(const format::RecordHeader& header, ConstByteSpan payload);

std::string uuid_text(const format::Uuid& uuid);

// A read at the start is tried so often before its page counts as unreadable: what lies there may be a delete.
inline constexpr int kReadTries = 4;
// Whether another try may end otherwise: not on a drive that is gone, or that takes its time for every answer.
bool worth_another_try(int error);
// So many pages in a row that cannot be read, and the rest of their segment is not tried. Fewer where every answer
// takes the drive's whole time limit, none more from a drive that is gone.
inline constexpr uint32_t kBadPagesMost = 256;
inline constexpr uint32_t kLatePagesMost = 4;

// Told of what a scan meets, in order.
class RecordVisitor {
 public:
  virtual void record(const format::RecordHeader& header, bool payload_good, ConstByteSpan payload) = 0;
  // Pages [first, first + count) hold nothing of this generation.
  virtual void hole(uint64_t first, uint64_t count) = 0;
  virtual void unreadable(uint64_t first, uint64_t count) = 0;

 protected:
  ~RecordVisitor() = default;
};

// Reads one segment record by record, a window at a time; every payload is checked, because a torn record must not be
// taken for a block. The drive's poll() carries it on. Lives until done().
class SegmentScan final : private IoRequest {
 public:
  // All references outlive the scan.
  SegmentScan(Drive& drive, const format::Superblock& superblock, uint32_t index, const Segment& segment,
              uint64_t end_page, RecordVisitor& visitor);
  void start() { go_on(); }
  bool done() const { return done_; }
  bool read_anything() const { return read_anything_; }
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  void completed(int error) override;
  void unreadable(int error);
  void go_on();
  bool look_at_page();
  bool holds(uint64_t count) const { return page_ >= from_ && page_ + count <= from_ + have_; }
  void fetch(uint64_t least);
  void send(uint64_t count);
  const std::byte* at_page() const {
    CAIRN_CHECK(holds(1), "a page is looked at that was not read");
    return memory_->data() + (page_ - from_) * format::kPageBytes;
  }

  Drive& drive_;
  uint32_t index_;
  Segment segment_;
  uint64_t base_, end_page_;
  RecordVisitor& visitor_;
  uint64_t page_ = 1;
  uint64_t from_ = 0, have_ = 0;  // the window, in pages
  uint64_t asked_ = 0, least_ = 0;
  int tries_left_ = 0;  // of the least that was wanted
  uint32_t bad_pages_in_a_row_ = 0;
  bool read_anything_ = false;
  uint64_t bytes_read_ = 0;
  std::unique_ptr<Pages> memory_;
  iovec vector_{};
  bool waiting_ = false, done_ = false;
};

}  // namespace cairn
