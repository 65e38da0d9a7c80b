// The life of segments: opened, sealed, given up.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/entropy.h"
#include "store/log.h"

namespace cairn {

using format::kPageBytes;
using format::Page;

// --- requests of the log's own: each deletes itself when it is completed ---------------------------------------

// A segment's header goes to its first page and, so that one bad page does not lose the segment, to its last.
class DriveLog::HeaderWrite final : public IoRequest {
 public:
  HeaderWrite(DriveLog& log, uint32_t segment) : log_(log), segment_(segment), memory_(1) {
    CAIRN_CHECK(log.segment(segment).state == SegmentState::opening, "a header is written to a segment in use");
    kind = IoKind::write;
    placement = log.segments_[segment].placement;
    // The last page first: it ends what an earlier summary said of the segment.
    offset = log.offset_of(segment, static_cast<uint32_t>(log.segment_pages_ - 1));
    bytes = kPageBytes;
    vector_ = {memory_.data(), kPageBytes};
    vectors = &vector_;
    vector_count = 1;
  }
  Page<format::SegmentHeader>& page() { return *reinterpret_cast<Page<format::SegmentHeader>*>(memory_.data()); }
  void completed(int error) override {
    CAIRN_CHECK(done_ < 3, "a segment's header is answered after it was flushed");
    ++done_;
    if (error == 0 && done_ == 1) {
      offset = log_.offset_of(segment_, 0);
      ++log_.counters.writes;
      log_.counters.written_bytes += kPageBytes;
      return log_.drive_->submit(*this);
    }
    // The header has to survive before records behind it may be acknowledged, and before the next segment is
    // overwritten: a tombstone must not vanish for good while what it deleted comes back.
    if (error == 0 && done_ == 2 && log_.drive_->info().volatile_write_cache) {
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
  int done_ = 0;
  Pages memory_;
  iovec vector_{};
};

class DriveLog::SummaryWrite final : public IoRequest {
 public:
  SummaryWrite(DriveLog& log, uint32_t segment, std::unique_ptr<Pages> memory)
      : log_(log), segment_(segment), memory_(std::move(memory)) {
    kind = IoKind::write;
    placement = log.segments_[segment].placement;
    bytes = memory_->bytes();
    CAIRN_CHECK(log.segment(segment).state == SegmentState::sealing, "a summary is written to a segment that fills");
    CAIRN_CHECK(log.segment(segment).writes == 0, "a summary is written while records are");
    CAIRN_CHECK(log.segment(segment).next_page + bytes / kPageBytes <= log.segment_pages_,
                "a summary is written over the last records of its segment");
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

// Says on a segment's first and last page that it was given up: a restart finds nothing there.
class DriveLog::Wipe final : public IoRequest {
 public:
  Wipe(DriveLog& log, uint32_t segment) : log_(log), segment_(segment), memory_(1) {
    CAIRN_CHECK(log.segment(segment).state == SegmentState::wiping, "a segment is wiped that was not given up");
    kind = IoKind::write;
    bytes = kPageBytes;
    vector_ = {memory_.data(), kPageBytes};
    vectors = &vector_;
    vector_count = 1;
    offset = log.offset_of(segment, 0);
    auto* page = new (memory_.data()) Page<format::SegmentHeader>{};
    log.fill_header(page->body, segment);
    page->body.magic = format::kFreedMagic;
    page->seal();
  }
  void completed(int error) override {
    if (kind == IoKind::discard) {
      if (error == EOPNOTSUPP) log_.discards_ = false;  // it was only a hint
      log_.wiped(segment_, 0);
      delete this;
      return;
    }
    CAIRN_CHECK(done_ < 3, "a wipe is answered after it was flushed");
    ++done_;
    const bool settled = done_ == 3 || (done_ == 2 && !log_.drive_->info().volatile_write_cache);
    if (error == 0 && settled && log_.discards_) {
      // All between the two pages that say so.
      kind = IoKind::discard;
      vector_count = 0;
      offset = log_.offset_of(segment_, 1);
      bytes = (log_.segment_pages_ - 2) * kPageBytes;
      return start();
    }
    if (error != 0 || settled) {
      log_.wiped(segment_, error);
      delete this;
      return;
    }
    if (done_ == 1) {
      offset = log_.offset_of(segment_, static_cast<uint32_t>(log_.segment_pages_ - 1));
    } else {
      kind = IoKind::flush;
      vector_count = 0;
      bytes = 0;
    }
    start();
  }
  void start() {
    log_.counters.writes += kind == IoKind::write ? 1 : 0;
    log_.counters.flushes += kind == IoKind::flush ? 1 : 0;
    log_.counters.written_bytes += kind == IoKind::write ? bytes : 0;
    log_.counters.discarded_bytes += kind == IoKind::discard ? bytes : 0;
    log_.drive_->submit(*this);
  }

 private:
  DriveLog& log_;
  uint32_t segment_;
  int done_ = 0;
  Pages memory_;
  iovec vector_{};
};

// --- loading ---------------------------------------------------------------------------------------------

void DriveLog::adopt(uint32_t index, const Segment& segment) {
  CAIRN_CHECK(segment.state == SegmentState::free || segment.state == SegmentState::sealed,
              "a segment is recovered in use");
  CAIRN_CHECK(state_ == DriveState::loading, "a segment is recovered after its drive began to serve");
  CAIRN_CHECK(index < segments_.size(), "a segment is recovered that the drive does not have");
  CAIRN_CHECK(segments_[index].generation == 0, "a segment is recovered twice");
  CAIRN_CHECK(segment.next_page <= segment_pages_, "a segment is recovered with records beyond its end");
  CAIRN_CHECK(segment.first_sequence <= segment.last_sequence, "a segment is recovered that ends before it begins");
  const uint8_t use = segments_[index].use;
  segments_[index] = segment;
  segments_[index].use = use;
  uint64_t& youngest = used_[segment.owner];
  youngest = std::max(youngest, segment.generation);
}

void DriveLog::begin_uses(uint8_t use) {
  first_use_ = use;
  for (Segment& segment : segments_) segment.use = use;
}

uint8_t DriveLog::next_use() const {
  uint8_t most = 0;
  for (const Segment& segment : segments_) most = std::max(most, segment.use);
  return static_cast<uint8_t>(most + 1);
}

void DriveLog::distrust() {
  for (Segment& segment : segments_) {
    ++segment.use;
    segment.forget_all();
  }
  for (uint32_t i = 0; i < segments_.size(); ++i) ghosts.note(i);
}

void DriveLog::begin_spent(uint64_t next_generation) {
  why_failed_ = "its numbers are at their end: move what it holds to another drive, then format it anew";
  begin(next_generation, true);
}

void DriveLog::begin(uint64_t next_generation, bool read_only) {
  CAIRN_CHECK(free_.empty() && sealed_.empty(), "a log begins twice");
  CAIRN_CHECK(heads_.empty(), "a log is written to before it begins");
  CAIRN_CHECK(opening_ == nullptr, "a log opens a segment before it begins");
  next_generation_ = next_generation;
  if (state_ == DriveState::loading) state_ = read_only ? DriveState::read_only : DriveState::serving;
  for (uint32_t i = 0; i < segments_.size(); ++i) {
    CAIRN_CHECK(segments_[i].generation < next_generation, "a segment is younger than the next one");
    Segment& segment = segments_[i];
    const bool unsummarised = segment.state == SegmentState::sealed && !segment.summarised && !segment.entries.empty();
    if (unsummarised && state_ == DriveState::serving && has_room(segment, 0, 0)) {
      // It had to be scanned: with a summary the next start need not do that again.
      segment.state = SegmentState::sealing;
      sealing_.push_back(i);
    } else if (segment.state == SegmentState::sealed) {
      sealed_.push_back(i);
    } else {
      free_.push_back(i);
    }
  }
  const auto older = [&](uint32_t a, uint32_t b) { return segments_[a].generation < segments_[b].generation; };
  std::sort(sealed_.begin(), sealed_.end(), older);
  // Those never used go first, the others in the order of their age.
  std::stable_sort(free_.begin(), free_.end(), older);
}

// --- opening ---------------------------------------------------------------------------------------------

bool DriveLog::may_open(const Head& head) const {
  if (opening_ != nullptr || free_.empty() || head.open.size() > 1) return false;
  if (state_ != DriveState::serving && state_ != DriveState::draining) return false;
  if (head.open.empty() && !head.making_room.empty()) return true;
  if (free_.size() <= kFreeKept) return false;
  if (head.open.empty()) return !head.waiting.empty() || !head.deletes.empty();
  if (on_probation_) return writes_ == 0;  // to find out whether it can be written, without anybody's block
  // The next segment is opened before it is needed, so that nobody waits for it.
  return segments_[head.open.front()].next_page > segment_pages_ / 2;
}

void DriveLog::open_where_needed(uint64_t next_sequence) {
  // Whoever has none goes before those who have one.
  for (auto& [owner, head] : heads_) {
    if (head.open.empty() && may_open(head)) return open_next(head, next_sequence);
  }
  for (auto& [owner, head] : heads_) {
    if (may_open(head)) return open_next(head, next_sequence);
  }
}

void DriveLog::fill_header(format::SegmentHeader& header, uint32_t index) const {
  const Segment& segment = segments_[index];
  header = format::SegmentHeader{};
  header.drive = superblock_.drive;
  header.index = index;
  header.generation = segment.generation;
  header.nonce = segment.nonce;
  header.first_sequence = segment.first_sequence;
  header.opened_unix_ms = clock_.unix_ms();
  header.owner = segment.owner;
  header.placement = segment.placement;
  header.evicted_sequence = evicted_sequence;
  header.forgotten_sequence = forgotten_sequence;
  header.given_up_sequence = given_up_sequence;
}

void DriveLog::open_next(Head& head, uint64_t next_sequence) {
  CAIRN_CHECK(opening_ == nullptr, "a segment is opened before the header of the one before it is flushed");
  CAIRN_CHECK(!free_.empty(), "a segment is opened and none is free");
  const uint32_t index = free_.front();
  free_.pop_front();
  Segment& segment = segments_[index];
  CAIRN_CHECK(segment.state == SegmentState::free, "a segment in use is opened");
  CAIRN_CHECK(segment.writes == 0, "a segment is opened that is being written");
  CAIRN_CHECK(segment.pins == 0, "a segment is opened under a put that is not settled");
  CAIRN_CHECK(segment.blocks == 0, "a segment with blocks is opened");
  CAIRN_CHECK(segment.generation < next_generation_, "a segment is opened under an older number than it had");
  const uint8_t use = segment.use;
  segment = Segment{};
  segment.use = use;
  segment.state = SegmentState::opening;
  segment.owner = head.owner;
  segment.placement = head.placement;
  segment.generation = next_generation_++;
  segment.nonce = entropy<uint64_t>();
  segment.first_sequence = segment.last_sequence = next_sequence;
  opening_ = &head;
  auto* write = new HeaderWrite(*this, index);
  fill_header(write->page().body, index);
  write->page().seal();
  ++counters.writes;
  counters.written_bytes += kPageBytes;
  drive_->submit(*write);
}

void DriveLog::header_written(uint32_t index, int error) {
  CAIRN_CHECK(opening_ != nullptr, "a segment was opened for nobody");
  CAIRN_CHECK(segments_[index].state == SegmentState::opening, "a header was written to a segment in use");
  Head& head = *std::exchange(opening_, nullptr);
  note_write(error);
  if (error == 0) {
    ghosts.wiped(index);
    segments_[index].state = SegmentState::open;
    head.open.push_back(index);
    return;
  }
  segments_[index].state = SegmentState::free;
  free_.push_front(index);  // the order of re-use stays that of the freeing
}

// --- sealing ---------------------------------------------------------------------------------------------

void DriveLog::seal_open(uint32_t tenant) {
  const auto found = heads_.find(tenant);
  if (found == heads_.end() || found->second.open.empty()) return;
  if (segments_[found->second.open.front()].next_page > 1) retire_front(found->second);
}

void DriveLog::seal_all() {
  for (auto& [owner, head] : heads_) {
    while (!head.open.empty() && segments_[head.open.front()].next_page > 1) retire_front(head);
  }
}

void DriveLog::seal_ready() {
  for (size_t i = 0; i < sealing_.size();) {
    const uint32_t index = sealing_[i];
    Segment& segment = segments_[index];
    if (segment.writes > 0) {
      ++i;
      continue;
    }
    CAIRN_CHECK(segment.state == SegmentState::sealing, "a segment is sealed twice");
    sealing_.erase(sealing_.begin() + static_cast<long>(i));
    auto* write = new SummaryWrite(*this, index, build_summary(superblock_, index, segment, segment.entries));
    ++counters.writes;
    counters.written_bytes += write->bytes;
    drive_->submit(*write);
  }
}

void DriveLog::insert_sealed(uint32_t index) {
  CAIRN_CHECK(segments_[index].state == SegmentState::sealed, "a segment that is not sealed is listed as such");
  CAIRN_CHECK(segments_[index].writes == 0, "a sealed segment is still being written");
  const auto at =
      std::upper_bound(sealed_.begin(), sealed_.end(), segments_[index].generation,
                       [&](uint64_t generation, uint32_t other) { return generation < segments_[other].generation; });
  sealed_.insert(at, index);
}

void DriveLog::summary_written(uint32_t index, int error) {
  // Without its summary the segment is scanned at the next start; it serves as well as any other.
  note_write(error);
  Segment& segment = segments_[index];
  CAIRN_CHECK(segment.state == SegmentState::sealing, "a summary of a segment that is not being sealed");
  segment.state = SegmentState::sealed;
  segment.summarised = error == 0;
  if (error == 0) segment.entries = {};  // else they are all that tells what is in it
  insert_sealed(index);
}

// --- giving up -------------------------------------------------------------------------------------------

bool DriveLog::wants_room() const {
  // Before anybody writes, nothing is given up: a restart costs no block.
  if (state_ != DriveState::serving || sealed_.empty() || heads_.empty()) return false;
  return free_.size() <= kFreeKept;
}

void DriveLog::begin_evicting(uint32_t index) {
  const auto at = std::find(sealed_.begin(), sealed_.end(), index);
  CAIRN_CHECK(at != sealed_.end(), "a segment is given up that is not listed as sealed");
  CAIRN_CHECK(segments_[index].state == SegmentState::sealed, "a segment in use is given up");
  CAIRN_CHECK(segments_[index].writes == 0, "a segment is given up that is being written");
  sealed_.erase(at);
  segments_[index].state = SegmentState::evicting;
}

void DriveLog::keep(uint32_t index, bool untouched) {
  CAIRN_CHECK(segments_[index].state == SegmentState::evicting, "a segment is kept that nobody wanted to give up");
  segments_[index].state = SegmentState::sealed;
  if (!untouched) ghosts.note(index);  // what was dropped or moved meanwhile
  insert_sealed(index);
}

void DriveLog::release(uint32_t index, bool unread) {
  Segment& segment = segments_[index];
  CAIRN_CHECK(segment.state == SegmentState::evicting, "a segment is freed that was not given up");
  CAIRN_CHECK(unread || segment.blocks == 0, "a segment is freed with blocks in it");
  CAIRN_CHECK(segment.blocks > 0 || segment.payload_bytes == 0, "a segment holds bytes and no block");
  CAIRN_CHECK(segment.pins == 0, "a segment is freed under a put that is not settled");
  ++counters.evicted_segments;
  if (unread) ++segment.use;
  segment.forget_all();
  segment.entries = {};
  segment.state = SegmentState::wiping;
  ++wiping_;
  (new Wipe(*this, index))->start();
}

void DriveLog::wiped(uint32_t index, int error) {
  Segment& segment = segments_[index];
  CAIRN_CHECK(segment.state == SegmentState::wiping, "a segment was wiped that was not given up");
  CAIRN_CHECK(wiping_ > 0, "more segments were wiped than were given up");
  CAIRN_CHECK(segment.blocks == 0, "a segment was wiped with blocks in it");
  --wiping_;
  note_write(error);
  // It serves as well; but until it is used again a restart would find what lay there.
  if (error != 0) {
    ghosts.note(index);
  } else {
    ghosts.wiped(index);
  }
  segment.state = SegmentState::free;
  free_.push_back(index);
}

OldestBirths DriveLog::oldest_births(uint32_t but_not) const {
  OldestBirths oldest;
  for (uint32_t i = 0; i < segments_.size(); ++i) {
    const Segment& one = segments_[i];
    if (i != but_not && one.state != SegmentState::free) oldest.note(one.owner, one.least_birth);
  }
  return oldest;
}

void DriveLog::close(uint64_t next_sequence) {
  const auto settle_down = [&] {
    while (!idle()) {
      poll(next_sequence);
      drive_->wait(100);
    }
  };
  settle_down();
  if (!writable()) return;
  seal_all();
  settle_down();
  if (drive_->info().volatile_write_cache) (void)transfer_now(*drive_, IoKind::flush, 0, nullptr, 0);
}

std::unique_ptr<Pages> build_summary(const format::Superblock& superblock, uint32_t index, const Segment& segment,
                                     const std::vector<format::SummaryEntry>& entries) {
  CAIRN_CHECK(segment.generation > 0, "a summary of a segment that was never opened");
  CAIRN_CHECK(segment.first_sequence <= segment.last_sequence, "a summary that ends before it begins");
  const uint64_t pages = format::summary_pages(entries.size());
  CAIRN_CHECK(pages < superblock.segment_bytes / kPageBytes, "a summary is larger than its segment");
  auto memory = std::make_unique<Pages>(pages);
  const uint64_t bytes = entries.size() * sizeof(format::SummaryEntry);
  if (bytes > 0) std::memcpy(memory->data(), entries.data(), bytes);
  auto* page = new (memory->data() + (pages - 1) * kPageBytes) Page<format::Footer>{};
  format::Footer& footer = page->body;
  footer.version = segment.version;
  footer.summary_crc = crc32c({memory->data(), bytes});
  footer.drive = superblock.drive;
  footer.index = index;
  footer.generation = segment.generation;
  footer.nonce = segment.nonce;
  footer.entry_count = entries.size();
  footer.summary_page = superblock.segment_bytes / kPageBytes - pages;
  footer.first_sequence = segment.first_sequence;
  footer.last_sequence = segment.last_sequence;
  footer.owner = segment.owner;
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
