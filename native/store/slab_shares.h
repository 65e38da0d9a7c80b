// Who gets memory of the slab next. Memory that the read cache would give up counts as free; what a tenant holds is
// what is on its way for it, from the moment it is taken until the drive has it or the client has taken it in.
//
// The rule: one that is alone may hold half of the slab, and one among others a quarter of what it leaves free. So each
// that comes has a fifth of what is free at once, whatever others hold: n that take all they get and let go of nothing
// leave half of the slab times 0.8 for each but the first.
//
// What is larger than that waits until others let go. So that it does not wait for ever behind smaller ones, the tenant
// that holds nothing and has waited longest is let in ahead of the rule, and others leave it room meanwhile, unless
// they hold little. One reactor thread; nothing is allocated.
#pragma once

#include <cstdint>

#include "base/ring.h"
#include "base/slab.h"

namespace cairn {

class GetOp;
class PutOp;
struct MemoryLine;

// An operation that waits for memory; it is one of the two.
struct MemoryWaiter {
  RingLink<MemoryWaiter> link;
  MemoryLine* line = nullptr;  // nullptr: it does not wait
  GetOp* get = nullptr;
  PutOp* put = nullptr;
  uint64_t bytes = 0;
  uint64_t number = 0;  // in the order in which they began to wait
};

// What one tenant holds, and who of it waits: first come, first served.
struct MemoryLine {
  SlabAccount account;
  RingLink<MemoryLine> link;
  Ring<MemoryWaiter, &MemoryWaiter::link> waiting;
};

class SlabShares {
 public:
  explicit SlabShares(const Slab& slab) : slab_(slab) {}

  // Whether the tenant may hold so much more now.
  bool may_hold(const MemoryLine& line, uint64_t bytes) const;
  void wait(MemoryLine& line, MemoryWaiter& waiter, uint64_t bytes);
  // Back to the head of its line, with what it needs now.
  void wait_again(MemoryLine& line, MemoryWaiter& waiter, uint64_t bytes);
  void leave(MemoryWaiter& waiter);
  // Who may be served now; it leaves the line. nullptr: nobody. Tenants take turns.
  MemoryWaiter* next();
  // Before a round of next(): who has waited longest.
  void look_for_elder();

  bool empty() const { return lines_.empty(); }

 private:
  void join(MemoryLine& line, MemoryWaiter& waiter, uint64_t bytes);

  const Slab& slab_;
  Ring<MemoryLine, &MemoryLine::link> lines_;  // that somebody waits in
  const MemoryLine* elder_ = nullptr;
  uint64_t next_number_ = 1;
};

}  // namespace cairn
