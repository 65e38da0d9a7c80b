// Reading and writing little-endian numbers in byte ranges. Formats on the wire and on the drive are
// little-endian; so are all machines Cairn runs on, which the assertion below holds.
#pragma once

#include <bit>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace cairn {

static_assert(std::endian::native == std::endian::little, "Cairn's formats are read in place");
static_assert(CHAR_BIT == 8, "Cairn's formats count bytes of eight bits");
static_assert(sizeof(size_t) == sizeof(uint64_t), "lengths of 64 bits are used as sizes and back");

using ByteSpan = std::span<std::byte>;
using ConstByteSpan = std::span<const std::byte>;

// Copies a trivially copyable T out of possibly unaligned memory.
template <class T>
T load(const std::byte* from) {
  static_assert(std::is_trivially_copyable_v<T>);
  static_assert(!std::is_pointer_v<T>, "an address that came as bytes is not to be trusted");
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
void store_bytes(std::byte* to, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  static_assert(!std::is_pointer_v<T>, "an address is written where bytes were meant");
  std::memcpy(to, &value, sizeof(T));
}

template <class T>
ConstByteSpan bytes_of(const T& value) {
  static_assert(std::has_unique_object_representations_v<T>, "padding of no known value would be read as content");
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

constexpr uint64_t round_up(uint64_t value, uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
constexpr uint64_t round_down(uint64_t value, uint64_t multiple) {
  return value / multiple * multiple;
}
static_assert(round_up(4097, 4096) == 8192 && round_up(4096, 4096) == 4096, "what is whole already grows");
static_assert(round_down(4095, 4096) == 0 && round_down(4096, 4096) == 4096, "what is whole already shrinks");

}  // namespace cairn
