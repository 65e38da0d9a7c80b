// Drives: opened with the store, taken in while it runs, set aside, drained, let go.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "store/evictor.h"
#include "store/jobs.h"
#include "store/members.h"
#include "store/quotas.h"
#include "store/scrubber.h"

namespace cairn {

namespace {

constexpr size_t kDrivesMost = 32;
static_assert(kDrivesMost <= format::kMembersMost, "a store has more drives than a record can name");

Error drive_error(Status status, const std::string& message) {
  return Error{0, message, static_cast<uint16_t>(status)};
}

// What IdentifiedDrive carries.
struct DriveIdentity {
  DriveIdentity(const format::Superblock& first, const std::optional<format::Membership>& second, FoundTenants third)
      : superblock(first), record(second), tenants(std::move(third)) {}
  format::Superblock superblock;
  std::optional<format::Membership> record;
  FoundTenants tenants;
};

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
  const auto record = read_membership(*drive, found.drive);
  if (!record) return record.error();
  auto tenants = read_tenants(*drive, found);
  if (!tenants) return tenants.error();
  IdentifiedDrive identified;
  identified.drive = std::move(drive);
  identified.uuid = found.drive;
  identified.identity = std::make_shared<DriveIdentity>(found, record.value(), tenants.take());
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
  if (auto started = store->start(std::move(identified)); !started) return started.error();
  if (options.wait_until_loaded) {
    while (!store->loaded() || !store->settled()) store->wait_for_drives();
    if (const std::string why = store->why_no_drive(); !why.empty()) return Error{0, why, 0};
  }
  return std::unique_ptr<Store>(std::move(store));
}

// One turn that may sleep: for opening, where nothing else is to be done.
void LogStore::wait_for_drives() {
  for (const Slot& slot : slots_) {
    if (slot.log != nullptr) slot.log->drive().wait(1);
  }
  poll();
}

bool LogStore::settled() const {
  return members_->durable() || members_->closed();
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

bool LogStore::all_read() const {
  return std::all_of(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.loader == nullptr; });
}

bool LogStore::loaded() const {
  return all_read() && (members_->closed() || !members_->joining());
}

LogStore::Slot* LogStore::slot_of(const std::string& uuid) {
  for (Slot& slot : slots_) {
    if (slot.log != nullptr && uuid_text(slot.log->superblock().drive) == uuid) return &slot;
  }
  return nullptr;
}

// Finds the drive a slot. Nothing is read of it yet.
Result<LogStore::Slot*> LogStore::place(IdentifiedDrive drive) {
  CAIRN_CHECK(drive.drive != nullptr, "no drive is attached");
  CAIRN_CHECK(drive.identity != nullptr, "a drive is attached that was not looked at");
  const auto& identity = *static_cast<const DriveIdentity*>(drive.identity.get());
  const std::string path = drive.drive->info().path;
  Slot* slot = slot_of(uuid_text(drive.uuid));
  if (slot != nullptr && !slot->set_aside) {
    return drive_error(Status::drive_in_use, path + " and " + slot->log->drive().info().path +
                                                 " are the same Cairn drive (" + uuid_text(drive.uuid) +
                                                 "); name it once");
  }
  if ((slot != nullptr && (busy(*slot) || slot->leaving || slot->loader != nullptr)) || members_->knows(drive.uuid)) {
    return drive_error(Status::busy, path + " came back while requests to it are still open; try again in a moment");
  }
  if (members_->leaving() >= format::kMembersMost)
    return drive_error(Status::busy, "too many drives are being let go; attach " + path + " in a moment");
  if (auto looked = members_->look_at(path, drive.uuid, identity.record); !looked) return looked.error();
  // At a start it is not known yet which drives are the store: see read_tenants_of().
  if (const std::string wrong = members_->waits() ? "" : tenant_table_.contradiction(identity.tenants); !wrong.empty())
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
  auto log = std::make_unique<DriveLog>(std::move(drive.drive), identity.superblock, number, clock_,
                                        options_.writes_in_flight_most);
  log->begin_uses(slot->next_use);
  retire(*slot);
  graveyard_.forget_drive(number);
  std::erase_if(elders_, [&](const Elder& one) { return one.drive == number; });
  for (const auto& job : writes_) job->elders_buried &= ~(1U << number);
  const uint8_t next_use = slot->next_use;
  *slot = Slot{};
  slot->next_use = next_use;
  slot->log = std::move(log);
  slot->tenants = identity.tenants;
  slot->table_counter = identity.tenants.counter;
  slot->record = identity.record;
  CAIRN_CHECK(!slot->record || slot->record->drive == drive.uuid, "a drive carries the record of another");
  slot->writable = !options_.read_only && !slot->log->drive().info().read_only;
  keyspaces_.keep_all(true);
  scopes_.keep_all(true);
  return slot;
}

// What a drive whose blocks count says of tenants counts as well. Empty, or why the drive cannot be part of the store.
std::string LogStore::read_tenants_of(Slot& slot) {
  const FoundTenants found = std::exchange(slot.tenants, {});
  if (std::string wrong = tenant_table_.contradiction(found); !wrong.empty()) return wrong;
  const bool knows_all = tenant_table_.unite(found);
  slot.table_version = knows_all ? tenant_table_.version() : 0;
  slot.table_version_before = slot.table_version;
  return "";
}

Result<Unit> LogStore::start(std::vector<IdentifiedDrive> drives) {
  CAIRN_CHECK(slots_.empty(), "a store starts with drives that it has already");
  for (IdentifiedDrive& one : drives) {
    if (auto placed = place(std::move(one)); !placed) return placed.error();
  }
  members_->plan();
  // Of a single drive what was read is final (loader.h); with several, a tombstone of another may still come.
  visible_ = slots_.size() == 1;
  return Unit{};
}

Result<Unit> LogStore::attach(IdentifiedDrive drive) {
  auto placed = place(std::move(drive));
  if (!placed) return placed.error();
  return members_->admit(*placed.value());
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
  members_->departs(slot);
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
  if (members_->waits())
    return drive_error(Status::busy, "the store waits for more of its drives: none is drained before it serves");
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
  const DriveState before = slot->log->state();
  // What it held is given up, and it says so: where it can be written to, and was known.
  const bool known = slot->loader == nullptr && slot->standing != Standing::waiting && !members_->waits();
  slot->says_so = slot->says_so || (before != DriveState::failed && known && slot->writable);
  slot->emptied = slot->emptied || before == DriveState::drained;
  if (before != DriveState::failed) {
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
  if (slot.says_so) {
    slot.evictor.reset();
    slot.scrubber.reset();
    members_->let_go(slot, slot.emptied);
  }
  retire(slot);
  // Index entries that point here stay stale for whoever comes into the slot next.
  const uint8_t next_use = slot.next_use;
  std::erase_if(elders_, [&](const Elder& one) { return &slots_[one.drive] == &slot; });
  slot = Slot{};
  slot.next_use = next_use;
  // Without a drive there is nothing to plan: it goes on waiting.
  const bool any =
      std::any_of(slots_.begin(), slots_.end(), [](const Slot& one) { return one.log != nullptr && !one.set_aside; });
  if (members_->waits() && any) members_->plan();
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
