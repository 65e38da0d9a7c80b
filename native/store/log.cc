#include "store/log.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/entropy.h"

namespace cairn {

using format::kPageBytes;
using format::Page;

namespace {

// A drive that fails this many writes in a row takes no more of them.
constexpr uint32_t kErrorsMost = 3;

}  // namespace

Pages::Pages(uint64_t pages)
    : bytes_(pages * kPageBytes), memory_(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, bytes_))) {
  CAIRN_CHECK(memory_ != nullptr, "no memory for metadata pages");
  std::memset(memory_.get(), 0, bytes_);
}

// --- requests of the log's own ---------------------------------------------------------------------------

// Each deletes itself when it is completed.
class DriveLog::HeaderWrite final : public IoRequest {
 public:
  HeaderWrite(DriveLog& log, uint32_t segment) : log_(log), segment_(segment), memory_(1) {
    kind = IoKind::write;
    offset = log.offset_of(segment, 0);
    bytes = kPageBytes;
    vector_ = {memory_.data(), kPageBytes};
    vectors = &vector_;
    vector_count = 1;
  }
  Page<format::SegmentHeader>& page() { return *reinterpret_cast<Page<format::SegmentHeader>*>(memory_.data()); }
  void completed(int error) override {
    // The header has to survive before records behind it may be acknowledged, and before the next segment is
    // overwritten: a tombstone must not vanish for good while what it deleted comes back.
    if (error == 0 && kind == IoKind::write && log_.drive_->info().volatile_write_cache) {
      kind = IoKind::flush;
      vector_count = 0;
      bytes = 0;
      ++log_.counters.flushes;
      return log_.drive_->submit(*this);
    }
    log_.header_written(segment_, error);
    delete this;
  }

 private:
  DriveLog& log_;
  uint32_t segment_;
  Pages memory_;
  iovec vector_{};
};

class DriveLog::SummaryWrite final : public IoRequest {
 public:
  SummaryWrite(DriveLog& log, uint32_t segment, std::unique_ptr<Pages> memory)
      : log_(log), segment_(segment), memory_(std::move(memory)) {
    kind = IoKind::write;
    bytes = memory_->bytes();
    offset = log.offset_of(segment, static_cast<uint32_t>(log.segment_pages_ - bytes / kPageBytes));
    vector_ = {memory_->data(), bytes};
    vectors = &vector_;
    vector_count = 1;
  }
  void completed(int error) override {
    log_.summary_written(segment_, error);
    delete this;
  }

 private:
  DriveLog& log_;
  uint32_t segment_;
  std::unique_ptr<Pages> memory_;
  iovec vector_{};
};

class DriveLog::Flush final : public IoRequest {
 public:
  Flush(DriveLog& log, std::vector<AppendOp*> covered) : log_(log), covered_(std::move(covered)) {
    kind = IoKind::flush;
  }
  void completed(int error) override {
    log_.flushed(std::move(covered_), error);
    delete this;
  }

 private:
  DriveLog& log_;
  std::vector<AppendOp*> covered_;
};

// --- life ------------------------------------------------------------------------------------------------

DriveLog::DriveLog(std::unique_ptr<Drive> drive, const format::Superblock& superblock, uint8_t number,
                   const Clock& clock, uint32_t writes_most)
    : drive_(std::move(drive)),
      superblock_(superblock),
      number_(number),
      clock_(clock),
      writes_most_(writes_most),
      segments_(superblock.segment_count),
      segment_pages_(superblock.segment_bytes / kPageBytes) {}

DriveLog::~DriveLog() {
  while (drive_->in_flight() > 0) drive_->wait(1000);
}

void DriveLog::adopt(uint32_t index, const Segment& segment) {
  CAIRN_CHECK(segment.state == SegmentState::free || segment.state == SegmentState::sealed,
              "a segment is recovered in use");
  segments_[index] = segment;
}

