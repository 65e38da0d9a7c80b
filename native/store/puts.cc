// Writing: from the grant of memory to the answer.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "store/evictor.h"
#include "store/jobs.h"
#include "store/members.h"

namespace cairn {

using format::kPageBytes;

// --- one block -------------------------------------------------------------------------------------------

LogStore::WriteJob::WriteJob(LogStore& store, PutOp& op, uint64_t number)
    : id(op.id), length(op.length), sequence(number), relaxed(op.durability == Durability::relaxed), store_(store) {
  CAIRN_CHECK(op.buffer.length() == length, "a put's memory is of another length than its block");
  CAIRN_CHECK(sequence > 0, "a put is written under the number of none");
  payload = std::exchange(op.buffer, {});
  payload.zero_tail(length);
  const uint32_t count = format::part_count_for(length);
  std::vector<iovec> memory;
  for (uint32_t i = 0; i < count; ++i) {
    parts.push_back(std::make_unique<Part>(*this));
    Part& part = *parts.back();
    part.payload = payload;
    part.payload_offset = i * format::kPartBytes;
    format::RecordHeader& to = part.head();
    to.type = format::RecordType::block;
    to.key = id.key;
    to.layout = id.layout;
    to.tenant = id.tenant;
    to.durability = op.durability;
    to.group = op.group;
    to.group_members = op.group_members;
    to.scope = op.scope;
    to.length = format::part_bytes_for(length, i);
    to.block_bytes = length;
    to.chunk_shift = format::chunk_shift_for(to.length);
    to.part = static_cast<uint16_t>(i);
    to.part_count = static_cast<uint16_t>(count);
    to.expiry_unix_ms = op.expiry_unix_ms;
    to.sequence = sequence;
    to.stored_unix_ms = store.clock_.unix_ms();
    for (uint64_t from = 0; from < to.length;) {
      const uint64_t bytes = std::min<uint64_t>(uint64_t{1} << to.chunk_shift, to.length - from);
      memory.clear();
      payload.slice(part.payload_offset + from, bytes, memory);
      uint32_t chunk = 0;
      for (const iovec& one : memory) chunk = crc32c({static_cast<const std::byte*>(one.iov_base), one.iov_len}, chunk);
      CAIRN_CHECK(to.chunk_count < format::kChunksMost, "a record has more chunks than its header has room for");
      to.chunk_crcs[to.chunk_count++] = chunk;
      to.payload_crc = from == 0 ? chunk : crc32c_combine(to.payload_crc, chunk, bytes);
      from += bytes;
    }
    crc = i == 0 ? to.payload_crc : crc32c_combine(crc, to.payload_crc, to.length);
  }
  CAIRN_CHECK(parts.back()->payload_offset + parts.back()->head().length == length,
              "the parts of a put do not make up the whole");
  to_place_ = to_settle_ = count;
}

void LogStore::WriteJob::start() {
  CAIRN_CHECK(to_settle_ >= parts.size(), "a put is written that settled some of its parts before");
  for (const auto& part : parts) {
    CAIRN_CHECK(part->log != nullptr, "a part of a put goes to no drive");
    part->log->append(*part, id.tenant);
  }
}

void LogStore::WriteJob::part_placed(Part& part) {
  CAIRN_CHECK(!part.was_placed, "a part of a put is placed twice");
  CAIRN_CHECK(to_place_ > 0, "more parts of a put are placed than it has");
  Segment& segment = part.log->segment(part.at.segment);
  CAIRN_CHECK(segment.generation == part.at.generation, "a part of a put is placed in an earlier use of its segment");
  part.was_placed = true;
  ++segment.pins;
  if (--to_place_ > 0 || !relaxed) return;
  if (!store_.members_->durable()) {
    relaxed = false;
    return;
  }
  // From here on the block is served from its buffer, which this job holds until the drive has it.
  CAIRN_CHECK(!inserted, "a relaxed put becomes visible twice");
  const bool there = store_.all_there(*this);
  inserted = there && store_.insert_all(*this);
  const auto pending = store_.pending_.find(id);
  CAIRN_CHECK(pending != store_.pending_.end(), "a write is placed that nobody waits for");
  CAIRN_CHECK(pending->second.writing == this, "a write is placed while another of its key is on its way");
  PutOp* owner = std::exchange(pending->second.owner, nullptr);
  if (owner != nullptr)
    store_.answer_put(*owner, inserted ? Status::ok : there ? Status::quota_exceeded : Status::io_error);
}

// All that could make room on its drive has to stay there. Another may have some.
bool LogStore::WriteJob::place_elsewhere(Part& part) {
  if (store_.closing_ || ++part.refused >= store_.slots_.size()) return false;
  DriveLog* other = store_.choose_log(part.head().length, part.log);
  if (other == nullptr) return false;
  part.log = other;
  other->append(part, id.tenant);
  return true;
}

void LogStore::WriteJob::part_settled(Part& part, Status ended) {
  if (ended == Status::no_space && !part.was_placed && place_elsewhere(part)) return;
  one_settled(ended);
}

void LogStore::WriteJob::one_settled(Status ended) {
  if (ended != Status::ok) status = ended;
  CAIRN_CHECK(to_settle_ > 0, "a write settles more parts than it has");
  if (--to_settle_ == 0) store_.written(*this);
}

bool LogStore::insert_all(WriteJob& job) {
  CAIRN_CHECK(job.sequence < next_sequence_, "a block becomes visible under a number that was not given out");
  const format::RecordHeader& first = job.first_header();
  // A delete of everything of a name may have overtaken it; its tombstones delete it on the drives, too.
  if (graveyard_.covers(job.id, first.group, first.scope, job.sequence)) return true;
  forget(job.id, Gone::replaced);
  if (job.relaxed) bury_elders(job);  // one that is not has waited for that
  for (const auto& part : job.parts) {
    CAIRN_CHECK(part->was_placed, "a block becomes visible before all of it has its place");
    if (insert(new_entry(part->head()), *part->log, part->at.segment, part->at.page)) continue;
    forget(job.id, Gone::dropped);
    return false;
  }
  cache_.insert(job.id, job.payload, job.sequence, job.crc);
  emit(EventKind::stored, job.id, first.group, first.scope, job.sequence);
  return true;
}

// Whether a drive may hold an earlier block of its key that it was not told of yet.
bool LogStore::has_elders(const WriteJob& job) const {
  const uint64_t hash = hash_of(job.id);
  return std::any_of(slots_.begin(), slots_.end(), [&](const Slot& slot) {
    return slot.log != nullptr && !slot.set_aside && (job.elders_buried >> slot.log->number() & 1) == 0 &&
           slot.log->ghosts.may_hold(hash);
  });
}

// The block is put anew: what was there before under its key stays away whatever becomes of it. A put that is not
// relaxed waits for that, and is not at its end: something else of it is still to settle.
void LogStore::bury_elders(WriteJob& job) {
  CAIRN_CHECK(job.sequence > 0, "blocks are buried under one that was never put");
  WriteJob* const waits = job.relaxed ? nullptr : &job;
  const uint64_t hash = hash_of(job.id);
  for (Slot& slot : slots_) {
    if (slot.log == nullptr || slot.set_aside || !slot.log->ghosts.may_hold(hash)) continue;
    const uint32_t bit = 1U << slot.log->number();
    if ((std::exchange(job.elders_buried, job.elders_buried | bit) & bit) != 0) continue;
    if (waits != nullptr) waits->await();
    if (!pay_elder(slot, job.id, job.sequence, waits) && waits != nullptr) waits->awaited(Status::ok);
  }
}

// A bit a drive that holds a part of it.
uint32_t LogStore::drives_of(const BlockId& id) {
  uint32_t drives = 0;
  for (uint32_t part = 0; const Index::Entry* entry = find_part(id, part); ++part) drives |= 1U << entry->drive;
  return drives;
}

// --- puts ------------------------------------------------------------------------------------------------

void LogStore::answer_put(PutOp& op, Status status) {
  CAIRN_CHECK(status != Status::ok || op.sequence > 0, "a put is acknowledged without a number");
  CAIRN_CHECK(status != Status::exists || op.sequence > 0, "a block exists that was never put");
  TenantCounters& tenant = tenants_.at(op.id.tenant).counters;
  if (status == Status::ok) {
    ++counters_.puts;
    ++tenant.puts;
    counters_.put_bytes += op.length;
    tenant.put_bytes += op.length;
  } else if (status == Status::exists) {
    ++counters_.put_exists;
    ++tenant.put_exists;
  } else if (status == Status::no_space) {
    ++counters_.no_space;
  } else if (status == Status::io_error) {
    ++counters_.io_errors;
  } else if (status == Status::quota_exceeded) {
    ++counters_.refused_quota;
    ++tenant.refused_quota;
  } else if (status == Status::not_admitted) {
    ++counters_.refused_admission;
    ++tenant.refused_admission;
  }
  op.done(status);
}

// Past drives that take no writes, away from those that have no room to give, and towards those that are less behind.
DriveLog* LogStore::choose_log(uint64_t length, const DriveLog* not_this) {
  DriveLog* best = nullptr;
  bool best_jammed = false;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[(next_log_ + i) % slots_.size()];
    DriveLog* log = slot.log.get();
    if (slot.standing != Standing::member) continue;
    if (log == nullptr || log == not_this || !log->writable()) continue;
    if (length > format::payload_bytes_most(log->superblock().segment_bytes)) continue;
    const bool jammed = slot.evictor != nullptr && slot.evictor->jammed();
    const bool better =
        jammed != best_jammed ? best_jammed : best == nullptr || log->waiting_bytes() < best->waiting_bytes();
    if (best != nullptr && !better) continue;
    best = log;
    best_jammed = jammed;
  }
  ++next_log_;
  return best;
}

