// Who waits drives: polling the links, deadlines and their fence.
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/advice.h"
#include "base/clock.h"
#include "client/client.h"

namespace cairn {

namespace {

void drain_event(int fd) {
  uint64_t ignored = 0;
  const ssize_t taken = ::read(fd, &ignored, sizeof(ignored));
  CAIRN_CHECK(taken >= 0 || errno == EAGAIN || errno == EINTR, "an event of ours is broken");
}

// An answer from memory comes within microseconds, sooner than a sleeping thread wakes: look for it a little
// before going to sleep. On a single processor the service could not run meanwhile.
constexpr uint64_t kSpinNs = 50'000;

bool spins() {
  static const bool several = std::thread::hardware_concurrency() > 1;
  return several;
}

}  // namespace

bool Client::done(const Operation& operation) {
  const Lock lock(lock_);
  return operation.state_ == Operation::State::done;
}

bool Client::wait(const Operation& operation, int slice_ms) {
  CAIRN_CHECK(slice_ms >= 0, "a slice of time that is over before it begins");
  Lock lock(lock_);
  CAIRN_CHECK(operation.id != 0, "an operation is waited for that was never submitted");
  if (operation.state_ == Operation::State::done) return true;
  uint64_t now = system_clock().now_ns();
  for (const uint64_t until_ns = now + static_cast<uint64_t>(slice_ms) * 1'000'000; now < until_ns;
       now = system_clock().now_ns()) {
    const int left_ms = static_cast<int>((until_ns - now) / 1'000'000) + 1;
    if (driving_) {
      changed_.wait_for(lock, std::chrono::milliseconds(left_ms));
    } else {
      drive(lock, until_next_due_ms(left_ms, now));
    }
    if (operation.state_ == Operation::State::done) return true;
  }
  return false;
}

int Client::until_next_due_ms(int most_ms, uint64_t now) const {
  if (due_.empty()) return most_ms;
  const uint64_t due = due_.begin()->first;
  if (due <= now) return 0;
  return static_cast<int>(std::min<uint64_t>((due - now) / 1'000'000 + 1, static_cast<uint64_t>(most_ms)));
}

void Client::drive(Lock& lock, int timeout_ms) {
  CAIRN_CHECK(lock.owns_lock(), "a session is driven without its lock");
  CAIRN_CHECK(!driving_, "two threads drive one session");
  CAIRN_CHECK(timeout_ms >= 0, "a session is driven without an end");
  check_session();
  driving_ = true;
  if (!poll_links(lock, timeout_ms)) wait_for_links(lock, timeout_ms);
  reap();
  expire();
  reap();
  move_to_better();
  end_left();
  seek_better();
  driving_ = false;
  changed_.notify_all();
}

// Looks, a little, for what the links find without a system call. Whether something came, and there is nothing but
// them.
bool Client::poll_links(Lock& lock, int timeout_ms) {
  const auto polled = [](const auto& lane) { return lane->link->polled(); };
  if (std::none_of(lanes_.begin(), lanes_.end(), polled)) return false;
  const uint64_t until = timeout_ms > 0 && spins() ? system_clock().now_ns() + kSpinNs : 0;
  for (;;) {
    bool any = false;
    for (size_t i = 0; i < lanes_.size() && !lost_; ++i) any = lanes_[i]->link->poll() || any;
    if (any || lost_) return std::all_of(lanes_.begin(), lanes_.end(), polled);
    if (until == 0 || system_clock().now_ns() >= until) return false;
    lock.unlock();  // others may submit meanwhile
    lock.lock();
  }
}

void Client::wait_for_links(Lock& lock, int timeout_ms) {
  bool quiet = true;
  for (size_t i = 0; i < lanes_.size() && !lost_; ++i) quiet = lanes_[i]->link->rest() && quiet;
  if (!quiet || lost_) timeout_ms = 0;
  std::vector<pollfd> polled;
  polled.reserve(lanes_.size() + 1);
  polled.push_back({wake_, POLLIN, 0});
  for (const auto& lane : lanes_) {
    const int events = POLLIN | (lane->link->wants_write() ? POLLOUT : 0);
    polled.push_back({lane->link->event_fd(), static_cast<short>(events), 0});
  }
  const bool spun = std::all_of(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->link->polled(); });
  lock.unlock();
  int ready = 0;
  if (!spun && spins() && timeout_ms > 0) {
    const uint64_t until = system_clock().now_ns() + kSpinNs;
    while (ready == 0 && system_clock().now_ns() < until) ready = ::poll(polled.data(), polled.size(), 0);
  }
  if (ready == 0) ready = ::poll(polled.data(), polled.size(), timeout_ms);
  lock.lock();
  CAIRN_CHECK(driving_, "another thread took over the driving");
  if (ready <= 0) return;
  if (polled[0].revents != 0) drain_event(wake_);
  for (size_t i = 1; i < polled.size() && i <= lanes_.size() && !lost_; ++i) {
    const short got = polled[i].revents;
    if (got == 0) continue;
    lanes_[i - 1]->link->progress((got & (POLLIN | POLLHUP | POLLERR)) != 0, (got & POLLOUT) != 0);
  }
}

