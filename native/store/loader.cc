#include "store/loader.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "store/log.h"

namespace cairn {

using format::kPageBytes;
using format::Page;

namespace {

constexpr uint32_t kProbesMost = 128;       // headers on their way
constexpr uint32_t kSegmentsMost = 32;      // summaries on their way
constexpr uint64_t kTailBytes = 64 * kKiB;  // usually holds the footer and the whole summary
static_assert(kTailBytes % kPageBytes == 0, "what is read first of a summary begins within a page");
static_assert(kTailBytes <= format::kSegmentBytesLeast / 2, "what is read first is more than a small segment");
constexpr size_t kUnreadMost = 16;  // segments in a row of which nothing can be read: the drive is at its end

// What the segment is, by its header.
Segment identity(const format::SegmentHeader& header) {
  Segment segment;
  segment.state = SegmentState::sealed;
  segment.version = static_cast<uint16_t>(header.version);
  segment.owner = header.version == 1 ? format::kSharedOwner : header.owner;
  segment.placement = header.placement;
  segment.generation = header.generation;
  segment.nonce = header.nonce;
  segment.first_sequence = segment.last_sequence = header.first_sequence;
  return segment;
}

// … or, once that is lost, by its footer.
Segment identity(const format::Footer& footer) {
  Segment segment;
  segment.state = SegmentState::sealed;
  segment.version = static_cast<uint16_t>(footer.version);
  segment.owner = footer.version == 1 ? format::kSharedOwner : footer.owner;
  segment.generation = footer.generation;
  segment.nonce = footer.nonce;
  segment.first_sequence = segment.last_sequence = footer.first_sequence;
  return segment;
}

bool footer_is_good(const Page<format::Footer>& page, const format::Superblock& superblock, uint64_t index) {
  const format::Footer& footer = page.body;
  return page.intact(format::kFooterMagic) && footer.version >= format::kVersionLeast &&
         footer.version <= format::kVersion && footer.drive == superblock.drive && footer.index == index &&
         footer.generation > 0 && footer.generation <= format::kNumberMost &&
         footer.first_sequence <= format::kNumberMost;
}

// Pages of the summary whose last page is given; 0 when it is no footer of this segment.
uint64_t summary_pages_of(const format::Superblock& superblock, uint32_t index, ConstByteSpan last_page,
                          const Segment& segment) {
  const auto& page = *reinterpret_cast<const Page<format::Footer>*>(last_page.data());
  if (!footer_is_good(page, superblock, index)) return 0;
  const format::Footer& footer = page.body;
  const uint64_t pages = superblock.segment_bytes / kPageBytes;
  if (footer.generation != segment.generation || footer.nonce != segment.nonce) return 0;
  if (footer.first_sequence > footer.last_sequence || footer.last_sequence > format::kNumberMost) return 0;
  if (footer.entry_count > superblock.segment_bytes / sizeof(format::SummaryEntry)) return 0;
  if (format::summary_pages(footer.entry_count) >= pages) return 0;
  if (footer.summary_page != pages - format::summary_pages(footer.entry_count) || footer.summary_page == 0) return 0;
  return pages - footer.summary_page;
}

// The entries of a summary that lies in `pages`, which end with the footer; false when they are not what this segment's
// should be. Sets what the footer tells of the segment.
bool parse_summary(const format::Superblock& superblock, uint32_t index, ConstByteSpan pages, Segment& segment,
                   std::vector<format::SummaryEntry>& entries) {
  CAIRN_CHECK(!pages.empty(), "a summary is taken from nothing");
  CAIRN_CHECK(pages.size() % kPageBytes == 0, "a summary is taken from a part of a page");
  const uint64_t expected = summary_pages_of(superblock, index, pages.last(kPageBytes), segment);
  if (expected == 0 || expected * kPageBytes != pages.size()) return false;
  const format::Footer& footer = reinterpret_cast<const Page<format::Footer>*>(pages.last(kPageBytes).data())->body;
  const uint64_t bytes = footer.entry_count * sizeof(format::SummaryEntry);
  if (crc32c(pages.first(bytes)) != footer.summary_crc) return false;
  entries.resize(footer.entry_count);
  if (bytes > 0) std::memcpy(entries.data(), pages.data(), bytes);
  segment.first_sequence = footer.first_sequence;
  segment.last_sequence = footer.last_sequence;
  segment.next_page = static_cast<uint32_t>(footer.summary_page);
  segment.summarised = true;
  return true;
}

// One page or stretch of pages on its way.
class PageRead : public IoRequest {
 public:
  void send(Drive& drive, uint64_t at, uint64_t length) {
    CAIRN_CHECK(done, "memory is read into twice at a time");
    CAIRN_CHECK(length % kPageBytes == 0, "a part of a page is read");
    memory = std::make_unique<Pages>(length / kPageBytes);
    kind = IoKind::read;
    offset = at;
    bytes = length;
    vector_ = {memory->data(), length};
    vectors = &vector_;
    vector_count = 1;
    done = false;
    drive_ = &drive;
    tries_left_ = kReadTries;
    drive.submit(*this);
  }
  void completed(int code) final {
    CAIRN_CHECK(!done, "a page comes that was not asked for");
    if (code != 0 && worth_another_try(code) && --tries_left_ > 0) return drive_->submit(*this);
    done = true;
    error = code;
  }
  ConstByteSpan span() const {
    CAIRN_CHECK(memory != nullptr, "what was read is looked at before it was asked for");
    CAIRN_CHECK(done, "what was read is looked at before it came");
    return {memory->data(), memory->bytes()};
  }
  const Page<format::SegmentHeader>& header() const {
    CAIRN_CHECK(memory != nullptr, "a header is looked at before it was asked for");
    CAIRN_CHECK(done, "a header is looked at before it came");
    return *reinterpret_cast<const Page<format::SegmentHeader>*>(memory->data());
  }
  std::unique_ptr<Pages> memory;
  bool done = true;
  int error = 0;

