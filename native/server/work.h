// Who is heard next. What a frame asks for is charged to the link that it came by and to that link's tenant, by what
// doing it costs; who has had its part is heard again in a later turn, and what it says meanwhile stays in its link,
// unread. Deficit round robin over tenants by weight, and in each tenant over its links. All of it in one turn of the
// reactor is bounded, so a flood makes turns no longer.
//
// Costs are estimates in nanoseconds, the same wherever it runs: nobody looks at a clock. One reactor thread; nothing
// is allocated.
#pragma once

#include <cstdint>

#include "base/ring.h"
#include "server/session.h"
#include "server/shares.h"

namespace cairn {

class Work {
 public:
  static constexpr int64_t kTurnNs = 400'000;  // of all tenants in one turn, give or take one step of one link
  static constexpr int64_t kLinkNs = 50'000;   // of one link, before the next one of its tenant
  static constexpr int64_t kPartNs = 100'000;  // of the heaviest of several tenants, before the next one

  class Ear {
   public:
    // Has the link go on, until it has nothing more to say or is held.
    virtual void hear(LinkState& state) = 0;

   protected:
    ~Ear() = default;
  };
  explicit Work(Ear& ear) : ear_(ear) {}

  void begin_turn() {
    spent_ns_ = 0;
    ++turn_;
  }
  // The link has something to say. What belongs to no session yet counts for one tenant more, of weight 1.
  void wake(LinkState& state);
  // It has something to say no more, or is gone. Before its session changes, too.
  void forget(LinkState& state);
  // Something was done for it. Links that nobody has go on by themselves (rdma) are charged like the others.
  void charge(LinkState& state, int64_t cost_ns);
  // Whether it has had its part of the turn: to be held, and woken.
  bool spent(const LinkState& state) const;
  void run();
  bool any() const { return !ring_.empty(); }
  // Whether all that may be done in this turn is done.
  bool turn_over() const { return spent_ns_ >= kTurnNs; }
  uint64_t deferred() const { return deferred_; }  // times that a link was held for having had its part

 private:
  using Tenants = Ring<Share, &Share::work_link>;
  Share& share_of(LinkState& state);
  void serve(Share& share);

  Ear& ear_;
  Share strangers_;
  Tenants ring_;
  int64_t spent_ns_ = 0;
  uint64_t turn_ = 0;
  uint64_t weight_most_ = 1;
  uint64_t deferred_ = 0;
};

}  // namespace cairn