void Client::wake_driver() {
  if (!driving_) return;
  const uint64_t one = 1;
  const ssize_t written = ::write(wake_, &one, sizeof(one));
  CAIRN_CHECK(written > 0 || errno == EAGAIN, "the wake-up event is broken");
}

// --- deadlines and their fence ---------------------------------------------------------------------------

void Client::cancel(Operation& operation) {
  Lock lock(lock_);
  CAIRN_CHECK(operation.id != 0, "an operation is cancelled that was never submitted");
  if (operation.state_ == Operation::State::open) give_up(operation, Status::cancelled);
  reap();
  while (operation.state_ != Operation::State::done) {
    if (driving_) {
      wake_driver();
      changed_.wait_for(lock, std::chrono::milliseconds(10));
    } else {
      drive(lock, until_next_due_ms(10));
    }
  }
}

void Client::expire() {
  if (due_.empty()) return;  // before a look at the clock: this is asked at every turn
  const uint64_t now = system_clock().now_ns();
  while (!due_.empty() && due_.begin()->first <= now) {
    Operation& operation = *due_.begin()->second;
    CAIRN_CHECK(operation.state_ != Operation::State::done, "an operation that is done has a deadline");
    CAIRN_CHECK(operation.due_ns_ == due_.begin()->first, "an operation is listed under a deadline that it has not");
    if (operation.state_ == Operation::State::open) {
      give_up(operation, Status::timeout);
    } else {
      fence_failed(operation);
      return;  // the session is over; reap() settles everybody
    }
  }
}

// From here on no result is taken for the operation. Payload in frames is cut off at once; memory that the
// service reaches by itself is free when the service says so.
void Client::give_up(Operation& operation, Status why) {
  CAIRN_CHECK(operation.state_ == Operation::State::open, "an operation is given up twice");
  CAIRN_CHECK(why != Status::ok, "an operation is given up as if it were done");
  const std::shared_ptr<Operation> keep = open_.at(&operation);
  bool fencing = false;
  for (const auto& lane : lanes_) {
    for (auto at = lane->requests.begin(); at != lane->requests.end();) {
      Request& request = at->second;
      if (request.operation != keep) {
        ++at;
        continue;
      }
      if (!request.sent) {
        at = lane->requests.erase(at);
        continue;
      }
      request.operation.reset();
      if (!request.regions.empty()) {
        request.fencing = keep;
        fencing = true;
      }
      lane->link->forget(at->first);
      FrameBuilder frame(FrameType::cancel, at->first);
      frame.header().tag = lane->tag;
      lane->link->send(frame.finish());
      ++at;
    }
  }
  if (!fencing) return settle_rest(operation, why);
  const size_t timed = due_.erase({operation.due_ns_, &operation});
  CAIRN_CHECK(timed == 1, "an operation is given up that had no deadline");
  operation.state_ = Operation::State::fencing;
  operation.why_ = why;
  operation.due_ns_ = system_clock().now_ns() + kFenceMs * 1'000'000;
  due_.emplace(operation.due_ns_, &operation);
}

// The service let go of one request of the operation; the last one settles it.
void Client::end_fence(const std::shared_ptr<Operation>& operation) {
  CAIRN_CHECK(operation->state_ != Operation::State::open, "a fence ends around an operation that was not given up");
  for (const auto& lane : lanes_) {
    for (const auto& [id, request] : lane->requests) {
      if (request.fencing == operation) return;
    }
  }
  settle_rest(*operation, operation->why_);
}

// The service hangs. The session ends, and with it what it may reach: reap() takes the memory back first.
void Client::fence_failed(Operation& operation) {
  CAIRN_CHECK(operation.state_ == Operation::State::fencing, "a fence fails around an operation that was not given up");
  const size_t timed = due_.erase({operation.due_ns_, &operation});
  CAIRN_CHECK(timed == 1, "a fence fails that had no deadline");
  operation.due_ns_ = system_clock().now_ns() + kFenceMs * 1'000'000;
  due_.emplace(operation.due_ns_, &operation);
  lose_session("the service did not let go of a cancelled request");
}

// --- event loops -----------------------------------------------------------------------------------------

Result<int> Client::completion_fd() {
  const Lock lock(lock_);
  if (completion_ >= 0) return completion_;
  const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event < 0) return Error{errno, "cannot make an event for completions: " + cause_and_advice(errno), 0};
  try {
    if (!closed_) pump_ = std::thread([this] { pump(); });
  } catch (const std::system_error& error) {
    ::close(event);
    const int number = error.code().value();
    return Error{number, "cannot start a thread for completions: " + cause_and_advice(number), 0};
  }
  completion_ = event;
  return completion_;
}

std::vector<uint64_t> Client::take_completed() {
  const Lock lock(lock_);
  if (completion_ >= 0) drain_event(completion_);
  return std::exchange(completed_, {});
}

void Client::pump() {
  constexpr int kIdleMs = 1000;
  Lock lock(lock_);
  while (!closed_) {
    if (open_.empty() || driving_) {
      changed_.wait_for(lock, std::chrono::milliseconds(kIdleMs));
    } else {
      drive(lock, until_next_due_ms(kIdleMs));
    }
  }
}

}  // namespace cairn
