// BLAKE2b (RFC 7693), unkeyed: for identities that have to be as good as the names they stand for.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace cairn {

inline constexpr size_t kBlake2bBytesMost = 64;

// `bytes` of the digest, at most kBlake2bBytesMost; what is behind them is zero.
std::array<uint8_t, kBlake2bBytesMost> blake2b(std::string_view data, size_t bytes);

}  // namespace cairn
