#include "store/evictor.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace cairn {

using format::kPageBytes;

namespace {

constexpr size_t kEntriesATurn = 512;  // some 50 µs
constexpr size_t kMovesMost = 8;
constexpr uint64_t kRetryMs = 100;
constexpr uint32_t kFailuresMost = 5;
constexpr uint64_t kPassOverMs = 5000;
constexpr size_t kCarriedMost = 1024;  // tombstones in a record
static_assert(kCarriedMost <= kBatchItemsMost, "what is carried on does not fit a record of deletes");

}  // namespace

// --- what is moved ---------------------------------------------------------------------------------------

LogStore::MoveJob::MoveJob(Evictor& evictor, const BlockId& block, const Index::Entry& entry, DriveLog& target,
                           Buffer memory, const RecordRead::Expected& expected)
    : id(block),
      part(static_cast<uint8_t>(entry.part)),
      birth(entry.birth),
      from(entry.place()),
      to(target),
      evictor_(evictor),
      buffer_(std::move(memory)),
      bytes_(expected.bytes),
      page_(1),
      read_(evictor.log_, entry.place(), expected, *this) {
  check_begun();
}

void LogStore::MoveJob::start() {
  ++evictor_.store_.moving_[id];
  read_.start(buffer_, 0, 0, bytes_);
}

void LogStore::MoveJob::record_read(RecordRead& read, Status status) {
  check_read(read);
  LogStore& store = evictor_.store_;
  if (status != Status::ok) {
    const Index::Entry* entry = store.find_part(id, part);
    const bool current = entry != nullptr && entry->birth == birth && entry->place() == from;
    if (status == Status::corrupt && current) {
      ++evictor_.log_.counters.checksum_errors;
      ++store.counters_.corrupt;
    }
    if (current) store.forget(id, Gone::dropped);
    return evictor_.moved(*this, false);
  }
  // Where it was to go may have been taken out meanwhile.
  if (store.slots_[to.number()].log.get() != &to) return evictor_.moved(*this, false);
  auto* page = new (page_.data()) format::Page<format::RecordHeader>(read.page());
  format::RecordHeader& copy = page->body;
  check_verified(copy);
  if (copy.version == 1) copy.block_bytes = copy.length;
  copy.version = format::kVersion;
  buffer_.zero_tail(bytes_);
  header = page;
  payload = std::exchange(buffer_, {});
  moved = true;
  // On its own drive it makes room. Another takes it as it takes a put.
  makes_room = &to == &evictor_.log_;
  if (makes_room) return to.append_beside(*this, id.tenant, evictor_.owner_);
  to.append(*this, id.tenant);
}

void LogStore::MoveJob::settled(Status status) {
  LogStore& store = evictor_.store_;
  Index::Entry* entry = store.find_part(id, part);
  const bool current = entry != nullptr && entry->birth == birth && entry->place() == from;
  if (status == Status::ok && current) {
    store.move_entry(*entry, to, at.segment, at.page);
    entry->hits = entry->hits >> 1 & 3;
    ++to.counters.moved_blocks;
    to.counters.moved_bytes += bytes_;
  } else if (at.generation > 0 && store.slots_[to.number()].log.get() == &to) {
    // It went meanwhile, or nobody knows whether it is there: a restart may find the copy.
    store.note_ghost(to, at.segment, id);
  }
  evictor_.moved(*this, status == Status::ok || !current);
}

class LogStore::Evictor::Carry final : public TombstoneAppend {
 public:
  Carry(Evictor& evictor, const std::vector<format::Tombstone>& buried)
      : TombstoneAppend(buried, buried.back().sequence, evictor.store_.clock_.unix_ms()), evictor_(evictor) {
    makes_room = !evictor.draining_;
  }
  void settled(Status status) override {
    CAIRN_CHECK(evictor_.carrying_ > 0, "a record of deletes ends that was never counted");
    evictor_.carry_failed_ |= status != Status::ok;
    --evictor_.carrying_;
    delete this;
  }

 private:
  Evictor& evictor_;
};

// --- the walk --------------------------------------------------------------------------------------------

void LogStore::Evictor::poll() {
  switch (stage_) {
    case Stage::idle: {
      uint32_t segment = 0;
      const bool works = log_.state() == DriveState::serving || log_.state() == DriveState::draining;
      if (stopped_ || !works || store_.clock_.now_ms() < retry_ms_ || !choose(segment)) return;
      return begin(segment);
    }
    case Stage::reading:
      read_->poll();
      if (!read_->done()) return;
      whole_ = !read_->found().unreadable;
      entries_ = std::move(read_->found().entries);
      read_.reset();
      stage_ = Stage::weighing;
      [[fallthrough]];
    case Stage::weighing:
      return weigh();
    case Stage::walking:
      return walk();
    case Stage::settling:
      if (moves_.empty() && carrying_ == 0) finish();
      return;
  }
}

