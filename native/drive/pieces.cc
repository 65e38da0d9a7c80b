#include "drive/pieces.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/bytes.h"
#include "base/check.h"

namespace cairn {

void Piece::advance(uint64_t moved) {
  CAIRN_CHECK(moved > 0, "a transfer goes on where it began");
  CAIRN_CHECK(moved < bytes, "a transfer goes on behind its end");
  bytes -= moved;
  offset += moved;
  size_t whole = 0;
  while (moved >= vectors[whole].iov_len) {
    moved -= vectors[whole++].iov_len;
    CAIRN_CHECK(whole < vectors.size(), "a transfer has bytes left and no memory for them");
  }
  vectors.erase(vectors.begin(), vectors.begin() + static_cast<long>(whole));
  vectors.front().iov_base = static_cast<std::byte*>(vectors.front().iov_base) + moved;
  vectors.front().iov_len -= moved;
}

void Cutter::next(const PieceLimits& limits, Piece& piece) {
  CAIRN_CHECK(request_ != nullptr, "nothing is cut");
  CAIRN_CHECK(!done_, "a request is cut behind its end");
  piece.kind = request_->kind;
  piece.placement = request_->placement;
  piece.tries = 0;
  piece.offset = request_->offset + taken_;
  piece.bytes = 0;
  piece.vectors.clear();
  if (request_->kind == IoKind::discard) {
    piece.bytes = std::min(request_->bytes - taken_, limits.discard_bytes_most);
  } else if (request_->kind != IoKind::flush) {
    take_vectors(limits, piece);
  }
  CAIRN_CHECK(piece.bytes > 0 || request_->kind == IoKind::flush, "a device takes less than one logical block");
  taken_ += piece.bytes;
  CAIRN_CHECK(taken_ <= request_->bytes, "the pieces of a request are more than it");
  done_ = taken_ == request_->bytes;
}

void Cutter::take_vectors(const PieceLimits& limits, Piece& piece) {
  uint64_t pages_left = limits.pages_most;
  while (vector_ < request_->vector_count && pages_left > 0) {
    const iovec& whole = request_->vectors[vector_];
    std::byte* from = static_cast<std::byte*>(whole.iov_base) + within_;
    const uint64_t into_page = reinterpret_cast<uintptr_t>(from) % limits.page_bytes;
    if (!piece.vectors.empty() && into_page % limits.join_bytes != 0) return;
    uint64_t bytes = std::min(whole.iov_len - within_, limits.bytes_most - piece.bytes);
    if (pages_left < UINT64_MAX / limits.page_bytes)
      bytes = std::min(bytes, pages_left * limits.page_bytes - into_page);
    bytes = round_down(bytes, lba_bytes_);
    if (bytes == 0) return;
    piece.vectors.push_back({from, bytes});
    piece.bytes += bytes;
    pages_left -= (into_page + bytes + limits.page_bytes - 1) / limits.page_bytes;
    within_ += bytes;
    if (within_ < whole.iov_len) return;
    ++vector_;
    within_ = 0;
    if ((into_page + bytes) % limits.join_bytes != 0) return;
  }
}

}  // namespace cairn
