// Drives: opened with the store, taken in while it runs, read in the background, set aside, drained, let go.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "store/evictor.h"
#include "store/jobs.h"
#include "store/quotas.h"
#include "store/scrubber.h"

namespace cairn {

namespace {

constexpr size_t kDrivesMost = 32;
// A drive that joins a running store may have numbers beyond the store's own: what it cannot have given out since its
// youngest segment was opened.
constexpr uint64_t kSequenceLeap = uint64_t{1} << 24;

Error drive_error(Status status, const std::string& message) {
  return Error{0, message, static_cast<uint16_t>(status)};
}

bool some(const std::array<uint8_t, 16>& id) {
  return id != std::array<uint8_t, 16>{};
}

}  // namespace

// --- opening ---------------------------------------------------------------------------------------------

Result<IdentifiedDrive> Store::identify(std::unique_ptr<Drive> drive, const std::array<uint8_t, 16>& fleet) {
  CAIRN_CHECK(drive != nullptr, "no drive is looked at");
  auto superblock = read_superblock(*drive);
  if (!superblock) return superblock.error();
  const format::Superblock& found = superblock.value();
  if (some(fleet) && some(found.fleet) && found.fleet != fleet) {
    return drive_error(Status::drive_foreign, drive->info().path + " belongs to another fleet (" +
                                                  uuid_text(found.fleet) + "); format it to use it here");
  }
  auto tenants = read_tenants(*drive, found);
  if (!tenants) return tenants.error();
  IdentifiedDrive identified;
  identified.drive = std::move(drive);
  identified.uuid = found.drive;
  identified.tenants = std::make_shared<FoundTenants>(tenants.take());
  identified.superblock = std::make_shared<format::Superblock>(found);
  return identified;
}

Result<std::unique_ptr<Store>> Store::open(std::vector<std::unique_ptr<Drive>> drives, Slab& slab, const Clock& clock,
                                           const StoreOptions& options) {
  if (drives.empty() || drives.size() > kDrivesMost) return Error{0, "a store has between 1 and 32 drives", 0};
  std::vector<IdentifiedDrive> identified;
  for (auto& drive : drives) {
    auto one = identify(std::move(drive), options.fleet);
    if (!one) return one.error();
    identified.push_back(one.take());
  }
  auto store = std::make_unique<LogStore>(slab, clock, options);
  for (IdentifiedDrive& one : identified) {
    if (auto attached = store->attach(std::move(one)); !attached) return attached.error();
  }
  if (options.wait_until_loaded) {
    while (!store->loaded()) store->wait_for_drives();
    if (const std::string why = store->why_no_drive(); !why.empty()) return Error{0, why, 0};
  }
  return std::unique_ptr<Store>(std::move(store));
}

// One turn that may sleep: for opening, where nothing else is to be done.
void LogStore::wait_for_drives() {
  for (const Slot& slot : slots_) {
    if (slot.loader != nullptr) slot.log->drive().wait(1);
  }
  poll();
}

std::string LogStore::why_no_drive() const {
  std::string why;
  for (const Slot& slot : slots_) {
    if (slot.log == nullptr) continue;
    if (slot.log->state() != DriveState::failed) return "";
    why = slot.log->drive().info().path + ": " + slot.log->why_failed();
  }
  return why.empty() ? "the store has no drive" : why;
}

bool LogStore::loaded() const {
  return std::all_of(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.loader == nullptr; });
}

LogStore::Slot* LogStore::slot_of(const std::string& uuid) {
  for (Slot& slot : slots_) {
    if (slot.log != nullptr && uuid_text(slot.log->superblock().drive) == uuid) return &slot;
  }
  return nullptr;
}