void DriveLog::begin(uint64_t next_generation, bool read_only) {
  CAIRN_CHECK(free_.empty() && sealed_.empty() && open_.empty(), "a log begins twice");
  next_generation_ = next_generation;
  read_only_ = read_only;
  for (uint32_t i = 0; i < segments_.size(); ++i) {
    CAIRN_CHECK(segments_[i].generation < next_generation, "a segment is younger than the next one");
    if (segments_[i].state == SegmentState::sealed) {
      sealed_.push_back(i);
    } else {
      free_.push_back(i);
    }
  }
  std::sort(sealed_.begin(), sealed_.end(),
            [&](uint32_t a, uint32_t b) { return segments_[a].generation < segments_[b].generation; });
}

uint64_t DriveLog::oldest_sequence() const {
  // Records are placed in the order of their numbers, so the oldest segment that holds any holds the smallest.
  const Segment* oldest = nullptr;
  for (const Segment& segment : segments_) {
    if (segment.state == SegmentState::free || segment.oldest_sequence == 0) continue;
    if (oldest == nullptr || segment.generation < oldest->generation) oldest = &segment;
  }
  return oldest == nullptr || oldest->generation <= 1 ? 0 : oldest->oldest_sequence;
}

// --- appending -------------------------------------------------------------------------------------------

void DriveLog::append(AppendOp& op) {
  op.log_ = this;
  waiting_.push_back(&op);
}

bool DriveLog::has_room(const Segment& segment, uint64_t pages, uint64_t entries) const {
  return segment.next_page + pages + format::summary_pages(segment.entries.size() + entries) <= segment_pages_;
}

void DriveLog::poll(uint64_t next_sequence) {
  if (!writable()) fail_waiting(failed_ ? Status::io_error : Status::read_only);
  while (!waiting_.empty() && writes_ < writes_most_ && !open_.empty()) {
    AppendOp& op = *waiting_.front();
    const uint64_t pages = format::record_pages(op.header->body.length);
    const uint64_t entries = op.header->body.type == format::RecordType::block ? 1 : op.dead.size();
    Segment& segment = segments_[open_.front()];
    if (!has_room(segment, pages, entries)) {
      CAIRN_CHECK(segment.next_page > 1, "a record is larger than a segment");
      segment.state = SegmentState::sealing;
      sealing_.push_back(open_.front());
      open_.pop_front();
      continue;
    }
    waiting_.pop_front();
    place(op, pages);
  }
  // The next segment is opened before it is needed, so that nobody waits for it.
  const bool half_full = open_.size() == 1 && segments_[open_.front()].next_page > segment_pages_ / 2;
  if (writable() && !opening_ && (half_full || (open_.empty() && !waiting_.empty()))) open_next(next_sequence);
  seal_ready();
  start_flush();
  drive_->poll();
  start_flush();
  seal_ready();
}

void DriveLog::place(AppendOp& op, uint64_t pages) {
  const uint32_t index = open_.front();
  Segment& segment = segments_[index];
  format::RecordHeader& header = op.header->body;
  CAIRN_CHECK(header.sequence >= segment.first_sequence, "a record is older than its segment");
  header.segment = index;
  header.page = segment.next_page;
  header.generation = segment.generation;
  header.nonce = segment.nonce;
  op.header->seal();
  op.at = {index, segment.next_page, segment.generation, segment.first_sequence};
  segment.next_page += static_cast<uint32_t>(pages);
  segment.last_sequence = std::max(segment.last_sequence, header.sequence);
  if (segment.oldest_sequence == 0) segment.oldest_sequence = header.sequence;
  ++segment.writes;
  ++writes_;

  format::SummaryEntry entry = format::entry_of(header);
  if (header.type == format::RecordType::block) {
    segment.entries.push_back(entry);
  } else {
    for (const format::Tombstone& dead : op.dead) {
      entry.key = dead.key;
      entry.layout = dead.layout;
      entry.tenant = dead.tenant;
      segment.entries.push_back(entry);
    }
  }
  op.kind = IoKind::write;
  op.offset = offset_of(index, header.page);
  op.bytes = pages * kPageBytes;
  op.vectors_.clear();
  op.vectors_.push_back({op.header, kPageBytes});
  if (op.payload) {
    op.payload.slice(0, (pages - 1) * kPageBytes, op.vectors_);
  } else {
    op.vectors_.push_back({op.tombstones->data(), op.tombstones->bytes()});
  }
  op.vectors = op.vectors_.data();
  op.vector_count = static_cast<uint32_t>(op.vectors_.size());
  ++counters.writes;
  counters.written_bytes += op.bytes;
  drive_->submit(op);
  op.placed();
}

