// How a request is cut into what a device takes in one command. Pure: no device is needed to try it.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "drive/drive.h"

namespace cairn {

// Of one command. As they stand: no limit but the request's own.
struct PieceLimits {
  uint64_t bytes_most = UINT64_MAX;
  uint64_t discard_bytes_most = UINT64_MAX;
  // Of memory that is touched: each may be a segment of its own to the device. A page has `page_bytes`.
  uint64_t pages_most = UINT64_MAX;
  uint64_t page_bytes = 4096;
  // Where one vector ends and the next begins in one command, both are at a multiple of this; 1: anywhere.
  uint64_t join_bytes = 1;
};

// A part of a request, or all of it. Owns its list of vectors, which the kernel may read until the command ends.
struct Piece {
  IoKind kind = IoKind::read;
  uint8_t placement = 0;
  uint32_t tries = 0;  // how often it was handed to the kernel
  uint64_t offset = 0;
  uint64_t bytes = 0;  // that are left to be done
  std::vector<iovec> vectors;

  // `moved` bytes, fewer than there are, are done.
  void advance(uint64_t moved);
};

// Cuts one request from its front to its end. Pieces are whole logical blocks, since every vector is.
class Cutter {
 public:
  Cutter() = default;
  Cutter(const IoRequest& request, uint32_t lba_bytes) : request_(&request), lba_bytes_(lba_bytes) {}

  // Fills `piece` with the next one. A flush is one piece without bytes.
  void next(const PieceLimits& limits, Piece& piece);
  bool done() const { return done_; }

 private:
  void take_vectors(const PieceLimits& limits, Piece& piece);

  const IoRequest* request_ = nullptr;
  uint32_t lba_bytes_ = 0;
  uint32_t vector_ = 0;  // the first that is not wholly taken,
  uint64_t within_ = 0;  // and how much of it is
  uint64_t taken_ = 0;   // of the request
  bool done_ = false;
};

}  // namespace cairn
