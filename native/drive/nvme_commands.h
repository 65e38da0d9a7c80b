// The NVMe commands that a drive is asked, as the kernel's pass-through takes them, and what their status means. Pure.
// "Base" is the NVM Express Base Specification 2.0, "NVM" the NVM Command Set Specification 1.0.
#pragma once

#include <linux/nvme_ioctl.h>

#include <cstdint>
#include <vector>

#include "drive/drive.h"

namespace cairn {

inline constexpr uint64_t kNvmeBlocksMost = 65'536;             // of one read or write: NLB has 16 bits, 0 means 1
inline constexpr uint64_t kDeallocateRangesMost = 256;          // of one command (NVM 3.2.3)
inline constexpr uint64_t kDeallocateBlocksMost = 0xFFFF'FFFF;  // of one range

// Where on which namespace: `first` and `blocks` count logical blocks.
struct NvmeExtent {
  uint32_t namespace_id = 0;
  uint64_t first = 0;
  uint64_t blocks = 0;
};

// NVM 3.2.3, figure "Dataset Management – Range Definition".
struct DeallocateRange {
  uint32_t attributes = 0;
  uint32_t blocks = 0;
  uint64_t first = 0;
};
static_assert(sizeof(DeallocateRange) == 16, "a range has another size than the drive expects");

// The memory is the caller's to fill in (`addr`, `data_len`).
nvme_uring_cmd transfer_command(IoKind kind, const NvmeExtent& extent);
// Tells a write where its data belong: data placement directive (Base 8.7.4) with a placement identifier.
void place(nvme_uring_cmd& write, uint16_t placement_id);
nvme_uring_cmd flush_command(uint32_t namespace_id);
// As few ranges as it takes; the command's memory is `ranges`, which lives until it ends.
std::vector<DeallocateRange> deallocate_ranges(const NvmeExtent& extent);
nvme_uring_cmd deallocate_command(uint32_t namespace_id, const std::vector<DeallocateRange>& ranges);

// A status as the kernel hands it on: status code, its type, and the bit "do not retry" (Base 3.3.3.2.1).
int errno_of_nvme_status(int status);
// Whether the same command may succeed if it is given again at once.
bool nvme_may_retry(int status);

}  // namespace cairn
