#include "store/scrubber.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <utility>

namespace cairn {

using format::kPageBytes;
using format::Page;

namespace {

constexpr uint64_t kStateEveryNs = 60'000'000'000;
constexpr uint64_t kBeatEveryNs = 1'000'000'000;
constexpr size_t kEntriesATurn = 512;
static_assert(std::size(format::kStateOffsets) == 2, "a drive's state has other copies than the two that are read");

}  // namespace

// One copy of the state page, read or written.
class LogStore::Scrubber::StatePage final : public IoRequest {
 public:
  StatePage(DriveLog& log, int copy, IoKind what) : log_(log), memory_(1) {
    CAIRN_CHECK(copy == 0 || copy == 1, "a drive has no such copy of its state");
    CAIRN_CHECK(what == IoKind::read || what == IoKind::write, "a state page is neither read nor written");
    kind = what;
    offset = format::kStateOffsets[copy];
    bytes = kPageBytes;
    vector_ = {memory_.data(), kPageBytes};
    vectors = &vector_;
    vector_count = 1;
  }
  void start() { log_.drive().submit(*this); }
  void completed(int code) override {
    CAIRN_CHECK(!done, "a state page is answered twice");
    done = true;
    error = code;
    // A state that cannot be written costs a figure, no block.
    if (code != 0 && kind == IoKind::write) ++log_.counters.write_errors;
    if (kind == IoKind::read) log_.note_read(code);
  }
  Page<format::State>& page() { return *reinterpret_cast<Page<format::State>*>(memory_.data()); }
  bool good() {
    return error == 0 && page().intact(format::kStateMagic) && page().body.drive == log_.superblock().drive;
  }
  bool done = false;
  int error = 0;

