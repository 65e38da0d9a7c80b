// The fake drive: bytes in memory, a volatile write cache that a crash empties, faults by name and seed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "drive/drive.h"

namespace cairn {

// A device: what survives, and the volatile cache before it. Shared by the drives that stand for its lives before and
// after a crash. Copies share pages until one of them writes.
class Platter {
 public:
  explicit Platter(uint64_t bytes) : bytes_(bytes), pages_((bytes + kPageBytes - 1) / kPageBytes) {}
  uint64_t bytes() const { return bytes_; }
  uint32_t placement_classes = 1;
  Platter copy() const { return *this; }

  // Past the cache.
  void read(uint64_t offset, std::byte* to, uint64_t count) const;
  void write(uint64_t offset, const std::byte* from, uint64_t count);
  void flip(uint64_t offset, int bit);

  // As the device does it: writes lie in the cache until a flush, reads see them.
  void write_cached(uint64_t offset, const iovec* vectors, uint32_t count);
  void read_cached(uint64_t offset, const iovec* vectors, uint32_t count) const;
  void flush();
  // Whole pages of the range are zero afterwards.
  void discard(uint64_t offset, uint64_t count);
  // The power goes: of every write that no flush covered, each 512-byte sector is there or not, in any order.
  void lose_power(std::mt19937_64& random);
  uint64_t cached_writes() const { return cache_.size(); }

  struct CachedWrite {
    uint64_t offset;
    std::shared_ptr<const std::vector<std::byte>> bytes;
  };
  // What no flush covered, in the order it was written; and the same, of which nothing is left on the platter.
  const std::vector<CachedWrite>& cached() const { return cache_; }
  void lose_cached() { cache_.clear(); }

 private:
  static constexpr uint64_t kPageBytes = 4096;
  using Page = std::array<std::byte, kPageBytes>;
  uint64_t bytes_;
  std::vector<std::shared_ptr<Page>> pages_;  // nullptr: never written
  std::vector<CachedWrite> cache_;            // in order
};

struct DriveFaults {
  uint64_t seed = 0;  // not 0: completions come in random order, a few a poll
  // The nth request of a kind from now on (1: the next) fails with this errno, and all after it if `for_ever`.
  uint64_t fail_read = 0, fail_write = 0, fail_flush = 0, fail_discard = 0;
  int error = 5;
  bool for_ever = false;
  bool hold = false;                 // nothing completes until it is taken back
  uint64_t a_poll = 0;               // so many complete in a poll, and behind() says of the others; 0: all
  std::vector<uint64_t> unreadable;  // a read that touches one of these offsets fails with EIO
  uint64_t unwritable_from = 0, unwritable_to = 0;  // … and a write that begins in between
};

class MemoryDrive final : public Drive {
 public:
  explicit MemoryDrive(std::shared_ptr<Platter> platter, bool volatile_cache = true, bool read_only = false);
  ~MemoryDrive() override;

  DriveFaults faults;
  // How a test remembers a drive that it gave to a store: empty once the store has let it go. It keeps nothing alive.
  std::weak_ptr<MemoryDrive> watch() const { return alive_; }

  void poll() override;
  void wait(int timeout_ms) override;
  int event_fd() const override { return -1; }
  uint32_t in_flight() const override { return static_cast<uint32_t>(queue_.size()); }
  bool behind() const override { return faults.a_poll > 0 && !queue_.empty(); }

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

  std::shared_ptr<Platter> platter_;
  std::deque<IoRequest*> queue_;
  std::mt19937_64 random_;
  bool dead_ = false;
  const std::shared_ptr<MemoryDrive> alive_{this, [](MemoryDrive*) {}};
};

}  // namespace cairn
