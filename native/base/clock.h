// The clock seam. Everything that asks for the time is given a Clock, so that a whole system can run
// under a virtual one (native/testing/virtual_clock.h) and replay from a seed.
#pragma once

#include <cstdint>

namespace cairn {

class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic nanoseconds since an arbitrary start; never goes back. Any thread.
  virtual uint64_t now_ns() const = 0;
  // Wall-clock milliseconds since 1970 (for expiry times that outlive the process). May jump.
  virtual uint64_t unix_ms() const = 0;

  uint64_t now_ms() const { return now_ns() / 1'000'000; }
};

// The time of a turn: while somebody holds it, another clock is read once, when the time is first asked for, and what
// it said is the time until it is let go. A reactor looks at the time for every item of a batch, and none of them takes
// as long as anything that it measures. Belongs to one thread; nobody else may ask it meanwhile.
class TurnClock final : public Clock {
 public:
  explicit TurnClock(const Clock& source) : source_(source) {}
  uint64_t now_ns() const override;
  uint64_t unix_ms() const override;
  // Of this very moment.
  const Clock& source() const { return source_; }

  void hold();  // forgets what it held, too
  void let_go() { held_ = false; }

 private:
  const Clock& source_;
  bool held_ = false;
  mutable uint64_t now_ns_ = 0, unix_ms_ = 0;  // 0: nobody has asked yet
};

// The machine's clocks: CLOCK_MONOTONIC and CLOCK_REALTIME. Lives as long as the process.
const Clock& system_clock();

}  // namespace cairn
