#include "base/blake2b.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "base/check.h"

namespace cairn {

namespace {

constexpr size_t kBlockBytes = 128;
constexpr int kRounds = 12;
constexpr std::array<uint64_t, 8> kFirst = {0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B,
                                            0xA54FF53A5F1D36F1, 0x510E527FADE682D1, 0x9B05688C2B3E6C1F,
                                            0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179};
// Which word of the block each step of a round takes; the last two rounds begin anew.
constexpr uint8_t kOrder[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

using Block = std::array<uint64_t, 16>;
static_assert(sizeof(Block) == kBlockBytes, "a block is not as long as its words");
static_assert(std::endian::native == std::endian::little, "words of a block are taken as they lie in memory");

void mix(Block& v, size_t a, size_t b, size_t c, size_t d, uint64_t x, uint64_t y) {
  v[a] += v[b] + x;
  v[d] = std::rotr(v[d] ^ v[a], 32);
  v[c] += v[d];
  v[b] = std::rotr(v[b] ^ v[c], 24);
  v[a] += v[b] + y;
  v[d] = std::rotr(v[d] ^ v[a], 16);
  v[c] += v[d];
  v[b] = std::rotr(v[b] ^ v[c], 63);
}

void compress(std::array<uint64_t, 8>& h, const Block& m, uint64_t count, bool last) {
  Block v;
  for (size_t i = 0; i < 8; ++i) {
    v[i] = h[i];
    v[i + 8] = kFirst[i];
  }
  v[12] ^= count;
  if (last) v[14] = ~v[14];
  for (int round = 0; round < kRounds; ++round) {
    const uint8_t* s = kOrder[round % 10];
    for (size_t i = 0; i < 4; ++i) mix(v, i, i + 4, i + 8, i + 12, m[s[2 * i]], m[s[2 * i + 1]]);
    for (size_t i = 0; i < 4; ++i)
      mix(v, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[s[8 + 2 * i]], m[s[9 + 2 * i]]);
  }
  for (size_t i = 0; i < 8; ++i) h[i] ^= v[i] ^ v[i + 8];
}

}  // namespace

std::array<uint8_t, kBlake2bBytesMost> blake2b(std::string_view data, size_t bytes) {
  CAIRN_CHECK(bytes > 0, "a digest of no bytes");
  CAIRN_CHECK(bytes <= kBlake2bBytesMost, "a digest of more bytes than there are");
  std::array<uint64_t, 8> h = kFirst;
  h[0] ^= 0x01010000 ^ bytes;
  uint64_t count = 0;
  while (true) {
    const size_t here = std::min(data.size(), kBlockBytes);
    Block block{};
    if (here > 0) std::memcpy(block.data(), data.data(), here);
    data.remove_prefix(here);
    count += here;
    compress(h, block, count, data.empty());
    if (data.empty()) break;
  }
  std::array<uint8_t, kBlake2bBytesMost> digest{};
  std::memcpy(digest.data(), h.data(), bytes);
  return digest;
}

}  // namespace cairn