// Sequences are given out and blocks written once every drive said how far its own go.
bool LogStore::writes_open() const {
  return loaded_once_ && members_->durable() && std::all_of(slots_.begin(), slots_.end(), [](const Slot& slot) {
           return slot.loader == nullptr || slot.loader->headers_read();
         });
}

// Why a put is refused before anything is done for it; ok if it is not.
Status LogStore::refuse_put(const PutOp& op) {
  if (op.group_members > kGroupMembersMost) return Status::group_too_large;
  if (op.expiry_unix_ms != 0 && op.expiry_unix_ms <= clock_.unix_ms()) return Status::expired;
  const TenantOptions& tenant = tenants_.at(op.id.tenant).options;
  if (tenant.quota_bytes != 0 && op.length > tenant.quota_bytes) return Status::quota_exceeded;
  const uint64_t record = std::min(op.length, format::kPartBytes);
  if (numbers_spent()) return Status::read_only;
  bool any = false, takes = false;
  for (const Slot& slot : slots_) {
    if (slot.log == nullptr || !slot.log->writable() || slot.standing != Standing::member) continue;
    any = true;
    takes |= record <= format::payload_bytes_most(slot.log->superblock().segment_bytes);
  }
  if (!any) return Status::read_only;
  return takes && op.length <= slab_.total_bytes() / 2 ? Status::ok : Status::too_large;
}

