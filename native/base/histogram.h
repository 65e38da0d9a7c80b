// Counts of durations in log-linear buckets: 16 to each power of two, so a quantile is within 6 %.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/check.h"

namespace cairn {

class Histogram {
  static constexpr int kSubBits = 4;
  static constexpr size_t kBuckets = size_t{64 - kSubBits + 1} << kSubBits;
  static constexpr size_t bucket(uint64_t value) {
    if (value < (1U << kSubBits)) return value;
    const int exponent = static_cast<int>(std::bit_width(value)) - 1;
    const uint64_t sub = (value >> (exponent - kSubBits)) & ((1U << kSubBits) - 1);
    return (static_cast<size_t>(exponent - kSubBits + 1) << kSubBits) + sub;
  }
  static constexpr uint64_t upper_bound(size_t index) {
    if (index < (1U << kSubBits)) return index;
    const int shift = static_cast<int>(index >> kSubBits) - 1;
    const uint64_t base = (index & ((1U << kSubBits) - 1)) + (1U << kSubBits);
    return ((base + 1) << shift) - 1;
  }

 public:
  void add(uint64_t value) {
    static_assert(bucket(0) == 0, "the least value has no bucket");
    static_assert(bucket(UINT64_MAX) == kBuckets - 1, "the largest value has no bucket, or buckets are left over");
    static_assert(upper_bound(kBuckets - 1) == UINT64_MAX, "the last bucket does not reach to the largest value");
    static_assert(bucket(upper_bound(100)) == 100 && bucket(upper_bound(100) + 1) == 101,
                  "a bucket does not end where the next begins");
    ++counts_[bucket(value)];
    ++count_;
    if (value > max_) max_ = value;
  }
  uint64_t count() const { return count_; }
  uint64_t max() const { return max_; }

  // The value that `fraction` (0 to 1) of all values do not exceed; 0 when empty.
  uint64_t quantile(double fraction) const {
    CAIRN_CHECK(fraction >= 0, "a share of less than none of the values");
    CAIRN_CHECK(fraction <= 1, "a share of more than all of the values");
    const auto rank = static_cast<uint64_t>(fraction * static_cast<double>(count_) + 0.5);
    uint64_t seen = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen >= rank && seen > 0) return upper_bound(i) < max_ ? upper_bound(i) : max_;
    }
    CAIRN_CHECK(seen == count_, "the buckets hold more or fewer values than were added");
    return max_;
  }

 private:
  std::array<uint64_t, kBuckets> counts_{};
  uint64_t count_ = 0;
  uint64_t max_ = 0;
};

}  // namespace cairn
