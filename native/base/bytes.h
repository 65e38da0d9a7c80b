// Reading and writing little-endian numbers in byte ranges. Formats on the wire and on the drive are
// little-endian; so are all machines Cairn runs on, which the assertion below holds.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace cairn {

static_assert(std::endian::native == std::endian::little, "Cairn's formats are read in place");

using ByteSpan = std::span<std::byte>;
using ConstByteSpan = std::span<const std::byte>;

// Copies a trivially copyable T out of possibly unaligned memory.
template <class T>
T load(const std::byte* from) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
void store_bytes(std::byte* to, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::memcpy(to, &value, sizeof(T));
}

template <class T>
ConstByteSpan bytes_of(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

constexpr uint64_t round_up(uint64_t value, uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
constexpr uint64_t round_down(uint64_t value, uint64_t multiple) {
  return value / multiple * multiple;
}

}  // namespace cairn
