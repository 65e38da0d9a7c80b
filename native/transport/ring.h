// A byte ring in memory that two processes share: one writes, the other reads. docs/wire-format.md has the layout.
//
// Nothing in that memory is trusted: an index of the other side is read once and checked, and bytes are copied out
// before anybody looks at what they mean. A peer that writes nonsense ends its own link.
//
// An end belongs to one thread at a time, as links do.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.h"
#include "transport/channel.h"

namespace cairn {

// Of one ring. What a side writes lies on cache lines of its own; the flag of one side is taken back by the other.
struct RingControl {
  uint64_t produced = 0;         // bytes written since the beginning
  uint64_t origin = 0;           // the byte that lies at the beginning of the ring: the others follow, round and round
  uint32_t producer_asleep = 0;  // 1: ring the bell when half of the ring is free
  uint32_t reserved_1 = 0;
  uint64_t reserved_2[13] = {};
  uint64_t consumed = 0;         // bytes read since the beginning
  uint32_t consumer_asleep = 0;  // 1: ring the bell when there is a byte
  uint32_t reserved_3 = 0;
  uint64_t reserved_4[14] = {};
};
static_assert(sizeof(RingControl) == 256 && offsetof(RingControl, produced) == 0 &&
              offsetof(RingControl, origin) == 8 && offsetof(RingControl, producer_asleep) == 16 &&
              offsetof(RingControl, consumed) == 128 && offsetof(RingControl, consumer_asleep) == 136);

// What may lie unread with a peer that has not read anything yet.
inline constexpr uint64_t kRingWindowLeast = 128 * 1024;

// At most so many bytes are copied before the other side learns of them.
inline constexpr uint64_t kRingPieceBytes = 32 * 1024;

// What of a ring is known to have memory. A page is had when it is first used, by a call that can fail: to touch one
// that the system cannot give would kill the process.
class RingPages {
 public:
  RingPages(std::byte* base, uint64_t bytes);
  bool have(uint64_t end);  // false: the system has no memory for the bytes before `end`
  void give_back();         // but for the first few: nobody reads what is there, or will

 private:
  std::byte* base_;
  uint64_t bytes_;
  uint64_t had_ = 0;
};

// Wakes the other side.
class RingBell {
 public:
  virtual void ring() = 0;

 protected:
  ~RingBell() = default;
};

class RingProducer {
 public:
  // `bytes` is a power of two, and all of it is mapped. Memory and bell outlive the producer. The bell is rung once for
  // each time that the other side went to sleep.
  RingProducer(RingControl& control, std::byte* base, uint64_t bytes, RingBell& bell);

  // Copies what there is room for. Bytes, 0 when the ring is full; or -EPROTO: the other side's index is impossible;
  // -ENOMEM: there is no memory for the ring.
  long push(std::span<const iovec> from);
  // Gives memory back, if all was read.
  void trim();
  // Before this side sleeps with bytes left over. False: there is room.
  bool sleep();
  void wake();

 private:
  bool look();  // false: impossible
  void publish();
  uint64_t room() const { return window_ - (produced_ - consumed_); }

  RingControl& control_;
  std::byte* base_;
  uint64_t bytes_;
  RingBell& bell_;
  RingPages pages_;
  uint64_t produced_ = 0, published_ = 0, origin_ = 0;
  uint64_t consumed_ = 0;  // at the last look
  // How much may lie unread. It grows to the whole ring with a peer that reads: one that never does costs no more.
  uint64_t window_;
  bool full_ = false;
  bool asleep_ = false;
};

class RingConsumer {
 public:
  RingConsumer(RingControl& control, std::byte* base, uint64_t bytes, RingBell& bell);

  // Copies what has arrived; `witness` sees it on the way. Bytes, 0 when the ring is empty; or an error as of push().
  long pull(std::span<const iovec> into, ByteWitness* witness);
  // Before this side sleeps. False: something arrived.
  bool sleep();
  void wake();

 private:
  bool look();
  void publish();

  RingControl& control_;
  std::byte* base_;
  uint64_t bytes_;
  RingBell& bell_;
  RingPages pages_;
  uint64_t consumed_ = 0, published_ = 0;
  uint64_t produced_ = 0, origin_ = 0;  // at the last look
  bool asleep_ = false;
};

}  // namespace cairn
