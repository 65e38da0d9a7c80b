#include "base/clock.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace cairn {
namespace {

class CountingClock final : public Clock {
 public:
  uint64_t now_ns() const override { return ++reads * 1'000'000; }
  uint64_t unix_ms() const override { return ++reads; }
  mutable uint64_t reads = 0;
};

// What a user would have lost: a processor's time to a clock that is read for every key of a batch.
TEST(TurnClock, IsReadOnceATurn) {
  const CountingClock source;
  TurnClock clock(source);
  clock.hold();
  EXPECT_EQ(source.reads, 0U) << "nobody has asked yet";
  const uint64_t now = clock.now_ns(), unix_ms = clock.unix_ms();
  EXPECT_EQ(source.reads, 2U);
  EXPECT_EQ(clock.now_ns(), now);
  EXPECT_EQ(clock.now_ms(), now / 1'000'000);
  EXPECT_EQ(clock.unix_ms(), unix_ms);
  EXPECT_EQ(source.reads, 2U);
  clock.hold();
  EXPECT_GT(clock.now_ns(), now) << "a turn has the time of the last one";
}

// What a user would have lost: every deadline, to a clock that stands still between turns.
TEST(TurnClock, GoesOnWhenItIsLetGo) {
  const CountingClock source;
  TurnClock clock(source);
  const uint64_t first = clock.now_ns();
  EXPECT_GT(clock.now_ns(), first);
  clock.hold();
  const uint64_t held = clock.now_ns();
  EXPECT_GT(clock.source().now_ns(), held);
  clock.let_go();
  const uint64_t later = clock.now_ns(), later_unix_ms = clock.unix_ms();
  EXPECT_GT(later, held);
  EXPECT_GT(clock.now_ns(), later);
  EXPECT_GT(clock.unix_ms(), later_unix_ms);
}

}  // namespace
}  // namespace cairn
