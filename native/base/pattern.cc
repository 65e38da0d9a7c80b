#include "base/pattern.h"

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace cairn {

namespace {

// SplitMix64 (Steele, Lea, Flood 2014): a bijective mix whose outputs pass BigCrush.
constexpr uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

constexpr uint64_t kStep = 0x9E3779B97F4A7C15ULL;

uint64_t word_at(uint64_t base, uint64_t index) {
  return mix(base + index * kStep);
}

}  // namespace

void fill_pattern(ByteSpan out, uint64_t seed) {
  const uint64_t base = mix(seed + kStep);
  const size_t words = out.size() / 8;
  for (size_t i = 0; i < words; ++i) store_bytes(out.data() + i * 8, word_at(base, i));
  const uint64_t last = word_at(base, words);
  std::memcpy(out.data() + words * 8, &last, out.size() % 8);
}

int64_t check_pattern(ConstByteSpan data, uint64_t seed) {
  const uint64_t base = mix(seed + kStep);
  const size_t words = data.size() / 8;
  for (size_t i = 0; i <= words; ++i) {
    const uint64_t expected = word_at(base, i);
    const size_t length = i < words ? 8 : data.size() % 8;
    if (std::memcmp(data.data() + i * 8, &expected, length) == 0) continue;
    size_t at = 0;
    while (data[i * 8 + at] == reinterpret_cast<const std::byte*>(&expected)[at]) ++at;
    return static_cast<int64_t>(i * 8 + at);
  }
  return -1;
}

}  // namespace cairn
