// Counts of durations in log-linear buckets: 16 to each power of two, so a quantile is within 6 %.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace cairn {

class Histogram {
 public:
  void add(uint64_t value) {
    ++counts_[bucket(value)];
    ++count_;
    if (value > max_) max_ = value;
  }
  uint64_t count() const { return count_; }
  uint64_t max() const { return max_; }

  // The value that `fraction` (0 to 1) of all values do not exceed; 0 when empty.
  uint64_t quantile(double fraction) const {
    const auto rank = static_cast<uint64_t>(fraction * static_cast<double>(count_) + 0.5);
    uint64_t seen = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen >= rank && seen > 0) return upper_bound(i) < max_ ? upper_bound(i) : max_;
    }
    return max_;
  }

 private:
  static constexpr int kSubBits = 4;
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

  std::array<uint64_t, (64 - kSubBits + 1) << kSubBits> counts_{};
  uint64_t count_ = 0;
  uint64_t max_ = 0;
};

}  // namespace cairn
