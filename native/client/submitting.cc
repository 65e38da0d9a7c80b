// An operation begins: on the thread of its caller, which an event loop's must not hold up.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "client/client.h"

namespace cairn {

namespace {

// match, stats and watch have one answer for the whole operation.
uint32_t answers_of(const Operation& operation) {
  const bool single =
      operation.type == FrameType::match || operation.type == FrameType::stats || operation.type == FrameType::watch;
  return single ? 1 : static_cast<uint32_t>(operation.keys.size());
}

// As much as is computed between two looks for an interruption: about a millisecond.
constexpr uint64_t kChecksumBytesAtOnce = 8 * kMiB;

}  // namespace

// What whoever made the operation owes: its lists are as long as one another.
void Client::check_asked(const Operation& op) {
  CAIRN_CHECK(op.type >= FrameType::put && op.type <= FrameType::watch, "an operation that is no request");
  CAIRN_CHECK(op.id == 0, "an operation is submitted twice");
  CAIRN_CHECK(op.state_ == Operation::State::open, "an operation is submitted that is done");
  CAIRN_CHECK(op.ranges.empty() || op.ranges.size() == op.keys.size(), "an operation has not one range for each key");
  if (!op.moves_payload()) return;
  CAIRN_CHECK(op.part_first.size() == op.keys.size() + 1, "an operation has not memory for each of its keys");
  CAIRN_CHECK(op.part_first.back() == op.parts.size(), "an operation has memory that belongs to no key");
}

void Client::prepare(Operation& op) {
  check_asked(op);
  op.settled_.assign(answers_of(op), false);
  op.unsettled_ = answers_of(op);
  op.statuses.assign(op.unsettled_, Status::timeout);
  op.lengths.assign(op.unsettled_, 0);
  op.sequences.assign(op.unsettled_, 0);
  if (op.deadline_ms == 0) op.deadline_ms = kDeadlineMsDefault;
  op.deadline_ms = std::min(op.deadline_ms, kDeadlineMsMost);
  op.due_ns_ = system_clock().now_ns() + uint64_t{op.deadline_ms} * 1'000'000;
}

bool Client::compute_checksums(Operation& op, Interruption* interruption) const {
  if (op.type != FrameType::put || !options_.verify) return true;
  op.crcs_.assign(op.keys.size(), 0);
  uint64_t since = 0;
  for (uint32_t i = 0; i < op.keys.size(); ++i) {
    if (op.on_gpu(i)) continue;
    for (const iovec& part : op.memory(i)) {
      const auto* base = static_cast<const std::byte*>(part.iov_base);
      for (uint64_t at = 0; at < part.iov_len;) {
        const uint64_t step = std::min<uint64_t>(part.iov_len - at, kChecksumBytesAtOnce);
        op.crcs_[i] = crc32c({base + at, step}, op.crcs_[i]);
        at += step;
        since += step;
        if (since < kChecksumBytesAtOnce) continue;
        since = 0;
        if (interruption != nullptr && interruption->requested()) return false;
      }
    }
  }
  return true;
}

void Client::submit(std::shared_ptr<Operation> operation, Interruption* interruption) {
  CAIRN_CHECK(operation != nullptr, "no operation is submitted");
  Operation& op = *operation;
  prepare(op);
  op.id = next_operation_.fetch_add(1, std::memory_order_relaxed);
  if (inherited()) return abandon(op, Status::unreachable);
  find_gpus(op);
  if (!compute_checksums(op, interruption)) return abandon(op, Status::cancelled);
  Lock lock(lock_, std::defer_lock);
  if (completion_ >= 0 && connected_ && !lock.try_lock()) {
    if (post(operation)) return;
    lock.lock();
    return guarded(lock, [&] { take_inbox(lock); });
  }
  if (!lock.owns_lock()) lock.lock();
  guarded(lock, [&] {
    take_inbox(lock);
    start(lock, operation, interruption);
  });
  if (!op.done() && !open_.contains(&op)) abandon(op, Status::unreachable);  // there was no memory to note it
}

// From here on it is settled sooner or later.
void Client::enter(const std::shared_ptr<Operation>& operation) {
  const auto [entry, fresh] = open_.emplace(operation.get(), operation);
  CAIRN_CHECK(fresh, "an operation is open twice");
  try {
    due_.emplace(operation->due_ns_, operation.get());
    if (completion_ < 0) return;
    // So that telling its end needs no memory.
    const std::lock_guard<std::mutex> held(completed_lock_);
    const size_t needed = completed_.size() + open_.size();
    if (completed_.capacity() < needed) completed_.reserve(2 * needed);
  } catch (const std::bad_alloc&) {
    due_.erase({operation->due_ns_, operation.get()});
    open_.erase(entry);
    throw;
  }
}

// While another thread has the session: an event loop's own does not wait for it.
bool Client::post(std::shared_ptr<Operation> operation) {
  {
    const std::lock_guard<std::mutex> held(inbox_lock_);
    inbox_.push_back(std::move(operation));
    inbox_full_ = true;
  }
  return wake();
}

void Client::take_inbox(Lock& lock) {
  CAIRN_CHECK(lock.owns_lock(), "operations are taken in without the lock");
  if (!inbox_full_) return;
  std::vector<std::shared_ptr<Operation>> posted;
  {
    const std::lock_guard<std::mutex> held(inbox_lock_);
    posted.swap(inbox_);
    inbox_full_ = false;
  }
  for (const auto& operation : posted) {
    guarded(lock, [&] {
      enter(operation);
      if (operation->unsettled_ == 0) return finish_if_settled(*operation);
      if (closed_) return settle_rest(*operation, Status::cancelled);
      if (state_ != Link::up || lost_) return settle_rest(*operation, Status::unreachable);
      if (!driving_) move_to_better();
      split(operation);
    });
    if (operation->done() || open_.contains(operation.get())) continue;
    abandon(*operation, Status::unreachable);
    tell_completion(*operation);
  }
}

void Client::start(Lock& lock, const std::shared_ptr<Operation>& operation, Interruption* interruption) {
  Operation& op = *operation;
  check_session();
  enter(operation);
  if (op.unsettled_ == 0) {
    finish_if_settled(op);  // an empty batch asks for nothing
  } else if (closed_) {
    settle_rest(op, Status::cancelled);
  } else if (const Status status = ensure_connected(lock, op.due_ns_, interruption); status != Status::ok) {
    settle_rest(op, status);
  } else if (op.state_ == Operation::State::open) {
    // Who drives is waiting for the links of now, and was woken when the better ones were found.
    if (!driving_) move_to_better();
    split(operation);
    reap();
    seek_better();
  }  // else another thread drove it into its deadline while this one connected
  wake_driver();
  publish();
  changed_.notify_all();
}

}  // namespace cairn
