// How long somebody waits, and what ends the wait early: what every blocking step of connecting shares.
#pragma once

#include <poll.h>

#include <cstdint>
#include <span>

namespace cairn {

// Asked now and then by those who wait for long, while they hold no lock: it may run any code of the caller's, such as
// the handlers of signals.
class Interruption {
 public:
  // How often who waits looks, at least; half of what is promised (250 ms), for a machine that is busy.
  static constexpr int kEveryMs = 100;

  // Whether to give up waiting. Once true, it stays so.
  virtual bool requested() = 0;

 protected:
  ~Interruption() = default;
};

// Belongs to one thread.
class Patience {
 public:
  // `interruption`: nullptr, or outlives this.
  Patience(uint64_t deadline_ms, Interruption* interruption) : deadline_ms_(deadline_ms), interruption_(interruption) {}

  // As poll(), but in slices, and for `most_ms` at the most: how many are ready; 0 when nothing happened until then or
  // when over() is true. A poll() that the system refuses counts as one in which everything is ready, after a pause:
  // who tries then what it waits for finds out.
  int poll(std::span<pollfd> waiting, int most_ms);
  void pause(int most_ms) { (void)poll({}, most_ms); }

  // Whether there is no point in waiting on: the time is up, or the wait was interrupted. Looks.
  bool over();
  bool interrupted() const { return interrupted_; }
  // Until the deadline; never less than 1 while over() is false.
  int left_ms() const;
  Interruption* interruption() const { return interruption_; }

 private:
  uint64_t deadline_ms_;
  Interruption* interruption_;
  bool interrupted_ = false;
};

}  // namespace cairn
