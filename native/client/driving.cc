// Who waits drives: polling the links, deadlines and their fence.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/advice.h"
#include "base/background.h"
#include "base/clock.h"
#include "base/event.h"
#include "client/client.h"

namespace cairn {

namespace {

// An answer from memory comes within microseconds, sooner than a sleeping thread wakes: look for it a little
// before going to sleep. On a single processor the service could not run meanwhile.
constexpr uint64_t kSpinNs = 50'000;

// Where the system refuses to wake who sleeps, or to put to sleep.
constexpr int kRefusedMs = 5;

bool spins() {
  static const bool several = std::thread::hardware_concurrency() > 1;
  return several;
}

}  // namespace

bool Client::done(Operation& operation) {
  if (operation.done()) return true;
  if (!inherited()) return false;
  abandon(operation, Status::disconnected);
  return true;
}

bool Client::wait(Operation& operation, int slice_ms) {
  CAIRN_CHECK(slice_ms >= 0, "a slice of time that is over before it begins");
  CAIRN_CHECK(operation.id != 0, "an operation is waited for that was never submitted");
  if (done(operation)) return true;
  Lock lock(lock_);
  take_inbox(lock);
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

void Client::drive(Lock& lock, int timeout_ms) noexcept {
  CAIRN_CHECK(lock.owns_lock(), "a session is driven without its lock");
  CAIRN_CHECK(!driving_, "two threads drive one session");
  CAIRN_CHECK(timeout_ms >= 0, "a session is driven without an end");
  check_session();
  driving_ = true;
  guarded(lock, [&] {
    turn(lock, timeout_ms);
    take_inbox(lock);
  });
  driving_ = false;
  publish();
  changed_.notify_all();
}

void Client::turn(Lock& lock, int timeout_ms) {
  if (!poll_links(lock, timeout_ms)) wait_for_links(lock, timeout_ms);
  reap();
  expire();
  reap();
  move_to_better();
  end_left();
  seek_better();
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
  if (!wakes_) timeout_ms = std::min(timeout_ms, kRefusedMs);
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
  if (ready < 0 && errno != EINTR) {
    // Whatever the system has against it: links do not block, so that they can be tried.
    std::this_thread::sleep_for(std::chrono::milliseconds(std::min(timeout_ms, kRefusedMs)));
    for (pollfd& one : polled) one.revents = one.events;
    ready = static_cast<int>(polled.size());
  }
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
  if (driving_) (void)wake();
}

bool Client::wake() {
  const bool woken = write_event(wake_);
  wakes_ = woken;
  return woken;
}

// --- deadlines and their fence ---------------------------------------------------------------------------

void Client::cancel(Operation& operation, Interruption* interruption) {
  CAIRN_CHECK(operation.id != 0, "an operation is cancelled that was never submitted");
  if (done(operation)) return;
  Lock lock(lock_);
  guarded(lock, [&] {
    take_inbox(lock);
    if (operation.state_ == Operation::State::open) give_up(operation, Status::cancelled);
    reap();
  });
  while (operation.state_ != Operation::State::done) go_on(lock, interruption);
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
  operation.state_ = Operation::State::fencing;
  operation.why_ = why;
  begin_fence(operation);
}

void Client::begin_fence(Operation& operation) {
  auto timed = due_.extract({operation.due_ns_, &operation});
  CAIRN_CHECK(!timed.empty(), "an operation is given up that had no deadline");
  operation.due_ns_ = system_clock().now_ns() + kFenceMs * 1'000'000;
  timed.value() = {operation.due_ns_, &operation};
  due_.insert(std::move(timed));
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
  begin_fence(operation);
  lose_session("the service did not let go of a cancelled request");
}

// --- event loops -----------------------------------------------------------------------------------------

Result<int> Client::completion_fd() {
  if (inherited()) return Error{0, kInherited, 0};
  const std::lock_guard<std::mutex> held(completed_lock_);
  if (completion_ >= 0) return completion_.load();
  const int event = make_event();
  if (event < 0) return Error{errno, "cannot make an event for completions: " + cause_and_advice(errno), 0};
  if (!closed_) {
    auto started = start_thread("cairn-client", [this] { pump(); });
    if (!started) {
      ::close(event);
      return started.error();
    }
    pump_ = started.take();
  }
  completion_ = event;
  return event;
}

std::vector<uint64_t> Client::take_completed() {
  if (inherited() || completion_ < 0) return {};
  const std::lock_guard<std::mutex> held(completed_lock_);
  drain_event(completion_);
  return std::exchange(completed_, {});
}

// Also while nothing is open: what an event loop posts wakes whoever drives, and nobody else.
void Client::pump() {
  constexpr int kIdleMs = 1000;
  Lock lock(lock_);
  while (!closed_) {
    if (driving_) {
      changed_.wait_for(lock, std::chrono::milliseconds(kIdleMs));
    } else {
      drive(lock, until_next_due_ms(kIdleMs));
    }
  }
}

}  // namespace cairn