void LogStore::begin_put(PutOp& op) {
  CAIRN_CHECK(op.length > 0, "a put of nothing, which the caller should have refused");
  CAIRN_CHECK(op.length <= kBlockBytesMost, "a put of a length the caller should have refused");
  CAIRN_CHECK(!op.buffer, "a put is begun that holds memory already");
  if (members_->closed() && all_read()) return answer_put(op, Status::read_only);
  if (!writes_open()) {
    write_waiting_.push_back(&op);
    return;
  }
  start_put(op);
}

void LogStore::start_put(PutOp& op) {
  const auto pending = pending_.find(op.id);
  if (pending != pending_.end()) {
    CAIRN_CHECK(pending->second.owner != &op, "a put waits for itself");
    pending->second.waiters.push_back(&op);
    return;
  }
  if (const Index::Entry* entry = find(op.id, false)) {
    op.sequence = entry->birth;
    return answer_put(op, Status::exists);
  }
  const Status refused = refuse_put(op);
  if (refused != Status::ok) return answer_put(op, refused);
  if (!bound(op.id.tenant)) {
    bind_waiting_.push_back(&op);
    return;
  }
  if (quota_waits_.contains(op.id.tenant) || over_quota(op)) {
    quota_waiting_.push_back(&op);
    return feed_quota();
  }
  if (!admission_.admit(op.id, op.length, clock_.now_ms())) return answer_put(op, Status::not_admitted);
  Pending& mine = pending_[op.id];
  mine.owner = &op;
  mine.bytes = op.length;
  Tenants::Row& tenant = tenants_.at(op.id.tenant);
  tenant.pending_bytes += op.length;
  ++tenant.changes;
  MemoryLine& line = tenant.memory;
  op.waiter.put = &op;
  if (!line.waiting.empty() || !slab_shares_.may_hold(line, op.length) || !grant(op))
    return slab_shares_.wait(line, op.waiter, op.length);
  op.ready();
}

