// Deleting: out of the index at once, and a tombstone on every drive, so that it stays so.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "store/evictor.h"
#include "store/jobs.h"
#include "store/members.h"

namespace cairn {

using format::Buried;

namespace {

constexpr uint64_t kLongestBytes = kBatchItemsMost * sizeof(format::Tombstone);
static_assert(1 + format::appended_pages(format::RecordType::tombstones, kLongestBytes) +
                      format::summary_pages(kBatchItemsMost) <=
                  format::kSegmentBytesLeast / format::kPageBytes,
              "the longest delete does not fit the smallest segment");
static_assert(kLongestBytes <= format::kPartBytes, "the longest delete needs larger chunks than a part of a block");

Buried buried_kind(DeleteKind kind) {
  switch (kind) {
    case DeleteKind::keys:
      return Buried::key;
    case DeleteKind::group:
      return Buried::group;
    case DeleteKind::scope:
      return Buried::scope;
    case DeleteKind::layout:
      return Buried::layout;
    case DeleteKind::tenant:
      return Buried::tenant;
  }
  return Buried::key;
}

}  // namespace

TombstoneAppend::TombstoneAppend(const std::vector<format::Tombstone>& buried, uint64_t sequence, uint64_t now_unix_ms)
    : pages_(format::kTombstoneCopies) {
  CAIRN_CHECK(!buried.empty(), "a record of no tombstones");
  CAIRN_CHECK(buried.size() <= kBatchItemsMost, "a record of too many tombstones");
  header = new (pages_.data()) format::Page<format::RecordHeader>{};
  second_header = new (pages_.data() + format::kPageBytes) format::Page<format::RecordHeader>{};
  const uint64_t length = buried.size() * sizeof(format::Tombstone);
  tombstones = std::make_unique<Pages>(format::pages_of(length));
  std::memcpy(tombstones->data(), buried.data(), length);
  dead = buried;
  format::RecordHeader& to = header->body;
  to.type = format::RecordType::tombstones;
  to.part_count = format::kTombstoneCopies;
  to.chunk_shift = format::chunk_shift_for(length);
  to.length = to.block_bytes = length;
  to.sequence = sequence;
  to.stored_unix_ms = now_unix_ms;
  const ConstByteSpan bytes_of_it(tombstones->data(), length);
  to.payload_crc = crc32c(bytes_of_it);
  for (uint64_t from = 0; from < length; from += uint64_t{1} << to.chunk_shift) {
    to.chunk_crcs[to.chunk_count++] =
        crc32c(bytes_of_it.subspan(from, std::min<uint64_t>(uint64_t{1} << to.chunk_shift, length - from)));
  }
}

// --- deletes ---------------------------------------------------------------------------------------------

// A tombstone must come behind every copy of what it deletes: not before the drives said what they hold, and not while
// a block is between two places.
bool LogStore::must_wait(const DeleteOp& op) const {
  if (!loaded_once_ || !loaded()) return true;
  if (op.kind != DeleteKind::keys) return !moving_.empty();
  return !moving_.empty() &&
         std::any_of(op.ids.begin(), op.ids.end(), [&](const BlockId& id) { return moving_.contains(id); });
}

// Whether some drive holds blocks that the index does not know: one that is away, or what was given up or deleted a
// moment ago, of which the tombstone is still on its way.
bool LogStore::any_hidden() const {
  return !removes_.empty() || any_away() || std::any_of(slots_.begin(), slots_.end(), [](const Slot& slot) {
    return slot.log != nullptr && slot.log->haunted();
  });
}

bool LogStore::any_away() const {
  return options_.absent_drives > 0 || paying_ > 0 || members_->counts_on_absent() || members_->joining() ||
         std::any_of(slots_.begin(), slots_.end(), [](const Slot& slot) {
           return slot.set_aside || (slot.log != nullptr && slot.log->state() == DriveState::read_only);
         });
}

void LogStore::remove(DeleteOp& op) {
  CAIRN_CHECK(!op.ids.empty(), "a delete of nothing");
  CAIRN_CHECK(op.ids.size() <= kBatchItemsMost, "a delete of more ids than its caller may take");
  CAIRN_CHECK(op.kind == DeleteKind::keys || op.ids.size() == 1, "a delete of a name that is not one");
  if (members_->closed() && loaded()) {
    op.statuses.assign(op.ids.size(), Status::read_only);
    return op.done();
  }
  if (must_wait(op)) {
    remove_waiting_.push_back(&op);
    return;
  }
  if (numbers_spent()) {
    op.statuses.assign(op.ids.size(), Status::read_only);
    return op.done();
  }
  op.statuses.assign(op.ids.size(), Status::not_found);
  const auto removal = std::make_shared<Removal>(Removal{&op, 1, false});
  if (op.kind != DeleteKind::keys) return start_wide_removal(removal);
  std::vector<size_t> now;
  for (size_t i = 0; i < op.ids.size(); ++i) {
    // A put that is committed takes effect whoever gave it up, so a delete that comes after it has to come behind it.
    const auto pending = pending_.find(op.ids[i]);
    if (pending != pending_.end() && pending->second.writing != nullptr && find(op.ids[i], false) == nullptr) {
      pending->second.removals.emplace_back(removal, i);
      ++removal->left;
    } else {
      now.push_back(i);
    }
  }
  start_removal(removal, now);
}

void LogStore::bury(const format::Tombstone& tombstone, uint32_t drives) {
  graveyard_.bury(tombstone, drives);
  tell_dropped();
  if (tombstone.kind == Buried::scope) {
    if (const uint32_t scope = scopes_.find(tombstone.tenant, tombstone.value); scope != Names::kNone)
      scopes_.delete_before(scope, tombstone.sequence);
  } else if (tombstone.kind == Buried::layout) {
    if (const uint32_t layout = keyspaces_.find(tombstone.tenant, tombstone.value); layout != Names::kNone)
      keyspaces_.delete_before(layout, tombstone.sequence);
  } else if (tombstone.kind == Buried::tenant) {
    keyspaces_.delete_tenant_before(tombstone.tenant, tombstone.sequence);
  }
  if (!format::names_one_key(tombstone.kind)) sweep_left_ = std::max(sweep_left_, 2 * index_.slots());
}

// Takes those of the delete's ids out of the index and sends their tombstones. Consumes one of what is `left`.
void LogStore::start_removal(const std::shared_ptr<Removal>& removal, const std::vector<size_t>& items) {
  CAIRN_CHECK(removal->left > 0, "a delete goes on after its end");
  DeleteOp& op = *removal->op;
  CAIRN_CHECK(op.statuses.size() == op.ids.size(), "a delete has other answers than it has ids");
  std::vector<format::Tombstone> tombstones;
  std::vector<size_t> sent;
  std::vector<uint32_t> held_by;
  for (const size_t item : items) {
    CAIRN_CHECK(item < op.ids.size(), "an id is deleted that was not named");
    const BlockId& id = op.ids[item];
    const Index::Entry* head = find(id, false);
    const bool hidden = any_hidden();  // find() may have dropped what a restart would find
    if (head == nullptr && !hidden) continue;
    // What takes a leased member of its group along is held by that lease, too.
    const bool held = head != nullptr && (leases_.leased(id) || groups_.row(head->group()).leases > 0);
    if (held) {
      op.statuses[item] = Status::leased;
      continue;
    }
    // What the index does not know may lie on any of them.
    uint32_t drives = hidden ? UINT32_MAX : 0;
    const uint32_t parts = head == nullptr ? 0 : parts_of(*head);
    bool writable = true;
    for (uint32_t part = 0; part < parts; ++part) {
      const Index::Entry* entry = find_part(id, static_cast<uint8_t>(part));
      CAIRN_CHECK(entry != nullptr, "a part of a block that is to be deleted is not there");
      const uint32_t drive = static_cast<uint32_t>(entry->drive);
      CAIRN_CHECK(slots_[drive].log != nullptr, "a block is deleted from a drive that is not there");
      drives |= 1U << drive;
      const DriveState state = slots_[drive].log->state();
      writable &= state == DriveState::serving || state == DriveState::draining;
    }
    if (!writable) {
      op.statuses[item] = Status::read_only;
      continue;
    }
    if (head != nullptr) op.statuses[item] = Status::ok;
    forget(id, Gone::deleted);
    ++tenants_.at(id.tenant).counters.deletes;
    tombstones.push_back({id.key, id.layout, id.tenant, Buried::key, {}, 0});
    sent.push_back(item);
    held_by.push_back(drives);
  }
  if (!tombstones.empty()) send_tombstones(removal, std::move(tombstones), sent, held_by);
  finish_removal(removal);
}

void LogStore::start_wide_removal(const std::shared_ptr<Removal>& removal) {
  DeleteOp& op = *removal->op;
  CAIRN_CHECK(op.ids.size() == 1, "a delete of a name that names several");
  CAIRN_CHECK(op.statuses.size() == 1, "a delete of a name that has several answers");
  const BlockId& id = op.ids[0];
  format::Tombstone tombstone;
  tombstone.kind = buried_kind(op.kind);
  tombstone.tenant = id.tenant;
  EventKind event = EventKind::tenant_deleted;
  bool any = any_hidden();
  if (op.kind == DeleteKind::group) {
    tombstone.key = Key{op.group};
    tombstone.value = id.layout;
    event = EventKind::group_deleted;
    const uint32_t keyspace = keyspaces_.find(id.tenant, id.layout);
    const uint32_t group = keyspace == Names::kNone ? Groups::kNone : groups_.find(keyspace, op.group);
    any |= keyspace != Names::kNone;  // members of a group that broke up are still on the drives
    if (group != Groups::kNone) groups_.break_up(group);
  } else if (op.kind == DeleteKind::scope) {
    tombstone.value = op.scope;
    event = EventKind::scope_deleted;
    any |= scopes_.find(id.tenant, op.scope) != Names::kNone;
  } else if (op.kind == DeleteKind::layout) {
    tombstone.value = id.layout;
    event = EventKind::layout_deleted;
    any |= keyspaces_.find(id.tenant, id.layout) != Names::kNone;
  } else {
    any |= tenants_.at(id.tenant).blocks > 0;
  }
  // A put that is on its way is not in the index yet, but its records may be on a drive.
  any |= !pending_.empty();
  op.statuses[0] = Status::ok;
  uint32_t drives = 0;
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].log == nullptr || slots_[i].set_aside) continue;
    drives |= 1U << i;
    // What a drive that takes no writes holds would come back.
    if (slots_[i].log->state() == DriveState::read_only) op.statuses[0] = Status::read_only;
  }
  if (any) {
    ++tenants_.at(id.tenant).counters.deletes;
    send_tombstones(removal, {tombstone}, {0}, {drives});
    emit(event, {Key{}, op.kind == DeleteKind::tenant ? 0 : id.layout, id.tenant}, op.group, op.scope,
         next_sequence_ - 1);
  }
  finish_removal(removal);
}

