#include "drive/ring_drive.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "drive/persist.h"

namespace cairn {

namespace {

// What is read is checked and sent by the thread that polls. Drives may tell of everything that was in their queue at
// once; by handling a little at a time, and taking new requests in between, they are not left idle meanwhile.
constexpr uint64_t kReadBytesAPoll = 1 << 20;
constexpr int kOfferEveryMs = 1;          // what the kernel has not taken is offered again
constexpr uint64_t kNobody = UINT64_MAX;  // an entry of the ring whose request has ended without it

bool passes(int error) {
  return error == EAGAIN || error == EBUSY || error == EINTR;
}

Error uring_error(int number, const std::string& path) {
  const std::string what = "cannot set up io_uring for " + path;
  if (number == EPERM || number == ENOSYS || number == EACCES) {
    return Error::from_errno(number, what,
                             "; the kernel forbids it: set sysctl kernel.io_uring_disabled=0, and allow io_uring in "
                             "the container's seccomp profile");
  }
  if (number == ENOMEM) return Error::from_errno(number, what, advice_on_locked_memory());
  return Error::from_errno(number, what);
}

}  // namespace

RingDrive::RingDrive(DriveInfo info, const DriveOptions& options, const PieceLimits& limits)
    : Drive(std::move(info)),
      limits_(limits),
      refusal_ms_most_(options.refusal_ms_most),
      slots_(options.queue_depth),
      // One more: a request of which no piece is in the ring at the moment may still have some to come.
      jobs_(options.queue_depth + 1) {
  CAIRN_CHECK(options.queue_depth > 0, "a drive needs a queue");
  for (uint32_t slot = 0; slot < slots_.size(); ++slot) free_slots_.push_back(slot);
  for (uint32_t job = 0; job < jobs_.size(); ++job) free_jobs_.push_back(job);
}

Result<Unit> RingDrive::set_up_ring(unsigned flags) {
  CAIRN_CHECK(!ring_up_, "a drive is given a second ring");
  const std::string& path = info().path;
  const auto interrupted = [](int result) { return result == -EINTR; };
  int code = persist([&] { return io_uring_queue_init(slots(), &ring_, flags); }, interrupted);
  if (code < 0) return uring_error(-code, path);
  ring_up_ = true;
  event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event_ < 0) return Error::from_errno(errno, "cannot make an event for " + path);
  code = persist([&] { return io_uring_register_eventfd(&ring_, event_); }, interrupted);
  if (code < 0) return uring_error(-code, path);
  return Unit{};
}

RingDrive::~RingDrive() {
  CAIRN_CHECK(in_flight_ == 0, "a drive was closed with requests in flight");
  CAIRN_CHECK(waiting_.empty(), "a drive was closed with requests that wait and were not counted");
  CAIRN_CHECK(again_.empty(), "a drive was closed with transfers that go on and were not counted");
  if (ring_up_) io_uring_queue_exit(&ring_);
  if (event_ >= 0) ::close(event_);
}

// Whatever was taken waits or has a job, and what is being cut both.
void RingDrive::check_counts() const {
  CAIRN_CHECK(free_slots_.size() <= slots_.size(), "more slots are free than there are");
  CAIRN_CHECK(again_.size() <= slots_.size() - free_slots_.size(), "a transfer goes on without a slot");
  CAIRN_CHECK(cutting_ == kNoJob || !waiting_.empty(), "a request is cut that does not wait");
  const size_t both = cutting_ == kNoJob ? 0 : 1;
  CAIRN_CHECK(in_flight_ == waiting_.size() + jobs_.size() - free_jobs_.size() - both,
              "requests were taken that neither wait nor are on their way");
}

void RingDrive::start(IoRequest& request) {
  ++in_flight_;
  waiting_.push_back(&request);
  check_counts();
}

bool RingDrive::enter(uint32_t index) {
  CAIRN_CHECK(index < slots_.size(), "a slot is sent that there is not");
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) return false;
  Slot& slot = slots_[index];
  CAIRN_CHECK(jobs_[slot.job].request != nullptr, "a slot is sent that has no request");
  ++slot.piece.tries;
  prepare(sqe, index, slot.piece);
  io_uring_sqe_set_data64(sqe, index);
  untaken_.push_back(sqe);
  return true;
}

// The next piece of the first request that waits goes into a slot and into the ring, both of which have room.
void RingDrive::cut_next() {
  if (cutting_ == kNoJob) {
    CAIRN_CHECK(!free_jobs_.empty(), "more requests are on their way than there are slots");
    cutting_ = free_jobs_.back();
    free_jobs_.pop_back();
    jobs_[cutting_] = Job{.request = waiting_.front()};
    cutter_ = Cutter(*waiting_.front(), info().lba_bytes);
  }
  const uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  cutter_.next(limits_, slots_[slot].piece);
  slots_[slot].job = cutting_;
  ++jobs_[cutting_].pieces;
  const bool entered = enter(slot);
  CAIRN_CHECK(entered, "a ring had room and has none");
  if (!cutter_.done()) return;
  jobs_[cutting_].cut = true;
  cutting_ = kNoJob;
  waiting_.pop_front();
}

void RingDrive::fill_ring() {
  while (!again_.empty() && enter(again_.front())) again_.pop_front();
  while (!waiting_.empty() && !free_slots_.empty() && io_uring_sq_space_left(&ring_) > 0) cut_next();
  check_counts();
  if (!untaken_.empty()) send();
}