 private:
  Drive* drive_ = nullptr;
  int tries_left_ = 0;
  iovec vector_{};
};

}  // namespace

// --- requests --------------------------------------------------------------------------------------------

struct Loader::Probe {
  uint32_t index = 0;
  PageRead first, last;
  bool asked_last = false;
};

// Before a drive is believed it is flushed; once its headers say that it is ours, its superblocks are made good.
class Loader::Settle final : public IoRequest {
 public:
  Settle(Loader& loader) : loader_(loader), page_(1) {
    auto* page = new (page_.data()) Page<format::Superblock>{};
    page->body = loader.superblock_;
    page->body.version = page->body.reader_version = format::kVersion;
    page->seal();
  }
  void flush() {
    kind = IoKind::flush;
    vector_count = 0;
    bytes = 0;
    loader_.drive_.submit(*this);
  }
  void upgrade() {
    step_ = 1;
    write(0);
  }
  void completed(int code) override {
    CAIRN_CHECK(step_ <= 3, "a drive is settled in more steps than there are");
    switch (step_++) {
      case 0:
        return loader_.settled(
            code == 0 ? "" : Error::from_errno(code, "cannot flush " + loader_.drive_.info().path).message);
      case 1:
        return write(1);
      case 2:
        // Both are on the drive before anything is written that an older version could not read.
        return flush();
      default:
        // A superblock that cannot be written is no reason to stop: the other copy is good.
        return loader_.settled("");
    }
  }

 private:
  void write(int copy) {
    kind = IoKind::write;
    offset = format::kSuperblockOffsets[copy];
    vector_ = {page_.data(), kPageBytes};
    vectors = &vector_;
    vector_count = 1;
    bytes = kPageBytes;
    loader_.drive_.submit(*this);
  }

  Loader& loader_;
  Pages page_;
  int step_ = 0;  // 0: flushed; 1, 2: superblocks; 3: flushed again
  iovec vector_{};
};

class SegmentRead::Page final : public PageRead {};

// Finds the records of a segment that has no summary.
class SegmentRead::Collector final : public RecordVisitor {
 public:
  explicit Collector(FoundSegment& found) : found_(found) {}
  void record(const format::RecordHeader& header, bool payload_good, ConstByteSpan payload) override {
    if (!payload_good) {
      found_.bad_pages += format::record_pages(header.length);
      return;
    }
    found_.segment.last_sequence = std::max(found_.segment.last_sequence, header.sequence);
    found_.segment.next_page = header.page + static_cast<uint32_t>(format::record_pages(header.length));
    if (header.type == format::RecordType::block) {
      found_.entries.push_back(format::entry_of(header));
      return;
    }
    // The second copy of what was just taken says nothing new.
    if (header.part > 0 && header.page == second_copy_page_ && header.sequence == second_copy_of_) return;
    second_copy_page_ = found_.segment.next_page;
    second_copy_of_ = header.sequence;
    for (const format::Tombstone& dead : tombstones_in(header, payload))
      found_.entries.push_back(format::entry_of(header, dead));
  }
  void hole(uint64_t, uint64_t count) override { found_.bad_pages += count; }
  void unreadable(uint64_t, uint64_t count) override {
    found_.bad_pages += count;
    found_.unreadable = true;
  }

