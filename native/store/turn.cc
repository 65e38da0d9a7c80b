// The turn of the store, and its end.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "store/evictor.h"
#include "store/jobs.h"
#include "store/log_store.h"
#include "store/members.h"
#include "store/quotas.h"
#include "store/scrubber.h"

namespace cairn {

namespace {

constexpr uint64_t kSweepSlots = 4096;  // a turn: some 20 µs

}  // namespace

void LogStore::poll() {
  tell_dropped();
  if (!departed_.empty()) std::erase_if(departed_, [this](const auto& log) { return !in_use(*log); });
  for (Slot& slot : slots_) {
    if (slot.log == nullptr) continue;
    slot.log->poll(next_sequence_);
    if (slot.loader != nullptr) load(slot);
    if (slot.log->state() == DriveState::failed && !slot.set_aside) set_aside(slot);
    if (slot.leaving) let_leave(slot);
    if (slot.log == nullptr) continue;
    if (slot.evictor != nullptr) slot.evictor->poll();
    if (slot.scrubber != nullptr) slot.scrubber->poll();
  }
  members_->poll();
  if (members_->durable() || members_->over()) release_held();
  leases_.expire(clock_.now_ms());
  if (!write_waiting_.empty() && (writes_open() || members_->closed())) {
    std::deque<PutOp*> now;
    now.swap(write_waiting_);
    restart_.insert(restart_.end(), now.begin(), now.end());
    restart_waiters();
  }
  if (!remove_waiting_.empty()) {
    std::deque<DeleteOp*> now;
    now.swap(remove_waiting_);
    for (DeleteOp* op : now) remove(*op);
  }
  // While a drive is read all are needed.
  if (loaded_once_ && all_read()) graveyard_.trim_some();
  turn_bindings();
  turn_quotas();
  feed_hungry();
  // What the callbacks asked for goes out in this turn; where completions were left, the next turn is at hand.
  for (Slot& slot : slots_) {
    if (slot.log != nullptr && !slot.log->drive().behind()) slot.log->poll(next_sequence_);
  }
  const uint64_t now = std::min(sweep_left_, kSweepSlots);
  if (now > 0) index_.sweep(now);
  sweep_left_ -= now;
  tell_dropped();
}

bool LogStore::behind() const {
  return std::any_of(slots_.begin(), slots_.end(), [](const Slot& slot) {
    return slot.log != nullptr && (slot.log->drive().behind() || slot.log->drive().unsent());
  });
}

std::vector<int> LogStore::event_fds() const {
  std::vector<int> fds;
  for (const Slot& slot : slots_) {
    if (slot.log != nullptr && slot.log->drive().event_fd() >= 0) fds.push_back(slot.log->drive().event_fd());
  }
  return fds;
}

bool LogStore::idle() const {
  if (!reads_.empty() || !writes_.empty() || !removes_.empty() || !members_->idle()) return false;
  if (std::any_of(squeezes_.begin(), squeezes_.end(), [](const auto& one) { return one.second->reading(); }))
    return false;
  return std::all_of(slots_.begin(), slots_.end(), [](const Slot& slot) {
    return !slot.table_writing && (slot.log == nullptr || slot.log->idle()) &&
           (slot.evictor == nullptr || slot.evictor->idle()) && (slot.scrubber == nullptr || slot.scrubber->idle());
  });
}

// A change of the members that is on its way is finished, and a drive that was let go is told so, where drives answer.
void LogStore::let_members_settle() {
  constexpr int kTurnsMost = 200;
  for (int i = 0; i < kTurnsMost && !members_->settled(); ++i) turn_drives();
}

void LogStore::close(const std::function<void(const std::string&)>& sealed) {
  write_what_waits();
  let_members_settle();
  members_->stop();
  release_held();
  for (const Slot& slot : slots_) {
    if (slot.evictor != nullptr) slot.evictor->stop();
    if (slot.scrubber != nullptr) slot.scrubber->stop();
  }
  for (const auto& [tenant, walk] : squeezes_) walk->stop();
  uint32_t over = 0;  // a bit a slot
  const auto is_over = [&](const Slot& slot) { return slot.log == nullptr || (over & 1U << slot.log->number()) != 0; };
  while (true) {
    for (const Slot& slot : slots_) {
      if (is_over(slot) || busy(slot) || in_use(*slot.log) || slot.log->drive().in_flight() > 0) continue;
      if (slot.loader == nullptr) slot.log->close(next_sequence_);
      over |= 1U << slot.log->number();
      sealed(slot.log->drive().info().path);
    }
    if (std::all_of(slots_.begin(), slots_.end(), is_over)) return;
    for (const auto& [tenant, walk] : squeezes_) walk->poll();
    for (const Slot& slot : slots_) {
      if (is_over(slot)) continue;
      slot.log->poll(next_sequence_);
      if (slot.evictor != nullptr) slot.evictor->poll();
      if (slot.scrubber != nullptr) slot.scrubber->poll();
      slot.log->drive().wait(10);
    }
  }
}

}  // namespace cairn
