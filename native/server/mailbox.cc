#include "server/mailbox.h"

namespace cairn {

bool Mailbox::run(const std::function<void()>& errand, const std::function<void()>& wake) {
  std::unique_lock hold(lock_);
  if (closed_) return false;
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
  closed_ = true;
  errands_.clear();
  done_.notify_all();
}

}  // namespace cairn
