// The reactor: one thread that owns its sessions, their requests and the store. Frames in, store calls,
// frames out. It never blocks but in its wait set, and never takes a lock.
#pragma once

#include <sys/epoll.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/histogram.h"
#include "base/json.h"
#include "server/complaints.h"
#include "server/event_log.h"
#include "server/peers.h"
#include "server/session.h"
#include "server/shares.h"
#include "server/tenant_names.h"
#include "server/watches.h"
#include "server/work.h"
#include "store/store.h"
#include "transport/transport.h"

namespace cairn {

struct ReactorOptions {
  uint32_t credits = kCreditsDefault;
  uint64_t session_window_bytes = 64 * kMiB;
  uint64_t shared_window_bytes = 64 * kMiB;  // payload on its way for all tenants together, while there are several
  uint64_t tenant_window_bytes = 0;          // … and for one that has no limit of its own; 0: none
  uint32_t sessions_most = 1024;
  // Of one tenant that has no limit of its own, and of one address that clients come from; 0: three quarters of all, so
  // that nobody locks the others out.
  uint32_t sessions_per_tenant_most = 0;
  uint32_t sessions_per_peer_most = 0;
  uint64_t idle_timeout_ms = 0;  // 0: idle sessions stay
  uint64_t stall_timeout_ms = 30'000;
  uint64_t handshake_timeout_ms = 5'000;
  bool accept_unknown_tenants = true;
};

inline constexpr std::array kOperations = {FrameType::put,   FrameType::get,     FrameType::exists,   FrameType::match,
                                           FrameType::touch, FrameType::remove,  FrameType::prefetch, FrameType::stats,
                                           FrameType::lease, FrameType::release, FrameType::watch};
static_assert(kOperations.size() == TenantActivity::kKinds, "a tenant's operations are counted under others' names");

struct OperationCounters {
  uint64_t requests = 0;
  uint64_t items = 0;
  Histogram latency_us;
};

struct ReactorCounters {
  uint64_t sessions_opened = 0, sessions_refused = 0, protocol_errors = 0;
  uint64_t requests = 0, timeouts = 0, cancelled = 0;
  uint64_t received_bytes = 0, sent_bytes = 0;  // payload
  uint64_t links_paused = 0;                    // times that a link was not heard for what its peer did not take in
  uint64_t names_expired = 0;                   // of tenants that had nothing here any more
  uint64_t requests_refused = 0;                // for the memory that those before them take
  std::array<OperationCounters, kOperations.size()> operations;
};

class Reactor final : private ServerLinkHandler,
                      private AcceptFilter,
                      private ItemSink,
                      private Shares::Starter,
                      private Work::Ear {
 public:
  // All references outlive the reactor.
  Reactor(Store& store, TurnClock& clock, const ReactorOptions& options);
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  void add_listener(std::unique_ptr<Listener> listener);
  void adopt(std::unique_ptr<ServerLink> link);  // a connection from elsewhere (tests, simulator)
  // Takes the events of the store's drives into the wait set: after a drive came.
  void watch_drives();
  // Replaces the tenants' names and limits, here and in the store. Sessions that are open keep their tenant's number.
  // An Error (invalid), and nothing is changed, when the names or numbers do not go together.
  Result<Unit> set_tenants(const std::vector<TenantOptions>& tenants);
  void set_drives_absent(uint64_t count) { drives_absent_ = count; }  // for the statistics

  // One turn: waits up to timeout_ms for something to do, then does it.
  void turn(int timeout_ms);
  // Makes a running turn() return early. Any thread.
  void wake();

  void drain();           // from now on new requests are refused and nobody new is let in
  bool quiet() const;     // no request is open
  void close_sessions();  // hangs up on everybody

  // One JSON object: docs/metrics.md.
  std::string stats_json() const;
  const Shares& shares() const { return shares_; }
  uint64_t output_bytes() const { return output_bytes_; }  // of frames that wait to be sent, at the last look
  Complaints& complaints() { return complaints_; }

 private:
  // ServerLinkHandler
  void on_frame(ServerLink& link, const FrameHeader& header, ConstByteSpan body) override;
  void on_violation(ServerLink& link, Status status, std::string_view reason) override;
  void on_payload_sent(ServerLink& link, uint64_t bytes) override;
  void on_closed(ServerLink& link, Status status, std::string_view reason) override;
  // AcceptFilter
  std::string why_not(const std::string& peer, const std::string& host) override;
  // ItemSink
  void item_settled(Request& request, uint32_t index) override;
  void link_used(Request& request) override;
  // Shares::Starter
  uint64_t next_bytes(Session& session) override;
  void start_next(Session& session, uint64_t bytes) override;
  // Work::Ear
  void hear(LinkState& state) override;

  void accept_from(Listener& listener);
  void watch(LinkState& state);
  std::string no_room_for_connection(const std::string& host) const;
  void say_hello(LinkState& state, const FrameHeader& header, ConstByteSpan body);
  Session* find_session(const SessionTag& tag);
  // A sentence, or nothing: one session more may be opened.
  std::string no_room_for(const LinkState& state, uint32_t tenant) const;
  Session* open_session(const LinkState& state, const HelloView& hello, uint32_t tenant);
  void end_half_open(LinkState& state);
  void welcome(LinkState& state, Session& session);
  // Ends the link, and tells its peer why. Requests that came by it are dropped at once; what is queued goes out
  // before, for a moment and no longer.
  void refuse(LinkState& state, Status status, std::string_view reason);
  void send_off(LinkState& state, Status status, std::string_view reason);
  void hasten_leaving();
  void hang_up(LinkState& state);

  void dispatch(LinkState& state, const FrameHeader& header, ConstByteSpan body);
  // Before it is heard on: whether it is to be held, and for what.
  void hold_back(LinkState& state);
  // Whether what it says could be heard, when it is its turn.
  static bool may_speak(const LinkState& state);
  void note_output(LinkState& state);
  uint64_t output_most() const;  // that may wait in one link
  void resume_paused();
  void go_on(LinkState& state);
  Status answer_key(FrameType type, const BlockId& id, uint64_t holder, uint64_t duration_ms);
  // As many of the keys as the link may have looked up now; the rest when it is heard next.
  void answer_keys(LinkState& state, Unfinished& asked);
  void answer_text(LinkState& state, const FrameHeader& header);
  void begin_remove(LinkState& state, Unfinished& asked);
  // Whether the session may have one request more under this number; it is refused if not.
  bool may_open(LinkState& state, const FrameHeader& header);
  void begin_request(LinkState& state, const FrameHeader& header, BatchView batch);
  void cancel_request(LinkState& state, const FrameHeader& header);
  void fail_request(ServerLink& link, uint64_t request_id, const SessionTag& tag, Status status,
                    std::string_view reason);
  void write_tenants(JsonWriter& json, const StoreStats& store) const;
  static uint64_t deadline_ms_of(const FrameHeader& header);
  void begin_watch(LinkState& state, const FrameHeader& header, ConstByteSpan body);
  void answer_watches();
  void answer_watch(Watch& watch);
  void fail_watches(Status status, std::string_view reason);
  void abandon_all(Request& request, Status status);
  void send_ready();
  void finish(Request& request);
  void count(Share& share, FrameType type, uint64_t items, uint64_t started_ns);
  const std::string& stats_text(LinkState& state);
  std::string tenant_stats_json(uint32_t tenant) const;
  // Names of tenants that have nothing here any more are let go: after a while, or when there are many.
  bool forget_tenant(uint32_t number);
  void forget_idle();
  void sweep_names();

  void heed(uint64_t number, uint32_t events);
  void expire_requests();
  void check_links();
  void let_go(LinkState& state);
  void bury_dead();
  void bury(LinkState& state);
  void bury(Session& session);
  void touch(ServerLink& link);
  void settle_touched();
  int sleep_ms(int timeout_ms) const;
  bool poll_listeners();
  bool poll_links();
  bool may_sleep();

  Store& store_;
  TurnClock& clock_;
  ReactorOptions options_;
  std::array<uint8_t, 16> server_id_{};
  uint64_t started_ns_;
  int epoll_ = -1;
  int wake_ = -1;
  bool draining_ = false;
  uint64_t drives_absent_ = 0;
  uint64_t next_session_ = 1;
  uint64_t next_number_ = kNumberFirst;  // of links, listeners, requests and deletes
  uint64_t next_look_ns_ = 0;
  uint64_t spin_ns_;
  uint64_t busy_ns_ = 0;   // when something happened last, where it spins
  uint32_t unlooked_ = 0;  // turns since the last look at the wait set

  // What the wait set names: these two, and from the first number on links and listeners.
  static constexpr uint64_t kWakeEvent = 0, kDriveEvent = 1, kNumberFirst = 2;
  static_assert(kWakeEvent != kDriveEvent, "the wait set cannot tell a wake-up from a drive");
  static_assert(kWakeEvent < kNumberFirst && kDriveEvent < kNumberFirst, "a link has the number of another event");
  // Nothing here is ordered by an address, so that a simulation runs the same way every time.
  std::map<uint64_t, std::unique_ptr<Listener>> listeners_;  // gone after the links that they drive
  std::vector<Listener*> driving_;                           // of those, the ones that drive links
  std::unordered_map<uint64_t, LinkState> links_;
  std::unordered_map<uint64_t, std::unique_ptr<Session>> sessions_;
  std::map<std::pair<uint64_t, uint64_t>, Request*> deadlines_;  // by time and number
  std::vector<Request*> dirty_;
  class RemoveTask;
  std::map<uint64_t, std::unique_ptr<RemoveTask>> removes_;
  EventLog events_;
  Watches watches_;
  ReactorCounters counters_;
  Complaints complaints_;
  bool any_dead_ = false;
  std::array<epoll_event, 256> events_waiting_;  // of a look at the wait set: those that there was no time for are next
  size_t events_at_ = 0, events_count_ = 0;
  std::vector<LinkState*> paused_;
  uint64_t output_bytes_ = 0;           // that waits in all links, as far as was seen
  uint64_t request_bytes_ = 0;          // of memory that open requests take, apart from payload
  std::deque<uint64_t> leaving_;        // links that were refused and are not gone, the oldest first
  std::vector<ServerLink*> touched_;    // links to flush before the turn ends
  std::vector<ServerLink*> unwatched_;  // links that nobody drives: looked at every turn
  std::vector<ServerLink*> awake_;      // polled links that moved a moment ago
  TenantNames names_;
  std::deque<std::pair<uint64_t, uint32_t>> idle_;  // when the last session of which tenant ended
  uint32_t swept_ = 0;                              // the tenant that is looked at next
  struct Text {
    std::string text;
    uint64_t since_ns = 0;
    uint32_t made = 0;  // so often since then
  };
  std::map<uint32_t, Text> texts_;  // statistics that were told a moment ago
  Peers peers_;
  Shares shares_;
  Work work_{*this};
};

}  // namespace cairn
