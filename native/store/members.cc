#include "store/members.h"

#include <algorithm>

#include "base/entropy.h"
#include "store/evictor.h"
#include "store/jobs.h"
#include "store/scrubber.h"

namespace cairn {

using format::Membership;
using format::Uuid;

namespace {

const Uuid& identity_of(const DriveLog& log) {
  return log.superblock().drive;
}

}  // namespace

// One copy of a drive's record, and a flush.
class LogStore::Members::RecordWrite final : public IoRequest {
 public:
  RecordWrite(DriveLog& log, const Membership& record, std::function<void(int)> done)
      : log_(log), memory_(1), done_(std::move(done)) {
    auto* page = new (memory_.data()) format::Page<Membership>{record, {}};
    page->seal();
    kind = IoKind::write;
    offset = format::kMembershipOffsets[record.counter % 2];
    bytes = format::kPageBytes;
    vector_ = {memory_.data(), format::kPageBytes};
    vectors = &vector_;
    vector_count = 1;
  }
  void start() {
    log_.counters.writes += kind == IoKind::write ? 1 : 0;
    log_.counters.flushes += kind == IoKind::flush ? 1 : 0;
    log_.counters.written_bytes += bytes;
    log_.drive().submit(*this);
  }
  void completed(int error) override {
    if (error == 0 && kind == IoKind::write && log_.drive().info().volatile_write_cache) {
      kind = IoKind::flush;
      vector_count = 0;
      bytes = 0;
      return start();
    }
    const auto done = std::move(done_);
    delete this;
    done(error);
  }