void RingDrive::send() {
  const int code = io_uring_submit(&ring_);
  if (code <= 0) return refused(code == 0 ? EAGAIN : -code);
  CAIRN_CHECK(static_cast<size_t>(code) <= untaken_.size(), "the kernel takes more requests than there were");
  untaken_.erase(untaken_.begin(), untaken_.begin() + code);
  refused_since_ms_ = 0;
}

// Nothing was taken. A kernel that is short of memory, or of room for completions, has some later: the entries stay in
// the ring. Any other reason, and one that does not pass, is that of every request that it was to take.
void RingDrive::refused(int error) {
  const uint64_t now_ms = system_clock().now_ms();
  if (refused_since_ms_ == 0) refused_since_ms_ = now_ms;
  if (passes(error) && now_ms - refused_since_ms_ < refusal_ms_most_) return;
  fail_untaken(error);
}

void RingDrive::fail_untaken(int error) {
  std::vector<uint32_t> ended(again_.begin(), again_.end());
  again_.clear();
  for (io_uring_sqe* sqe : untaken_) {
    if (sqe->user_data == kNobody) continue;
    ended.push_back(static_cast<uint32_t>(sqe->user_data));
    // Should the kernel take it one day, it must not find memory that was given back.
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data64(sqe, kNobody);
  }
  std::deque<IoRequest*> waited = std::exchange(waiting_, {});
  const uint32_t partial = std::exchange(cutting_, kNoJob);
  if (partial != kNoJob) {
    waited.pop_front();
    jobs_[partial].cut = true;
    jobs_[partial].error = error;
    ++jobs_[partial].pieces;  // holds it until here, whatever ends meanwhile
  }
  in_flight_ -= static_cast<uint32_t>(waited.size());
  for (const uint32_t slot : ended) finish(slot, error);
  if (partial != kNoJob) {
    --jobs_[partial].pieces;
    end_if_over(partial);
  }
  for (IoRequest* request : waited) request->completed(error);
  eventfd_write(event_, 1);
}

void RingDrive::reap() {
  io_uring_cqe* cqe = nullptr;
  for (uint64_t read = 0; read < kReadBytesAPoll && io_uring_peek_cqe(&ring_, &cqe) == 0 && cqe != nullptr;) {
    const uint64_t entry = io_uring_cqe_get_data64(cqe);
    const int result = cqe->res;
    io_uring_cqe_seen(&ring_, cqe);
    if (entry != kNobody) read += ended(static_cast<uint32_t>(entry), result);
  }
}

// Returns how many bytes were read.
uint64_t RingDrive::ended(uint32_t index, int result) {
  CAIRN_CHECK(index < slots_.size(), "a completion for a slot that there is not");
  Piece& piece = slots_[index].piece;
  const Job& job = jobs_[slots_[index].job];
  CAIRN_CHECK(job.request != nullptr, "a completion for a request that was not submitted");
  const Outcome what = outcome(piece, result);
  const uint64_t read = piece.kind == IoKind::read ? what.moved : 0;
  if (what.error != 0 || job.error != 0) {
    finish(index, what.error != 0 ? what.error : job.error);
    return read;
  }
  if (what.again) {
    again_.push_back(index);
    return read;
  }
  CAIRN_CHECK(what.moved <= piece.bytes, "a drive moved more than it was asked to");
  if (what.moved == piece.bytes) {
    finish(index, 0);
  } else if (what.moved == 0 || what.moved % info().lba_bytes != 0) {
    // A short transfer goes on where it stopped, unless it stopped in the middle of a logical block or at nothing.
    finish(index, EIO);
  } else {
    piece.advance(what.moved);
    again_.push_back(index);
  }
  return read;
}

void RingDrive::finish(uint32_t index, int error) {
  CAIRN_CHECK(error >= 0, "a request is answered with what is no errno");
  const uint32_t number = slots_[index].job;
  Job& job = jobs_[number];
  CAIRN_CHECK(job.pieces > 0, "a piece of a request ends that was not counted");
  --job.pieces;
  if (job.error == 0) job.error = error;
  free_slots_.push_back(index);
  // Of a request that failed the rest is not tried.
  if (job.error != 0 && number == cutting_) {
    job.cut = true;
    cutting_ = kNoJob;
    waiting_.pop_front();
  }
  end_if_over(number);
}

void RingDrive::end_if_over(uint32_t number) {
  const Job job = jobs_[number];
  if (job.pieces > 0 || !job.cut) return;
  CAIRN_CHECK(job.request != nullptr, "a request is answered twice");
  CAIRN_CHECK(in_flight_ > 0, "a request is answered that was never counted");
  jobs_[number].request = nullptr;
  free_jobs_.push_back(number);
  --in_flight_;
  check_counts();
  job.request->completed(job.error);
}

void RingDrive::poll() {
  fill_ring();
  reap();
  // What completions asked for goes out in the same turn.
  if (!waiting_.empty() || !again_.empty()) fill_ring();
}

bool RingDrive::behind() const {
  return io_uring_cq_ready(&ring_) > 0;
}

bool RingDrive::unsent() const {
  return !again_.empty() || (!waiting_.empty() && !free_slots_.empty()) || io_uring_sq_ready(&ring_) > 0;
}

void RingDrive::wait(int timeout_ms) {
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