void LogStore::Evictor::begin(uint32_t segment) {
  check_still(Stage::idle);
  CAIRN_CHECK(log_.segment(segment).pins == 0, "a segment is given up under a put that is not settled");
  segment_ = segment;
  owner_ = log_.segments()[segment].owner;
  log_.begin_evicting(segment);
  entries_.clear();
  next_ = 0;
  carried_.clear();
  carry_failed_ = stuck_ = false;
  whole_ = true;
  forgotten_ = 0;
  stays_bytes_ = 0;
  weighed_spare_ = spare_;
  note_oldest();
  Segment& one = log_.segment(segment);
  if (!one.summarised && !one.entries.empty()) {
    entries_ = one.entries;
    stage_ = Stage::weighing;
    return;
  }
  FoundSegment known;
  known.index = segment;
  known.segment = one;
  known.unreadable = one.generation == 0;
  read_ = std::make_unique<SegmentRead>(log_.drive(), log_.superblock(), std::move(known));
  stage_ = Stage::reading;
}

// What comes later is younger than any tombstone here, but for what is on its way already.
void LogStore::Evictor::note_oldest() {
  oldest_ = log_.oldest_births(segment_);
  for (const auto& job : store_.writes_) oldest_.note(job->id.tenant, job->sequence);
}

// Whether a record may not be dropped. If it may, that much less is left of what its tenant has to spare.
bool LogStore::Evictor::stays(const BlockId& id, const Index::Entry& head, uint64_t bytes,
                              std::map<uint32_t, uint64_t>& spare) const {
  if (store_.leased(id, head)) return true;
  if (owner_ != format::kSharedOwner || !protects_) return false;
  uint64_t& left = spare[id.tenant];
  if (left == 0) return true;
  left -= std::min(left, format::packed_pages(bytes, log_.segment_pages()) * kPageBytes);
  return false;
}

// Before anything is moved: whether that would free enough. Else the segment is left as it is, for a while or until a
// lease ends.
void LogStore::Evictor::weigh() {
  check_walk();
  const uint64_t most = log_.segment_pages() / kYieldPart * (kYieldPart - 1);
  if (draining_ || stopped_ || !whole_) next_ = entries_.size();
  for (size_t i = 0; i < kEntriesATurn && next_ < entries_.size(); ++i, ++next_) {
    const format::SummaryEntry& entry = entries_[next_];
    if (entry.type == format::RecordType::tombstones) {
      if (still_needed(format::tombstone_of(entry)))
        stays_bytes_ += format::kTombstoneCopies * sizeof(format::Tombstone);
      continue;
    }
    const BlockId id{entry.key, entry.layout, entry.tenant};
    const Index::Entry* live = store_.find_part(id, entry.part);
    const Place here{log_.number(), segment_, entry.page, log_.segment(segment_).use};
    if (live == nullptr || !(live->place() == here)) continue;
    const uint64_t bytes = part_bytes(*live);
    const Index::Entry* head = store_.find_part(id, 0);
    if (head != nullptr && stays(id, *head, bytes, weighed_spare_))
      stays_bytes_ += format::packed_pages(bytes, log_.segment_pages()) * kPageBytes;
  }
  if (next_ < entries_.size()) return;
  next_ = 0;
  if (stays_bytes_ <= most * kPageBytes) {
    stage_ = Stage::walking;
    return walk();
  }
  const bool protects = owner_ == format::kSharedOwner && protects_;
  passed_over_[segment_] = {log_.segments()[segment_].generation, protects ? pressure_ : kPressureMost,
                            store_.clock_.now_ms() + kPassOverMs};
  entries_ = {};
  log_.keep(segment_, true);
  stage_ = Stage::idle;
}

