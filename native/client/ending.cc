// How things end: the client, what is open when memory runs out, and what a forked child inherited.
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/event.h"
#include "client/client.h"

namespace cairn {

Client::~Client() {
  CAIRN_CHECK(!inherited(), "a client is destroyed in a child of the process that it belongs to");
  close();
  CAIRN_CHECK(open_.empty(), "a client ends and an operation's memory is still in use");
  CAIRN_CHECK(due_.empty(), "a client ends and an operation still has a deadline");
  CAIRN_CHECK(!driving_, "a client ends while a thread drives it");
  ::close(wake_);
  if (completion_ >= 0) ::close(completion_);
}

void Client::let_go(std::unique_ptr<Client> client) {
  // Its links would speak on the parent's sockets, its queue pairs would end the parent's, its threads are not here.
  if (client != nullptr && client->inherited()) (void)client.release();
}

// No lock is taken: in a child it may be held for ever. Only threads of this process know the operation.
void Client::abandon(Operation& operation, Status status) {
  CAIRN_CHECK(status != Status::ok, "an operation is abandoned as if it had succeeded");
  CAIRN_CHECK(operation.statuses.size() == operation.settled_.size(), "an operation has not one status for each item");
  for (size_t i = 0; i < operation.settled_.size(); ++i) {
    if (!operation.settled_[i]) operation.statuses[i] = status;
  }
  operation.unsettled_ = 0;
  operation.state_ = Operation::State::done;
}

void Client::go_on(Lock& lock, Interruption* interruption) {
  constexpr int kStepMs = 10;
  if (driving_) {
    wake_driver();
    changed_.wait_for(lock, std::chrono::milliseconds(kStepMs));
  } else {
    drive(lock, until_next_due_ms(kStepMs));
  }
  if (interruption == nullptr) return;
  lock.unlock();
  (void)interruption->requested();
  lock.lock();
}

// What was half done when memory ran out is not looked for: the session ends, so that nothing of it reaches any memory,
// and everybody is told.
void Client::break_down() noexcept {
  lose_session("the client ran out of memory");
  reap();
  while (!open_.empty()) {
    const std::shared_ptr<Operation> operation = open_.begin()->second;
    settle_rest(*operation, operation->state_ == Operation::State::fencing ? operation->why_ : Status::disconnected);
  }
  publish();
  changed_.notify_all();
}

void Client::close(Interruption* interruption) {
  if (inherited()) return;
  std::thread pump;
  std::thread better;
  {
    Lock lock(lock_);
    closed_ = true;  // no thread is started from here on
    {
      const std::lock_guard<std::mutex> held(completed_lock_);
      pump = std::move(pump_);
    }
    better = std::move(better_thread_);
    guarded(lock, [&] {
      take_inbox(lock);
      std::vector<std::shared_ptr<Operation>> open;
      for (const auto& [key, operation] : open_) open.push_back(operation);
      for (const auto& operation : open) {
        if (operation->state_ == Operation::State::open) give_up(*operation, Status::cancelled);
      }
    });
    while (!open_.empty()) go_on(lock, interruption);
    // Another thread may still be polling the descriptors that go away with the links.
    while (driving_) go_on(lock, interruption);
    guarded(lock, [&] {
      if (state_ != Link::up || lost_) return;
      for (const auto& lane : lanes_) {
        if (lane == lanes_.front() || lane->leaving) say_goodbye(*lane);
      }
    });
    lose_session("the client was closed");
    reap();
    publish();
    changed_.notify_all();
  }
  if (pump.joinable()) pump.join();
  if (better.joinable()) better.join();
  Lock lock(lock_);
  guarded(lock, [&] { move_to_better(); });  // to hang up
}

}  // namespace cairn