// One record for each drive that takes writes, with the same number.
void LogStore::send_tombstones(const std::shared_ptr<Removal>& removal, std::vector<format::Tombstone> tombstones,
                               const std::vector<size_t>& items, const std::vector<uint32_t>& drives) {
  CAIRN_CHECK(tombstones.size() == items.size(), "there are more tombstones than ids that they delete, or fewer");
  CAIRN_CHECK(items.size() == drives.size(), "nobody knows which drives hold what is deleted");
  pay_what_a_start_owes();
  const uint64_t sequence = next_word();
  uint32_t told = 0;
  for (const Slot& slot : slots_) {
    if (slot.log == nullptr) continue;
    const DriveState state = slot.log->state();
    if (state == DriveState::serving || state == DriveState::draining) told |= 1U << slot.log->number();
  }
  for (format::Tombstone& one : tombstones) {
    one.sequence = sequence;
    bury(one, told);
  }
  bool sent = false;
  for (Slot& slot : slots_) {
    if (slot.log == nullptr) continue;
    if (slot.log->state() != DriveState::serving && slot.log->state() != DriveState::draining) continue;
    auto job = std::make_unique<RemoveJob>(*this, tombstones, sequence);
    job->removal = removal;
    job->items = items;
    job->held_by = drives;
    job->drive = slot.log->number();
    RemoveJob& started = *job;
    removes_.push_front(std::move(job));
    started.self = removes_.begin();
    ++removal->left;
    sent = true;
    slot.log->append(started, tombstones.front().tenant);
  }
  if (sent) return;
  for (const size_t item : items) {
    Status& answer = removal->op->statuses[item];
    if (answer == Status::ok || answer == Status::not_found) answer = Status::read_only;
  }
}

