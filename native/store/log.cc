// Appending: heads, placing, flushing. Opening and sealing segments is in segments.cc.
#include "store/log.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "store/index.h"

namespace cairn {

using format::kPageBytes;

namespace {

// A drive that fails this many writes in a row takes no more of them; this many reads, and it is set aside.
constexpr uint32_t kWriteErrorsMost = 3;
constexpr uint32_t kReadErrorsMost = 16;
// … and so long it rests before it is tried again: twice as long each time.
constexpr uint64_t kRetryFirstMs = 1000;
constexpr uint64_t kRetryMostMs = 60'000;
// What a head of weight 1 places before the others have their turn.
constexpr uint64_t kShareBytes = 4 * kMiB;
constexpr uint32_t kHeadsMost = 64;
constexpr uint64_t kSegmentsPerHead = 16;
static_assert(kSlabPageBytes == kPageBytes, "a payload in the slab does not end where its record does");
static_assert(kBufferRunsMost + 1 <= kVectorsMost, "a record has more pieces than one request takes");

bool gone(int error) {
  return error == ENODEV || error == ENXIO;
}

}  // namespace

const char* name_of(DriveState state) {
  constexpr const char* kNames[] = {"loading", "serving", "read_only", "draining", "drained", "failed"};
  static_assert(std::size(kNames) == static_cast<size_t>(DriveState::failed) + 1, "a state has no name");
  return kNames[static_cast<size_t>(state)];
}

Pages::Pages(uint64_t pages)
    : bytes_(pages * kPageBytes),
      memory_(static_cast<std::byte*>(::operator new(bytes_, std::align_val_t{kPageBytes}))) {
  CAIRN_CHECK(pages > 0, "memory for no page");
  std::memset(memory_.get(), 0, bytes_);
}

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
      segment_pages_(superblock.segment_bytes / kPageBytes) {
  CAIRN_CHECK(writes_most > 0, "a log that may not write");
  discards_ = drive_->info().can_discard;
  CAIRN_CHECK(segments_.size() < format::kSegmentsMost, "a drive of more segments than a place can name");
  CAIRN_CHECK(segments_.size() >= format::kSegmentsLeast, "a drive of too few segments to give one up");
  CAIRN_CHECK(segment_pages_ * kPageBytes == superblock.segment_bytes, "a segment ends within a page");
  CAIRN_CHECK(superblock.first_segment_offset + segments_.size() * superblock.segment_bytes <= drive_->info().bytes,
              "segments lie beyond the end of their drive");
}

DriveLog::~DriveLog() {
  while (drive_->in_flight() > 0) drive_->wait(1000);
  CAIRN_CHECK(waiting_bytes_ == 0, "a log ends with records that nobody will place or answer");
  CAIRN_CHECK(unflushed_.empty(), "a log ends with records that were written and not answered");
  CAIRN_CHECK(opening_ == nullptr, "a log ends while a segment is opened");
}

uint32_t DriveLog::heads_most() const {
  return static_cast<uint32_t>(std::clamp<uint64_t>(segments_.size() / kSegmentsPerHead, 1, kHeadsMost));
}

bool DriveLog::idle() const {
  return waiting_bytes_ == 0 && drive_->in_flight() == 0 && unflushed_.empty() && opening_ == nullptr &&
         sealing_.empty() && wiping_ == 0;
}

void DriveLog::set_state(DriveState state) {
  CAIRN_CHECK(state_ != DriveState::failed, "a drive that was set aside changes its state");
  CAIRN_CHECK(state_ != DriveState::loading, "a drive changes its state before it was read");
  state_ = state;
}

void DriveLog::fail(const std::string& why) {
  if (state_ == DriveState::failed) return;
  CAIRN_CHECK(!why.empty(), "a drive is set aside and nobody says why");
  state_ = DriveState::failed;
  rests_ = on_probation_ = false;
  why_failed_ = why;
}

// --- appending -------------------------------------------------------------------------------------------

DriveLog::Head& DriveLog::head_for(uint32_t tenant) {
  const auto own = heads_.find(tenant);
  if (own != heads_.end()) return own->second;
  // The last one is everybody's.
  const uint32_t owner =
      heads_.size() + 1 < heads_most() || tenant == format::kSharedOwner ? tenant : format::kSharedOwner;
  const auto [at, fresh] = heads_.try_emplace(owner);
  Head& head = at->second;
  head.owner = owner;
  CAIRN_CHECK(heads_.size() <= heads_most(), "a drive has more heads than it has segments for");
  // What one head writes is given up together, so it is a class of its own while the drive has enough of them.
  if (fresh) head.placement = static_cast<uint8_t>((heads_.size() - 1) % drive_->info().placement_classes);
  return head;
}

uint64_t DriveLog::youngest_used(uint32_t owner) const {
  const auto found = used_.find(owner);
  return found == used_.end() ? 0 : found->second;
}

// A tombstone must not lie in an older segment than what it deletes: a drive is loaded from its youngest segment to
// its oldest, and serves what it has read. What the tenant stored lies in its own head's segments or in the shared
// ones.
DriveLog::Head& DriveLog::head_for_tombstones(uint32_t tenant) {
  return youngest_used(format::kSharedOwner) > youngest_used(tenant) ? head_for(format::kSharedOwner)
                                                                     : head_for(tenant);
}

void DriveLog::enqueue(Head& head, AppendOp& op, uint32_t tenant) {
  CAIRN_CHECK(op.header->body.length > 0, "an empty record is appended");
  CAIRN_CHECK(op.payload_offset % kPageBytes == 0, "a record's payload begins within a page of its buffer");
  op.log_ = this;
  const bool block = op.header->body.type == format::RecordType::block;
  CAIRN_CHECK(block == static_cast<bool>(op.payload), "a block is appended without its bytes, or a delete with some");
  CAIRN_CHECK(block == op.dead.empty(), "a block is appended with deletes, or a record of deletes without any");
  CAIRN_CHECK(block == (op.tombstones == nullptr), "a record of deletes is appended without its payload");
  CAIRN_CHECK(block == (op.second_header == nullptr), "a record of deletes is appended once only");
  op.generation_least_ = block ? 0 : std::max(youngest_used(tenant), youngest_used(format::kSharedOwner));
  (op.makes_room ? head.making_room : block ? head.waiting : head.deletes).push_back(&op);
  waiting_bytes_ += op.header->body.length;
}

void DriveLog::append(AppendOp& op, uint32_t tenant) {
  CAIRN_CHECK(op.header != nullptr, "a record without a header is appended");
  const bool block = op.header->body.type == format::RecordType::block;
  enqueue(block ? head_for(tenant) : head_for_tombstones(tenant), op, tenant);
}

void DriveLog::append_beside(AppendOp& op, uint32_t tenant, uint32_t owner) {
  enqueue(head_for(owner), op, tenant);
}

// Whose turn it is of those that wait for the head; nullptr: nobody may be placed now.
std::deque<AppendOp*>* DriveLog::next_queue(Head& head) {
  // A segment that was opened for who waits is theirs first, while another is kept to make room.
  const bool fresh = !head.open.empty() && segments_[head.open.front()].next_page == 1;
  if (fresh && free_.size() >= kFreeKept && !head.waiting.empty()) return &head.waiting;
  if (!head.making_room.empty()) return &head.making_room;
  // What is kept for making room was taken: until it is back, nobody else fills it up.
  if (free_.size() < kFreeKept) return nullptr;
  if (!head.deletes.empty()) return &head.deletes;
  return head.waiting.empty() ? nullptr : &head.waiting;
}

bool DriveLog::has_room(const Segment& segment, uint64_t pages, uint64_t entries) const {
  return segment.next_page + pages + format::summary_pages(segment.entries.size() + entries) <= segment_pages_;
}

void DriveLog::retire_front(Head& head) {
  CAIRN_CHECK(!head.open.empty(), "a segment is sealed where none is open");
  const uint32_t index = head.open.front();
  CAIRN_CHECK(segments_[index].state == SegmentState::open, "a segment is sealed that is not open");
  segments_[index].state = SegmentState::sealing;
  sealing_.push_back(index);
  head.open.pop_front();
}

// Places the head's next record, if there is a segment for it.
bool DriveLog::place_next(Head& head) {
  std::deque<AppendOp*>* queue = next_queue(head);
  if (queue == nullptr || head.open.empty() || writes_ >= writes_at_once()) return false;
  AppendOp* op = queue->front();
  const uint64_t pages = format::appended_pages(op->header->body.type, op->header->body.length);
  const uint64_t entries = op->header->body.type == format::RecordType::block ? 1 : op->dead.size();
  while (!head.open.empty()) {
    const Segment& front = segments_[head.open.front()];
    const bool young = front.generation >= op->generation_least_;
    if (young && has_room(front, pages, entries)) break;
    CAIRN_CHECK(!young || front.next_page > 1, "a record is larger than a segment");
    // While no other may be opened for it, what is moved to make room fills this one: else each free segment would be
    // sealed over the first record that was moved there, and none would ever be left for who waits.
    if (queue == &head.waiting && head.open.size() == 1 && free_.size() <= kFreeKept) return false;
    retire_front(head);
  }
  if (head.open.empty()) return false;
  queue->pop_front();
  uncount(*op);
  head.share_bytes -= std::min(head.share_bytes, pages * kPageBytes);
  place(head, *op, pages);
  return true;
}

// Heads take turns, each with as many bytes: a tenant's flood of puts leaves the others theirs.
void DriveLog::serve_heads() {
  for (bool any = true; any && writes_ < writes_at_once();) {
    any = false;
    auto at = heads_.lower_bound(next_head_);
    for (size_t i = 0; i < heads_.size() && writes_ < writes_at_once(); ++i, ++at) {
      if (at == heads_.end()) at = heads_.begin();
      Head& head = at->second;
      if (head.share_bytes == 0) head.share_bytes = kShareBytes;
      while (head.share_bytes > 0 && place_next(head)) any = true;
      // Whoever was stopped by the limit of writes goes on where it was.
      next_head_ = head.share_bytes > 0 && next_queue(head) != nullptr ? at->first : at->first + 1;
    }
  }
}

void DriveLog::place(Head& head, AppendOp& op, uint64_t pages) {
  const uint32_t index = head.open.front();
  Segment& segment = segments_[index];
  format::RecordHeader& header = op.header->body;
  CAIRN_CHECK(segment.state == SegmentState::open, "a record is placed in a segment that is not open");
  CAIRN_CHECK(segment.owner == head.owner, "a record is placed in a segment of another owner");
  CAIRN_CHECK(segment.generation >= op.generation_least_, "a delete is placed before what it deletes");
  CAIRN_CHECK(segment.next_page + pages < segment_pages_, "a record is placed over the end of its segment");
  header.segment = index;
  header.page = segment.next_page;
  header.generation = segment.generation;
  header.nonce = segment.nonce;
  op.header->seal();
  op.at = {index, segment.next_page, segment.generation};
  segment.next_page += static_cast<uint32_t>(pages);
  segment.last_sequence = std::max(segment.last_sequence, header.sequence);
  uint64_t& youngest = used_[segment.owner];
  youngest = std::max(youngest, segment.generation);
  ++segment.writes;
  ++writes_;

  op.kind = IoKind::write;
  op.placement = segment.placement;
  op.offset = offset_of(index, header.page);
  op.bytes = pages * kPageBytes;
  op.vectors_.clear();
  op.vectors_.push_back({op.header, kPageBytes});
  if (header.type == format::RecordType::block) {
    segment.entries.push_back(format::entry_of(header));
    segment.note_expiry(Index::ticks_of(header.expiry_unix_ms));
    op.payload.slice(op.payload_offset, (pages - 1) * kPageBytes, op.vectors_);
    segment.least_birth = std::min(segment.least_birth, header.sequence);
    counters.put_bytes += op.moved ? 0 : header.length;
  } else {
    for (const format::Tombstone& dead : op.dead) segment.entries.push_back(format::entry_of(header, dead));
    op.second_header->body = header;
    op.second_header->body.part = 1;
    op.second_header->body.page = header.page + static_cast<uint32_t>(pages / format::kTombstoneCopies);
    op.second_header->seal();
    op.vectors_.push_back({op.tombstones->data(), op.tombstones->bytes()});
    op.vectors_.push_back({op.second_header, kPageBytes});
    op.vectors_.push_back({op.tombstones->data(), op.tombstones->bytes()});
  }
  CAIRN_CHECK(has_room(segment, 0, 0), "a record is placed where its segment's summary should go");
  op.vectors = op.vectors_.data();
  op.vector_count = static_cast<uint32_t>(op.vectors_.size());
  ++counters.writes;
  counters.written_bytes += op.bytes;
  drive_->submit(op);
  op.placed();
}

void DriveLog::uncount(const AppendOp& op) {
  CAIRN_CHECK(waiting_bytes_ >= op.header->body.length, "more bytes leave the queues than entered them");
  waiting_bytes_ -= op.header->body.length;
}

// A segment is in one place at the most.
void DriveLog::check_counts() const {
  CAIRN_CHECK(writes_ <= writes_most_, "more writes are on their way than a drive may have");
  CAIRN_CHECK(free_.size() + sealed_.size() + sealing_.size() + wiping_ <= segments_.size(),
              "a segment is listed twice");
}

void DriveLog::poll(uint64_t next_sequence) {
  check_counts();
  try_again();
  if (state_ != DriveState::serving && state_ != DriveState::draining && state_ != DriveState::loading)
    fail_waiting(state_ == DriveState::failed ? Status::io_error : Status::read_only);
  serve_heads();
  refuse_the_stuck();
  open_where_needed(next_sequence);
  seal_ready();
  start_flush();
  drive_->poll();
  start_flush();
  seal_ready();
}

// What is to make room waits for a segment, and none will ever be free but by it: whoever moves it has to do without.
void DriveLog::refuse_the_stuck() {
  if (!free_.empty() || opening_ != nullptr || wiping_ > 0) return;
  std::vector<AppendOp*> stuck;
  for (auto& [owner, head] : heads_) {
    if (head.making_room.empty() || !head.open.empty()) continue;
    stuck.insert(stuck.end(), head.making_room.begin(), head.making_room.end());
    head.making_room.clear();
  }
  for (const AppendOp* op : stuck) uncount(*op);
  for (AppendOp* op : stuck) op->settled(Status::no_space);
}

void AppendOp::completed(int error) {
  log_->written(*this, error);
}

void DriveLog::note_write(int error) {
  if (error == 0) {
    write_errors_in_a_row_ = 0;
    if (!on_probation_) return;
    on_probation_ = false;
    retry_ms_ = 0;
    why_failed_.clear();
    return;
  }
  ++counters.write_errors;
  if (gone(error)) return fail("the drive is gone: " + cause_and_advice(error));
  if (++write_errors_in_a_row_ >= kWriteErrorsMost &&
      (state_ == DriveState::serving || state_ == DriveState::draining)) {
    // What is on it may still be read: many drives end their lives that way. Others were only full for a while.
    CAIRN_CHECK(!rests_, "a drive that rests was written to");
    before_ = state_;
    state_ = DriveState::read_only;
    rests_ = true;
    on_probation_ = false;
    retry_ms_ = std::clamp(2 * retry_ms_, kRetryFirstMs, kRetryMostMs);
    retry_at_ms_ = clock_.now_ms() + retry_ms_;
    why_failed_ = "writes fail, one after another: " + cause_and_advice(error);
  }
}

bool DriveLog::retry_now() {
  if (on_probation_) return true;
  if (!rests_ || state_ != DriveState::read_only) return false;
  retry_at_ms_ = 0;
  return true;
}

// One write at a time, and the first that fails ends it. It goes where every write goes: behind what was acknowledged.
void DriveLog::try_again() {
  if (!rests_ || state_ != DriveState::read_only || clock_.now_ms() < retry_at_ms_) return;
  CAIRN_CHECK(!on_probation_, "a drive rests while it is tried again");
  CAIRN_CHECK(before_ == DriveState::serving || before_ == DriveState::draining, "a drive is to write that never did");
  state_ = before_;
  rests_ = false;
  on_probation_ = true;
  write_errors_in_a_row_ = kWriteErrorsMost - 1;
}

void DriveLog::note_read(int error) {
  if (error == 0) {
    read_errors_in_a_row_ = 0;
    return;
  }
  ++counters.read_errors;
  if (gone(error)) return fail("the drive is gone: " + cause_and_advice(error));
  if (++read_errors_in_a_row_ >= kReadErrorsMost) fail("reads fail, one after another: " + cause_and_advice(error));
}

void DriveLog::written(AppendOp& op, int error) {
  CAIRN_CHECK(writes_ > 0, "a write ends that was never counted");
  CAIRN_CHECK(op.log_ == this, "a write ends in another log than it began in");
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
  CAIRN_CHECK(flushing_, "a flush ends that was never begun");
  flushing_ = false;
  note_write(error);
  for (AppendOp* op : covered) settle(*op, error == 0 ? Status::ok : Status::io_error);
}

void DriveLog::settle(AppendOp& op, Status status) {
  Segment& segment = segments_[op.at.segment];
  CAIRN_CHECK(segment.writes > 0, "a segment was left with a write on its way");
  CAIRN_CHECK(segment.generation == op.at.generation, "a segment was re-used under a write");
  CAIRN_CHECK(op.at.page < segment.next_page, "a write ends in a segment that was not written so far");
  --segment.writes;
  if (status != Status::ok) {
    const format::RecordHeader& header = op.header->body;
    ghosts.note(op.at.segment, hash_of(BlockId{header.key, header.layout, header.tenant}));
    std::erase_if(segment.entries, [&](const format::SummaryEntry& entry) { return entry.page == op.at.page; });
  }
  op.settled(status);
}

void DriveLog::fail_waiting(Status status) {
  std::vector<AppendOp*> failed;
  for (auto& [owner, head] : heads_) {
    failed.insert(failed.end(), head.making_room.begin(), head.making_room.end());
    head.making_room.clear();
  }
  for (const AppendOp* op : failed) uncount(*op);
  for (AppendOp* op : failed) op->settled(status);
  refuse_waiting(status);
}

void DriveLog::refuse_waiting(Status status) {
  std::vector<AppendOp*> refused;
  for (auto& [owner, head] : heads_) {
    refused.insert(refused.end(), head.deletes.begin(), head.deletes.end());
    refused.insert(refused.end(), head.waiting.begin(), head.waiting.end());
    head.deletes.clear();
    head.waiting.clear();
  }
  for (const AppendOp* op : refused) uncount(*op);
  for (AppendOp* op : refused) op->settled(status);
}

}  // namespace cairn
