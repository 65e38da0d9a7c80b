// Cutting: the pieces of a request are the request, in order, and none is more than a device takes.
#include "drive/pieces.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace cairn {
namespace {

class Silent final : public IoRequest {
 public:
  Silent(IoKind what, uint64_t at, std::vector<iovec> parts) : parts_(std::move(parts)) {
    kind = what;
    offset = at;
    vectors = parts_.data();
    vector_count = static_cast<uint32_t>(parts_.size());
    for (const iovec& part : parts_) bytes += part.iov_len;
  }
  void completed(int /*error*/) override {}

 private:
  std::vector<iovec> parts_;
};

iovec memory(uint64_t address, uint64_t bytes) {
  return {reinterpret_cast<void*>(address), bytes};
}

uint64_t address_of(const iovec& part) {
  return reinterpret_cast<uint64_t>(part.iov_base);
}

std::vector<Piece> cut(const IoRequest& request, const PieceLimits& limits, uint32_t lba_bytes = 512) {
  std::vector<Piece> pieces;
  Cutter cutter(request, lba_bytes);
  while (!cutter.done()) cutter.next(limits, pieces.emplace_back());
  return pieces;
}

TEST(Pieces, WithoutLimitsARequestIsOnePiece) {
  const Silent request(IoKind::write, 8192, {memory(0x10000, 512), memory(0x20000, 1 << 20)});
  const auto pieces = cut(request, PieceLimits{});
  ASSERT_EQ(pieces.size(), 1U);
  EXPECT_EQ(pieces[0].offset, 8192U);
  EXPECT_EQ(pieces[0].bytes, (1U << 20) + 512);
  EXPECT_EQ(pieces[0].vectors.size(), 2U);
}

TEST(Pieces, AFlushIsOnePieceAndADiscardAsManyAsItTakes) {
  EXPECT_EQ(cut(Silent(IoKind::flush, 0, {}), PieceLimits{}).size(), 1U);
  Silent discard(IoKind::discard, 4096, {});
  discard.bytes = 10 << 20;
  const auto pieces = cut(discard, {.discard_bytes_most = 4 << 20});
  ASSERT_EQ(pieces.size(), 3U);
  EXPECT_EQ(pieces[2].offset, 4096U + (8 << 20));
  EXPECT_EQ(pieces[2].bytes, 2U << 20);
}

TEST(Pieces, EndAtTheLimitOfBytesWithinAVector) {
  const auto pieces = cut(Silent(IoKind::read, 0, {memory(0x10000, 10 * 4096)}), {.bytes_most = 4 * 4096 + 100});
  ASSERT_EQ(pieces.size(), 3U);
  EXPECT_EQ(pieces[0].bytes, 4U * 4096) << "a piece is whole logical blocks";
  EXPECT_EQ(pieces[1].offset, 4U * 4096);
  EXPECT_EQ(address_of(pieces[1].vectors[0]), 0x14000U);
  EXPECT_EQ(pieces[2].bytes, 2U * 4096);
}

TEST(Pieces, CountPagesThatAreTouchedInPart) {
  // 4 KiB from the middle of a page of 64 KiB, and as much of another: two pages, not one.
  const Silent request(IoKind::read, 0, {memory(0x18000, 4096), memory(0x30000, 4096)});
  EXPECT_EQ(cut(request, {.pages_most = 1, .page_bytes = 65'536}).size(), 2U);
  EXPECT_EQ(cut(request, {.pages_most = 2, .page_bytes = 65'536}).size(), 1U);
}

// The kernel would have copied the memory of every such command.
TEST(Pieces, EndWhereVectorsDoNotJoinAtAPage) {
  const Silent request(IoKind::write, 0, {memory(0x10000, 4096), memory(0x20000, 512), memory(0x30000, 4096)});
  const auto pieces = cut(request, {.join_bytes = 4096});
  ASSERT_EQ(pieces.size(), 2U);
  EXPECT_EQ(pieces[0].vectors.size(), 2U);
  EXPECT_EQ(pieces[1].offset, 4096U + 512);
}

TEST(Pieces, OfAnyRequestAreTheRequest) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 2000; ++round) {
    const uint32_t lba = random() % 2 == 0 ? 512 : 4096;
    std::vector<iovec> parts(1 + random() % 8);
    uint64_t at = 1 << 20;
    for (iovec& part : parts) {
      part = memory(at, (1 + random() % 64) * lba);
      at += 1 << 20;
    }
    const Silent request(IoKind::read, random() % 64 * lba, parts);
    const PieceLimits limits{.bytes_most = 4096 + random() % 100'000,
                             .pages_most = 1 + random() % 30,
                             .page_bytes = uint64_t{4096} << random() % 5,
                             .join_bytes = random() % 2 == 0 ? 1U : 4096U};
    uint64_t expected = request.offset;
    std::vector<iovec> joined;
    for (const Piece& piece : cut(request, limits, lba)) {
      SCOPED_TRACE(testing::Message() << "round " << round);
      ASSERT_EQ(piece.offset, expected);
      ASSERT_EQ(piece.bytes % lba, 0U);
      ASSERT_LE(piece.bytes, limits.bytes_most);
      uint64_t pages = 0, sum = 0;
      for (const iovec& part : piece.vectors) {
        pages += (address_of(part) + part.iov_len - 1) / limits.page_bytes - address_of(part) / limits.page_bytes + 1;
        sum += part.iov_len;
        if (!joined.empty() && address_of(joined.back()) + joined.back().iov_len == address_of(part)) {
          joined.back().iov_len += part.iov_len;
        } else {
          joined.push_back(part);
        }
      }
      ASSERT_EQ(sum, piece.bytes);
      ASSERT_LE(pages, limits.pages_most);
      expected += piece.bytes;
    }
    ASSERT_EQ(joined.size(), parts.size());
    for (size_t i = 0; i < parts.size(); ++i) {
      ASSERT_EQ(joined[i].iov_base, parts[i].iov_base);
      ASSERT_EQ(joined[i].iov_len, parts[i].iov_len);
    }
  }
}

TEST(Pieces, GoOnBehindAShortTransfer) {
  const Silent request(IoKind::read, 4096, {memory(0x10000, 4096), memory(0x20000, 8192)});
  Piece piece = cut(request, PieceLimits{}).front();
  piece.advance(4096 + 512);
  EXPECT_EQ(piece.offset, 4096U + 4096 + 512);
  EXPECT_EQ(piece.bytes, 8192U - 512);
  ASSERT_EQ(piece.vectors.size(), 1U);
  EXPECT_EQ(address_of(piece.vectors[0]), 0x20000U + 512);
  EXPECT_DEATH(piece.advance(8192), "behind its end");
}

}  // namespace
}  // namespace cairn
