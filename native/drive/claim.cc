#include "drive/claim.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdint>
#include <string>

#include "base/clock.h"
#include "drive/persist.h"

namespace cairn {

namespace {

constexpr int kLockEveryMs = 5;
static_assert(kLockEveryMs > 0, "a lock that is held is asked for without a pause");

}  // namespace

Error open_error(int number, const std::string& path) {
  CAIRN_CHECK(number > 0, "an error is told where there was none");
  const auto error = [&](const std::string& advice) {
    return Error::from_errno(number, "cannot open " + path, "; " + advice);
  };
  if (number == EINVAL) return error("its file system does not do direct I/O: use ext4, xfs or a block device");
  if (number == EBUSY)
    return error("it is mounted, part of a volume, or used by another service: Cairn takes a whole device to itself");
  if (number == EACCES || number == EPERM) return error("it needs to be read and written by the user of the service");
  if (number == EROFS) return error("it cannot be written: to look at it only, use a read-only command");
  if (number == ENOENT) return error("to create a file, name its size: " + path + ":SIZE");
  return Error::from_errno(number, "cannot open " + path);
}

Result<Descriptor> open_path(const std::string& path, int flags, const DriveOptions& options) {
  flags |= (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC;
  // Not waiting for whoever holds a lease on a file or the other end of a pipe. The flag goes again, because the kernel
  // would take it as an order never to wait for the drive either.
  const int number = persist([&] { return ::open(path.c_str(), flags | O_NONBLOCK, S_IRUSR | S_IWUSR); });
  if (number < 0) return open_error(errno, path);
  Descriptor file(number);
  const int set = fcntl(number, F_GETFL);
  if (set < 0 || fcntl(number, F_SETFL, set & ~O_NONBLOCK) != 0) return open_error(errno, path);
  return file;
}

// A process that was killed holds its lock until the kernel has taken down its ring, a moment later: the service that
// takes its place waits for that.
Result<Unit> lock(const Descriptor& file, const std::string& path, const DriveOptions& options) {
  const uint64_t until_ms = system_clock().now_ms() + options.lock_ms_most;
  const int how = (options.read_only ? LOCK_SH : LOCK_EX) | LOCK_NB;
  while (persist([&] { return flock(file.get(), how); }) != 0) {
    const int number = errno;
    if (number != EWOULDBLOCK) return Error::from_errno(number, "cannot lock " + path);
    if (system_clock().now_ms() >= until_ms)
      return Error{number, path + " is in use by another Cairn service or command; stop it first"};
    ::poll(nullptr, 0, kLockEveryMs);
  }
  return Unit{};
}

}  // namespace cairn