void AppendOp::completed(int error) {
  log_->written(*this, error);
}

void DriveLog::note_write(int error) {
  if (error == 0) {
    errors_in_a_row_ = 0;
    return;
  }
  ++counters.write_errors;
  if (++errors_in_a_row_ >= kErrorsMost || error == ENODEV || error == ENXIO) failed_ = true;
}

void DriveLog::written(AppendOp& op, int error) {
  --writes_;
  note_write(error);
  if (error != 0) return settle(op, Status::io_error);
  if (!drive_->info().volatile_write_cache) return settle(op, Status::ok);
  unflushed_.push_back(&op);
}

void DriveLog::start_flush() {
  if (flushing_ || unflushed_.empty()) return;
  flushing_ = true;
  ++counters.flushes;
  drive_->submit(*new Flush(*this, std::exchange(unflushed_, {})));
}

void DriveLog::flushed(std::vector<AppendOp*> covered, int error) {
  flushing_ = false;
  note_write(error);
  for (AppendOp* op : covered) settle(*op, error == 0 ? Status::ok : Status::io_error);
}

void DriveLog::settle(AppendOp& op, Status status) {
  Segment& segment = segments_[op.at.segment];
  CAIRN_CHECK(segment.writes > 0 && segment.generation == op.at.generation, "a segment was re-used under a write");
  --segment.writes;
  if (status != Status::ok) {
    std::erase_if(segment.entries, [&](const format::SummaryEntry& entry) { return entry.page == op.at.page; });
  }
  op.settled(status);
}

void DriveLog::fail_waiting(Status status) {
  std::deque<AppendOp*> failed;
  failed.swap(waiting_);
  for (AppendOp* op : failed) op->settled(status);
}

// --- segments --------------------------------------------------------------------------------------------

bool DriveLog::evict_oldest() {
  if (sealed_.empty()) return false;
  const uint32_t index = sealed_.front();
  sealed_.pop_front();
  Segment& segment = segments_[index];
  CAIRN_CHECK(segment.writes == 0 && segment.state == SegmentState::sealed, "a segment in use is evicted");
  ++counters.evicted_segments;
  counters.evicted_blocks += segment.blocks;
  // Index entries that point here are stale from now on.
  segment.state = SegmentState::free;
  ++segment.use;
  segment.blocks = segment.payload_bytes = 0;
  free_.push_back(index);
  return true;
}

void DriveLog::open_next(uint64_t next_sequence) {
  if (free_.empty() && !evict_oldest()) return;  // everything is being sealed: soon
  const uint32_t index = free_.front();
  free_.pop_front();
  Segment& segment = segments_[index];
  const uint16_t use = segment.use;
  segment = Segment{};
  segment.use = use;
  segment.state = SegmentState::opening;
  segment.generation = next_generation_++;
  segment.nonce = entropy<uint64_t>();
  // Records that wait have their numbers already; nothing placed here later has a smaller one.
  if (!waiting_.empty()) next_sequence = std::min(next_sequence, waiting_.front()->header->body.sequence);
  segment.first_sequence = segment.last_sequence = next_sequence;
  opening_ = true;
  auto* write = new HeaderWrite(*this, index);
  format::SegmentHeader& header = write->page().body;
  header = format::SegmentHeader{};
  header.drive = superblock_.drive;
  header.index = index;
  header.generation = segment.generation;
  header.nonce = segment.nonce;
  header.first_sequence = next_sequence;
  header.opened_unix_ms = clock_.unix_ms();
  write->page().seal();
  ++counters.writes;
  counters.written_bytes += kPageBytes;
  drive_->submit(*write);
}

