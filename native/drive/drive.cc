#include "drive/drive.h"

#include <cstdint>

#include "base/check.h"

namespace cairn {

namespace {

void check_discard(const DriveInfo& drive, const IoRequest& request) {
  CAIRN_CHECK(drive.can_discard, "a discard that the drive cannot do");
  CAIRN_CHECK(!drive.read_only, "a discard on a read-only drive");
  CAIRN_CHECK(request.vector_count == 0, "a discard that names memory");
  CAIRN_CHECK(request.bytes > 0, "a discard of nothing");
  CAIRN_CHECK(request.offset % drive.lba_bytes == 0, "a discard begins within a logical block");
  CAIRN_CHECK(request.bytes % drive.lba_bytes == 0, "a discard ends within a logical block");
  CAIRN_CHECK(request.bytes <= drive.bytes, "a discard is longer than the drive");
  CAIRN_CHECK(request.offset <= drive.bytes - request.bytes, "a discard lies beyond the drive");
}

void check_transfer(const DriveInfo& drive, const IoRequest& request) {
  CAIRN_CHECK(request.vectors != nullptr, "a transfer says nothing of its memory");
  CAIRN_CHECK(request.vector_count > 0, "a transfer has no memory");
  CAIRN_CHECK(request.vector_count <= kVectorsMost, "a transfer has more vectors than a system takes");
  uint64_t sum = 0;
  for (uint32_t i = 0; i < request.vector_count; ++i) {
    const iovec& part = request.vectors[i];
    CAIRN_CHECK(part.iov_base != nullptr, "memory for a drive is nowhere");
    CAIRN_CHECK(reinterpret_cast<uintptr_t>(part.iov_base) % drive.memory_align == 0,
                "memory for a drive is unaligned");
    CAIRN_CHECK(part.iov_len > 0, "a transfer has an empty vector");
    CAIRN_CHECK(part.iov_len % drive.lba_bytes == 0, "a transfer is not whole logical blocks");
    sum += part.iov_len;
  }
  CAIRN_CHECK(sum == request.bytes, "a transfer's vectors do not add up to its length");
  CAIRN_CHECK(request.offset % drive.lba_bytes == 0, "a transfer's offset is unaligned");
  CAIRN_CHECK(sum <= drive.bytes, "a transfer is longer than the drive");
  CAIRN_CHECK(request.offset <= drive.bytes - sum, "a transfer lies beyond the drive");
  CAIRN_CHECK(request.placement < drive.placement_classes, "a write of a class that the drive does not have");
  CAIRN_CHECK(request.kind == IoKind::read || !drive.read_only, "a write to a read-only drive");
}

}  // namespace

void Drive::submit(IoRequest& request) {
  switch (request.kind) {
    case IoKind::read:
    case IoKind::write:
      check_transfer(info_, request);
      break;
    case IoKind::flush:
      CAIRN_CHECK(request.vector_count == 0, "a flush that names memory");
      CAIRN_CHECK(request.bytes == 0, "a flush that has a length");
      break;
    case IoKind::discard:
      check_discard(info_, request);
      break;
  }
  start(request);
}

}  // namespace cairn
