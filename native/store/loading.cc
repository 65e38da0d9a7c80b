// Loading: what a drive holds becomes known; and what it missed is written to it.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "store/evictor.h"
#include "store/jobs.h"
#include "store/members.h"
#include "store/scrubber.h"

namespace cairn {

void LogStore::load(Slot& slot) {
  Loader& loader = *slot.loader;
  const bool knew = loader.headers_read();
  loader.poll();
  // What comes later has numbers that the store gave out itself.
  if (!knew && loader.headers_read() && slot.standing == Standing::member && loader.error().empty())
    count_from(loader.found().last_sequence + 1);
  if (!loader.error().empty()) slot.log->fail(loader.error());
  if (!loader.done() && slot.log->state() != DriveState::failed) return;
  if (!loader.done() && slot.log->drive().in_flight() > 0) return;
  loading_done(slot);
}

void LogStore::take_segment(Slot& slot, FoundSegment& found) {
  DriveLog& log = *slot.log;
  if (log.state() == DriveState::failed) return;
  if (found.segment.state == SegmentState::free) return log.adopt(found.index, found.segment);
  Segment segment = found.segment;
  // The drive may have been told of more classes in an earlier life.
  if (segment.placement >= log.drive().info().placement_classes) segment.placement = 0;
  // A scanned segment keeps its entries until its summary is written; what could not be read may be readable next time,
  // so it gets none.
  if (!segment.summarised && !found.unreadable) segment.entries = found.entries;
  for (const format::SummaryEntry& entry : found.entries) {
    if (entry.type != format::RecordType::block) continue;
    segment.note_expiry(Index::ticks_of(entry.expiry_unix_ms));
    segment.least_birth = std::min(segment.least_birth, entry.sequence);
  }
  if (found.unreadable) {
    log.ghosts.note_unknown(found.index);  // what it holds may be readable at the next start
    segment.note_expiry(0);
    segment.least_birth = 0;
  }
  log.adopt(found.index, segment);
  ++(found.scanned ? slot.scanned : slot.sealed);
  for (const format::SummaryEntry& entry : found.entries) {
    if (entry.type != format::RecordType::tombstones || entry.sequence > format::kNumberMost) continue;
    const format::Tombstone tombstone = format::tombstone_of(entry);
    if (static_cast<uint8_t>(tombstone.kind) > format::kBuriedMost) continue;
    bury(tombstone, 1U << log.number());
    if (tombstone.kind == format::Buried::group) group_tombstones_ = true;
    if (!format::names_one_key(tombstone.kind)) continue;
    // It may be of a block that another drive holds.
    const BlockId id{tombstone.key, tombstone.value, tombstone.tenant};
    const Index::Entry* known = find_part(id, 0);
    if (known == nullptr || known->birth >= tombstone.sequence) continue;
    if (tombstone.kind == format::Buried::earlier && known->drive != log.number())
      found_elder(id, static_cast<uint8_t>(known->drive), tombstone.sequence);
    forget(id, Gone::replaced);
  }
  for (const format::SummaryEntry& entry : found.entries) {
    if (entry.type == format::RecordType::block) take_entry(slot, found, entry);
  }
}

void LogStore::take_entry(Slot& slot, const FoundSegment& found, const format::SummaryEntry& entry) {
  const NewEntry what = new_entry(entry);
  const uint64_t expected =
      entry.part_count <= 1 ? what.block_bytes
      : what.block_bytes <= kBlockBytesMost && entry.part < format::part_count_for(what.block_bytes)
          ? format::part_bytes_for(what.block_bytes, entry.part)
          : 0;
  // The summary's checksum held, so what follows is a newer or a mistaken writer: such a block is a miss.
  const bool sane = entry.length > 0 && (entry.part_count > 1 || entry.part == 0) &&
                    what.block_bytes <= kBlockBytesMost && entry.length == expected &&
                    entry.sequence <= found.segment.last_sequence && entry.sequence > 0 && entry.page > 0 &&
                    (entry.part_count <= 1 || entry.part_count == format::part_count_for(what.block_bytes)) &&
                    entry.page + format::record_pages(entry.length) <= slot.log->segment_pages();
  if (!sane) return;
  if (graveyard_.covers(what.id, what.group, what.scope, what.sequence)) {
    // What deleted it may not delete an earlier block of that key, which a drive that is away may hold.
    if (!graveyard_.covers(what.id, {}, 0, what.sequence)) slot.log->give_up(what.sequence);
    const uint64_t buried = graveyard_.earlier_unheld(what.id, slot.log->number());
    if (buried > what.sequence) found_elder(what.id, slot.log->number(), buried);
    return;
  }
  // One that has expired is taken all the same: it says that earlier blocks of its key are none.
  const Index::Entry* known = find_part(what.id, entry.part);
  if (known != nullptr && known->birth >= entry.sequence) {
    // Of an earlier put, or moved.
    slot.log->ghosts.note(found.index);
    if (known->birth > entry.sequence) found_elder(what.id, slot.log->number(), known->birth);
    return;
  }
  if (known != nullptr) {
    found_elder(what.id, static_cast<uint8_t>(known->drive), entry.sequence);
    // Of an earlier put. Its first part stands for the block; a later part without one goes alone.
    const Index::Entry* head = find_part(what.id, 0);
    if (head != nullptr && head->birth < entry.sequence) {
      forget(what.id, Gone::replaced);
      known = find_part(what.id, entry.part);
    }
    if (known != nullptr) drop_entry(*find_part(what.id, entry.part));
  }
  if (!insert(what, *slot.log, found.index, entry.page)) {
    slot.log->give_up(what.sequence);
  } else if (entry.part == 0) {
    ++slot.recovered_blocks;
  }
}

void LogStore::found_elder(const BlockId& id, uint8_t drive, uint64_t sequence) {
  CAIRN_CHECK(drive < slots_.size(), "an earlier block lies on a drive that there never was");
  elders_.push_back({id, drive, sequence});
  elders_due_ = true;
}

void LogStore::count_from(uint64_t sequence) {
  next_sequence_ = std::max(next_sequence_, std::min(sequence, format::kNumberMost));
}

bool LogStore::numbers_spent() const {
  return next_sequence_ > format::kNumberMost - format::kNumbersKept;
}

void LogStore::loading_done(Slot& slot) {
  CAIRN_CHECK(slot.loader != nullptr, "a drive is loaded that nobody read");
  CAIRN_CHECK(slot.evictor == nullptr, "a drive that gives up segments is loaded again");
  CAIRN_CHECK(slot.scrubber == nullptr, "a drive that is scrubbed is loaded again");
  DriveLog& log = *slot.log;
  const FoundDrive found = slot.loader->found();
  const bool failed = log.state() == DriveState::failed;
  slot.loader.reset();
  if (!failed) {
    log.evicted_sequence = found.evicted_sequence;
    log.forgotten_sequence = found.forgotten_sequence;
    log.give_up(found.given_up_sequence);
    // What could not be read may be younger than all that was.
    const bool blind = found.unreadable > 0;
    const uint64_t last = std::max(found.last_sequence, members_->cold() ? found.void_last_sequence : 0);
    if (slot.standing == Standing::member || !loaded_once_) count_from(last + (blind ? kSequenceLeap : 1));
    slot.last_sequence = found.last_sequence;
    last_word_ = std::max(last_word_, found.last_sequence);
    const uint64_t next_generation = found.next_generation + (blind ? 2 * log.segments().size() : 0);
    if (numbers_spent() || next_generation > format::kNumberMost - format::kNumbersKept) {
      log.begin_spent(next_generation);
    } else {
      log.begin(next_generation, !slot.writable);
    }
    slot.own_generation = log.next_generation();
    slot.evictor = std::make_unique<Evictor>(*this, log);
    slot.scrubber = std::make_unique<Scrubber>(*this, log);
  } else if (!slot.set_aside) {
    set_aside(slot);
  }
  // Before it can become a member, whatever else is being read.
  if (loaded_once_ && !failed) {
    pay_elders();
    pay_tombstones(slot);
  }
  if (!all_read()) return;
  for (const uint32_t number : tenant_table_.reserved()) {
    if (tenants_.at(number).blocks > 0) tenant_table_.want(number);
  }
  if (!loaded_once_) all_loaded();
  if (group_tombstones_) bury_group_members();
  keyspaces_.keep_all(false);
  scopes_.keep_all(false);
  visible_ = true;
  // A start alone writes nothing, and so gives up nothing: what is owed then goes before the first write.
  owes_ = owes_ || !loaded_once_;
  const bool first = !std::exchange(loaded_once_, true);
  if (!first) {
    pay_elders();
    for (Slot& one : slots_) pay_tombstones(one);
  }
  if (!failed && slot.standing == Standing::member) emit(EventKind::drive_loaded, {}, {}, 0, 0);
  if (!any_away()) graveyard_.trim();
}

// The drives that a start found are read.
void LogStore::all_loaded() {
  CAIRN_CHECK(!loaded_once_, "a start ends twice");
  CAIRN_CHECK(all_read(), "a start ends before its drives were read");
  check_missed_deletes();
  members_->first_drives_read();
  recovery_seconds_ = static_cast<double>(clock_.now_ns() - opened_ns_) / 1e9;
}

// Drives of a version that knew no members: one that was not there while others gave up tombstones may hold what they
// deleted, so nothing on it is believed.
void LogStore::check_missed_deletes() {
  uint64_t forgotten = 0;
  for (const Slot& slot : slots_) {
    if (slot.log != nullptr && !slot.set_aside) forgotten = std::max(forgotten, slot.log->forgotten_sequence);
  }
  graveyard_.raise_floor(forgotten);
  if (!members_->fresh()) return;
  for (Slot& slot : slots_) {
    if (slot.log == nullptr || slot.set_aside || slot.hidden || forgotten <= slot.last_sequence) continue;
    members_->give_up(slot);
  }
}

// Members that were read before the tombstone of their group, from another drive.
void LogStore::bury_group_members() {
  group_tombstones_ = false;
  std::vector<BlockId> dead;
  index_.each([&](Index::Entry& entry) {
    if (entry.part != 0 || entry.group() == Groups::kNone) return;
    const BlockId id = id_of(entry);
    if (graveyard_.covers(id, groups_.row(entry.group()).id, 0, entry.birth)) dead.push_back(id);
  });
  for (const BlockId& id : dead) forget(id, Gone::deleted);
}

// What was deleted while the drive was away, or was not written to it: else, once the others let go of those
// tombstones, a restart would find the blocks on this one.
void LogStore::pay_tombstones(Slot& slot) {
  if (slot.log == nullptr || slot.log->state() != DriveState::serving) return;
  constexpr size_t kPaidMost = 1024;
  static_assert(kPaidMost <= kBatchItemsMost, "what is owed does not fit a record of deletes");
  std::map<uint32_t, std::vector<format::Tombstone>> owed;
  const OldestBirths oldest = slot.log->oldest_births();
  for (const format::Tombstone& one : graveyard_.missing_on(slot.log->number())) {
    if (oldest.any_before(one.tenant, one.sequence)) owed[one.tenant].push_back(one);
  }
  for (const auto& [tenant, all] : owed) {
    for (size_t at = 0; at < all.size(); at += kPaidMost) {
      const size_t end = std::min(all.size(), at + kPaidMost);
      (void)pay(slot, {all.begin() + static_cast<long>(at), all.begin() + static_cast<long>(end)});
    }
  }
}

void LogStore::pay_what_a_start_owes() {
  if (std::exchange(owes_, false)) {
    for (Slot& one : slots_) pay_tombstones(one);
  }
  if (elders_due_) pay_elders();
}

// Earlier blocks of keys that were put anew elsewhere: where they lie it is written that they are none, or they would
// be back as soon as the later ones are away.
void LogStore::pay_elders() {
  elders_due_ = false;
  for (const Elder& one : std::exchange(elders_, {})) {
    CAIRN_CHECK(one.drive < slots_.size(), "an earlier block lies on a drive that there never was");
    CAIRN_CHECK(one.sequence > 0, "a block is buried under one that was never put");
    Slot& slot = slots_[one.drive];
    if (slot.log == nullptr) continue;
    (void)pay_elder(slot, one.id, one.sequence);
  }
}

// Whether its tombstone is on its way.
bool LogStore::pay_elder(Slot& slot, const BlockId& id, uint64_t sequence, WriteJob* waits) {
  if (slot.loader != nullptr || slot.log->state() == DriveState::read_only) {
    owe_elder(slot, id, sequence);
    return false;
  }
  return pay(slot, {{id.key, id.layout, id.tenant, format::Buried::earlier, {}, sequence}}, waits);
}

// A drive that is being read, or takes no writes for now, hears of it before it becomes a member. One that owes more
// than is kept in mind is not believed then.
void LogStore::owe_elder(Slot& slot, const BlockId& id, uint64_t sequence) {
  CAIRN_CHECK(slot.log != nullptr, "a drive that is not there owes a burial");
  if (slot.loader == nullptr && elders_.size() >= kEldersMost) {
    slot.forgot_elders = true;
  } else {
    elders_.push_back({id, slot.log->number(), sequence});
  }
}

// Some of one tenant's, which nobody waits for but the put that made them, if any. A drive that takes no writes stays
// as it is; false then.
bool LogStore::pay(Slot& slot, const std::vector<format::Tombstone>& owed, WriteJob* waits) {
  CAIRN_CHECK(!owed.empty(), "a drive is told of no deletes");
  CAIRN_CHECK(slot.log != nullptr, "a drive that is not there is told of deletes");
  if (slot.log->state() != DriveState::serving && slot.log->state() != DriveState::draining) {
    slot.owed_failed = true;
    return false;
  }
  auto job = std::make_unique<RemoveJob>(*this, owed, owed.back().sequence);
  RemoveJob& started = *job;
  started.drive = slot.log->number();
  started.waits = waits;
  removes_.push_front(std::move(job));
  started.self = removes_.begin();
  ++slot.owed;
  ++paying_;
  slot.log->append(started, owed.front().tenant);
  for (const format::Tombstone& one : owed) graveyard_.bury(one, 1U << slot.log->number());
  return true;
}

}  // namespace cairn