void DriveLog::header_written(uint32_t index, int error) {
  opening_ = false;
  note_write(error);
  if (error == 0) {
    segments_[index].state = SegmentState::open;
    open_.push_back(index);
    return;
  }
  segments_[index].state = SegmentState::free;
  free_.push_front(index);  // the order of re-use is the order of age: it stays first
}

void DriveLog::seal_ready() {
  for (size_t i = 0; i < sealing_.size();) {
    const uint32_t index = sealing_[i];
    Segment& segment = segments_[index];
    if (segment.writes > 0) {
      ++i;
      continue;
    }
    sealing_.erase(sealing_.begin() + static_cast<long>(i));
    auto* write = new SummaryWrite(*this, index, build_summary(superblock_, index, segment, segment.entries));
    ++counters.writes;
    counters.written_bytes += write->bytes;
    drive_->submit(*write);
  }
}

void DriveLog::summary_written(uint32_t index, int error) {
  // Without its summary the segment is scanned at the next start; it serves as well as any other.
  note_write(error);
  Segment& segment = segments_[index];
  segment.state = SegmentState::sealed;
  segment.entries = {};
  const auto at =
      std::upper_bound(sealed_.begin(), sealed_.end(), segment.generation,
                       [&](uint64_t generation, uint32_t other) { return generation < segments_[other].generation; });
  sealed_.insert(at, index);
}

void DriveLog::close(uint64_t next_sequence) {
  const auto settle_down = [&] {
    while (!idle() || !sealing_.empty()) {
      poll(next_sequence);
      drive_->wait(100);
    }
  };
  settle_down();
  if (!writable()) return;
  for (const uint32_t index : open_) {
    if (segments_[index].entries.empty()) continue;
    segments_[index].state = SegmentState::sealing;
    sealing_.push_back(index);
  }
  open_.clear();
  settle_down();
  if (drive_->info().volatile_write_cache) (void)transfer_now(*drive_, IoKind::flush, 0, nullptr, 0);
}

std::unique_ptr<Pages> build_summary(const format::Superblock& superblock, uint32_t index, const Segment& segment,
                                     const std::vector<format::SummaryEntry>& entries) {
  const uint64_t pages = format::summary_pages(entries.size());
  auto memory = std::make_unique<Pages>(pages);
  const uint64_t bytes = entries.size() * sizeof(format::SummaryEntry);
  if (bytes > 0) std::memcpy(memory->data(), entries.data(), bytes);
  auto* page = new (memory->data() + (pages - 1) * kPageBytes) Page<format::Footer>{};
  format::Footer& footer = page->body;
  footer.summary_crc = crc32c({memory->data(), bytes});
  footer.drive = superblock.drive;
  footer.index = index;
  footer.generation = segment.generation;
  footer.nonce = segment.nonce;
  footer.entry_count = entries.size();
  footer.summary_page = superblock.segment_bytes / kPageBytes - pages;
  footer.first_sequence = segment.first_sequence;
  footer.last_sequence = segment.last_sequence;
  page->seal();
  return memory;
}

// --- one I/O at a time -----------------------------------------------------------------------------------

int transfer_now(Drive& drive, IoKind kind, uint64_t offset, std::byte* memory, uint64_t bytes) {
  class Once final : public IoRequest {
   public:
    void completed(int error) override {
      done = true;
      result = error;
    }
    bool done = false;
    int result = 0;
  } once;
  const iovec vector{memory, bytes};
  once.kind = kind;
  if (kind != IoKind::flush) {
    once.offset = offset;
    once.vectors = &vector;
    once.vector_count = 1;
    once.bytes = bytes;
  }
  drive.submit(once);
  while (!once.done) drive.wait(1000);
  return once.result;
}

}  // namespace cairn