Result<Unit> LogStore::attach(IdentifiedDrive drive) {
  CAIRN_CHECK(drive.drive != nullptr, "no drive is attached");
  CAIRN_CHECK(drive.superblock != nullptr, "a drive is attached that was not looked at");
  const auto& superblock = *static_cast<const format::Superblock*>(drive.superblock.get());
  const std::string path = drive.drive->info().path;
  Slot* slot = slot_of(uuid_text(drive.uuid));
  if (slot != nullptr && !slot->set_aside) {
    return drive_error(Status::drive_in_use, path + " and " + slot->log->drive().info().path +
                                                 " are the same Cairn drive (" + uuid_text(drive.uuid) +
                                                 "); name it once");
  }
  if (slot != nullptr && (busy(*slot) || slot->loader != nullptr)) {
    return drive_error(Status::busy, path + " came back while requests to it are still open; try again in a moment");
  }
  CAIRN_CHECK(drive.tenants != nullptr, "a drive is attached whose tenants were not looked at");
  const auto& tenants = *static_cast<const FoundTenants*>(drive.tenants.get());
  if (const std::string wrong = tenant_table_.contradiction(tenants); !wrong.empty())
    return drive_error(Status::drive_foreign, path + " " + wrong);
  if (slot == nullptr) {
    const auto empty = std::find_if(slots_.begin(), slots_.end(), [](const Slot& one) { return one.log == nullptr; });
    if (empty != slots_.end()) {
      slot = &*empty;
    } else if (slots_.size() < kDrivesMost) {
      slot = &slots_.emplace_back();
    } else {
      return drive_error(Status::too_large, "a store has at most 32 drives");
    }
  }
  CAIRN_CHECK(slots_.size() <= kDrivesMost, "a drive is attached whose number no index entry can have");
  const auto number = static_cast<uint8_t>(slot - slots_.data());
  auto log =
      std::make_unique<DriveLog>(std::move(drive.drive), superblock, number, clock_, options_.writes_in_flight_most);
  log->begin_uses(slot->next_use);
  retire(*slot);
  slot->log = std::move(log);
  slot->recovered_blocks = slot->sealed = slot->scanned = 0;
  slot->set_aside = false;
  const bool knows_all = tenant_table_.unite(tenants);
  slot->table_counter = tenants.counter;
  slot->table_failures = 0;
  slot->table_version = knows_all ? tenant_table_.version() : 0;
  slot->table_version_before = slot->table_version;
  // Of a single drive what was read is final (loader.h); with several, a tombstone of another may still come.
  if (!loaded_once_) visible_ = slots_.size() == 1;
  keyspaces_.keep_all(true);
  scopes_.keep_all(true);
  const bool writable = !options_.read_only && !slot->log->drive().info().read_only;
  slot->writable = writable;
  slot->loader = std::make_unique<Loader>(slot->log->drive(), slot->log->superblock(), writable,
                                          [this, slot](FoundSegment& found) { take_segment(*slot, found); });
  return Unit{};
}

// --- loading ---------------------------------------------------------------------------------------------

void LogStore::load(Slot& slot) {
  Loader& loader = *slot.loader;
  const bool knew = loader.headers_read();
  loader.poll();
  if (!knew && loader.headers_read()) {
    count_from(loader.found().last_sequence + (loaded_once_ ? kSequenceLeap : 1));
    // A drive that was away for longer than deletes are remembered may hold what was deleted meanwhile.
    slot.trusted =
        !loaded_once_ || graveyard_.floor() <= std::max(slot.departed_sequence, loader.found().last_sequence);
  }
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
    log.ghosts.note(found.index);  // what it holds may be readable at the next start
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
    if (known != nullptr && known->birth < tombstone.sequence) forget(id, Gone::replaced);
  }
  for (const format::SummaryEntry& entry : found.entries) {
    if (entry.type == format::RecordType::block && slot.trusted) take_entry(slot, found, entry);
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
  if (!sane || graveyard_.covers(what.id, what.group, what.scope, what.sequence)) return;
  if (Index::expired(Index::ticks_of(entry.expiry_unix_ms), clock_.unix_ms())) return;
  const Index::Entry* known = find_part(what.id, entry.part);
  if (known != nullptr && known->birth >= entry.sequence) {
    // Of an earlier put, or moved.
    slot.log->ghosts.note(found.index);
    if (known->birth > entry.sequence) elders_.push_back({what.id, slot.log->number(), known->birth});
    return;
  }
  if (known != nullptr) {
    elders_.push_back({what.id, static_cast<uint8_t>(known->drive), entry.sequence});
    // Of an earlier put. Its first part stands for the block; a later part without one goes alone.
    const Index::Entry* head = find_part(what.id, 0);
    if (head != nullptr && head->birth < entry.sequence) {
      forget(what.id, Gone::replaced);
      known = find_part(what.id, entry.part);
    }
    if (known != nullptr) drop_entry(*find_part(what.id, entry.part));
  }
  if (insert(what, *slot.log, found.index, entry.page) && entry.part == 0) ++slot.recovered_blocks;
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
    // What could not be read may be younger than all that was.
    const bool blind = found.unreadable > 0;
    count_from(found.last_sequence + (blind ? kSequenceLeap : 1));
    slot.last_sequence = found.last_sequence;
    const uint64_t next_generation = found.next_generation + (blind ? 2 * log.segments().size() : 0);
    if (numbers_spent() || next_generation > format::kNumberMost - format::kNumbersKept) {
      log.begin_spent(next_generation);
    } else {
      log.begin(next_generation, !slot.writable);
    }
    slot.evictor = std::make_unique<Evictor>(*this, log);
    slot.scrubber = std::make_unique<Scrubber>(*this, log);
  } else if (!slot.set_aside) {
    set_aside(slot);
  }
  if (!loaded()) return;
  for (const uint32_t number : tenant_table_.reserved()) {
    if (tenants_.at(number).blocks > 0) tenant_table_.want(number);
  }
  if (!loaded_once_) check_missed_deletes();
  if (group_tombstones_) bury_group_members();
  keyspaces_.keep_all(false);
  scopes_.keep_all(false);
  visible_ = true;
  if (!loaded_once_) recovery_seconds_ = static_cast<double>(clock_.now_ns() - opened_ns_) / 1e9;
  // A start alone writes nothing, and so gives up nothing: what is owed then goes before the first write.
  owes_ = owes_ || !loaded_once_;
  if (std::exchange(loaded_once_, true)) {
    for (Slot& one : slots_) pay_tombstones(one);
  }
  if (!failed) {
    slot.departed_sequence = 0;
    emit(EventKind::drive_loaded, {}, {}, 0, 0);
  }
  if (!any_away()) graveyard_.trim();
}

