// What drives that go through io_uring have in common: the ring, its event, the queue before it, and what becomes of
// requests that the kernel does not take. A request is cut into pieces; each piece is one entry of the ring.
#pragma once

#include <liburing.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "drive/drive.h"
#include "drive/pieces.h"

namespace cairn {

class RingDrive : public Drive {
 public:
  ~RingDrive() override;

  void poll() override;
  void wait(int timeout_ms) override;
  int event_fd() const override { return event_; }
  bool behind() const override;
  bool unsent() const override;
  uint32_t in_flight() const override { return in_flight_; }

 protected:
  // What a completion says of a piece: it is to be tried again as it is; or an errno; or how many bytes were moved.
  struct Outcome {
    bool again = false;
    int error = 0;
    uint64_t moved = 0;
  };

  RingDrive(DriveInfo info, const DriveOptions& options, const PieceLimits& limits);
  // `flags` are those of io_uring_setup. Once, before the first request.
  Result<Unit> set_up_ring(unsigned flags);

  // Writes the entry of a piece; its vectors stay where they are until outcome(). `slot` is below slots().
  virtual void prepare(io_uring_sqe* sqe, uint32_t slot, Piece& piece) = 0;
  virtual Outcome outcome(const Piece& piece, int result) = 0;

  uint32_t slots() const { return static_cast<uint32_t>(slots_.size()); }
  io_uring* ring() { return &ring_; }

 private:
  // One piece in the ring.
  struct Slot {
    uint32_t job = 0;
    Piece piece;
  };
  // One request of which pieces are in the ring, or were.
  struct Job {
    IoRequest* request = nullptr;
    uint32_t pieces = 0;  // in the ring
    int error = 0;        // the first
    bool cut = false;     // no more pieces will come
  };
  static constexpr uint32_t kNoJob = UINT32_MAX;

  void start(IoRequest& request) override;
  void fill_ring();
  void cut_next();
  bool enter(uint32_t slot);
  void send();
  void refused(int error);
  void fail_untaken(int error);
  void reap();
  uint64_t ended(uint32_t slot, int result);
  void finish(uint32_t slot, int error);
  void end_if_over(uint32_t job);
  void check_counts() const;

  PieceLimits limits_;
  uint32_t refusal_ms_most_;
  int event_ = -1;
  bool ring_up_ = false;
  io_uring ring_{};
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_slots_;
  std::vector<Job> jobs_;
  std::vector<uint32_t> free_jobs_;
  std::deque<uint32_t> again_;         // slots whose transfer goes on
  std::deque<IoRequest*> waiting_;     // requests that are not cut, or not to their end
  uint32_t cutting_ = kNoJob;          // the job of the first of them, once its first piece is cut
  Cutter cutter_;                      // … of that job
  std::deque<io_uring_sqe*> untaken_;  // in the ring, in this order; the kernel has not taken them
  uint64_t refused_since_ms_ = 0;      // the kernel has taken nothing since then; 0: it takes what it is given
  uint32_t in_flight_ = 0;             // submitted to us and not completed
};

}  // namespace cairn
