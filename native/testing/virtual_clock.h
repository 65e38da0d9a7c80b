// A clock that stands until it is told to go.
#pragma once

#include <cstdint>

#include "base/clock.h"

namespace cairn {

class VirtualClock final : public Clock {
 public:
  uint64_t now_ns() const override { return now_ns_; }
  uint64_t unix_ms() const override { return kStartUnixMs + now_ns_ / 1'000'000; }
  void advance_ms(uint64_t ms) { now_ns_ += ms * 1'000'000; }
  void advance_to(uint64_t ns) {
    if (ns > now_ns_) now_ns_ = ns;
  }

 private:
  static constexpr uint64_t kStartUnixMs = 1'767'225'600'000;  // 2026-01-01
  uint64_t now_ns_ = 1'000'000'000;
};

}  // namespace cairn