 private:
  DriveLog& log_;
  Pages memory_;
  iovec vector_{};
  std::function<void(int)> done_;
};

LogStore::Members::~Members() {
  for (Leaving& one : leaving_) {
    while (one.log->drive().in_flight() > 0) one.log->drive().wait(100);
  }
  CAIRN_CHECK(out_ == 0, "a store ends with records of its members on their way");
}

// --- the start -------------------------------------------------------------------------------------------

void LogStore::Members::plan() {
  std::vector<DriveFacts> facts;
  std::vector<Slot*> slots;
  for (Slot& slot : store_.slots_) {
    if (slot.log == nullptr || slot.set_aside) continue;
    CAIRN_CHECK(slot.loader == nullptr, "a start is planned anew while drives are read");
    facts.push_back({identity_of(*slot.log), slot.record});
    slots.push_back(&slot);
  }
  const StartPlan plan = plan_start(facts, {store_.options_.read_only, store_.options_.without_missing_drives});
  state_ = plan.state == StartPlan::State::fresh  ? "new"
           : plan.state == StartPlan::State::warm ? "whole"
           : plan.state == StartPlan::State::cold ? "begun_empty"
                                                  : "waiting";
  why_ = plan.why;
  closed_ = waits_ = plan.state == StartPlan::State::closed;
  if (waits_) return;
  origin_ = plan.origin == Uuid{} ? entropy<Uuid>() : plan.origin;
  line_ = plan.store == Uuid{} ? entropy<Uuid>() : plan.store;
  epoch_ = plan.epoch;
  lost_sequence_ = plan.lost_sequence;
  members_ = plan.members;
  base_ = plan.base;
  complete_ = plan.complete;
  cold_ = plan.state == StartPlan::State::cold;
  fresh_ = plan.state == StartPlan::State::fresh;
  departed_.clear();
  leaps_ = cold_ || !plan.missing.empty();
  for (const format::Departed& one : plan.departed) departed_[one.drive] = one.sequence;
  for (size_t i = 0; i < slots.size(); ++i) {
    Slot& slot = *slots[i];
    slot.role = plan.roles[i];
    if (slot.role == Role::refused) {
      refuse(slot, slot.log->drive().info().path + " " + plan.reasons[i]);
      continue;
    }
    slot.standing = slot.role == Role::member ? Standing::member : Standing::waiting;
    if (slot.role != Role::outsider) begin_reading(slot);
  }
}

void LogStore::Members::refuse(Slot& slot, const std::string& why) {
  slot.log->fail(why);
  slot.standing = Standing::out;
  slot.set_aside = true;
}

void LogStore::Members::begin_reading(Slot& slot) {
  CAIRN_CHECK(slot.loader == nullptr, "a drive is read twice at a time");
  if (slot.standing == Standing::waiting) slot.standing = Standing::learning;
  slot.hidden = slot.standing != Standing::member;
  slot.void_generation = slot.record ? slot.record->void_generation : 0;
  slot.counter = slot.record ? slot.record->counter : 0;
  Slot* const at = &slot;
  slot.loader = std::make_unique<Loader>(
      slot.log->drive(), slot.log->superblock(), slot.writable, slot.void_generation,
      [this, at](FoundSegment& found) { store_.take_segment(*at, found); },
      [this, at](FoundDrive& found) { return judge(*at, found); });
}

// What its headers say is known, and nothing was written to it yet.
std::string LogStore::Members::judge(Slot& slot, FoundDrive& found) {
  const std::string& path = slot.log->drive().info().path;
  bool gives_up = slot.role == Role::voided;
  if (slot.role == Role::blank && found.in_use > 0) {
    return path +
           " holds blocks and does not say of which store: an older version wrote it, or its record is damaged. Start the "
           "service on all drives of its store, or format it to use it here";
  }
  if (slot.role == Role::outsider) {
    if (found.last_sequence > store_.next_sequence_ + kSequenceLeap) {
      return path + " has numbers that this store cannot have given out (" + std::to_string(found.last_sequence) +
             ", the store is at " + std::to_string(store_.next_sequence_) + "); format it to use it here";
    }
    gives_up = !believed(slot, found.last_sequence);
  }
  if (!gives_up) return "";
  // What cannot be read may be younger than what can.
  const uint64_t unseen = found.unreadable_headers > 0 ? 2 * slot.log->segments().size() : 0;
  found.void_generation = std::max(found.void_generation, found.youngest_generation + unseen);
  slot.trusted = found.in_use == 0;
  slot.void_owed = found.void_generation != slot.void_generation;
  slot.void_generation = found.void_generation;
  slot.role = Role::voided;
  return "";
}

// Whether every word that the drive missed is still known, or concerns nothing that it holds.
bool LogStore::Members::believed(const Slot& slot, uint64_t last_sequence) const {
  const auto found = departed_.find(identity_of(*slot.log));
  if (found == departed_.end() || !slot.record || slot.record->store != line_ || slot.record->epoch > epoch_) return false;
  const uint64_t missed_from = found->second;
  if (last_sequence > store_.next_sequence_ || lost_sequence_ >= missed_from) return false;
  if (store_.graveyard_.floor() >= missed_from) return false;
  for (const auto& [drive, sequence] : departed_) {
    if (drive != found->first && sequence > missed_from) return false;
  }
  return std::all_of(store_.slots_.begin(), store_.slots_.end(), [&](const Slot& one) {
    return one.log == nullptr || one.standing != Standing::member || one.log->given_up_sequence < missed_from;
  });
}

void LogStore::Members::give_up(Slot& slot) {
  slot.trusted = false;
  slot.log->distrust();
  slot.void_generation = std::max(slot.void_generation, slot.log->next_generation() - 1);
  slot.void_owed = true;
  slot.role = Role::voided;
  store_.sweep_left_ = std::max(store_.sweep_left_, 2 * store_.index_.slots());
}

// --- coming ----------------------------------------------------------------------------------------------

Result<Unit> LogStore::Members::look_at(const std::string& path, const Uuid& drive,
                                        const std::optional<Membership>& record) const {
  const auto refusal = [&](const std::string& why) {
    return Error{0, path + " " + why, static_cast<uint16_t>(Status::drive_foreign)};
  };
  if (waits_ || !record || record->left != 0) return Unit{};
  if (record->origin != origin_)
    return refusal("belongs to another store (" + uuid_text(record->origin) + "); format it to use it here");
  if (record->store != line_ || record->epoch > epoch_) {
    return refusal("(" + uuid_text(drive) +
                   ") is a drive of this store that was used without the others, and nobody knows in which order they "
                   "heard what; format it to use it here");
  }
  return Unit{};
}

Result<Unit> LogStore::Members::admit(Slot& slot) {
  slot.standing = Standing::waiting;
  slot.hidden = true;
  slot.role = !slot.record ? Role::blank : slot.record->left != 0 ? Role::voided : Role::outsider;
  const bool alone = std::none_of(store_.slots_.begin(), store_.slots_.end(), [&](const Slot& one) {
    return &one != &slot && one.log != nullptr;
  });
  if (waits_ || (alone && leaving_.empty() && store_.loaded_once_)) {
    for (Slot& one : store_.slots_) {
      if (one.log != nullptr && one.set_aside) continue;
      one.hidden = false;
    }
    plan();
    return Unit{};
  }
  if (store_.loaded_once_) begin_reading(slot);
  return Unit{};
}

void LogStore::Members::read_late_ones() {
  for (Slot& slot : store_.slots_) {
    if (slot.log != nullptr && !slot.set_aside && slot.standing == Standing::waiting) begin_reading(slot);
  }
}

// Who was read, and has all that it missed written down, becomes a member.
void LogStore::Members::take_learned() {
  for (Slot& slot : store_.slots_) {
    if (slot.log == nullptr || slot.set_aside || slot.loader != nullptr || slot.standing != Standing::learning) continue;
    if (slot.log->state() == DriveState::read_only && slot.writable) {
      slot.log->fail("it takes no writes, and so cannot hear what it missed: " + slot.log->why_failed());
      continue;
    }
    if (slot.owed > 0) continue;
    if (slot.owed_failed) {
      slot.log->fail("it did not take what it missed");
      continue;
    }
    if (!slot.writable) {
      slot.log->fail("it cannot be written to, and so cannot become part of the store");
      continue;
    }
    if (slot.role == Role::outsider && !slot.silent && !believed(slot, 0)) give_up(slot);
    slot.standing = Standing::joining;
  }
}

bool LogStore::Members::joining() const {
  return std::any_of(store_.slots_.begin(), store_.slots_.end(), [](const Slot& slot) {
    return slot.log != nullptr && !slot.set_aside &&
           (slot.standing == Standing::waiting || slot.standing == Standing::learning ||
            slot.standing == Standing::joining);
  });
}

bool LogStore::Members::knows(const Uuid& drive) const {
  return std::any_of(leaving_.begin(), leaving_.end(),
                     [&](const Leaving& one) { return identity_of(*one.log) == drive; });
}

// --- going -----------------------------------------------------------------------------------------------

void LogStore::Members::departs(Slot& slot) {
  const Standing before = std::exchange(slot.standing, Standing::out);
  if (before != Standing::member) return;
  departed_.try_emplace(identity_of(*slot.log), store_.next_sequence_);
  // What it had given up is known from its headers alone.
  lost_sequence_ = std::max(lost_sequence_, slot.log->given_up_sequence);
}

void LogStore::Members::forget(const Uuid& drive, bool lost) {
  const auto found = departed_.find(drive);
  if (found == departed_.end()) return;
  if (lost) lost_sequence_ = std::max(lost_sequence_, found->second - 1);
  departed_.erase(found);
}

void LogStore::Members::let_go(Slot& slot, bool emptied) {
  CAIRN_CHECK(slot.log != nullptr && slot.loader == nullptr, "a drive is let go while it is read");
  forget(identity_of(*slot.log), !emptied);
  leaving_.push_back({std::move(slot.log), slot.counter});
}

void LogStore::Members::serve_leaving() {
  for (Leaving& one : leaving_) one.log->drive().poll();
  for (Leaving& one : leaving_) {
    if (one.begun || change_ != nullptr) continue;
    const bool listed = contains(members_, identity_of(*one.log));
    if (waits_ || outnumbered_ || stopped_) one.begun = one.done = true;
    if (one.begun || (listed && !one.stamped)) continue;
    one.begun = true;
    Membership record;
    record.left = 1;
    record.drive = identity_of(*one.log);
    record.origin = origin_;
    record.store = line_;
    record.epoch = epoch_;
    record.void_generation = one.log->next_generation() - 1;
    std::copy(members_.begin(), members_.end(), record.members.begin());
    record.member_count = record.base_count = static_cast<uint8_t>(members_.size());
    record.base = record.members;
    Leaving* const leaver = &one;
    write(*one.log, record, ++one.counter, [this, leaver](int error) {
      leaver->done = true;
      // Who could not be told stays on the list of those that others must hear of.
      if (error != 0) return;
      std::erase(members_, identity_of(*leaver->log));
      std::erase(base_, identity_of(*leaver->log));
    });
  }
  std::erase_if(leaving_, [this](const Leaving& one) {
    return one.done && one.log->drive().in_flight() == 0 && !store_.in_use(*one.log);
  });
}

// --- change ----------------------------------------------------------------------------------------------

bool LogStore::Members::eligible(const Slot& slot) {
  if (slot.log == nullptr || slot.set_aside) return false;
  if (slot.standing != Standing::member && slot.standing != Standing::joining) return false;
  const DriveState state = slot.log->state();
  return state == DriveState::serving || state == DriveState::draining || state == DriveState::drained ||
         (state == DriveState::loading && slot.writable);
}

std::vector<Uuid> LogStore::Members::wanted() const {
  std::vector<Uuid> all;
  for (const Slot& slot : store_.slots_) {
    if (eligible(slot)) all.push_back(identity_of(*slot.log));
  }
  std::sort(all.begin(), all.end());
  return all;
}

bool LogStore::Members::durable() const {
  if (stopped_) return true;
  if (closed_ || change_ != nullptr || !complete_) return false;
  size_t listed = 0;
  for (const Slot& slot : store_.slots_) {
    if (slot.log == nullptr) continue;
    const bool is = eligible(slot);
    if (is != (slot.standing == Standing::member)) return false;
    if (is && !contains(members_, identity_of(*slot.log))) return false;
    listed += is ? 1 : 0;
  }
  return listed == members_.size();
}

// A drive that takes no more writes hears no more words, though it may be read: it is no member, unless nobody else is.
void LogStore::Members::leave_out_silent() {
  if (wanted().empty()) return;
  for (Slot& slot : store_.slots_) {
    if (slot.log == nullptr || slot.set_aside) continue;
    const DriveState state = slot.log->state();
    if (slot.standing == Standing::member && state == DriveState::read_only) {
      departs(slot);
      slot.silent = true;
    } else if (slot.standing == Standing::out && slot.silent && state == DriveState::serving) {
      // It takes writes again: first what it missed.
      slot.standing = Standing::learning;
      store_.pay_tombstones(slot);
    }
  }
}

bool LogStore::Members::may_go_on(const std::vector<Uuid>& wanted) {
  const auto there = [&](const std::vector<Uuid>& of) {
    return static_cast<size_t>(std::count_if(of.begin(), of.end(), [&](const Uuid& one) {
      return contains(wanted, one);
    }));
  };
  if (2 * there(members_) >= members_.size() && 2 * there(base_) >= base_.size()) return true;
  // Those that are being let go say so before, where the others are too few without them.
  bool any = false;
  for (Leaving& one : leaving_) any |= !std::exchange(one.stamped, true);
  if (!any && std::all_of(leaving_.begin(), leaving_.end(), [](const Leaving& one) { return one.done; })) {
    std::vector<Uuid> missing;
    for (const Uuid& one : members_) {
      if (!contains(wanted, one)) missing.push_back(one);
    }
    closed_ = outnumbered_ = true;
    state_ = "waiting";
    why_ = std::to_string(missing.size()) + " of the " + std::to_string(members_.size()) +
           " drives of this store went at once (" + list_of(missing) +
           "): nothing is written until enough of them are back; attach them, or start with --without-missing-drives if "
           "they are gone for good";
  }
  return false;
}

void LogStore::Members::poll() {
  serve_leaving();
  if (waits_ || !store_.loaded_once_ || stopped_) return;
  read_late_ones();
  take_learned();
  leave_out_silent();
  if (change_ != nullptr || out_ > 0) return;
  const std::vector<Uuid> all = wanted();
  if (all.empty()) {
    for (Leaving& one : leaving_) one.stamped = true;
    closed_ = true;
    return;
  }
  const bool same = all.size() == members_.size() &&
                    std::all_of(all.begin(), all.end(), [&](const Uuid& one) { return contains(members_, one); });
  const bool comes = std::any_of(store_.slots_.begin(), store_.slots_.end(), [](const Slot& slot) {
    return slot.log != nullptr && !slot.set_aside && slot.standing == Standing::joining;
  });
  if (!same || !complete_ || comes) {
    if (!may_go_on(all)) return;
  }
  closed_ = false;
  if (std::exchange(outnumbered_, false)) {
    why_.clear();
    state_ = "whole";
  }
  if (same && complete_ && !comes) return;
  store_.pay_what_a_start_owes();
  begin_change(all);
}

void LogStore::Members::begin_change(const std::vector<Uuid>& all) {
  CAIRN_CHECK(change_ == nullptr, "two changes of the members at a time");
  for (const Slot& slot : store_.slots_) {
    if (slot.log == nullptr || slot.standing != Standing::joining) continue;
    if (slot.role == Role::voided) forget(identity_of(*slot.log), true);
  }
  // Nobody waits for one that could not be believed any more.
  while (departed_.size() > format::kMembersMost) {
    const auto oldest = std::min_element(departed_.begin(), departed_.end(),
                                         [](const auto& a, const auto& b) { return a.second < b.second; });
    forget(Uuid(oldest->first), true);
  }
  std::erase_if(departed_, [this](const auto& one) { return one.second <= lost_sequence_; });
  change_ = std::make_unique<Change>();
  change_->epoch = epoch_ + 1;
  change_->members = all;
  change_->base = complete_ ? members_ : base_;
  if (change_->base.empty()) change_->base = all;
  change_->departed = departed_;
  for (const Uuid& one : all) change_->departed.erase(one);
  change_->lost_sequence = lost_sequence_;
  change_->phase = Phase::give_up;
  next_phase();
}

Membership LogStore::Members::record_of(const Slot& slot, const Change& change) const {
  Membership record;
  record.drive = identity_of(*slot.log);
  record.origin = origin_;
  record.store = line_;
  record.epoch = change.epoch;
  record.void_generation = slot.void_generation;
  record.lost_sequence = change.lost_sequence;
  record.member_count = static_cast<uint8_t>(change.members.size());
  record.base_count = static_cast<uint8_t>(change.base.size());
  std::copy(change.members.begin(), change.members.end(), record.members.begin());
  std::copy(change.base.begin(), change.base.end(), record.base.begin());
  for (const auto& [drive, sequence] : change.departed) record.departed[record.departed_count++] = {drive, sequence};
  return record;
}

void LogStore::Members::write(DriveLog& log, Membership record, uint64_t counter, std::function<void(int)> done) {
  record.counter = counter;
  ++out_;
  (new RecordWrite(log, record, [this, done = std::move(done)](int error) {
    CAIRN_CHECK(out_ > 0, "a record was written that nobody sent");
    --out_;
    done(error);
  }))->start();
}

void LogStore::Members::send(Slot& slot, const Membership& record) {
  Slot* const at = &slot;
  DriveLog* const log = slot.log.get();
  write(*log, record, ++slot.counter, [this, at, log](int error) {
    // The second copy, which nobody waits for, may be missing.
    if (error != 0 && change_ != nullptr) {
      change_->failed = true;
      log->fail("it did not take the record of the store's members: " + cause_and_advice(error));
    } else if (error == 0) {
      at->void_owed = false;
    }
    if (out_ == 0 && change_ != nullptr) next_phase();
  });
}

// Those who were members hear first: a newcomer that alone knows of the change could not go on without them.
void LogStore::Members::next_phase() {
  while (change_ != nullptr && out_ == 0) {
    if (change_->failed || stopped_) {
      // Whoever heard of it keeps that number: the next change has a larger one.
      epoch_ = change_->epoch;
      complete_ = false;
      change_.reset();
      return;
    }
    if (change_->phase == Phase::settle) return end_change();
    const Phase phase = std::exchange(change_->phase, static_cast<Phase>(static_cast<uint8_t>(change_->phase) + 1));
    send_phase(phase);
  }
}

void LogStore::Members::send_phase(Phase phase) {
  Change& change = *change_;
  size_t met = 0;
  for (Slot& slot : store_.slots_) {
    if (!eligible(slot) || !contains(change.members, identity_of(*slot.log))) continue;
    ++met;
    const bool old = contains(members_, identity_of(*slot.log));
    if (phase == Phase::give_up && slot.void_owed) {
      // Its own record, whatever that says, and nothing else before it.
      Membership record = slot.record ? *slot.record : Membership{};
      if (!slot.record) record.left = 1;
      record.version = format::kVersion;
      record.drive = identity_of(*slot.log);
      record.void_generation = slot.void_generation;
      send(slot, record);
    } else if ((phase == Phase::old_members && old) || (phase == Phase::new_members && !old)) {
      send(slot, record_of(slot, change));
    }
  }
  change.failed |= met != change.members.size();
}

// Every member has it. The second copy, which nobody waits for, says so.
void LogStore::Members::end_change() {
  const std::unique_ptr<Change> change = std::move(change_);
  epoch_ = change->epoch;
  members_ = base_ = change->members;
  complete_ = true;
  departed_ = change->departed;
  lost_sequence_ = std::max(lost_sequence_, change->lost_sequence);
  change->base = change->members;
  for (Slot& slot : store_.slots_) {
    if (slot.log == nullptr || slot.set_aside || !contains(members_, identity_of(*slot.log))) continue;
    slot.record = record_of(slot, *change);
    if (slot.standing == Standing::joining) {
      slot.standing = Standing::member;
      slot.hidden = slot.silent = false;
      store_.emit(EventKind::drive_loaded, {}, {}, 0, 0);
    }
    if (slot.log->state() != DriveState::failed) send(slot, *slot.record);
  }
}

void LogStore::Members::tell(StoreStats& stats) const {
  stats.members_state = state_;
  stats.members_reason = why_;
}

}  // namespace cairn
