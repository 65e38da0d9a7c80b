// Bytes derived from a number, for replay, benchmarks and tests: what was put under a name can be
// checked on the way back without keeping a copy.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace cairn {

// Fills `out` with the pattern of `seed`. The byte at position p depends on (seed, p) alone, through
// SplitMix64 of seed and p / 8, so prefixes agree whatever the length.
void fill_pattern(ByteSpan out, uint64_t seed);

// The position of the first byte of `data` that differs from the pattern of `seed`, or -1.
int64_t check_pattern(ConstByteSpan data, uint64_t seed);

}  // namespace cairn
