#include "drive/drive.h"

#include "base/check.h"

namespace cairn {

void Drive::submit(IoRequest& request) {
  if (request.kind == IoKind::discard) {
    CAIRN_CHECK(info_.can_discard && !info_.read_only && request.vector_count == 0,
                "a discard that the drive cannot do");
    CAIRN_CHECK(request.offset % info_.lba_bytes == 0 && request.bytes % info_.lba_bytes == 0 && request.bytes > 0,
                "a discard of parts of logical blocks");
    CAIRN_CHECK(request.offset + request.bytes >= request.bytes && request.offset + request.bytes <= info_.bytes,
                "a discard lies beyond the drive");
  } else if (request.kind != IoKind::flush) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < request.vector_count; ++i) {
      const iovec& part = request.vectors[i];
      CAIRN_CHECK(reinterpret_cast<uintptr_t>(part.iov_base) % info_.memory_align == 0,
                  "memory for a drive is unaligned");
      CAIRN_CHECK(part.iov_len % info_.lba_bytes == 0, "a transfer is not whole logical blocks");
      sum += part.iov_len;
    }
    CAIRN_CHECK(sum == request.bytes && sum > 0, "a transfer's vectors do not add up to its length");
    CAIRN_CHECK(request.offset % info_.lba_bytes == 0, "a transfer's offset is unaligned");
    CAIRN_CHECK(request.offset + sum >= sum && request.offset + sum <= info_.bytes, "a transfer lies beyond the drive");
    CAIRN_CHECK(request.placement < info_.placement_classes, "a write of a class that the drive does not have");
    CAIRN_CHECK(request.kind == IoKind::read || !info_.read_only, "a write to a read-only drive");
  }
  start(request);
}

}  // namespace cairn
