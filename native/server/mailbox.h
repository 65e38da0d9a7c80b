// Work that other threads want done on the reactor's, between two of its turns.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

namespace cairn {

class Mailbox {
 public:
  // Hands the errand over, calls `wake`, and waits until it was run. False: the owner has closed the mailbox, and it
  // was not run. Errands throw nothing. Any thread but the owner's.
  bool run(const std::function<void()>& errand, const std::function<void()>& wake);
  // Runs what waits, in the order in which it came. The owner's thread; without a lock when nothing waits.
  void serve();
  // From now on nothing is run. The owner's thread.
  void close();

 private:
  std::atomic<bool> waiting_{false};
  std::mutex lock_;
  std::condition_variable done_;
  std::deque<const std::function<void()>*> errands_;
  uint64_t taken_ = 0, finished_ = 0;  // so many were handed over, and run
  bool closed_ = false;
};

}  // namespace cairn
