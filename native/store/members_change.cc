// How the members of a store change: a record on every one of them, before another word is acknowledged.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "store/evictor.h"
#include "store/jobs.h"
#include "store/members.h"

namespace cairn {

using format::Membership;
using format::Uuid;

constexpr uint32_t kTriesMost = 3;  // of one record: then its drive takes no writes

// One copy of a drive's record, and a flush. An error may be of that request alone, so it is written again, to the same
// page: the other copy stays what it was.
class LogStore::Members::RecordWrite final : public IoRequest {
 public:
  RecordWrite(DriveLog& log, const Membership& record, std::function<void(int)> done)
      : log_(log), memory_(1), done_(std::move(done)) {
    CAIRN_CHECK(record.drive == log.superblock().drive, "a drive is given the record of another");
    CAIRN_CHECK(record.member_count <= format::kMembersMost, "a record names more members than it has room for");
    CAIRN_CHECK(record.base_count <= format::kMembersMost,
                "a record names more of an earlier epoch than it has room for");
    CAIRN_CHECK(record.departed_count <= format::kMembersMost, "a record waits for more drives than it has room for");
    CAIRN_CHECK(record.counter > 0, "a record is written that an older one would win over");
    CAIRN_CHECK(record.epoch <= format::kNumberMost, "an epoch beyond what is believed is written");
    CAIRN_CHECK(record.void_generation <= format::kNumberMost, "a generation beyond what is believed is given up");
    CAIRN_CHECK(record.lost_sequence <= format::kNumberMost, "a sequence beyond what is believed is lost");
    CAIRN_CHECK(record.next_sequence <= format::kNumberMost, "a store counted beyond what is believed");
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
    CAIRN_CHECK(kind == IoKind::write || kind == IoKind::flush, "a record is neither written nor flushed");
    if (error == 0 && kind == IoKind::write && log_.drive().info().volatile_write_cache) {
      kind = IoKind::flush;
      vector_count = 0;
      bytes = 0;
      return start();
    }
    if (error != 0 && ++tries_ < kTriesMost && log_.state() != DriveState::failed) {
      ++log_.counters.write_errors;
      // A flush that failed may have lost what it was to keep.
      kind = IoKind::write;
      vector_count = 1;
      bytes = format::kPageBytes;
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
  uint32_t tries_ = 0;
  std::function<void(int)> done_;
};

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
  CAIRN_CHECK(members_.size() <= format::kMembersMost, "a store has more members than a record can name");
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

bool LogStore::Members::settled() const {
  if (out_ > 0 || change_ != nullptr) return false;
  if (stopped_ || closed_ || waits_ || !store_.loaded_once_) return true;
  return leaving_.empty() && durable();
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
      slot.owed_failed = false;
      store_.pay_tombstones(slot);
      store_.pay_elders();
    }
  }
}

// Whether no start can go on with drives that are all others: it takes more than half of both lists, or all that a
// change names.
bool LogStore::Members::enough(const std::vector<Uuid>& wanted) const {
  const auto there = [&](const std::vector<Uuid>& of) {
    return static_cast<size_t>(
        std::count_if(of.begin(), of.end(), [&](const Uuid& one) { return contains(wanted, one); }));
  };
  return 2 * there(members_) >= members_.size() && 2 * there(base_) >= base_.size() &&
         std::all_of(attempted_.begin(), attempted_.end(), [&](const auto& one) { return there(one) > 0; });
}

bool LogStore::Members::may_go_on(const std::vector<Uuid>& wanted) {
  CAIRN_CHECK(!wanted.empty(), "a store goes on without a drive");
  CAIRN_CHECK(change_ == nullptr, "members are counted while they change");
  if (enough(wanted)) return true;
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
    why_ = (members_.size() == 1 ? std::string("the only drive of this store went")
                                 : std::to_string(missing.size()) + " of the " + std::to_string(members_.size()) +
                                       " drives of this store went at once") +
           " (" + list_of(missing) +
           "): nothing is written until enough of them are back. Attach them; if they are gone for good, start with "
           "--without-missing-drives, or detach the others and attach them again to begin empty";
  }
  return false;
}

