#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <memory>
#include <string>

#include "drive/claim.h"
#include "drive/drive.h"
#include "drive/nvme_drive.h"
#include "drive/uring_drive.h"

namespace cairn {

Result<std::unique_ptr<Drive>> open_drive(const std::string& path, const DriveOptions& options) {
  struct stat there{};
  const bool exists = stat(path.c_str(), &there) == 0;
  // What is not known to be no block device could be one that is mounted: O_EXCL below would not be asked for.
  if (!exists && errno != ENOENT && errno != ENOTDIR) return open_error(errno, path);
  if (exists && S_ISDIR(there.st_mode))
    return Error{EISDIR, path + " is a directory; name a file in it, with its size: " + path + "/drive:SIZE"};
  if (exists && S_ISCHR(there.st_mode)) return open_nvme_drive(path, there.st_rdev, options);
  const bool block = exists && S_ISBLK(there.st_mode);
  int flags = O_DIRECT;
  // O_EXCL on a block device: not one that is mounted, or part of a RAID or LVM volume.
  if (block && !options.read_only) flags |= O_EXCL;
  if (!block && options.create) flags |= O_CREAT;
  auto file = open_path(path, flags, options);
  if (!file) return file.error();
  if (auto locked = lock(file.value(), path, options); !locked) return locked.error();
  return UringDrive::create(file.take(), path, options);
}

}  // namespace cairn
