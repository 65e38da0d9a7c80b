// CRC32C (Castagnoli, RFC 3720 §12.1), by ISA-L where its SIMD kernels run.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace cairn {

// The CRC32C of `data`, continuing from `previous` (the value of the bytes before it; 0 to start).
// crc32c("123456789") == 0xE3069283. Any thread, no allocation.
uint32_t crc32c(ConstByteSpan data, uint32_t previous = 0);

// The CRC32C of A‖B from those of A and B, without the bytes. Cost: O(log length_b).
uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t length_b);

}  // namespace cairn
