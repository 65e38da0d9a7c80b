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

// The machine's clocks: CLOCK_MONOTONIC and CLOCK_REALTIME. Lives as long as the process.
const Clock& system_clock();

}  // namespace cairn