// A drive that was not there while others gave up tombstones may hold what they deleted: nothing on it is believed.
void LogStore::check_missed_deletes() {
  uint64_t forgotten = 0;
  for (const Slot& slot : slots_) {
    if (slot.log != nullptr && !slot.set_aside) forgotten = std::max(forgotten, slot.log->forgotten_sequence);
  }
  graveyard_.raise_floor(forgotten);
  for (Slot& slot : slots_) {
    if (slot.log == nullptr || slot.set_aside || forgotten <= slot.last_sequence) continue;
    slot.trusted = false;
    slot.log->distrust();
    sweep_left_ = 2 * index_.slots();
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
      pay(slot, {all.begin() + static_cast<long>(at), all.begin() + static_cast<long>(end)});
    }
  }
}

void LogStore::pay_what_a_start_owes() {
  if (std::exchange(owes_, false)) {
    for (Slot& one : slots_) pay_tombstones(one);
  }
  for (const Elder& one : std::exchange(elders_, {})) {
    Slot& slot = slots_[one.drive];
    if (slot.log == nullptr) continue;
    pay(slot, {{one.id.key, one.id.layout, one.id.tenant, format::Buried::earlier, {}, one.sequence}});
  }
}

// Some of one tenant's, which nobody waits for. A drive that takes no writes stays as it is.
void LogStore::pay(Slot& slot, const std::vector<format::Tombstone>& owed) {
  CAIRN_CHECK(!owed.empty(), "a drive is told of no deletes");
  CAIRN_CHECK(slot.log != nullptr, "a drive that is not there is told of deletes");
  if (slot.log->state() != DriveState::serving && slot.log->state() != DriveState::draining) return;
  auto job = std::make_unique<RemoveJob>(*this, owed, owed.back().sequence);
  RemoveJob& started = *job;
  removes_.push_front(std::move(job));
  started.self = removes_.begin();
  ++paying_;
  slot.log->append(started, owed.front().tenant);
  for (const format::Tombstone& one : owed) graveyard_.bury(one, 1U << slot.log->number());
}

// Whether something that is on its way on another drive refers to it.
bool LogStore::in_use(const DriveLog& log) const {
  const bool written = std::any_of(writes_.begin(), writes_.end(), [&](const auto& job) {
    return std::any_of(job->parts.begin(), job->parts.end(), [&](const auto& part) { return part->log == &log; });
  });
  return written || std::any_of(reads_.begin(), reads_.end(), [&](const auto& job) { return job->reads_from(log); }) ||
         std::any_of(slots_.begin(), slots_.end(),
                     [&](const Slot& slot) { return slot.evictor != nullptr && slot.evictor->moves_to(log); });
}

bool LogStore::busy(const Slot& slot) const {
  const bool squeezed = std::any_of(squeezes_.begin(), squeezes_.end(),
                                    [&](const auto& one) { return one.second->reads_from(*slot.log); });
  return squeezed || slot.table_writing || !slot.log->idle() || (slot.evictor != nullptr && !slot.evictor->idle()) ||
         (slot.scrubber != nullptr && !slot.scrubber->idle());
}

// The slot is empty afterwards. Its drive is idle.
void LogStore::retire(Slot& slot) {
  CAIRN_CHECK(slot.loader == nullptr, "a drive goes while it is being read");
  CAIRN_CHECK(slot.log == nullptr || slot.log->idle(), "a drive goes with requests on their way");
  slot.evictor.reset();
  slot.scrubber.reset();
  if (slot.log != nullptr && in_use(*slot.log)) departed_.push_back(std::move(slot.log));
  slot.log.reset();
}

