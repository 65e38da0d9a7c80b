#include "base/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstddef>
#include <cstdint>

#include "base/check.h"

namespace cairn {

namespace {

constexpr size_t kStepBytesMost = size_t{1} << 30;
static_assert(kStepBytesMost <= INT_MAX, "the library takes its length as an int");

}  // namespace

uint32_t crc32c(ConstByteSpan data, uint32_t previous) {
  CAIRN_CHECK(data.data() != nullptr || data.empty(), "a checksum of bytes that are nowhere");
  // ISA-L takes the running register, which is the complement of the finished value, and an int length.
  uint32_t state = ~previous;
  const auto* at = reinterpret_cast<const unsigned char*>(data.data());
  size_t left = data.size();
  while (left > 0) {
    const size_t step = std::min(left, kStepBytesMost);
    state = crc32_iscsi(const_cast<unsigned char*>(at), static_cast<int>(step), state);
    at += step;
    left -= step;
  }
  return ~state;
}

namespace {

// Multiplication of polynomials over GF(2) modulo the Castagnoli polynomial, bits reflected.
constexpr uint32_t kPolynomial = 0x82F63B78;

constexpr uint32_t multiply_mod(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 1U << 31; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b & 1) != 0 ? (b >> 1) ^ kPolynomial : b >> 1;
  }
  return product;
}
static_assert(multiply_mod(1U << 31, 0x9E3779B9) == 0x9E3779B9, "x^0 is not the one of this multiplication");
static_assert(multiply_mod(0x12345678, 0x9E3779B9) == multiply_mod(0x9E3779B9, 0x12345678),
              "the order of the factors changes the product");

// x^(8 · 2^k) for k = 0 … 63: what appending 2^k zero bytes multiplies a CRC by.
constexpr std::array<uint32_t, 64> make_powers() {
  std::array<uint32_t, 64> powers{};
  uint32_t power = 1U << 23;  // x^8 in reflected bits
  for (auto& entry : powers) {
    entry = power;
    power = multiply_mod(power, power);
  }
  return powers;
}

constexpr auto kPowers = make_powers();
static_assert(kPowers.size() == sizeof(uint64_t) * CHAR_BIT, "a bit of a length has no power of its own");
static_assert(kPowers[1] == multiply_mod(1U << 23, 1U << 23), "the powers do not begin with x^8 and x^16");

}  // namespace

uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t length_b) {
  for (int k = 0; length_b != 0; ++k, length_b >>= 1) {
    if ((length_b & 1) != 0) crc_a = multiply_mod(kPowers[static_cast<size_t>(k)], crc_a);
  }
  return crc_a ^ crc_b;
}

}  // namespace cairn