 private:
  DriveLog& log_;
  Pages memory_;
  iovec vector_{};
};

LogStore::Scrubber::Scrubber(LogStore& store, DriveLog& log)
    : store_(store), log_(log), state_written_ns_(store.clock_.now_ns()), allowance_ns_(store.clock_.now_ns()) {
  for (int copy = 0; copy < 2; ++copy) {
    pages_[copy] = std::make_unique<StatePage>(log, copy, IoKind::read);
    pages_[copy]->start();
  }
}

LogStore::Scrubber::~Scrubber() {
  CAIRN_CHECK(idle() || log_.drive().in_flight() == 0, "a scrubber ends with requests on their way");
}

bool LogStore::Scrubber::idle() const {
  const bool pages =
      std::all_of(std::begin(pages_), std::end(pages_), [](const auto& page) { return page == nullptr || page->done; });
  return pages && (beat_ == nullptr || beat_->done) && !reading_ && (summary_ == nullptr || summary_->done());
}

void LogStore::Scrubber::tell(DriveStats& stats) const {
  stats.scrubbed_bytes = scrubbed_bytes_;
  stats.scrub_passes = state_.scrub_passes;
  stats.scrub_errors = errors_;
  stats.scrub_started_unix_ms = state_.scrub_started_unix_ms;
  stats.lifetime_written_bytes = written_before_ + log_.counters.written_bytes;
  stats.lifetime_put_bytes = put_before_ + log_.counters.put_bytes;
  uint64_t done = 0, all = 0;
  for (const uint32_t index : log_.sealed()) {
    ++all;
    done += log_.segments()[index].generation <= state_.scrub_generation ? 1 : 0;
  }
  stats.scrub_share = all == 0 ? 0 : static_cast<double>(done) / static_cast<double>(all);
}

// --- the state page --------------------------------------------------------------------------------------

void LogStore::Scrubber::read_state() {
  CAIRN_CHECK(!state_known_, "a drive's state is read again after it changed");
  state_known_ = true;
  for (const auto& page : pages_) {
    CAIRN_CHECK(page != nullptr && page->done, "a drive's state is taken before it was read");
    if (page->good() && page->page().body.counter >= state_.counter) state_ = page->page().body;
  }
  state_.drive = log_.superblock().drive;
  written_before_ = state_.written_bytes;
  put_before_ = state_.put_bytes;
  for (auto& page : pages_) page.reset();
}

void LogStore::Scrubber::write_state() {
  CAIRN_CHECK(state_known_, "a drive's state is written before it was read");
  CAIRN_CHECK(pages_[0] == nullptr || pages_[0]->done, "a drive's state is written twice at a time");
  CAIRN_CHECK(state_.drive == log_.superblock().drive, "the state of another drive is written");
  state_written_ns_ = store_.clock_.now_ns();
  ++state_.counter;
  state_.version = format::kVersion;
  state_.written_bytes = written_before_ + log_.counters.written_bytes;
  state_.put_bytes = put_before_ + log_.counters.put_bytes;
  const int copy = static_cast<int>(state_.counter % 2);
  pages_[0] = std::make_unique<StatePage>(log_, copy, IoKind::write);
  pages_[0]->page() = Page<format::State>{state_, {}};
  pages_[0]->page().seal();
  pages_[0]->start();
}

void LogStore::Scrubber::beat() {
  const uint64_t now = store_.clock_.now_ns();
  CAIRN_CHECK(now >= beat_ns_, "the clock went back since a drive was last asked for a page");
  if (stopped_ || now - beat_ns_ < kBeatEveryNs || (beat_ != nullptr && !beat_->done)) return;
  beat_ns_ = now;
  beat_ = std::make_unique<StatePage>(log_, 0, IoKind::read);
  beat_->start();
}

// --- reading ---------------------------------------------------------------------------------------------

void LogStore::Scrubber::poll() {
  if (!state_known_) {
    if (idle()) read_state();
    return;
  }
  if (log_.state() == DriveState::failed) stopped_ = true;
  beat();
  const bool writable = log_.state() == DriveState::serving || log_.state() == DriveState::draining;
  if (!stopped_ && writable && store_.clock_.now_ns() - state_written_ns_ > kStateEveryNs &&
      (pages_[0] == nullptr || pages_[0]->done)) {
    write_state();
  }
  if (summary_ != nullptr) {
    summary_->poll();
    if (!summary_->done()) return;
    // Where a summary cannot be read that is the whole segment: nobody knows before.
    allowance_bytes_ -= static_cast<int64_t>(summary_->bytes_read());
    entries_ = std::move(summary_->found().entries);
    next_ = 0;
    summary_.reset();
    stage_ = Stage::records;
  }
  if (stopped_ || reading_ || store_.options_.scrub_bytes_per_second == 0 || !store_.loaded()) return;
  if (stage_ == Stage::idle && !next_segment()) return;
  if (stage_ == Stage::records) next_record();
}

// A second's worth gathers at the most.
bool LogStore::Scrubber::may_read(uint64_t bytes) {
  const uint64_t now = store_.clock_.now_ns();
  CAIRN_CHECK(now >= allowance_ns_, "the clock went back since something was scrubbed");
  const uint64_t rate = store_.options_.scrub_bytes_per_second;
  const uint64_t passed_ns = std::min<uint64_t>(now - allowance_ns_, 1'000'000'000);
  const auto gained = static_cast<int64_t>(static_cast<double>(passed_ns) * static_cast<double>(rate) / 1e9);
  const auto most = static_cast<int64_t>(std::max(rate, format::kPartBytes));
  if (gained > 0) {
    allowance_bytes_ = std::min(allowance_bytes_ + gained, most);
    allowance_ns_ = now;
  }
  return allowance_bytes_ >= std::min(static_cast<int64_t>(bytes), most);
}

bool LogStore::Scrubber::next_segment() {
  CAIRN_CHECK(stage_ == Stage::idle, "a segment is scrubbed before the one before it");
  CAIRN_CHECK(summary_ == nullptr, "two segments are scrubbed at a time");
  if (!may_read(kPageBytes)) return false;
  for (const uint32_t index : log_.sealed()) {
    const Segment& one = log_.segments()[index];
    if (one.generation <= state_.scrub_generation || !one.summarised) continue;
    if (state_.scrub_started_unix_ms == 0) state_.scrub_started_unix_ms = store_.clock_.unix_ms();
    segment_ = index;
    generation_ = one.generation;
    FoundSegment known;
    known.index = index;
    known.segment = one;
    known.segment.entries.clear();
    summary_ = std::make_unique<SegmentRead>(log_.drive(), log_.superblock(), std::move(known));
    stage_ = Stage::summary;
    return true;
  }
  if (state_.scrub_generation > 0) {
    ++state_.scrub_passes;
    state_.scrub_generation = 0;
    state_.scrub_started_unix_ms = 0;
    allowance_bytes_ = std::min<int64_t>(allowance_bytes_, 0);
  }
  return false;
}

void LogStore::Scrubber::next_record() {
  CAIRN_CHECK(!reading_, "two records are scrubbed at a time");
  CAIRN_CHECK(next_ <= entries_.size(), "more of a segment was scrubbed than is in it");
  for (size_t i = 0; i < kEntriesATurn && next_ < entries_.size(); ++i, ++next_) {
    const format::SummaryEntry& entry = entries_[next_];
    if (entry.type != format::RecordType::block) continue;
    const BlockId id{entry.key, entry.layout, entry.tenant};
    const Index::Entry* live = store_.find_part(id, entry.part);
    const bool here = live != nullptr && live->drive == log_.number() && live->segment == segment_ &&
                      live->page == entry.page && log_.segments()[segment_].generation == generation_;
    if (!here) continue;
    const uint64_t bytes = part_bytes(*live);
    if (!may_read(bytes)) return;
    Buffer memory = store_.slab_.allocate(bytes);  // nobody gives up memory for this
    if (!memory) return;
    allowance_bytes_ -= static_cast<int64_t>(bytes);
    const RecordRead::Expected expected{id, entry.part, live->birth, bytes, live->length()};
    reading_ = true;
    reading_id_ = id;
    read_ = std::make_unique<RecordRead>(log_, live->place(), expected, *this);
    read_->start(memory, 0, 0, bytes);
    ++next_;
    return;
  }
  if (next_ < entries_.size()) return;
  state_.scrub_generation = generation_;
  entries_ = {};
  stage_ = Stage::idle;
}

void LogStore::Scrubber::record_read(RecordRead& read, Status status) {
  CAIRN_CHECK(reading_, "a record comes that was not to be scrubbed");
  CAIRN_CHECK(&read == read_.get(), "another record comes than the one that is scrubbed");
  reading_ = false;
  scrubbed_bytes_ += read.expected().bytes;
  if (status == Status::ok) return;
  const Index::Entry* live = store_.find_part(reading_id_, read.expected().part);
  if (live == nullptr || !(live->place() == read.place())) return;  // it went meanwhile
  ++errors_;
  if (status != Status::corrupt) return;  // an error of reading may pass
  ++log_.counters.checksum_errors;
  ++store_.counters_.corrupt;
  store_.forget(reading_id_, Gone::dropped);
}

}  // namespace cairn
