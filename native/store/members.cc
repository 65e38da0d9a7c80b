#include "store/members.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/entropy.h"
#include "store/evictor.h"
#include "store/jobs.h"
#include "store/scrubber.h"

namespace cairn {

using format::Membership;
using format::Uuid;

constexpr uint64_t kSlowMs = 1000;  // a record that is on its way for longer is told of

LogStore::Members::~Members() {
  for (Leaving& one : leaving_) {
    while (one.log->drive().in_flight() > 0) one.log->drive().wait(100);
  }
  CAIRN_CHECK(out_ == 0, "a store ends with records of its members on their way");
}

// --- the start -------------------------------------------------------------------------------------------

void LogStore::Members::plan() {
  CAIRN_CHECK(change_ == nullptr, "a start is planned while members change");
  std::vector<DriveFacts> facts;
  std::vector<Slot*> slots;
  for (Slot& slot : store_.slots_) {
    if (slot.log == nullptr || slot.set_aside) continue;
    CAIRN_CHECK(slot.loader == nullptr, "a start is planned anew while drives are read");
    facts.push_back({identity_of(*slot.log), slot.record});
    slots.push_back(&slot);
  }
  const StartPlan plan = plan_start(facts, {store_.options_.read_only, store_.options_.without_missing_drives,
                                            store_.clock_.now_ms() < half_until_ms_});
  CAIRN_CHECK(plan.roles.size() == slots.size(), "a drive has no part in the plan of a start, or two");
  CAIRN_CHECK(plan.reasons.size() == slots.size(), "nobody knows why a drive is refused");
  CAIRN_CHECK(plan.state != StartPlan::State::closed || !plan.why.empty(), "a store waits and nobody says for what");
  state_ = plan.state == StartPlan::State::fresh  ? "new"
           : plan.state == StartPlan::State::warm ? "whole"
           : plan.state == StartPlan::State::cold ? "begun_empty"
                                                  : "waiting";
  why_ = plan.why;
  closed_ = waits_ = plan.state == StartPlan::State::closed;
  for_now_ = plan.for_now;
  if (waits_) return;
  store_.options_.without_missing_drives = false;  // the operator's word was for one start
  origin_ = plan.origin == Uuid{} ? entropy<Uuid>() : plan.origin;
  line_ = plan.store == Uuid{} ? entropy<Uuid>() : plan.store;
  epoch_ = plan.epoch;
  lost_sequence_ = plan.lost_sequence;
  next_sequence_ = plan.next_sequence;
  members_ = plan.members;
  base_ = plan.base;
  complete_ = plan.complete;
  attempted_.clear();
  cold_ = plan.state == StartPlan::State::cold;
  fresh_ = plan.state == StartPlan::State::fresh;
  departed_.clear();
  leaps_ = cold_ || !plan.missing.empty();
  // Members, and so they heard every word of earlier lives. Of the override's line nobody is who is not here.
  early_departed_.clear();
  if (plan.state == StartPlan::State::warm && plan.store != Uuid{}) early_departed_ = plan.missing;
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
  CAIRN_CHECK(slot.loader == nullptr, "a drive is refused while it is read");
  CAIRN_CHECK(slot.role == Role::refused, "a drive is refused that the plan takes");
  slot.log->fail(why);
  slot.standing = Standing::out;
  slot.set_aside = true;
}

void LogStore::Members::begin_reading(Slot& slot) {
  CAIRN_CHECK(slot.loader == nullptr, "a drive is read twice at a time");
  CAIRN_CHECK(slot.log->state() == DriveState::loading, "a drive is read that was read before");
  CAIRN_CHECK(slot.standing == Standing::waiting || slot.standing == Standing::member, "a drive is read out of turn");
  if (slot.standing == Standing::waiting) slot.standing = Standing::learning;
  slot.hidden = slot.standing != Standing::member;
  slot.void_generation = slot.record ? slot.record->void_generation : 0;
  slot.counter = slot.record ? slot.record->counter : 0;
  Slot* const at = &slot;
  slot.loader = std::make_unique<Loader>(
      slot.log->drive(), slot.log->superblock(), slot.writable, slot.void_generation,
      [this, at](FoundSegment& found) { store_.take_segment(*at, found); },
      [this, at](FoundDrive& found) { return judge(*at, found); });
  if (slot.role == Role::voided) return;
  if (const std::string wrong = store_.read_tenants_of(slot); !wrong.empty())
    slot.log->fail(slot.log->drive().info().path + " " + wrong);
}

// What its headers say is known, and nothing was written to it yet.
std::string LogStore::Members::judge(Slot& slot, FoundDrive& found) {
  CAIRN_CHECK(slot.role != Role::refused, "a drive is read that was refused");
  CAIRN_CHECK(found.void_generation == slot.void_generation, "a drive was given up behind its record's back");
  CAIRN_CHECK(slot.role == Role::member || slot.hidden, "a drive is served before it is judged");
  const std::string& path = slot.log->drive().info().path;
  bool gives_up = slot.role == Role::voided;
  if (slot.role == Role::blank && found.in_use > 0) {
    return path +
           " holds blocks and does not say of which store: an older version wrote it, or its record is damaged. Start "
           "the "
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
  found.void_generation =
      std::max(found.void_generation, std::min(found.youngest_generation + unseen, format::kNumberMost));
  slot.trusted = found.in_use == 0;
  slot.void_owed = found.void_generation != slot.void_generation;
  slot.void_generation = found.void_generation;
  slot.role = Role::voided;
  return "";
}

// Whether every word that the drive missed is still known, or concerns nothing that it holds.
bool LogStore::Members::believed(const Slot& slot, uint64_t last_sequence) const {
  const auto found = departed_.find(identity_of(*slot.log));
  if (found == departed_.end() || !slot.record || slot.record->store != line_ || slot.record->epoch > epoch_)
    return false;
  const uint64_t missed_from = found->second;
  // Whoever has a number from behind the one at which it went was counted on elsewhere: a delete may lie below it.
  if (last_sequence > missed_from || lost_sequence_ >= missed_from) return false;
  if (store_.graveyard_.floor() >= missed_from) return false;
  for (const auto& [drive, sequence] : departed_) {
    if (drive != found->first && sequence > missed_from) return false;
  }
  return std::all_of(store_.slots_.begin(), store_.slots_.end(), [&](const Slot& one) {
    return one.log == nullptr || one.standing != Standing::member || one.log->given_up_sequence < missed_from;
  });
}

void LogStore::Members::give_up(Slot& slot) {
  CAIRN_CHECK(slot.loader == nullptr, "a drive is given up while it is read");
  CAIRN_CHECK(slot.log->state() != DriveState::loading, "a drive is given up before it was read");
  slot.trusted = false;
  slot.log->distrust();
  // What was written to it since it was read is no part of that: records of what it missed.
  slot.void_generation = std::max(slot.void_generation, std::min(slot.own_generation - 1, format::kNumberMost));
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
  CAIRN_CHECK(slot.log != nullptr, "no drive is admitted");
  CAIRN_CHECK(!slot.set_aside, "a drive is admitted that failed");
  slot.standing = Standing::waiting;
  slot.hidden = true;
  slot.role = !slot.record ? Role::blank : slot.record->left != 0 ? Role::voided : Role::outsider;
  const bool alone = std::none_of(store_.slots_.begin(), store_.slots_.end(),
                                  [&](const Slot& one) { return &one != &slot && one.log != nullptr; });
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
    if (slot.log == nullptr || slot.set_aside || slot.loader != nullptr || slot.standing != Standing::learning)
      continue;
    if (slot.silent && (slot.log->state() != DriveState::serving || (slot.owed == 0 && slot.owed_failed))) {
      // It was tried too early: what it holds is served, and it is tried again.
      slot.standing = Standing::out;
      continue;
    }
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
    // Headers do not tell how far an open segment goes: by now it was read.
    if (slot.silent && (slot.forgot_elders || !believed(slot, 0))) {
      // Its segments are open: nothing that comes after could be told from what is given up.
      slot.log->fail("it missed deletes that nobody remembers any more; attach it again, and it joins empty");
      continue;
    }
    if (slot.role == Role::outsider && !slot.silent && (slot.forgot_elders || !believed(slot, slot.last_sequence)))
      give_up(slot);
    CAIRN_CHECK(slot.role != Role::blank || slot.recovered_blocks == 0, "blocks of no store are about to be served");
    if (slot.silent) slot.log->ghosts.wiped(Ghosts::kSomewhere);
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
  CAIRN_CHECK(slot.log != nullptr, "a drive departs that was not there");
  abandon(slot);
  const Standing before = std::exchange(slot.standing, Standing::out);
  if (before != Standing::member) return;
  if (!store_.loaded_once_) {
    // What numbers were given out is not known yet; the largest may lie on this drive alone.
    early_departed_.push_back(identity_of(*slot.log));
    leaps_ = true;
    return;
  }
  departed_.try_emplace(identity_of(*slot.log), store_.next_sequence_);
  // That number may stand in the header of a segment of its, as the first that could lie there; nobody gets it.
  store_.count_from(store_.next_sequence_ + 1);
  // What it had given up is known from its headers alone.
  lost_sequence_ = std::max(lost_sequence_, slot.log->given_up_sequence);
}

void LogStore::Members::first_drives_read() {
  // The drives that are here may be blank, and those that went have used numbers: a delete with one of those would not
  // cover what they hold.
  store_.count_from(lost_sequence_ + 1);
  store_.count_from(next_sequence_);
  for (const auto& [drive, sequence] : departed_) store_.count_from(sequence);
  if (leaps_) store_.count_from(store_.next_sequence_ + kSequenceLeap);
  if (early_departed_.empty()) return;
  for (const Uuid& one : std::exchange(early_departed_, {})) departed_.try_emplace(one, store_.next_sequence_);
  store_.count_from(store_.next_sequence_ + 1);
}

void LogStore::Members::forget(const Uuid& drive, bool lost) {
  const auto found = departed_.find(drive);
  if (found == departed_.end()) return;
  if (lost) lost_sequence_ = std::max(lost_sequence_, found->second - 1);
  departed_.erase(found);
}

void LogStore::Members::let_go(Slot& slot, bool emptied) {
  CAIRN_CHECK(slot.log != nullptr && slot.loader == nullptr, "a drive is let go while it is read");
  CAIRN_CHECK(slot.standing == Standing::out, "a drive is let go that still hears");
  CAIRN_CHECK(slot.evictor == nullptr && slot.scrubber == nullptr, "a drive is let go that is at work");
  CAIRN_CHECK(!knows(identity_of(*slot.log)), "a drive is let go twice");
  leaving_.push_back({std::move(slot.log), slot.counter, emptied});
}

void LogStore::Members::serve_leaving() {
  CAIRN_CHECK(leaving_.size() <= 2 * format::kMembersMost, "more drives are let go than a store has");
  for (Leaving& one : leaving_) one.log->drive().poll();
  for (Leaving& one : leaving_) {
    if (one.begun || change_ != nullptr) continue;
    const bool listed = contains(members_, identity_of(*one.log));
    if (waits_ || outnumbered_ || stopped_) one.begun = one.done = true;
    if (one.begun || (listed && !one.stamped)) continue;
    one.begun = true;
    CAIRN_CHECK(!one.done, "a drive was let go before it was told");
    CAIRN_CHECK(one.log->next_generation() > 0, "a drive is let go that was never read");
    Membership record;
    record.left = 1;
    record.drive = identity_of(*one.log);
    record.origin = origin_;
    record.store = line_;
    record.epoch = epoch_;
    record.void_generation = std::min(one.log->next_generation() - 1, format::kNumberMost);
    list(members_, record.members);
    record.member_count = record.base_count = static_cast<uint8_t>(members_.size());
    record.base = record.members;
    // What it alone heard since others departed leaves with it.
    const bool alone = wanted().empty() || !one.emptied;
    record.lost_sequence = alone ? std::max(lost_sequence_, store_.last_word_) : lost_sequence_;
    record.next_sequence = store_.next_sequence_;
    for (const auto& [drive, sequence] : departed_) {
      if (drive == record.drive || record.departed_count == format::kMembersMost) continue;
      record.departed[record.departed_count++] = {drive, sequence};
    }
    Leaving* const leaver = &one;
    write(*one.log, record, ++one.counter, [this, leaver](int error) {
      leaver->done = true;
      // Who could not be told stays on the list of those that others must hear of, and is waited for: a start may find
      // it as it was.
      if (error != 0) return;
      forget(identity_of(*leaver->log), !leaver->emptied);
      std::erase(members_, identity_of(*leaver->log));
      std::erase(base_, identity_of(*leaver->log));
    });
  }
  std::erase_if(leaving_, [this](const Leaving& one) {
    return one.done && one.log->drive().in_flight() == 0 && !store_.in_use(*one.log);
  });
}

void LogStore::Members::tell(StoreStats& stats) const {
  stats.members_state = state_;
  stats.members_reason = why_;
  if (!why_.empty() || out_ == 0 || store_.clock_.now_ms() < sent_ms_ + kSlowMs) return;
  std::string slow;
  for (const Slot& slot : store_.slots_) {
    if (slot.log != nullptr && slot.records_out > 0) slow += (slow.empty() ? "" : ", ") + slot.log->drive().info().path;
  }
  stats.members_reason = "puts and deletes wait for " + slow +
                         ", which was told which drives the store has and does not answer; if it hangs, detach it";
}

}  // namespace cairn
