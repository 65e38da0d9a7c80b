// A drive that takes time and goes wrong: every request is completed at a time that the seed says, in any order, and
// may fail, hit another place, come back rotten, be held up for seconds; a flush may lie; the drive may vanish.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>

#include "testing/memory_drive.h"
#include "testing/virtual_clock.h"

namespace cairn {

// Shares of requests, 0 to 1.
struct SimFaults {
  double read_error = 0, write_error = 0, flush_error = 0;
  double misdirected_read = 0, misdirected_write = 0;  // to another place of the same drive
  double bit_rot = 0;                                  // a read finds one bit of what it reads flipped for good
  double lying_flush = 0;                              // completes, and nothing was flushed
  double stall = 0;                                    // of requests that take up to stall_ms_most
  uint64_t stall_ms_most = 30'000;
  uint64_t latency_us_most = 400;

  // Whether the drive may hand out, or keep, other bytes than were written to it.
  bool lies() const { return misdirected_read > 0 || misdirected_write > 0 || bit_rot > 0 || lying_flush > 0; }
  bool fails() const { return read_error > 0 || write_error > 0 || flush_error > 0; }
};

struct SimDriveCounters {
  uint64_t requests = 0, errors = 0, lies = 0, stalls = 0;
};

class SimDrive final : public Drive {
 public:
  // `faults` may be changed while the drive runs, and outlives it like the rest.
  SimDrive(std::shared_ptr<Platter> platter, VirtualClock& clock, const SimFaults& faults, uint64_t seed,
           const std::string& path);
  ~SimDrive() override;

  void poll() override;
  // Nothing else happens meanwhile, so the clock goes on to the next completion.
  void wait(int timeout_ms) override;
  int event_fd() const override { return -1; }
  uint32_t in_flight() const override { return static_cast<uint32_t>(due_.size()); }

  uint64_t next_due_ns() const { return due_.empty() ? UINT64_MAX : due_.begin()->first; }
  // The drive is gone: all that is in flight, and all that comes, ends as ENODEV. What it holds survives.
  void vanish() { gone_ = true; }
  // See MemoryDrive.
  std::weak_ptr<SimDrive> watch() const { return alive_; }
  // The process ends (kill -9) or the power goes; see MemoryDrive. The drive is dead afterwards.
  void kill();
  void lose_power();
  const SimDriveCounters& counters() const { return counters_; }

 private:
  void start(IoRequest& request) override;
  void take_in_flight();
  int serve(IoRequest& request);
  bool happens(double share) { return share > 0 && std::uniform_real_distribution<>()(random_) < share; }
  uint64_t elsewhere(const IoRequest& request);

  std::shared_ptr<Platter> platter_;
  VirtualClock& clock_;
  const SimFaults& faults_;
  std::mt19937_64 random_;
  std::multimap<uint64_t, IoRequest*> due_;
  bool gone_ = false;
  SimDriveCounters counters_;
  const std::shared_ptr<SimDrive> alive_{this, [](SimDrive*) {}};
};

}  // namespace cairn