void LogStore::Members::poll() {
  serve_leaving();
  if (for_now_ && store_.clock_.now_ms() >= half_until_ms_) plan();
  if (waits_ || !store_.loaded_once_ || stopped_) return;
  read_late_ones();
  take_learned();
  leave_out_silent();
  const bool reads = std::any_of(store_.slots_.begin(), store_.slots_.end(), [](const Slot& slot) {
    return slot.loader != nullptr && slot.standing == Standing::member;
  });
  // A drive that failed in this turn departs in the next: a record that leaves it out says since when.
  const bool departs = std::any_of(store_.slots_.begin(), store_.slots_.end(), [](const Slot& slot) {
    return slot.log != nullptr && !slot.set_aside && slot.log->state() == DriveState::failed;
  });
  if (change_ != nullptr || out_ > 0 || reads || departs) return;
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
  if (epoch_ >= format::kNumberMost - format::kNumbersKept) {
    closed_ = true;
    why_ = "a drive says that the members of this store changed more often than they can have; format that drive";
    return;
  }
  store_.pay_what_a_start_owes();
  begin_change(all);
}

void LogStore::Members::begin_change(const std::vector<Uuid>& all) {
  CAIRN_CHECK(change_ == nullptr, "two changes of the members at a time");
  CAIRN_CHECK(out_ == 0, "members change while a record is on its way");
  CAIRN_CHECK(!all.empty(), "a store is left without members");
  CAIRN_CHECK(all.size() <= format::kMembersMost, "a store has more members than a record can name");
  CAIRN_CHECK(!closed_ && !waits_, "members change while the store is closed");
  CAIRN_CHECK(store_.loaded_once_, "members change before their drives were read");
  CAIRN_CHECK(std::is_sorted(all.begin(), all.end()), "members are told in another order than they are compared in");
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
  change_->next_sequence = store_.next_sequence_;
  CAIRN_CHECK(change_->departed.size() <= format::kMembersMost, "more drives are waited for than a record can name");
  CAIRN_CHECK(change_->epoch > epoch_, "an epoch that some drive knows is given out again");
  change_->phase = Phase::give_up;
  next_phase();
}

Membership LogStore::Members::record_of(const Slot& slot, const Change& change) const {
  CAIRN_CHECK(slot.log != nullptr, "a record of a drive that is not there");
  CAIRN_CHECK(contains(change.members, identity_of(*slot.log)), "a drive is told of a change that leaves it out");
  CAIRN_CHECK(!change.base.empty(), "a change of members that began from none");
  CAIRN_CHECK(origin_ != Uuid{} && line_ != Uuid{}, "a record of no store is written");
  Membership record;
  record.drive = identity_of(*slot.log);
  record.origin = origin_;
  record.store = line_;
  record.epoch = change.epoch;
  record.void_generation = slot.void_generation;
  record.lost_sequence = change.lost_sequence;
  record.next_sequence = change.next_sequence;
  record.member_count = static_cast<uint8_t>(change.members.size());
  record.base_count = static_cast<uint8_t>(change.base.size());
  list(change.members, record.members);
  list(change.base, record.base);
  for (const auto& [drive, sequence] : change.departed) record.departed[record.departed_count++] = {drive, sequence};
  return record;
}

void LogStore::Members::write(DriveLog& log, Membership record, uint64_t counter, std::function<void(int)> done) {
  CAIRN_CHECK(log.state() != DriveState::loading, "a record is written to a drive that is being read");
  record.counter = counter;
  (new RecordWrite(log, record, std::move(done)))->start();
}