bool LogStore::grant(PutOp& op) {
  CAIRN_CHECK(!op.buffer, "a put is granted memory twice");
  op.buffer = take_memory(op.length, &tenants_.at(op.id.tenant).memory.account);
  return static_cast<bool>(op.buffer);
}

void LogStore::feed_hungry() {
  if (slab_shares_.empty()) return;
  slab_shares_.look_for_elder();
  while (MemoryWaiter* waiter = slab_shares_.next()) {
    if (waiter->get != nullptr) {
      if (!start_get(*waiter->get, true)) return;  // what is free lies in too many pieces, or is not the clients'
      continue;
    }
    PutOp& op = *waiter->put;
    if (!grant(op)) return slab_shares_.wait_again(tenants_.at(op.id.tenant).memory, op.waiter, op.length);
    op.ready();
  }
}

void LogStore::commit(PutOp& op) {
  const auto found = pending_.find(op.id);
  CAIRN_CHECK(found != pending_.end(), "a put is committed that was not begun, or was settled");
  CAIRN_CHECK(found->second.owner == &op, "a put is committed under the key of another");
  CAIRN_CHECK(found->second.writing == nullptr, "a put is committed twice");
  CAIRN_CHECK(static_cast<bool>(op.buffer), "a put is committed that was not granted");
  Pending& pending = found->second;
  auto job = std::make_unique<WriteJob>(*this, op, next_sequence_);
  Status refused = op.has_crc && job->crc != op.crc ? Status::bad_checksum : Status::ok;
  for (const auto& part : job->parts) {
    part->log = refused == Status::ok ? choose_log(part->head().length) : nullptr;
    if (part->log == nullptr && refused == Status::ok) refused = Status::read_only;
  }
  if (refused != Status::ok) {
    const BlockId id = op.id;
    pending.owner = nullptr;
    answer_put(op, refused);
    return settle_pending(id);
  }
  pay_what_a_start_owes();
  op.sequence = next_word();
  pending.writing = job.get();
  WriteJob& started = *job;
  writes_.push_front(std::move(job));
  started.self = writes_.begin();
  if (has_elders(started)) {
    // No earlier block of that key may be back once this one was acknowledged.
    started.relaxed = false;
    bury_elders(started);
  }
  started.start();
  // A relaxed put is answered when its records have their places: WriteJob::part_placed().
}

// A part may have reached a drive that left before the others reached theirs.
bool LogStore::all_there(const WriteJob& job) const {
  return std::all_of(job.parts.begin(), job.parts.end(), [this](const auto& part) {
    return slots_[part->log->number()].log.get() == part->log && part->log->readable();
  });
}

