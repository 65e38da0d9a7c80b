#include "drive/uring_drive.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <climits>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "base/slab.h"
#include "drive/claim.h"
#include "drive/persist.h"

namespace cairn {

namespace {

constexpr uint32_t kFileLbaBytes = 4096;  // what every file system we meet accepts for O_DIRECT
static_assert(kSlabPageBytes % kFileLbaBytes == 0, "a page of the slab is not whole logical blocks of a file");
static_assert(kVectorsMost <= IOV_MAX, "more vectors are let through than the kernel takes");

bool volatile_cache_of(dev_t device) {
  const std::string path = "/sys/dev/block/" + std::to_string(major(device)) + ":" + std::to_string(minor(device));
  std::string mode;
  for (const char* queue : {"/queue/write_cache", "/../queue/write_cache"}) {
    std::ifstream file(path + queue);
    if (std::getline(file, mode)) return mode != "write through";
  }
  return true;  // unknown: assume the worse
}

Result<Unit> ask_block_device(int fd, const struct stat& file, DriveInfo& info) {
  uint64_t bytes = 0;
  int lba = 0;
  if (ioctl(fd, BLKGETSIZE64, &bytes) != 0 || ioctl(fd, BLKSSZGET, &lba) != 0) {
    return Error::from_errno(errno, "cannot ask " + info.path + " for its size");
  }
  info.kind = "block";
  info.lba_bytes = static_cast<uint32_t>(lba);
  info.bytes = round_down(bytes, kSlabPageBytes);
  info.volatile_write_cache = volatile_cache_of(file.st_rdev);
  info.can_discard = true;  // one that cannot says so when it is asked
  return Unit{};
}

// Not posix_fallocate: where a file system cannot allocate, that writes single bytes, which direct I/O refuses.
Result<Unit> grow_file(int fd, uint64_t bytes, const std::string& path) {
  if (persist([&] { return fallocate(fd, 0, 0, static_cast<off_t>(bytes)); }) == 0) return Unit{};
  const std::string what = "cannot give " + path + " its " + std::to_string(bytes >> 20) + " MiB";
  if (errno == EOPNOTSUPP) {
    return Error::from_errno(errno, what,
                             "; its file system does not allocate ahead: use ext4, xfs or a block device, or make a "
                             "file of that size yourself");
  }
  return Error::from_errno(errno, what);
}

Result<DriveInfo> ask(int fd, const std::string& path, const DriveOptions& options) {
  DriveInfo info;
  info.path = path;
  info.read_only = options.read_only;
  struct stat file{};
  if (fstat(fd, &file) != 0) return open_error(errno, path);
  if (S_ISBLK(file.st_mode)) {
    if (auto asked = ask_block_device(fd, file, info); !asked) return asked.error();
    return info;
  }
  if (!S_ISREG(file.st_mode)) return Error{0, path + " is neither a block device nor a regular file"};
  if (options.create && static_cast<uint64_t>(file.st_size) < options.create_bytes) {
    if (auto grown = grow_file(fd, options.create_bytes, path); !grown) return grown.error();
    if (fstat(fd, &file) != 0) return open_error(errno, path);
  }
  info.kind = "file";
  info.lba_bytes = kFileLbaBytes;
  info.bytes = round_down(static_cast<uint64_t>(file.st_size), kFileLbaBytes);
  return info;
}

}  // namespace

Result<std::unique_ptr<Drive>> UringDrive::create(Descriptor file, const std::string& path,
                                                  const DriveOptions& options) {
  CAIRN_CHECK(file.is_open(), "a drive is made of a file that is not open");
  auto info = ask(file.get(), path, options);
  if (!info) return info.error();
  std::unique_ptr<UringDrive> drive(new UringDrive(info.take(), std::move(file), options));
  if (auto up = drive->set_up_ring(0); !up) return up.error();
  return std::unique_ptr<Drive>(std::move(drive));
}

void UringDrive::prepare(io_uring_sqe* sqe, uint32_t /*slot*/, Piece& piece) {
  const auto vectors = static_cast<unsigned>(piece.vectors.size());
  switch (piece.kind) {
    case IoKind::read:
      return io_uring_prep_readv(sqe, file_.get(), piece.vectors.data(), vectors, piece.offset);
    case IoKind::write:
      return io_uring_prep_writev(sqe, file_.get(), piece.vectors.data(), vectors, piece.offset);
    case IoKind::flush:
      return io_uring_prep_fsync(sqe, file_.get(), IORING_FSYNC_DATASYNC);
    case IoKind::discard:
      return io_uring_prep_fallocate(sqe, file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, piece.offset,
                                     piece.bytes);
  }
}

RingDrive::Outcome UringDrive::outcome(const Piece& piece, int result) {
  if (result == -EAGAIN || result == -EINTR) return {.again = true};
  if (result < 0) return {.error = -result};
  const bool transfer = piece.kind == IoKind::read || piece.kind == IoKind::write;
  return {.moved = transfer ? static_cast<uint64_t>(result) : piece.bytes};
}

}  // namespace cairn