void LogStore::Members::send(Slot& slot, const Membership& record) {
  CAIRN_CHECK(!slot.set_aside, "a drive that is set aside is written to");
  CAIRN_CHECK(slot.loader == nullptr, "a drive is told its members before it was read");
  Slot* const at = &slot;
  DriveLog* const log = slot.log.get();
  CAIRN_CHECK(out_ < 2 * format::kMembersMost, "more records are on their way than there are drives");
  ++out_;
  ++slot.records_out;
  sent_ms_ = store_.clock_.now_ms();
  if (slot.abandoned == nullptr) slot.abandoned = std::make_shared<bool>(false);
  write(*log, record, ++slot.counter, [this, at, log, abandoned = slot.abandoned](int error) {
    if (*abandoned) return;
    CAIRN_CHECK(out_ > 0 && at->records_out > 0, "a record was written that nobody sent");
    --out_;
    --at->records_out;
    // The second copy, which nobody waits for, may be missing.
    if (error != 0 && change_ != nullptr && at->silent) {
      change_->failed = true;
      at->standing = Standing::out;  // what it holds is served, and it is tried again
      log->note_write(error);
    } else if (error != 0 && change_ != nullptr) {
      change_->failed = true;
      log->fail("it did not take the record of the store's members: " + cause_and_advice(error));
    } else if (error == 0) {
      at->void_owed = false;
    }
    if (out_ == 0 && change_ != nullptr) next_phase();
  });
}

// A drive that goes may hang: what was sent to it may still arrive, and counts as if the machine had stopped meanwhile.
void LogStore::Members::abandon(Slot& slot) {
  CAIRN_CHECK(slot.records_out <= out_, "a drive is sent more records than all together");
  if (slot.records_out == 0) return;
  *slot.abandoned = true;
  slot.abandoned = nullptr;
  out_ -= std::exchange(slot.records_out, 0);
  if (change_ == nullptr) return;
  change_->failed = true;
  if (out_ == 0) next_phase();
}

// Those who were members hear first: a newcomer that alone knows of the change could not go on without them.
void LogStore::Members::next_phase() {
  while (change_ != nullptr && out_ == 0) {
    if (change_->failed || stopped_) {
      // Whoever heard of it keeps that number: the next change has a larger one.
      epoch_ = change_->epoch;
      complete_ = false;
      attempted_.insert(change_->members);
      change_.reset();
      return;
    }
    if (change_->phase == Phase::settle) return end_change();
    const Phase phase = std::exchange(change_->phase, static_cast<Phase>(static_cast<uint8_t>(change_->phase) + 1));
    send_phase(phase);
  }
}

void LogStore::Members::send_phase(Phase phase) {
  CAIRN_CHECK(change_ != nullptr && out_ == 0, "a phase of a change begins before another ended");
  CAIRN_CHECK(phase != Phase::settle, "a change that ended is told again");
  Change& change = *change_;
  size_t met = 0;
  for (Slot& slot : store_.slots_) {
    if (!eligible(slot) || !contains(change.members, identity_of(*slot.log))) continue;
    ++met;
    CAIRN_CHECK(met <= change.members.size(), "a drive is a member twice");
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
  CAIRN_CHECK(change_ != nullptr && !change_->failed, "a change ends that failed");
  CAIRN_CHECK(change_->phase == Phase::settle, "a change ends before every member heard of it");
  const std::unique_ptr<Change> change = std::move(change_);
  epoch_ = change->epoch;
  members_ = base_ = change->members;
  attempted_.clear();
  CAIRN_CHECK(!members_.empty(), "a change leaves a store without members");
  complete_ = true;
  // Who went while the others were told is waited for as well.
  std::erase_if(departed_, [this](const auto& gone) {
    return std::any_of(store_.slots_.begin(), store_.slots_.end(), [&](const Slot& slot) {
      return slot.log != nullptr && slot.standing != Standing::out && identity_of(*slot.log) == gone.first &&
             contains(members_, gone.first);
    });
  });
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

}  // namespace cairn
