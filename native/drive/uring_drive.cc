#include "drive/uring_drive.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <fstream>

#include "base/clock.h"

namespace cairn {

namespace {

// What is read is checked and sent by the thread that polls. Drives may tell of everything that was in their queue at
// once; by handling a little at a time, and taking new requests in between, they are not left idle meanwhile.
constexpr uint64_t kReadBytesAPoll = 1 << 20;
constexpr uint32_t kFileLbaBytes = 4096;  // what every file system we meet accepts for O_DIRECT
constexpr int kTries = 100;               // of a call that signals interrupt
constexpr int kLockEveryMs = 5;
constexpr int kOfferEveryMs = 1;          // what the kernel has not taken is offered again
constexpr uint64_t kNobody = UINT64_MAX;  // an entry of the ring whose request has ended without it

// The call's result, once no signal interrupts it. `interrupted` looks at a result.
template <class Call, class Interrupted>
int persist(Call call, Interrupted interrupted) {
  int result = call();
  for (int tries = 1; tries < kTries && interrupted(result); ++tries) result = call();
  return result;
}
template <class Call>
int persist(Call call) {
  return persist(call, [](int result) { return result < 0 && errno == EINTR; });
}

bool passes(int error) {
  return error == EAGAIN || error == EBUSY || error == EINTR;
}
static_assert(kSlabPageBytes % kFileLbaBytes == 0, "a page of the slab is not whole logical blocks of a file");
static_assert(kVectorsMost <= IOV_MAX, "more vectors are let through than the kernel takes");

Error uring_error(int number, const std::string& path) {
  const std::string what = "cannot set up io_uring for " + path;
  if (number == EPERM || number == ENOSYS || number == EACCES) {
    return Error::from_errno(number, what,
                             "; the kernel forbids it: set sysctl kernel.io_uring_disabled=0, and allow io_uring in "
                             "the container's seccomp profile");
  }
  return Error::from_errno(number, what);
}

Error open_error(int number, const std::string& path) {
  const auto error = [&](const std::string& advice) {
    return Error::from_errno(number, "cannot open " + path, "; " + advice);
  };
  if (number == EINVAL) return error("its file system does not do direct I/O: use ext4, xfs or a block device");
  if (number == EBUSY) return error("it is mounted, or part of a volume: Cairn takes a whole device to itself");
  if (number == EACCES || number == EPERM) return error("it needs to be read and written by the user of the service");
  if (number == EROFS) return error("it cannot be written: to look at it only, use a read-only command");
  if (number == ENOENT) return error("to create a file, name its size: " + path + ":SIZE");
  return Error::from_errno(number, "cannot open " + path);
}

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

// 0, or an errno. A process that was killed holds its lock until the kernel has taken down its ring, a moment later:
// the service that takes its place waits for that.
int lock(int fd, const DriveOptions& options) {
  const uint64_t until_ms = system_clock().now_ms() + options.lock_ms_most;
  while (persist([&] { return flock(fd, (options.read_only ? LOCK_SH : LOCK_EX) | LOCK_NB); }) != 0) {
    if (errno != EWOULDBLOCK || system_clock().now_ms() >= until_ms) return errno;
    ::poll(nullptr, 0, kLockEveryMs);
  }
  return 0;
}

}  // namespace

Result<std::unique_ptr<Drive>> open_drive(const std::string& path, const DriveOptions& options) {
  struct stat there{};
  const bool exists = stat(path.c_str(), &there) == 0;
  // What is not known to be no block device could be one that is mounted: O_EXCL below would not be asked for.
  if (!exists && errno != ENOENT && errno != ENOTDIR) return open_error(errno, path);
  if (exists && S_ISDIR(there.st_mode))
    return Error{EISDIR, path + " is a directory; name a file in it, with its size: " + path + "/drive:SIZE"};
  const bool block = exists && S_ISBLK(there.st_mode);
  int flags = (options.read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC;
  // O_EXCL on a block device: not one that is mounted, or part of a RAID or LVM volume.
  if (block && !options.read_only) flags |= O_EXCL;
  if (!block && options.create) flags |= O_CREAT;
  const int fd = persist([&] { return open(path.c_str(), flags, S_IRUSR | S_IWUSR); });
  if (fd < 0) return open_error(errno, path);
  if (const int number = lock(fd, options); number != 0) {
    ::close(fd);
    if (number == EWOULDBLOCK)
      return Error{number, path + " is in use by another Cairn service or command; stop it first"};
    return Error::from_errno(number, "cannot lock " + path);
  }
  auto info = ask(fd, path, options);
  if (!info) {
    ::close(fd);
    return info.error();
  }
  auto drive = UringDrive::create(info.take(), fd, options);
  if (!drive) return drive.error();
  return std::unique_ptr<Drive>(drive.take());
}

Result<std::unique_ptr<UringDrive>> UringDrive::create(DriveInfo info, int fd, const DriveOptions& options) {
  CAIRN_CHECK(options.queue_depth > 0, "a drive needs a queue");
  CAIRN_CHECK(fd >= 0, "a drive is made of a file that is not open");
  std::unique_ptr<UringDrive> drive(new UringDrive(std::move(info), fd, options));
  const std::string& path = drive->info().path;
  const auto interrupted = [](int result) { return result == -EINTR; };
  int code = persist([&] { return io_uring_queue_init(options.queue_depth, &drive->ring_, 0); }, interrupted);
  if (code < 0) return uring_error(-code, path);
  drive->ring_up_ = true;
  drive->event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (drive->event_ < 0) return Error::from_errno(errno, "cannot make an event for " + path);
  code = persist([&] { return io_uring_register_eventfd(&drive->ring_, drive->event_); }, interrupted);
  if (code < 0) return uring_error(-code, path);
  for (uint32_t slot = 0; slot < options.queue_depth; ++slot) drive->free_slots_.push_back(slot);
  return drive;
}

UringDrive::~UringDrive() {
  CAIRN_CHECK(in_flight_ == 0, "a drive was closed with requests in flight");
  CAIRN_CHECK(waiting_.empty(), "a drive was closed with requests that wait and were not counted");
  CAIRN_CHECK(again_.empty(), "a drive was closed with transfers that go on and were not counted");
  if (ring_up_) io_uring_queue_exit(&ring_);
  if (event_ >= 0) ::close(event_);
  ::close(fd_);
}

// Whatever was taken waits or has a slot.
void UringDrive::check_counts() const {
  CAIRN_CHECK(free_slots_.size() <= slots_.size(), "more slots are free than there are");
  CAIRN_CHECK(again_.size() <= slots_.size() - free_slots_.size(), "a transfer goes on without a slot");
  CAIRN_CHECK(in_flight_ == waiting_.size() + slots_.size() - free_slots_.size(),
              "requests were taken that neither wait nor are on their way");
}

void UringDrive::start(IoRequest& request) {
  ++in_flight_;
  waiting_.push_back(&request);
  check_counts();
}

bool UringDrive::prepare(uint32_t index) {
  CAIRN_CHECK(index < slots_.size(), "a slot is sent that there is not");
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) return false;
  Slot& slot = slots_[index];
  CAIRN_CHECK(slot.request != nullptr, "a slot is sent that has no request");
  switch (slot.request->kind) {
    case IoKind::read:
      io_uring_prep_readv(sqe, fd_, slot.rest.data(), static_cast<unsigned>(slot.rest.size()), slot.offset);
      break;
    case IoKind::write:
      io_uring_prep_writev(sqe, fd_, slot.rest.data(), static_cast<unsigned>(slot.rest.size()), slot.offset);
      break;
    case IoKind::flush:
      io_uring_prep_fsync(sqe, fd_, IORING_FSYNC_DATASYNC);
      break;
    case IoKind::discard:
      io_uring_prep_fallocate(sqe, fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, slot.offset, slot.request->bytes);
      break;
  }
  io_uring_sqe_set_data64(sqe, index);
  untaken_.push_back(sqe);
  return true;
}

void UringDrive::fill_ring() {
  while (!again_.empty() && prepare(again_.front())) again_.pop_front();
  while (!waiting_.empty() && !free_slots_.empty()) {
    IoRequest* request = waiting_.front();
    Slot& slot = slots_[free_slots_.back()];
    slot.request = request;
    slot.rest.assign(request->vectors, request->vectors + request->vector_count);
    slot.offset = request->offset;
    slot.left = request->kind == IoKind::read || request->kind == IoKind::write ? request->bytes : 0;
    if (!prepare(free_slots_.back())) break;
    free_slots_.pop_back();
    waiting_.pop_front();
  }
  check_counts();
  if (!untaken_.empty()) send();
}

void UringDrive::send() {
  const int code = io_uring_submit(&ring_);
  if (code <= 0) return refused(code == 0 ? EAGAIN : -code);
  CAIRN_CHECK(static_cast<size_t>(code) <= untaken_.size(), "the kernel takes more requests than there were");
  untaken_.erase(untaken_.begin(), untaken_.begin() + code);
  refused_since_ms_ = 0;
}

// Nothing was taken. A kernel that is short of memory, or of room for completions, has some later: the entries stay in
// the ring. Any other reason, and one that does not pass, is that of every request that it was to take.
void UringDrive::refused(int error) {
  const uint64_t now_ms = system_clock().now_ms();
  if (refused_since_ms_ == 0) refused_since_ms_ = now_ms;
  if (passes(error) && now_ms - refused_since_ms_ < refusal_ms_most_) return;
  fail_untaken(error);
}

void UringDrive::fail_untaken(int error) {
  std::vector<uint32_t> ended(again_.begin(), again_.end());
  again_.clear();
  for (io_uring_sqe* sqe : untaken_) {
    if (sqe->user_data == kNobody) continue;
    ended.push_back(static_cast<uint32_t>(sqe->user_data));
    // Should the kernel take it one day, it must not find memory that was given back.
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data64(sqe, kNobody);
  }
  const std::deque<IoRequest*> waited = std::exchange(waiting_, {});
  in_flight_ -= static_cast<uint32_t>(waited.size());
  for (const uint32_t slot : ended) finish(slot, error);
  for (IoRequest* request : waited) request->completed(error);
  eventfd_write(event_, 1);
}

void UringDrive::reap() {
  io_uring_cqe* cqe = nullptr;
  for (uint64_t read = 0; read < kReadBytesAPoll && io_uring_peek_cqe(&ring_, &cqe) == 0 && cqe != nullptr;) {
    const auto slot = static_cast<uint32_t>(io_uring_cqe_get_data64(cqe));
    const int result = cqe->res;
    const bool anybody = io_uring_cqe_get_data64(cqe) != kNobody;
    io_uring_cqe_seen(&ring_, cqe);
    if (!anybody) continue;
    const bool is_read = slots_[slot].request != nullptr && slots_[slot].request->kind == IoKind::read;
    if (is_read && result > 0) read += static_cast<uint64_t>(result);
    transferred(slot, result);
  }
}

void UringDrive::transferred(uint32_t index, int result) {
  CAIRN_CHECK(index < slots_.size(), "a completion for a slot that there is not");
  Slot& slot = slots_[index];
  CAIRN_CHECK(slot.request != nullptr, "a completion for a request that was not submitted");
  if (result == -EAGAIN || result == -EINTR) {
    again_.push_back(index);
    return;
  }
  if (result < 0) return finish(index, -result);
  const auto moved = static_cast<uint64_t>(result);
  CAIRN_CHECK(moved <= slot.left, "a drive moved more than it was asked to");
  if (moved == slot.left) return finish(index, 0);
  // A short transfer goes on where it stopped, unless it stopped in the middle of a logical block or at nothing.
  if (moved == 0 || moved % info().lba_bytes != 0) return finish(index, EIO);
  slot.left -= moved;
  slot.offset += moved;
  uint64_t skip = moved;
  size_t whole = 0;
  while (skip >= slot.rest[whole].iov_len) {
    skip -= slot.rest[whole++].iov_len;
    CAIRN_CHECK(whole < slot.rest.size(), "a transfer has bytes left and no memory for them");
  }
  slot.rest.erase(slot.rest.begin(), slot.rest.begin() + static_cast<long>(whole));
  slot.rest.front().iov_base = static_cast<std::byte*>(slot.rest.front().iov_base) + skip;
  slot.rest.front().iov_len -= skip;
  again_.push_back(index);
}

void UringDrive::finish(uint32_t index, int error) {
  CAIRN_CHECK(error >= 0, "a request is answered with what is no errno");
  CAIRN_CHECK(in_flight_ > 0, "a request is answered that was never counted");
  IoRequest* request = std::exchange(slots_[index].request, nullptr);
  free_slots_.push_back(index);
  --in_flight_;
  check_counts();
  request->completed(error);
}

void UringDrive::poll() {
  fill_ring();
  reap();
  // What completions asked for goes out in the same turn.
  if (!waiting_.empty() || !again_.empty()) fill_ring();
}

bool UringDrive::behind() const {
  return io_uring_cq_ready(&ring_) > 0;
}

bool UringDrive::unsent() const {
  return !again_.empty() || (!waiting_.empty() && !free_slots_.empty()) || io_uring_sq_ready(&ring_) > 0;
}

void UringDrive::wait(int timeout_ms) {
  CAIRN_CHECK(timeout_ms >= 0, "a wait for a drive without an end");
  fill_ring();
  if (in_flight_ > 0 && io_uring_cq_ready(&ring_) == 0) {
    // The event keeps what poll() has reaped already: clear it, look again, then sleep. If it cannot be cleared, this
    // does not sleep, and that is all.
    uint64_t ignored = 0;
    (void)!::read(event_, &ignored, sizeof(ignored));
    pollfd event{event_, POLLIN, 0};
    // Of what the kernel has not taken no completion will tell.
    const int most_ms = untaken_.empty() ? timeout_ms : std::min(timeout_ms, kOfferEveryMs);
    if (io_uring_cq_ready(&ring_) == 0) ::poll(&event, 1, most_ms);
  }
  reap();
  fill_ring();
}

}  // namespace cairn
