// An NVMe namespace through its generic character device, /dev/ngXnY: commands go to the drive as they are, past the
// block layer (io_uring_cmd). Needs Linux 5.19; before 6.2 also CAP_SYS_ADMIN.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "drive/descriptor.h"
#include "drive/nvme_commands.h"
#include "drive/nvme_identify.h"
#include "drive/ring_drive.h"

namespace cairn {

// Opens the character device `number` at `path`. Takes the lock of open_drive(), and that of the namespace's block
// device as well, so that nobody else has the same namespace by its other name, mounted or not.
Result<std::unique_ptr<Drive>> open_nvme_drive(const std::string& path, dev_t number, const DriveOptions& options);

class NvmeDrive final : public RingDrive {
 public:
  // What keeps others away: it ends with the drive.
  struct Claims {
    Descriptor device;      // /dev/ngXnY, locked
    Descriptor block_lock;  // /dev/nvmeXnY, locked
    Descriptor block_use;   // … opened with O_EXCL
  };

  static Result<std::unique_ptr<Drive>> create(DriveInfo info, const NvmeFacts& facts, const PieceLimits& limits,
                                               Claims claims, const DriveOptions& options);
  bool register_memory(ByteSpan memory) override;

 private:
  NvmeDrive(DriveInfo info, const NvmeFacts& facts, const PieceLimits& limits, Claims claims,
            const DriveOptions& options);
  void prepare(io_uring_sqe* sqe, uint32_t slot, Piece& piece) override;
  Outcome outcome(const Piece& piece, int result) override;

  NvmeExtent extent_of(const Piece& piece) const;
  // Reads the first logical block, through registered memory or not. 0 or an errno.
  int try_read(std::byte* memory);
  bool register_in_chunks(ByteSpan memory, uint64_t chunk_bytes);
  void unregister();
  // The number of the registered buffer in which all of the piece lies; -1: in none.
  int64_t buffer_of(const Piece& piece) const;

  uint32_t namespace_id_;
  std::vector<uint16_t> placement_ids_;
  uint64_t command_bytes_most_;
  uint64_t command_pages_most_;
  Claims claims_;
  std::vector<std::vector<DeallocateRange>> ranges_;  // of the discard in each slot
  ByteSpan registered_;
  uint64_t chunk_bytes_ = 0;  // of one registered buffer
};

}  // namespace cairn
