#include "server/mailbox.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>

#include "base/check.h"

namespace cairn {

bool Mailbox::run(const std::function<void()>& errand, const std::function<void()>& wake) {
  CAIRN_CHECK(errand != nullptr, "an errand that does nothing");
  CAIRN_CHECK(wake != nullptr, "nobody would be woken for an errand");
  std::unique_lock hold(lock_);
  if (closed_) return false;
  CAIRN_CHECK(errands_.size() <= taken_ - finished_, "more errands wait than were handed over");
  errands_.push_back(&errand);
  const uint64_t ticket = ++taken_;
  waiting_.store(true, std::memory_order_release);
  wake();
  done_.wait(hold, [&] { return finished_ >= ticket || closed_; });
  return finished_ >= ticket;
}

void Mailbox::serve() {
  if (!waiting_.load(std::memory_order_acquire)) return;
  std::unique_lock hold(lock_);
  while (!errands_.empty()) {
    CAIRN_CHECK(!closed_, "an errand is run although nothing may be any more");
    CAIRN_CHECK(finished_ < taken_, "an errand is run that nobody handed over");
    const std::function<void()>& errand = *errands_.front();
    errands_.pop_front();
    hold.unlock();
    errand();
    hold.lock();
    ++finished_;
  }
  waiting_.store(false, std::memory_order_relaxed);
  done_.notify_all();
}

void Mailbox::close() {
  const std::scoped_lock hold(lock_);
  CAIRN_CHECK(!closed_, "a mailbox is closed twice");
  closed_ = true;
  errands_.clear();
  done_.notify_all();
}

}  // namespace cairn
