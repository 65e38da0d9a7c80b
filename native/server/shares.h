// Who may start the next item, and how much may be on its way: tenants share by weight, the sessions of one tenant take
// turns. One reactor thread; no allocation for an item; the order depends on nothing but what was asked.
//
// Deficit round robin over the tenants that have something to start. A tenant that is alone starts what its windows
// allow. While there are several, all of them together have `shared_window_bytes` on their way, and whoever's turn it
// is starts the next item: what drives and network finish is shared by weight, whatever the size of blocks and the
// number of sessions. A tenant that uses less leaves the rest to the others. One whose clients or drives are slow
// counts for its share at most, so that it holds up nobody else.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "base/ring.h"
#include "server/session.h"
#include "store/tenants.h"

namespace cairn {

// What one tenant asked for since the start.
struct TenantActivity {
  static constexpr size_t kKinds = 11;  // of operations, in the order of kOperations
  struct Operation {
    uint64_t requests = 0, items = 0, max_us = 0;
  };
  uint64_t sessions_opened = 0, protocol_errors = 0, requests = 0, timeouts = 0, cancelled = 0;
  uint64_t received_bytes = 0, sent_bytes = 0;
  std::array<Operation, kKinds> operations;
};

// A tenant as the reactor knows it.
struct Share {
  uint32_t number = 0;
  uint64_t idle_since_ns = 0;  // when its last session ended
  TenantActivity did;
  uint64_t weight = 1;
  uint64_t window_bytes = 0;     // most payload on its way; 0: no limit of its own
  uint64_t in_flight_bytes = 0;  // payload on its way
  uint64_t started_bytes = 0;    // payload of everything that was ever started
  uint64_t sessions = 0;
  uint64_t request_bytes = 0;  // of memory that its open requests take, apart from payload
  uint64_t deletes = 0;        // on their way
  Ring<LinkState, &LinkState::delete_link> deletes_waiting;

  // For Work alone.
  RingLink<Share> work_link;
  Ring<LinkState, &LinkState::asking_link> asking;  // links with something to say
  int64_t work_left_ns = 0;                         // below 0: done ahead of its turn

  // For Shares alone.
  RingLink<Share> link;
  Ring<Session, &Session::ready_link> ready;  // sessions with something that may be started
  int64_t deficit_bytes = 0;                  // what it may still start in this round; below 0: started ahead of it
  bool in_turn = false;                       // it was given its part of this round
  bool parked = false;                        // its window is full
  bool present = false;
  uint64_t seen_ns = 0;
};

struct SharesOptions {
  uint64_t session_window_bytes = 0;
  uint64_t shared_window_bytes = 0;
  uint64_t tenant_window_bytes = 0;            // of a tenant without a window of its own; 0: none
  uint64_t turn_bytes = 1 << 20;               // what one run() starts, give or take a block of each tenant
  uint64_t tenant_sessions_most = UINT64_MAX;  // of a tenant without a limit of its own
};

class Shares {
 public:
  class Starter {
   public:
    // What the session's next item weighs; 0: it has none.
    virtual uint64_t next_bytes(Session& session) = 0;
    // Starts it. It may settle, and give back, before this returns.
    virtual void start_next(Session& session, uint64_t bytes) = 0;

   protected:
    ~Starter() = default;
  };

  Shares(Starter& starter, const SharesOptions& options) : starter_(starter), options_(options) {}

  // Replaces the tenants' weights and windows; a tenant that is not named has weight 1 and the default window.
  void configure(const std::vector<TenantOptions>& tenants);
  // How many sessions the tenant may have, and whether one more may join.
  uint64_t sessions_most(uint32_t tenant) const;
  bool may_join(uint32_t tenant) const;
  bool has_own_limit(uint32_t tenant) const;  // of sessions, in its configuration
  // Before anything else is done with the session, and after everything.
  void join(Session& session, uint32_t tenant);
  void leave(Session& session);
  // Lets go of a tenant without sessions. False: something is still on its way for it.
  bool forget(uint32_t tenant);

  // The session has something to start.
  void wake(Session& session, uint64_t now_ns);
  // One round, or as much of it as there is room for and a turn may start. To start a put may be to copy it, and what
  // was started before waits for the end of the turn on its way to its drive: so turns are short.
  void run(uint64_t now_ns);
  // Whether another run would start something although nothing was given back meanwhile.
  bool runnable() const { return runnable_; }
  // Payload that was on its way has come to its end; `bytes` were counted by run() or take().
  void give_back(Session& session, uint64_t bytes);
  void take(Session& session, uint64_t bytes);

  // In the order of their numbers.
  const std::map<uint32_t, Share>& all() const { return shares_; }

 private:
  enum class End : uint8_t { spent, idle, over, no_room };
  using Tenants = Ring<Share, &Share::link>;

  void watch_presence(uint64_t now_ns);
  void weigh();
  void give_part(Share& share) const;
  void run_round();
  End serve(Share& share);
  End look_for_room(const Share& share) const;
  void start(Share& share, Session& session, uint64_t bytes);
  bool may_start(Share& share, Session& session, uint64_t bytes);
  int64_t share_bytes(const Share& share) const;
  int64_t counted(const Share& share) const;
  bool over(const Share& share) const;
  void wake(Share& share);
  static void check(const Share& share, const Session& session);
  void check_start(const Share& share, const Session& session, uint64_t bytes) const;

  Starter& starter_;
  SharesOptions options_;
  std::map<uint32_t, Share> shares_;  // a map: shares keep their addresses
  std::map<uint32_t, TenantOptions> configured_;
  Tenants ring_;                 // tenants that may start something
  std::vector<Share*> present_;  // tenants that have something on its way, or had a moment ago
  bool contended_ = false;       // there are several of these
  bool runnable_ = false;
  // Of the present run.
  uint64_t weights_ = 1, weight_most_ = 1;
  int64_t counted_bytes_ = 0;  // of all in the ring
  uint64_t turn_started_bytes_ = 0;
};

}  // namespace cairn
