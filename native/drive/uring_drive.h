// A block device or a regular file, O_DIRECT, through io_uring.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "drive/descriptor.h"
#include "drive/ring_drive.h"

namespace cairn {

class UringDrive final : public RingDrive {
 public:
  // `file` was opened with O_DIRECT and locked.
  static Result<std::unique_ptr<Drive>> create(Descriptor file, const std::string& path, const DriveOptions& options);

 private:
  UringDrive(DriveInfo info, Descriptor file, const DriveOptions& options)
      : RingDrive(std::move(info), options, PieceLimits{}), file_(std::move(file)) {}
  void prepare(io_uring_sqe* sqe, uint32_t slot, Piece& piece) override;
  Outcome outcome(const Piece& piece, int result) override;

  Descriptor file_;
};

}  // namespace cairn
