#include "base/clock.h"

#include <cstdint>
#include <ctime>

#include "base/check.h"

namespace cairn {

namespace {

uint64_t read_ns(clockid_t id) {
  timespec now{};
  const int code = clock_gettime(id, &now);
  CAIRN_CHECK(code == 0, "a clock is read that the machine does not have");
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

class SystemClock final : public Clock {
 public:
  uint64_t now_ns() const override { return read_ns(CLOCK_MONOTONIC); }
  uint64_t unix_ms() const override { return read_ns(CLOCK_REALTIME) / 1'000'000; }
};

}  // namespace

uint64_t TurnClock::now_ns() const {
  if (!held_) return source_.now_ns();
  if (now_ns_ == 0) now_ns_ = source_.now_ns();
  return now_ns_;
}

uint64_t TurnClock::unix_ms() const {
  if (!held_) return source_.unix_ms();
  if (unix_ms_ == 0) unix_ms_ = source_.unix_ms();
  return unix_ms_;
}

void TurnClock::hold() {
  held_ = true;
  now_ns_ = unix_ms_ = 0;
}

const Clock& system_clock() {
  static const SystemClock clock;
  return clock;
}

}  // namespace cairn