// --- going -----------------------------------------------------------------------------------------------

void LogStore::set_aside(Slot& slot) {
  CAIRN_CHECK(slot.log->state() == DriveState::failed, "a drive that serves is set aside");
  CAIRN_CHECK(!slot.set_aside, "a drive is set aside twice");
  slot.set_aside = true;
  if (slot.departed_sequence == 0) slot.departed_sequence = next_sequence_;
  slot.log->distrust();
  slot.next_use = slot.log->next_use();
  sweep_left_ = std::max(sweep_left_, 2 * index_.slots());
  emit(EventKind::drive_lost, {}, {}, 0, 0);
}

Result<Unit> LogStore::resume(const std::string& uuid) {
  Slot* slot = slot_of(uuid);
  if (slot == nullptr) return drive_error(Status::drive_unknown, "no drive of this store has the identity " + uuid);
  if (slot->log->retry_now() || slot->log->state() == DriveState::serving) return Unit{};
  return drive_error(Status::busy, slot->log->drive().info().path + " is " + name_of(slot->log->state()) +
                                       ": only a drive whose writes failed is resumed");
}

uint64_t LogStore::block_bytes_most() const {
  uint64_t most = 0;
  for (const Slot& slot : slots_) {
    if (slot.log == nullptr || !slot.log->readable()) continue;
    const uint64_t record = format::payload_bytes_most(slot.log->superblock().segment_bytes);
    most = std::max(most, record >= format::kPartBytes ? kBlockBytesMost : record);
  }
  CAIRN_CHECK(most <= kBlockBytesMost, "a drive takes longer blocks than there are");
  // Nobody can put where no drive is; what one that comes will take is not known.
  return std::min(most == 0 ? kBlockBytesMost : most, slab_.total_bytes() / 2);
}

Result<Unit> LogStore::drain(const std::string& uuid) {
  Slot* slot = slot_of(uuid);
  if (slot == nullptr) return drive_error(Status::drive_unknown, "no drive of this store has the identity " + uuid);
  if (slot->log->state() == DriveState::draining || slot->log->state() == DriveState::drained) return Unit{};
  if (slot->log->state() != DriveState::serving)
    return drive_error(Status::busy, slot->log->drive().info().path + " is " + name_of(slot->log->state()) +
                                         ": only a drive that serves can be drained");
  const bool others = std::any_of(slots_.begin(), slots_.end(), [&](const Slot& one) {
    return &one != slot && one.log != nullptr && one.log->writable();
  });
  if (!others) {
    return drive_error(Status::no_space, "there is no other drive that takes what " + slot->log->drive().info().path +
                                             " holds; add one first, or remove it and lose that");
  }
  slot->log->set_state(DriveState::draining);
  return Unit{};
}

Result<Unit> LogStore::begin_detach(const std::string& uuid, bool even_if_draining) {
  Slot* slot = slot_of(uuid);
  if (slot == nullptr) return drive_error(Status::drive_unknown, "no drive of this store has the identity " + uuid);
  if (slot->log->state() == DriveState::draining && !even_if_draining) {
    return drive_error(
        Status::drive_draining,
        slot->log->drive().info().path + " is being drained; wait until it is, or say that what is left may be lost");
  }
  if (slot->log->state() != DriveState::failed) {
    if (slot->evictor != nullptr) slot->evictor->stop();
    if (slot->scrubber != nullptr) slot->scrubber->stop();
    slot->log->fail("it was removed");
  }
  if (!slot->set_aside) set_aside(*slot);
  slot->leaving = true;
  return Unit{};
}

void LogStore::let_leave(Slot& slot) {
  CAIRN_CHECK(slot.set_aside, "a drive goes whose blocks are still served");
  if (busy(slot)) return;
  if (slot.loader != nullptr) loading_done(slot);
  retire(slot);
  // Index entries that point here stay stale for whoever comes into the slot next.
  const uint8_t next_use = slot.next_use;
  slot = Slot{};
  slot.next_use = next_use;
}

bool LogStore::detached(const std::string& uuid) const {
  return std::none_of(slots_.begin(), slots_.end(), [&](const Slot& slot) {
    return slot.log != nullptr && uuid_text(slot.log->superblock().drive) == uuid;
  });
}

Result<Unit> LogStore::detach(const std::string& uuid, bool even_if_draining) {
  if (auto begun = begin_detach(uuid, even_if_draining); !begun) return begun;
  while (Slot* slot = slot_of(uuid)) {
    if (busy(*slot)) slot->log->drive().wait(10);
    poll();
  }
  return Unit{};
}

}  // namespace cairn
