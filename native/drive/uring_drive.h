// A block device or a regular file, O_DIRECT, through io_uring.
#pragma once

#include <liburing.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/slab.h"
#include "drive/drive.h"

namespace cairn {

class UringDrive final : public Drive {
 public:
  // Takes ownership of `fd` (opened with O_DIRECT and locked).
  static Result<std::unique_ptr<UringDrive>> create(DriveInfo info, int fd, const DriveOptions& options);
  ~UringDrive() override;

  void poll() override;
  void wait(int timeout_ms) override;
  int event_fd() const override { return event_; }
  bool behind() const override;
  bool unsent() const override;
  uint32_t in_flight() const override { return in_flight_; }

 private:
  // One request in the ring. `rest` is the private copy that a short transfer advances.
  struct Slot {
    IoRequest* request = nullptr;
    std::vector<iovec> rest;
    uint64_t offset = 0;
    uint64_t left = 0;
  };

  UringDrive(DriveInfo info, int fd, const DriveOptions& options)
      : Drive(std::move(info)), fd_(fd), refusal_ms_most_(options.refusal_ms_most), slots_(options.queue_depth) {}
  void start(IoRequest& request) override;
  void fill_ring();
  bool prepare(uint32_t slot);
  void send();
  void refused(int error);
  void fail_untaken(int error);
  void reap();
  void transferred(uint32_t slot, int result);
  void finish(uint32_t slot, int error);
  void check_counts() const;

  int fd_;
  uint32_t refusal_ms_most_;
  int event_ = -1;
  bool ring_up_ = false;
  io_uring ring_{};
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_slots_;
  std::deque<uint32_t> again_;         // slots whose transfer goes on
  std::deque<IoRequest*> waiting_;     // requests without a slot
  std::deque<io_uring_sqe*> untaken_;  // in the ring, in this order; the kernel has not taken them
  uint64_t refused_since_ms_ = 0;      // the kernel has taken nothing since then; 0: it takes what it is given
  uint32_t in_flight_ = 0;             // submitted to us and not completed
};

}  // namespace cairn
