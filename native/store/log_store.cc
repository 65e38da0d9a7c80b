// The index, and what is asked of it; the turn.
#include "store/log_store.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "store/evictor.h"
#include "store/jobs.h"
#include "store/members.h"
#include "store/quotas.h"
#include "store/scrubber.h"

namespace cairn {

namespace {

constexpr size_t kDrivesMost = 32;  // what a place in the index can name
static_assert(kDrivesMost <= sizeof(uint32_t) * 8, "a set of drives does not fit a bit each");
// Of what a tenant may hold, this part may be leased: the rest has to stay evictable, or nothing new fits.
constexpr uint64_t kLeasedPart = 4;

}  // namespace

LogStore::LogStore(Slab& slab, const Clock& clock, const StoreOptions& options)
    : slab_(slab),
      clock_(clock),
      options_(options),
      slab_shares_(slab),
      index_([this](const Index::Entry& entry) { return fresh(entry); },
             [this](const Index::Entry& entry) { dropped(entry); }),
      cache_(tenants_),
      leases_(*this),
      admission_(options.admission, clock.now_ms()),
      opened_ns_(clock.now_ns()) {
  slots_.reserve(kDrivesMost);  // slots keep their addresses
  members_ = std::make_unique<Members>(*this);
  if (options_.events != nullptr) add_event_sink(*options_.events);
}

LogStore::~LogStore() {
  // Requests on the drives point into our jobs. What waits for room is given up, and nobody is told any more: whoever
  // asked may be gone.
  sinks_.clear();
  for (auto& [id, pending] : pending_) {
    pending.owner = nullptr;
    pending.waiters.clear();
    pending.removals.clear();
  }
  for (const auto& job : removes_) job->removal = nullptr;
  for (const auto& job : reads_) job->waiters.clear();
  restart_.clear();
  held_removals_.clear();
  for (const Slot& slot : slots_) {
    if (slot.log != nullptr) slot.log->fail("the store is gone");
  }
  settle_down();
  CAIRN_CHECK(moving_.empty(), "a store ends with blocks between two places");
}

void LogStore::turn_drives() {
  for (const auto& [tenant, walk] : squeezes_) walk->poll();
  for (const Slot& slot : slots_) {
    if (slot.log == nullptr) continue;
    slot.log->poll(next_sequence_);
    if (slot.evictor != nullptr) slot.evictor->poll();
    if (slot.scrubber != nullptr) slot.scrubber->poll();
    slot.log->drive().wait(10);
  }
  members_->poll();
  release_held();
}

// Until nothing is on its way and nothing is begun.
void LogStore::settle_down() {
  members_->stop();
  for (Slot& slot : slots_) {
    if (slot.evictor != nullptr) slot.evictor->stop();
    if (slot.scrubber != nullptr) slot.scrubber->stop();
  }
  for (const auto& [tenant, walk] : squeezes_) walk->stop();
  while (!idle()) turn_drives();
}

// What was taken and not written yet is written, as long as room can be made for it.
void LogStore::write_what_waits() {
  constexpr int kStillMost = 100;
  const auto written = [this] {
    uint64_t bytes = 0;
    for (const Slot& slot : slots_) bytes += slot.log == nullptr ? 0 : slot.log->counters.written_bytes;
    return bytes;
  };
  uint64_t before = written();
  for (int still = 0; still < kStillMost && !(writes_.empty() && removes_.empty()); ++still) {
    turn_drives();
    if (written() != before) still = 0;
    before = written();
  }
  closing_ = true;
  for (const Slot& slot : slots_) {
    if (slot.log != nullptr) slot.log->fail_waiting(Status::no_space);
  }
}

// --- the index -------------------------------------------------------------------------------------------

bool LogStore::fresh(const Index::Entry& entry) const {
  CAIRN_CHECK(entry.drive < slots_.size(), "a block lies on a drive that there never was");
  const DriveLog* log = slots_[entry.drive].log.get();
  if (log == nullptr || !log->stands(entry.segment, entry.use)) return false;
  if (entry.birth < keyspaces_.row(entry.keyspace).deleted_before) return false;
  if (entry.scope != Names::kNone && entry.birth < scopes_.row(entry.scope).deleted_before) return false;
  return entry.group() == Groups::kNone || !groups_.broken(entry.group());
}

// The index met an entry that stands no longer. It is counted out at once; who is to be told waits, for the index may
// not be touched here.
void LogStore::dropped(const Index::Entry& entry) {
  const uint32_t group = entry.group();
  const Slot& slot = slots_[entry.drive];
  DriveLog* log = slot.log.get();
  // Whatever took it: a drive that is away may hold an earlier block of that key.
  if (log != nullptr && !slot.set_aside) log->give_up(entry.birth);
  // Its segment was given up unread; what a drive took along with it was told of by the drive.
  const bool unread =
      log != nullptr && !slot.set_aside && !log->stands(entry.segment, entry.use) && log->counts_since_start(entry.use);
  const bool evicted = unread || (group != Groups::kNone && groups_.broken(group));
  dropped_.push_back({entry, group == Groups::kNone ? GroupId{} : groups_.row(group).id, evicted});
  if (evicted && log != nullptr && entry.segment < log->segments().size()) {
    log->ghosts.note(static_cast<uint32_t>(entry.segment), hash_of(id_of(entry)));
    log->evicted_sequence = std::max<uint64_t>(log->evicted_sequence, entry.birth);
    ++log->counters.evicted_blocks;
  }
  account(entry, false);
}

void LogStore::tell_dropped() {
  while (!dropped_.empty()) {
    const Dropped one = dropped_.back();
    const Index::Entry& entry = one.entry;
    dropped_.pop_back();
    if (entry.part != 0) continue;
    BlockId id{entry.key, 0, 0};
    // The row outlives the entry until the next name is taken, which is not before this.
    const Names::Row& row = keyspaces_.row(entry.keyspace);
    id.layout = row.value;
    id.tenant = row.tenant;
    const Cache::Entry* cached = cache_.find(id);
    if (cached != nullptr && cached->birth == entry.birth) cache_.erase(id);
    if (leases_.leased(id) && find_part(id, 0) == nullptr) leases_.forget(id);
    if (!one.evicted) continue;  // the others were told of by the name that was deleted, or the drive that was lost
    TenantCounters& tenant = tenants_.at(id.tenant).counters;
    ++tenant.evicted_blocks;
    tenant.evicted_bytes += entry.length();
    emit(EventKind::evicted, id, one.group, 0, entry.birth);
  }
}

BlockId LogStore::id_of(const Index::Entry& entry) const {
  const Names::Row& row = keyspaces_.row(entry.keyspace);
  return {entry.key, row.value, row.tenant};
}

Index::Entry* LogStore::find_part(const BlockId& id, uint8_t part) {
  const uint32_t keyspace = keyspaces_.find(id.tenant, id.layout);
  return keyspace == Names::kNone ? nullptr : index_.find({id.key, keyspace, part});
}

Index::Entry* LogStore::find(const BlockId& id, bool in_group) {
  if (!visible_) return nullptr;
  Index::Entry* head = find_part(id, 0);
  if (head == nullptr || slots_[head->drive].hidden) return nullptr;
  const uint64_t now = clock_.unix_ms();
  if (Index::expired(head->expiry_ticks, now)) {
    forget(id, Gone::expired);
    return nullptr;
  }
  const uint32_t group = head->group();
  if (group != Groups::kNone) {
    if (Index::expired(groups_.row(group).expiry_ticks, now)) {
      forget(id, Gone::expired);
      return nullptr;
    }
    if (in_group && !groups_.complete(group)) return nullptr;
  }
  const uint32_t parts = parts_of(*head);
  const uint64_t birth = head->birth;
  for (uint32_t part = 1; part < parts; ++part) {
    // A find that drops a stale part moves entries; but then the block is gone and `head` is not used again.
    const Index::Entry* other = find_part(id, static_cast<uint8_t>(part));
    if (other != nullptr && slots_[other->drive].hidden) return nullptr;
    if (other != nullptr && other->birth == birth && other->length_less_one == head->length_less_one) continue;
    forget(id, Gone::evicted);
    return nullptr;
  }
  return head;
}

LogStore::NewEntry LogStore::new_entry(const format::RecordHeader& header) {
  CAIRN_CHECK(header.type == format::RecordType::block, "a record of deletes is indexed as a block");
  NewEntry entry;
  entry.id = {header.key, header.layout, header.tenant};
  entry.part = static_cast<uint8_t>(header.part);
  entry.block_bytes = header.block_bytes == 0 ? header.length : header.block_bytes;
  entry.single = header.part_count <= 1;
  entry.sequence = header.sequence;
  entry.expiry_unix_ms = header.expiry_unix_ms;
  entry.group = header.group;
  entry.group_members = header.group_members;
  entry.scope = header.scope;
  return entry;
}

LogStore::NewEntry LogStore::new_entry(const format::SummaryEntry& summary) {
  CAIRN_CHECK(summary.type == format::RecordType::block, "a delete is indexed as a block");
  NewEntry entry;
  entry.id = {summary.key, summary.layout, summary.tenant};
  entry.part = summary.part;
  entry.block_bytes = summary.block_bytes == 0 ? summary.length : summary.block_bytes;
  entry.single = summary.part_count <= 1;
  entry.sequence = summary.sequence;
  entry.expiry_unix_ms = summary.expiry_unix_ms;
  entry.group = summary.group;
  entry.group_members = summary.group_members;
  entry.scope = summary.scope;
  return entry;
}

bool LogStore::insert(const NewEntry& what, DriveLog& log, uint32_t segment, uint32_t page) {
  what.check();
  CAIRN_CHECK(slots_[log.number()].log.get() == &log, "a block is indexed on a drive that is gone");
  CAIRN_CHECK(log.segment(segment).state != SegmentState::free, "a block is indexed in a segment that is gone");
  CAIRN_CHECK(log.segment(segment).state != SegmentState::wiping, "a block is indexed in a segment that is wiped");
  tell_dropped();
  const uint32_t keyspace = keyspaces_.take(what.id.tenant, what.id.layout);
  const uint32_t scope = what.scope == 0 ? Names::kNone : scopes_.take(what.id.tenant, what.scope);
  if (keyspace == Names::kNone || (what.scope != 0 && scope == Names::kNone)) return false;
  Index::Entry entry;
  entry.key = what.id.key;
  entry.keyspace = keyspace & Names::kMost;
  entry.scope = scope & Names::kMost;
  entry.part = what.part & 15;
  entry.single = what.single ? 1 : 0;
  entry.length_less_one = (what.block_bytes - 1) & ((1U << 26) - 1);
  entry.birth = what.sequence & Index::kBirthMost;
  entry.expiry_ticks = Index::ticks_of(what.expiry_unix_ms);
  entry.set_place({log.number(), segment, page, log.segment(segment).use});
  if (what.group != GroupId{}) entry.set_group(groups_.join(keyspace, what.group, what.group_members));
  // Counted first, so that its names are held while others let go of them.
  account(entry, true);
  // A later part of an earlier put may have outlived its first.
  if (Index::Entry* orphan = index_.find({what.id.key, keyspace, what.part})) drop_entry(*orphan);
  index_.insert(entry);
  return true;
}

// An entry comes or goes: its segment, its tenant and its names count.
void LogStore::account(const Index::Entry& entry, bool comes) {
  const uint64_t bytes = part_bytes(entry);
  const uint64_t whole = entry.part == 0 ? 1 : 0;
  Tenants::Row& tenant = tenants_.at(keyspaces_.row(entry.keyspace).tenant);
  ++tenant.changes;
  DriveLog* log = slots_[entry.drive].log.get();
  // What does not stand was given up unread: its segment counts from 0 again.
  const bool stands = log != nullptr && log->stands(entry.segment, entry.use);
  Segment* segment = stands ? &log->segment(static_cast<uint32_t>(entry.segment)) : nullptr;
  if (comes) {
    CAIRN_CHECK(segment != nullptr, "a block is counted in a segment that was given up");
    segment->count(tenant.options.number, bytes, log->segment_pages());
    tenant.blocks += whole;
    tenant.payload_bytes += bytes;
    keyspaces_.hold(static_cast<uint32_t>(entry.keyspace));
    scopes_.hold(static_cast<uint32_t>(entry.scope));
    return groups_.add(entry.group(), whole == 1, entry.expiry_ticks);
  }
  if (segment != nullptr) segment->uncount(tenant.options.number, bytes, log->segment_pages());
  CAIRN_CHECK(tenant.blocks >= whole, "a tenant holds fewer blocks than were counted");
  CAIRN_CHECK(tenant.payload_bytes >= bytes, "a tenant holds fewer bytes than were counted");
  tenant.blocks -= whole;
  tenant.payload_bytes -= bytes;
  groups_.remove(entry.group(), whole == 1);
  scopes_.release(static_cast<uint32_t>(entry.scope));
  keyspaces_.release(static_cast<uint32_t>(entry.keyspace));
}

void LogStore::drop_entry(Index::Entry& entry) {
  const Index::Entry gone = entry;
  index_.erase(entry);
  account(gone, false);
}

void LogStore::move_entry(Index::Entry& entry, DriveLog& to, uint32_t segment, uint32_t page) {
  const uint64_t bytes = part_bytes(entry);
  CAIRN_CHECK(slots_[to.number()].log.get() == &to, "a block is moved to a drive that is gone");
  CAIRN_CHECK(to.segment(segment).state != SegmentState::free, "a block is moved to a segment that is free");
  CAIRN_CHECK(to.segment(segment).state != SegmentState::wiping, "a block is moved to a segment that is wiped");
  const uint32_t tenant = keyspaces_.row(entry.keyspace).tenant;
  DriveLog& from = *slots_[entry.drive].log;
  from.segment(entry.segment).uncount(tenant, bytes, from.segment_pages());
  entry.set_place({to.number(), segment, page, to.segment(segment).use});
  to.segment(segment).count(tenant, bytes, to.segment_pages());
}

void LogStore::note_ghost(DriveLog& log, uint32_t segment, const BlockId& id) {
  log.ghosts.note(segment, hash_of(id));
}

bool LogStore::leased(const BlockId& id, const Index::Entry& head) const {
  return leases_.leased(id) || groups_.row(head.group()).leases > 0;
}

void LogStore::forget(const BlockId& id, Gone why) {
  Index::Entry* head = find_part(id, 0);
  if (head == nullptr) return;
  const uint32_t keyspace = static_cast<uint32_t>(head->keyspace);
  const uint32_t parts = parts_of(*head);
  const uint64_t birth = head->birth;
  const uint64_t length = head->length();
  const uint32_t group = head->group();
  const GroupId group_id = group == Groups::kNone ? GroupId{} : groups_.row(group).id;
  const Scope scope = head->scope == Names::kNone ? 0 : scopes_.row(static_cast<uint32_t>(head->scope)).value;
  // What makes the group broken makes the entries stale: first the entries.
  for (uint32_t part = parts; part-- > 0;) {
    Index::Entry* entry = index_.find({id.key, keyspace, static_cast<uint8_t>(part)});
    if (entry == nullptr || entry->birth != birth) continue;
    CAIRN_CHECK(slots_[entry->drive].log != nullptr, "a block stands on a drive that is not there");
    DriveLog& log = *slots_[entry->drive].log;
    if (why != Gone::deleted) note_ghost(log, static_cast<uint32_t>(entry->segment), id);
    if (why == Gone::evicted || why == Gone::expired || why == Gone::dropped) log.give_up(birth);
    if (why == Gone::evicted) {
      log.evicted_sequence = std::max(log.evicted_sequence, birth);
      ++log.counters.evicted_blocks;
    }
    drop_entry(*entry);
  }
  if (why != Gone::replaced && group != Groups::kNone && groups_.row(group).id == group_id &&
      groups_.row(group).entries > 0) {
    groups_.break_up(group);
    sweep_left_ = std::max(sweep_left_, 2 * index_.slots());
  }
  cache_.erase(id);
  if (why != Gone::replaced) leases_.forget(id);
  TenantCounters& tenant = tenants_.at(id.tenant).counters;
  if (why == Gone::evicted) {
    ++tenant.evicted_blocks;
    tenant.evicted_bytes += length;
    emit(EventKind::evicted, id, group_id, scope, birth);
  } else if (why == Gone::expired) {
    ++tenant.expired_blocks;
    emit(EventKind::expired, id, group_id, scope, birth);
  } else if (why != Gone::replaced) {
    emit(why == Gone::deleted ? EventKind::deleted : EventKind::dropped, id, group_id, scope, birth);
  }
}

void LogStore::emit(EventKind kind, const BlockId& id, const GroupId& group, Scope scope, uint64_t sequence) {
  const uint64_t number = next_event_++;
  const StoreEvent event{number, kind, id, group, scope, sequence, clock_.unix_ms()};
  for (EventSink* sink : sinks_) sink->on_event(event);
}

// --- asked and answered ----------------------------------------------------------------------------------

bool LogStore::exists(const BlockId& id) {
  return find(id) != nullptr;
}

bool LogStore::touch(const BlockId& id) {
  Index::Entry* entry = find(id);
  if (entry == nullptr) return false;
  entry->hit();
  (void)cache_.find(id);  // as used as a get would make it
  return true;
}

uint64_t LogStore::get_bytes(const BlockId& id, uint64_t offset, uint64_t length) {
  const Index::Entry* entry = find(id);
  if (entry == nullptr || offset >= entry->length() || length > entry->length() - offset) return 0;
  const Range range = range_of(*entry, offset, length);
  return range.to - range.from;
}

Status LogStore::lease(const BlockId& id, uint64_t holder, uint64_t duration_ms) {
  if (duration_ms > options_.lease_ms_most) return Status::lease_too_long;
  const Index::Entry* entry = find(id);
  if (entry == nullptr) return Status::not_found;
  if (!leases_.leased(id)) {
    // Of the drives' room by what records take: a block of a byte takes two pages.
    const Tenants::Row& tenant = tenants_.at(id.tenant);
    uint64_t room = 0;
    for (const Slot& slot : slots_) {
      if (slot.log != nullptr && slot.log->writable())
        room += slot.log->superblock().segment_count * slot.log->superblock().segment_bytes;
    }
    const uint64_t own = tenant.options.quota_bytes == 0 ? room : tenant.options.quota_bytes;
    if (tenant.leased_bytes + entry->length() > own / kLeasedPart ||
        leased_taken_bytes_ + format::taken_bytes(entry->length()) > room / kLeasedPart)
      return Status::quota_exceeded;
  }
  const bool taken = leases_.take(id, entry->group(), entry->length(), holder, clock_.now_ms() + duration_ms);
  return taken ? Status::ok : Status::quota_exceeded;
}

Status LogStore::release(const BlockId& id, uint64_t holder) {
  return leases_.release(id, holder) ? Status::ok : Status::not_found;
}

void LogStore::lease_changed(const BlockId& id, uint32_t group, uint64_t bytes, bool begins) {
  Tenants::Row& tenant = tenants_.at(id.tenant);
  ++tenant.changes;
  CAIRN_CHECK(begins || tenant.leased_bytes >= bytes, "a lease ends that was not counted");
  if (begins) {
    tenant.leased_bytes += bytes;
    leased_taken_bytes_ += format::taken_bytes(bytes);
  } else {
    tenant.leased_bytes -= bytes;
    leased_taken_bytes_ -= format::taken_bytes(bytes);
  }
  groups_.lease(group, begins);
  if (begins) return;
  for (const Slot& slot : slots_) {
    if (slot.evictor != nullptr) slot.evictor->lease_ended();
  }
}

Buffer LogStore::take_memory(uint64_t length, SlabAccount* account) {
  while (true) {
    Buffer buffer = slab_.allocate(length, account);
    if (buffer || !cache_.evict_one()) return buffer;
  }
}

Buffer LogStore::take_move_memory(uint64_t length) {
  if (Buffer buffer = take_memory(length)) return buffer;
  if (move_slab_ == nullptr) {
    auto made = Slab::create(std::max(format::kPartBytes, length));
    if (!made) return {};
    move_slab_ = made.take();
  }
  return move_slab_->allocate(length);
}

}  // namespace cairn