 private:
  FoundSegment& found_;
  uint64_t second_copy_page_ = 0, second_copy_of_ = 0;  // where that of the last record of tombstones should lie
};

SegmentRead::SegmentRead(Drive& drive, const format::Superblock& superblock, FoundSegment known)
    : drive_(drive),
      superblock_(superblock),
      found_(std::move(known)),
      tail_bytes_(std::min(kTailBytes, superblock.segment_bytes / 2)),
      read_(std::make_unique<Page>()),
      collector_(std::make_unique<Collector>(found_)) {
  CAIRN_CHECK(found_.index < superblock.segment_count, "a segment is read that the drive does not have");
  CAIRN_CHECK(found_.unreadable || found_.segment.generation > 0, "a segment is read of which nothing is known");
  if (found_.unreadable) {
    stage_ = Stage::done;
    return;
  }
  bytes_read_ = tail_bytes_;
  read_->send(drive_, end() - tail_bytes_, tail_bytes_);
}

SegmentRead::~SegmentRead() {
  CAIRN_CHECK(read_->done, "a segment's reader ends before its summary came");
  CAIRN_CHECK(scan_ == nullptr || scan_->done(), "a segment's reader ends before its records came");
}

void SegmentRead::poll() {
  if (stage_ == Stage::tail && read_->done) {
    const uint64_t pages =
        read_->error != 0 ? 0
                          : summary_pages_of(superblock_, found_.index, read_->span().last(kPageBytes), found_.segment);
    if (pages == 0) return scan();
    if (pages * kPageBytes <= tail_bytes_) return parse(read_->span().last(pages * kPageBytes));
    stage_ = Stage::summary;
    bytes_read_ += pages * kPageBytes;
    read_->send(drive_, end() - pages * kPageBytes, pages * kPageBytes);
  } else if (stage_ == Stage::summary && read_->done) {
    if (read_->error != 0) return scan();
    parse(read_->span());
  } else if (stage_ == Stage::scan && scan_->done()) {
    if (found_.entries.empty() && !found_.unreadable) found_.segment.state = SegmentState::free;
    found_.unread = found_.unreadable && !scan_->read_anything() ? read_->error : 0;
    stage_ = Stage::done;
  }
}

void SegmentRead::parse(ConstByteSpan pages) {
  if (!parse_summary(superblock_, found_.index, pages, found_.segment, found_.entries)) return scan();
  stage_ = Stage::done;
}

void SegmentRead::scan() {
  CAIRN_CHECK(scan_ == nullptr, "a segment is scanned twice");
  stage_ = Stage::scan;
  found_.entries.clear();
  found_.scanned = true;
  scan_ = std::make_unique<SegmentScan>(drive_, superblock_, found_.index, found_.segment,
                                        superblock_.segment_bytes / kPageBytes, *collector_);
  scan_->start();
}

// --- the course of it ------------------------------------------------------------------------------------

Loader::Loader(Drive& drive, const format::Superblock& superblock, bool writable, uint64_t void_generation, Taker take,
               Judge judge)
    : drive_(drive), superblock_(superblock), writable_(writable), take_(std::move(take)), judge_(std::move(judge)) {
  found_.void_generation = void_generation;
}

Loader::~Loader() {
  // Requests point into our probes and segments.
  while (drive_.in_flight() > 0) drive_.wait(100);
}

double Loader::share() const {
  if (phase_ < Phase::segments || !error_.empty()) return 0;
  return known_.empty() ? 1.0 : static_cast<double>(taken_) / static_cast<double>(known_.size());
}

void Loader::settled(const std::string& error) {
  CAIRN_CHECK(phase_ == Phase::settle || phase_ == Phase::upgrade, "a drive is settled after it was read");
  error_ = error;
  phase_ = !error.empty() ? Phase::done : phase_ == Phase::settle ? Phase::headers : Phase::segments;
}

void Loader::poll() {
  if (phase_ == Phase::settle && settle_ == nullptr) {
    if (!writable_) {
      phase_ = Phase::headers;
    } else {
      settle_ = std::make_unique<Settle>(*this);
      settle_->flush();
    }
  }
  if (phase_ == Phase::headers) {
    for (size_t i = 0; i < probes_.size();) {
      Probe& probe = *probes_[i];
      if (!probe.first.done || !probe.last.done) {
        ++i;
        continue;
      }
      const bool good = probe.first.error == 0 && (header_is_good(probe.first.header(), superblock_, probe.index) ||
                                                   freed_is_good(probe.first.header(), superblock_, probe.index));
      if (!good && !probe.asked_last) {
        // The last page holds a copy of the header, or a footer that says as much.
        probe.asked_last = true;
        probe.last.send(drive_,
                        superblock_.first_segment_offset + (probe.index + 1) * superblock_.segment_bytes - kPageBytes,
                        kPageBytes);
        ++i;
        continue;
      }
      probe_done(probe);
      probes_[i] = std::move(probes_.back());
      probes_.pop_back();
    }
    start_probes();
    CAIRN_CHECK(probed_ + probes_.size() == next_probe_, "a segment's header was asked for and is lost");
    CAIRN_CHECK(next_probe_ <= superblock_.segment_count, "a header is read of a segment that the drive does not have");
    if (probed_ == superblock_.segment_count) headers_done();
  }
  if (phase_ == Phase::segments) {
    take_finished();
    start_segments();
    CAIRN_CHECK(taken_ + running_.size() == next_segment_, "a segment was begun to be read and is lost");
    CAIRN_CHECK(next_segment_ <= known_.size(), "more segments are read than have a header");
    if (reads_fail()) error_ = "reads fail, one after another: " + cause_and_advice(unread_);
    if (taken_ == known_.size() || (!error_.empty() && running_.empty())) phase_ = Phase::done;
  }
}

void Loader::start_probes() {
  while (next_probe_ < superblock_.segment_count && probes_.size() < kProbesMost) {
    auto probe = std::make_unique<Probe>();
    probe->index = next_probe_++;
    probe->first.send(drive_, superblock_.first_segment_offset + probe->index * superblock_.segment_bytes, kPageBytes);
    probes_.push_back(std::move(probe));
  }
}

void Loader::probe_done(Probe& probe) {
  ++probed_;
  FoundSegment found;
  found.index = probe.index;
  const auto take_header = [&](const PageRead& read) {
    if (read.memory == nullptr || read.error != 0) return false;
    const auto& page = read.header();
    const bool freed = freed_is_good(page, superblock_, probe.index);
    if (!freed && !header_is_good(page, superblock_, probe.index)) return false;
    found.segment = identity(page.body);
    if (freed) found.segment.state = SegmentState::free;
    found.evicted_sequence = page.body.evicted_sequence;
    found.forgotten_sequence = page.body.forgotten_sequence;
    found.given_up_sequence = std::max({page.body.given_up_sequence, found.evicted_sequence, found.forgotten_sequence});
    return true;
  };
  if (take_header(probe.first) || take_header(probe.last)) {
    known_.push_back(std::move(found));
    return;
  }
  const bool footer = probe.last.memory != nullptr && probe.last.error == 0 &&
                      footer_is_good(*reinterpret_cast<const Page<format::Footer>*>(probe.last.memory->data()),
                                     superblock_, probe.index);
  if (footer) {
    // Version 2 ends the footer of an earlier use when the segment is opened again, so this one is current. Version 1
    // did not; but it used segments strictly in turn, so headers_done() can tell.
    found.segment = identity(reinterpret_cast<const Page<format::Footer>*>(probe.last.memory->data())->body);
    found.bad_pages = 1;
    known_.push_back(std::move(found));
  } else if (probe.first.error != 0) {
    // It says nothing of itself, but may hold blocks: it is used again last.
    found.unreadable = true;
    found.unread = probe.first.error;
    found.segment.state = SegmentState::sealed;
    known_.push_back(std::move(found));
  }
}

void Loader::headers_done() {
  CAIRN_CHECK(probes_.empty(), "all headers are read, and one is on its way");
  CAIRN_CHECK(known_.size() <= superblock_.segment_count, "more segments have a header than there are");
  uint64_t youngest = 0;
  for (const FoundSegment& one : known_) youngest = std::max(youngest, one.segment.generation);
  std::erase_if(known_, [&](const FoundSegment& one) {
    return one.bad_pages > 0 && one.segment.version == 1 &&
           one.segment.generation + superblock_.segment_count < youngest;
  });
  for (FoundSegment& one : known_) one.bad_pages = 0;
  std::sort(known_.begin(), known_.end(), [](const FoundSegment& a, const FoundSegment& b) {
    return a.segment.generation != b.segment.generation ? a.segment.generation > b.segment.generation
                                                        : a.index < b.index;
  });
  found_.youngest_generation = youngest;
  leave_out_void();
  if (judge_) error_ = judge_(found_);
  if (!error_.empty()) {
    phase_ = Phase::done;
    return;
  }
  leave_out_void();
  // Those that were given up keep their age, so that they are used again in its order.
  std::erase_if(known_, [this](FoundSegment& one) {
    if (one.segment.state != SegmentState::free) return false;
    take_(one);
    return true;
  });
  phase_ = writable_ ? Phase::upgrade : Phase::segments;
  if (writable_) settle_->upgrade();
}

// What was given up as a whole was never there, but for the numbers that its segments used.
void Loader::leave_out_void() {
  CAIRN_CHECK(phase_ == Phase::headers, "what a drive holds is given up after some of it was taken");
  const FoundDrive before = std::exchange(found_, {});
  found_.void_generation = before.void_generation;
  found_.youngest_generation = before.youngest_generation;
  found_.next_generation = std::max(before.youngest_generation, before.void_generation) + 1;
  for (FoundSegment& one : known_) {
    const bool is_void = one.segment.generation > 0 && one.segment.generation <= found_.void_generation;
    if (!is_void) {
      account(one);
      found_.in_use += one.segment.state == SegmentState::free ? 0 : 1;
      found_.unreadable_headers += one.unreadable ? 1 : 0;
      continue;
    }
    one.segment.state = SegmentState::free;
    found_.void_last_sequence = std::max(found_.void_last_sequence, one.segment.first_sequence);
  }
}

void Loader::account(const FoundSegment& one) {
  found_.next_generation = std::max(found_.next_generation, one.segment.generation + 1);
  found_.last_sequence = std::max({found_.last_sequence, one.segment.first_sequence, one.segment.last_sequence});
  found_.evicted_sequence = std::max(found_.evicted_sequence, one.evicted_sequence);
  found_.forgotten_sequence = std::max(found_.forgotten_sequence, one.forgotten_sequence);
  found_.given_up_sequence = std::max(found_.given_up_sequence, one.given_up_sequence);
}

// A drive of which nothing but headers can be read tells less than one that is away: deletes that it holds are not
// known to it. It is not believed at all. (One segment alone may be at fault itself.)
bool Loader::reads_fail() const {
  return unread_in_a_row_ >= kUnreadMost || (unread_in_a_row_ > 1 && unread_in_a_row_ == known_.size());
}

void Loader::start_segments() {
  if (!error_.empty()) return;
  while (next_segment_ < known_.size() && running_.size() < kSegmentsMost)
    running_.push_back(std::make_unique<SegmentRead>(drive_, superblock_, std::move(known_[next_segment_++])));
}

void Loader::take_finished() {
  for (const auto& one : running_) one->poll();
  // In the order of age, so what is taken is final.
  while (!running_.empty() && running_.front()->done()) {
    const auto one = std::move(running_.front());
    running_.pop_front();
    FoundSegment& found = one->found();
    account(found);
    if (found.unreadable) ++found_.unreadable;
    unread_in_a_row_ = found.unread != 0 ? unread_in_a_row_ + 1 : 0;
    unread_ = found.unread;
    if (found.segment.state == SegmentState::sealed) ++(found.scanned ? found_.scanned : found_.sealed);
    take_(found);
    ++taken_;
  }
}

}  // namespace cairn
