// The fake drive: bytes in memory, a volatile write cache that a crash empties, faults by name and seed.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "drive/drive.h"

namespace cairn {

struct CachedWrite {
  uint64_t offset;
  std::vector<std::byte> bytes;
};

// What survives of a drive: shared by the drives that stand for its lives before and after a crash.
class Platter {
 public:
  explicit Platter(uint64_t bytes) : bytes_(bytes) {}
  uint64_t bytes() const { return bytes_; }
  void read(uint64_t offset, std::byte* to, uint64_t count) const;
  void write(uint64_t offset, const std::byte* from, uint64_t count);
  void flip(uint64_t offset, int bit);
  Platter copy() const { return *this; }
  // What the device's cache holds while no process has the drive open: after a kill, until the power goes.
  std::vector<CachedWrite> cached;

 private:
  static constexpr uint64_t kPageBytes = 4096;
  uint64_t bytes_;
  std::map<uint64_t, std::vector<std::byte>> pages_;  // those ever written
};

struct DriveFaults {
  uint64_t seed = 0;  // not 0: completions come in random order, a few a poll
  // The nth request of a kind from now on (1: the next) fails with this errno, and all after it if `for_ever`.
  uint64_t fail_read = 0, fail_write = 0, fail_flush = 0;
  int error = 5;
  bool for_ever = false;
  bool hold = false;                 // nothing completes until it is taken back
  std::vector<uint64_t> unreadable;  // a read that touches one of these offsets fails with EIO
};

class MemoryDrive final : public Drive {
 public:
  explicit MemoryDrive(std::shared_ptr<Platter> platter, bool volatile_cache = true, bool read_only = false);
  ~MemoryDrive() override;

  DriveFaults faults;

  void poll() override;
  void wait(int timeout_ms) override;
  int event_fd() const override { return -1; }
  uint32_t in_flight() const override { return static_cast<uint32_t>(queue_.size()); }

  // The power goes: of every write that no flush covered, each 512-byte sector is on the platter or not, as the seed
  // says. What is in flight is a write like any other, or never happened. The drive is dead
  // afterwards: whatever is asked of it ends as ENODEV.
  void crash(uint64_t seed);
  // kill -9: the process ends, the device does not. Its cache keeps what no flush covered, for the next life to read,
  // to flush or to lose. Of what is in flight the seed says whether it was done. The drive is dead afterwards.
  void kill(uint64_t seed);

 private:
  void take_in_flight(std::mt19937_64& random);
  void start(IoRequest& request) override;
  void finish(IoRequest& request);
  int fault_of(IoKind kind);
  void apply_cached(const CachedWrite& write);

  std::shared_ptr<Platter> platter_;
  std::vector<CachedWrite> cached_;  // completed, not flushed, in order
  std::deque<IoRequest*> queue_;
  std::mt19937_64 random_;
  bool dead_ = false;
};

}  // namespace cairn