void LogStore::Evictor::walk() {
  check_walk();
  if (stopped_) {
    stuck_ = true;
    stage_ = Stage::settling;
    return;
  }
  for (size_t i = 0; i < kEntriesATurn && next_ < entries_.size(); ++i) {
    // Deletes wait until nothing is being moved: they may not wait for ever.
    if (moves_.size() >= kMovesMost || (!moves_.empty() && !store_.remove_waiting_.empty())) return;
    const format::SummaryEntry& entry = entries_[next_];
    if (entry.type == format::RecordType::tombstones) {
      bury_again(entry);
    } else if (entry.type == format::RecordType::block && !judge(entry)) {
      return;
    }
    ++next_;
  }
  if (next_ < entries_.size()) return;
  carry();
  stage_ = Stage::settling;
}

bool LogStore::Evictor::judge(const format::SummaryEntry& entry) {
  const BlockId id{entry.key, entry.layout, entry.tenant};
  Index::Entry* live = store_.find_part(id, entry.part);
  const Place here{log_.number(), segment_, entry.page, log_.segment(segment_).use};
  if (live == nullptr || live->birth < entry.sequence) {
    // A drive that is away may hold an earlier block of its key, unless a delete that is remembered covers both.
    if (!store_.graveyard_.covers(id, {}, 0, entry.sequence)) log_.give_up(entry.sequence);
  }
  if (live == nullptr || !(live->place() == here)) return true;
  Index::Entry* head = store_.find_part(id, 0);
  live = store_.find_part(id, entry.part);
  if (head == nullptr || live == nullptr || head->birth != live->birth) {
    if (live == nullptr) return true;
    // Part of a block of which the first is gone: nobody will ask for it.
    store_.drop_entry(*live);
    return true;
  }
  const uint32_t group = head->group();
  const uint64_t now = store_.clock_.unix_ms();
  const bool expired = Index::expired(head->expiry_ticks, now) ||
                       (group != Groups::kNone && Index::expired(store_.groups_.row(group).expiry_ticks, now));
  if (expired) {
    store_.forget(id, Gone::expired);
    return true;
  }
  if (draining_ || stays(id, *head, part_bytes(*live), spare_)) return move(entry, *live, true);
  const bool hot = head->hits >= store_.options_.reinsert_hits_least;
  if (hot && may_reinsert(part_bytes(*live))) return move(entry, *live, false);
  store_.forget(id, Gone::evicted);
  return true;
}

// The budget: a share of what was put to this drive, of which no more than a segment's worth gathers.
bool LogStore::Evictor::may_reinsert(uint64_t bytes) {
  const uint64_t earned = log_.counters.put_bytes / 100 * store_.options_.reinsert_percent;
  const uint64_t most = log_.superblock().segment_bytes;
  if (earned > most && spent_bytes_ < earned - most) spent_bytes_ = earned - most;
  if (spent_bytes_ + bytes > earned) return false;
  spent_bytes_ += bytes;
  return true;
}

// `must`: the block has to stay, so what stands in the way is waited for.
bool LogStore::Evictor::move(const format::SummaryEntry& entry, const Index::Entry& live, bool must) {
  CAIRN_CHECK(moves_.size() < kMovesMost, "more blocks are moved at a time than may be");
  const BlockId id{entry.key, entry.layout, entry.tenant};
  const Index::Entry held = live;  // giving memory back may not touch the index, but a copy is safer to read
  const uint64_t bytes = part_bytes(held);
  DriveLog* to = draining_ ? store_.choose_log(bytes, &log_) : &log_;
  Buffer memory = to == nullptr ? Buffer() : must ? store_.take_move_memory(bytes) : store_.take_memory(bytes);
  if (!memory) {
    if (!must) store_.forget(id, Gone::evicted);
    if (must && to == nullptr) stuck_ = true;
    return !must || to == nullptr;
  }
  // As the index has it: the summary was read anew, and may say something else by now.
  const RecordRead::Expected expected{id, entry.part, held.birth, bytes, held.length()};
  auto job = std::make_unique<MoveJob>(*this, id, held, *to, std::move(memory), expected);
  MoveJob& started = *job;
  moves_.push_front(std::move(job));
  started.self = moves_.begin();
  started.start();
  return true;
}

void LogStore::Evictor::moved(MoveJob& job, bool kept) {
  const auto at = store_.moving_.find(job.id);
  CAIRN_CHECK(at != store_.moving_.end(), "a block was moved that nobody moved");
  CAIRN_CHECK(at->second > 0, "more parts of a block were moved than were begun");
  CAIRN_CHECK(job.self->get() == &job, "a move ends that is listed in the place of another");
  if (--at->second == 0) store_.moving_.erase(at);
  if (!kept) {
    // It could not be written again. What is leased, and what a drained drive holds, stays where it is; else it goes
    // with its segment.
    const Index::Entry* entry = store_.find_part(job.id, job.part);
    const bool current = entry != nullptr && entry->birth == job.birth && entry->place() == job.from;
    const bool stays =
        current && (draining_ || store_.leases_.leased(job.id) || store_.groups_.row(entry->group()).leases > 0);
    if (stays) stuck_ = true;
    if (current && !stays) store_.forget(job.id, Gone::evicted);
  }
  moves_.erase(job.self);
}

