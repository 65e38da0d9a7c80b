#include "base/patience.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <span>
#include <thread>

#include "base/check.h"
#include "base/clock.h"

namespace cairn {

namespace {

constexpr int kRefusedPauseMs = 5;
static_assert(kRefusedPauseMs < Interruption::kEveryMs, "a poll that is refused holds up the look for signals");

}  // namespace

int Patience::left_ms() const {
  const uint64_t now_ms = system_clock().now_ms();
  constexpr uint64_t kMost = INT32_MAX;
  return deadline_ms_ > now_ms ? static_cast<int>(std::min(deadline_ms_ - now_ms, kMost)) : 0;
}

bool Patience::over() {
  if (!interrupted_ && interruption_ != nullptr) interrupted_ = interruption_->requested();
  return interrupted_ || left_ms() == 0;
}

int Patience::poll(std::span<pollfd> waiting, int most_ms) {
  CAIRN_CHECK(most_ms >= 0, "a wait that is over before it begins");
  const uint64_t until_ms = system_clock().now_ms() + static_cast<uint64_t>(most_ms);
  while (!over()) {
    const uint64_t now_ms = system_clock().now_ms();
    if (now_ms > until_ms) return 0;
    const int slice_ms = std::min({static_cast<int>(until_ms - now_ms), left_ms(), Interruption::kEveryMs});
    const int ready = ::poll(waiting.data(), waiting.size(), slice_ms);
    if (ready > 0) return ready;
    if (ready < 0 && errno != EINTR && errno != EAGAIN) {
      std::this_thread::sleep_for(std::chrono::milliseconds(std::min(slice_ms, kRefusedPauseMs)));
      for (pollfd& one : waiting) one.revents = one.events;
      if (!waiting.empty()) return static_cast<int>(waiting.size());
    }
    if (system_clock().now_ms() >= until_ms) return 0;
  }
  return 0;
}

}  // namespace cairn