void LogStore::written(WriteJob& job) {
  CAIRN_CHECK(job.self->get() == &job, "a write ends that is listed in the place of another");
  CAIRN_CHECK(!job.inserted || job.relaxed, "a durable put became visible before it was on its drives");
  if (job.status == Status::ok && !members_->durable() && !members_->over()) {
    held_writes_.push_back(&job);
    return;
  }
  if (job.status == Status::ok && !members_->durable() && !job.inserted) job.status = Status::read_only;
  if (job.status == Status::ok && !job.relaxed) {
    // A drive that came while it was written may hold an earlier block of its key.
    const Index::Entry* known = find_part(job.id, 0);
    if (known != nullptr && known->birth < job.sequence) {
      job.elders_buried &= ~drives_of(job.id);
      forget(job.id, Gone::replaced);
    }
    if (has_elders(job)) {
      job.await();
      bury_elders(job);
      return job.awaited(Status::ok);
    }
  }
  const auto keep = std::move(*job.self);
  writes_.erase(job.self);
  const BlockId id = job.id;
  const auto found = pending_.find(id);
  CAIRN_CHECK(found != pending_.end(), "a write ends that nobody waits for");
  CAIRN_CHECK(found->second.writing == &job, "a write ends while another of its key is on its way");
  Pending& pending = found->second;
  PutOp* owner = std::exchange(pending.owner, nullptr);
  pending.writing = nullptr;
  Status status = job.status;
  if (status == Status::ok && !all_there(job)) status = Status::io_error;
  for (const auto& part : job.parts) {
    if (!part->was_placed) continue;
    Segment& segment = part->log->segment(part->at.segment);
    CAIRN_CHECK(segment.pins > 0, "a segment was given up under a put");
    CAIRN_CHECK(segment.generation == part->at.generation, "a segment was used again under a put");
    --segment.pins;
  }
  if (job.inserted) {
    // It was visible already. If it did not reach the drives it goes, unless it went before.
    const Index::Entry* entry = find(id, false);
    if (status != Status::ok && entry != nullptr && entry->birth == job.sequence) forget(id, Gone::dropped);
    if (status != Status::ok) ++counters_.io_errors;
  } else if (status == Status::ok && !job.relaxed && !insert_all(job)) {
    status = Status::quota_exceeded;
  }
  if (status != Status::ok) note_leftovers(job);
  if (owner != nullptr) answer_put(*owner, status);
  settle_pending(id);
}

// Of a put that failed some may lie on the drives all the same: whoever puts that key anew buries it.
void LogStore::note_leftovers(const WriteJob& job) {
  for (const auto& part : job.parts) {
    if (part->was_placed && slots_[part->log->number()].log.get() == part->log)
      note_ghost(*part->log, part->at.segment, job.id);
  }
}

// What waited for the drives to know of each other.
void LogStore::release_held() {
  CAIRN_CHECK(held_writes_.size() <= writes_.size(), "a put is held back that is not on its way");
  for (WriteJob* job : std::exchange(held_writes_, {})) written(*job);
  for (const auto& removal : std::exchange(held_removals_, {})) {
    if (!members_->durable() && members_->over()) {
      for (Status& one : removal->op->statuses)
        one = one == Status::ok || one == Status::not_found ? Status::read_only : one;
      removal->refused = true;
    }
    finish_removal(removal);
  }
}

// The key is free again. Deletes that came after the put take its block away; then whoever waited starts over, and
// most often learns that it exists.
void LogStore::settle_pending(const BlockId& id) {
  auto node = pending_.extract(id);
  CAIRN_CHECK(!node.empty(), "a put is settled twice");
  CAIRN_CHECK(node.mapped().owner == nullptr, "a put is settled before it was answered");
  CAIRN_CHECK(node.mapped().writing == nullptr, "a put is settled before it was written");
  Tenants::Row& tenant = tenants_.at(node.key().tenant);
  CAIRN_CHECK(tenant.pending_bytes >= node.mapped().bytes, "a tenant has fewer bytes on the way than were counted");
  tenant.pending_bytes -= node.mapped().bytes;
  ++tenant.changes;
  for (const auto& [removal, item] : node.mapped().removals) start_removal(removal, {item});
  restart_.insert(restart_.end(), node.mapped().waiters.begin(), node.mapped().waiters.end());
  restart_waiters();
}

// Callbacks may settle further keys and cancel operations that wait here, so the list is walked once, from outside.
void LogStore::restart_waiters() {
  if (std::exchange(restarting_, true)) return;
  while (!restart_.empty()) {
    PutOp* waiter = restart_.front();
    restart_.pop_front();
    begin_put(*waiter);
  }
  restarting_ = false;
}

void LogStore::cancel(PutOp& op) {
  slab_shares_.leave(op.waiter);
  std::erase(restart_, &op);
  std::erase(write_waiting_, &op);
  std::erase(bind_waiting_, &op);
  std::erase(quota_waiting_, &op);
  const auto found = pending_.find(op.id);
  if (found == pending_.end()) return;
  Pending& pending = found->second;
  std::erase(pending.waiters, &op);
  if (pending.owner != &op) return;
  pending.owner = nullptr;
  if (pending.writing == nullptr) settle_pending(BlockId(op.id));
}

}  // namespace cairn