// --- tombstones ------------------------------------------------------------------------------------------

// A tombstone has to stay as long as any segment of its tenant may hold a copy of what it deletes: a block that was put
// before it. Copies in segments that were freed are overwritten before this one is.
bool LogStore::Evictor::still_needed(const format::Tombstone& tombstone) const {
  if (oldest_.any_before(tombstone.tenant, tombstone.sequence)) return true;
  return store_.any_away() && tombstone.sequence > store_.graveyard_.floor();
}

void LogStore::Evictor::bury_again(const format::SummaryEntry& entry) {
  const format::Tombstone tombstone = format::tombstone_of(entry);
  if (still_needed(tombstone)) {
    carried_[tombstone.tenant].push_back(tombstone);
  } else {
    forgotten_ = std::max(forgotten_, tombstone.sequence);
  }
}

void LogStore::Evictor::carry() {
  if (!whole_ && !draining_) {
    // What could not be read may have been tombstones. Those that are remembered are written again.
    const Segment& one = log_.segments()[segment_];
    for (const format::Tombstone& remembered : store_.graveyard_.since(one.first_sequence)) {
      if (remembered.sequence <= one.last_sequence || one.generation == 0)
        carried_[remembered.tenant].push_back(remembered);
    }
  }
  // A drive that is drained leaves what others still need, such as one that is away, to a drive that stays.
  DriveLog* const to = draining_ ? store_.choose_log(kCarriedMost * sizeof(format::Tombstone), &log_) : &log_;
  if (to == nullptr && !carried_.empty()) stuck_ = true;
  for (auto& [tenant, all] : carried_) {
    if (to == nullptr) break;
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.sequence < b.sequence; });
    for (size_t at = 0; at < all.size(); at += kCarriedMost) {
      const size_t end = std::min(all.size(), at + kCarriedMost);
      const std::vector<format::Tombstone> some(all.begin() + static_cast<long>(at),
                                                all.begin() + static_cast<long>(end));
      ++carrying_;
      auto* carry = new Carry(*this, some);
      if (draining_) {
        to->append(*carry, tenant);
      } else {
        to->append_beside(*carry, tenant, owner_);
      }
    }
  }
  carried_.clear();
}

// --- the end ---------------------------------------------------------------------------------------------

// The segment stays; what was dropped from it may be found there.
void LogStore::Evictor::keep() {
  if (next_ >= entries_.size()) log_.ghosts.wiped(segment_);  // all of them are counted anew
  for (size_t i = 0; i < next_ && i < entries_.size(); ++i) {
    const format::SummaryEntry& entry = entries_[i];
    const BlockId id{entry.key, entry.layout, entry.tenant};
    if (entry.type != format::RecordType::block) continue;
    const Index::Entry* live = store_.find_part(id, entry.part);
    const bool here =
        live != nullptr && live->place() == Place{log_.number(), segment_, entry.page, log_.segment(segment_).use};
    if (!here) log_.ghosts.note(segment_, hash_of(id));
  }
  entries_ = {};
  log_.keep(segment_);
}

void LogStore::Evictor::finish() {
  check_still(Stage::settling);
  check_walk();
  CAIRN_CHECK(stuck_ || next_ == entries_.size(), "a segment is given up before all that is in it was met");
  stage_ = Stage::idle;
  Segment& one = log_.segment(segment_);
  const bool failed = log_.state() == DriveState::failed;
  if (failed || carry_failed_ || stuck_) {
    keep();
    retry_ms_ = store_.clock_.now_ms() + kRetryMs;
    // Who waits for room is told that there is none, rather than left to its deadline.
    if (++failures_ >= kFailuresMost) log_.refuse_waiting(Status::no_space);
    return;
  }
  failures_ = 0;
  passed_over_.erase(segment_);
  entries_ = {};
  log_.forgotten_sequence = std::max(log_.forgotten_sequence, forgotten_);
  log_.give_up(forgotten_);
  if (!whole_) log_.give_up(store_.next_sequence_ - 1);
  log_.release(segment_, one.blocks > 0 || !whole_);
}

}  // namespace cairn