// What a tombstone was to delete may still lie on a drive that did not take it, and is in no index: whoever puts such a
// key anew buries it.
void LogStore::note_undead(Slot& slot, const format::Tombstone& tombstone) {
  if (slot.log == nullptr) return;
  if (format::names_one_key(tombstone.kind)) {
    note_ghost(*slot.log, Ghosts::kSomewhere, {tombstone.key, tombstone.value, tombstone.tenant});
  } else {
    slot.log->ghosts.note_unknown(Ghosts::kSomewhere);
  }
}

void LogStore::remove_done(RemoveJob& job, Status status) {
  CAIRN_CHECK(job.self->get() == &job, "a delete ends that is listed in the place of another");
  CAIRN_CHECK(job.items.size() == job.held_by.size(), "nobody knows which drives held what was deleted");
  const auto keep = std::move(*job.self);
  removes_.erase(job.self);
  CAIRN_CHECK(job.removal == nullptr || job.waits == nullptr, "a put waits for what a client deletes");
  CAIRN_CHECK(job.drive < slots_.size(), "a delete ends on a drive that there never was");
  Slot& slot = slots_[job.drive];
  if (status != Status::ok) {
    for (const format::Tombstone& one : job.dead) {
      graveyard_.unheld(one, job.drive);
      note_undead(slot, one);
    }
  }
  if (job.removal == nullptr) {
    if (status == Status::ok) --paying_;
    // Its slot may be another's by now; then nothing is counted there.
    if (slot.owed > 0) --slot.owed;
    slot.owed_failed |= status != Status::ok;
    if (job.waits != nullptr) {
      job.waits->awaited(status);
    } else if (status != Status::ok && slot.log != nullptr && slot.log->state() == DriveState::read_only) {
      // It is told again when it takes writes; of deletes the graveyard knows that.
      for (const format::Tombstone& one : job.dead) {
        if (one.kind == format::Buried::earlier) owe_elder(slot, {one.key, one.value, one.tenant}, one.sequence);
      }
    }
    return;
  }
  for (size_t i = 0; i < job.items.size(); ++i) {
    Status& told = job.removal->op->statuses[job.items[i]];
    if (status == Status::ok || (told != Status::ok && told != Status::not_found)) continue;
    // A drive that never held the block has nothing to bring back.
    if ((job.held_by[i] & 1U << job.drive) == 0) continue;
    told = status;
    ++counters_.io_errors;
  }
  finish_removal(job.removal);
}

void LogStore::finish_removal(const std::shared_ptr<Removal>& removal) {
  CAIRN_CHECK(removal->left > 0, "a delete ends twice");
  CAIRN_CHECK(removal->op != nullptr, "a delete ends that nobody asked for");
  if (--removal->left > 0) return;
  if (!members_->durable() && !removal->refused) {
    removal->left = 1;
    held_removals_.push_back(removal);
    return;
  }
  for (const Status status : removal->op->statuses) counters_.deletes += status == Status::ok ? 1 : 0;
  removal->op->done();
}

}  // namespace cairn
