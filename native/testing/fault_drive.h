// A drive over a platter on which every request is watched: what may become of it is decided from outside, one request
// at a time. Crashes are taken between two requests, errors are made on the nth.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "drive/drive.h"
#include "testing/memory_drive.h"
#include "testing/virtual_clock.h"

namespace cairn {

// short_transfer: half of it is moved, and it ends as EIO. time_out: it ends as ETIMEDOUT after 30 s, the transfer done
// at that moment. gone: ENODEV, and so for whatever is asked afterwards.
enum class DriveFault : uint8_t { none, io_error, no_space, no_memory, short_transfer, time_out, gone };
const char* name_of(DriveFault fault);

class FaultDrive;

class DriveWatcher {
 public:
  // It lies at the front of what is in flight, and nothing of it was done.
  virtual DriveFault before(FaultDrive&, const IoRequest&) { return DriveFault::none; }
  // The device has done it; nobody was told.
  virtual void served(FaultDrive&) {}
  // Whoever asked was told, and did what follows from it.
  virtual void told(FaultDrive&) {}

 protected:
  ~DriveWatcher() = default;
};

class FaultDrive final : public Drive {
 public:
  // The watcher, if any, outlives the drive. `clock` passes while somebody waits for a request that timed out.
  FaultDrive(std::shared_ptr<Platter> platter, VirtualClock& clock, DriveWatcher* watcher, const std::string& path);
  ~FaultDrive() override;

  uint64_t shuffle_seed = 0;  // not 0: completions come in random order, a few a poll

  void poll() override;
  void wait(int timeout_ms) override;
  int event_fd() const override { return -1; }
  uint32_t in_flight() const override { return static_cast<uint32_t>(queue_.size() + late_.size()); }

  // The machine stops here: whatever is in flight or asked from now on ends as ENODEV. The platter stays as it is.
  void stop() { stopped_ = true; }
  // What a crash at this moment leaves to chance: the platter's cache, then the writes in flight.
  std::vector<Platter::CachedWrite> unflushed() const;
  const Platter& platter() const { return *platter_; }
  uint64_t writes_begun() const { return writes_begun_; }
  uint64_t flushes_served() const { return flushes_served_; }

 private:
  struct Late {
    uint64_t due_ns;
    IoRequest* request;
  };
  void start(IoRequest& request) override;
  void finish(IoRequest& request, DriveFault fault);
  void finish_late();
  void serve(const IoRequest& request, uint64_t bytes);

  std::shared_ptr<Platter> platter_;
  VirtualClock& clock_;
  DriveWatcher* watcher_;
  std::deque<IoRequest*> queue_;
  std::deque<Late> late_;
  std::mt19937_64 random_;
  bool stopped_ = false, gone_ = false;
  uint64_t writes_begun_ = 0, flushes_served_ = 0;
};

}  // namespace cairn
