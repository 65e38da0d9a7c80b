// The reactor: one thread that owns its sessions, their requests and the store. Frames in, store calls,
// frames out. It never blocks but in its wait set, and never takes a lock.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/histogram.h"
#include "server/event_log.h"
#include "server/session.h"
#include "server/watches.h"
#include "store/store.h"
#include "transport/transport.h"

namespace cairn {

struct ReactorOptions {
  uint32_t credits = kCreditsDefault;
  uint64_t session_window_bytes = 64 * kMiB;
  uint32_t sessions_most = 1024;
  uint64_t idle_timeout_ms = 0;  // 0: idle sessions stay
  uint64_t stall_timeout_ms = 30'000;
  uint64_t handshake_timeout_ms = 5'000;
};

inline constexpr std::array kOperations = {FrameType::put,   FrameType::get,     FrameType::exists,   FrameType::match,
                                           FrameType::touch, FrameType::remove,  FrameType::prefetch, FrameType::stats,
                                           FrameType::lease, FrameType::release, FrameType::watch};

struct OperationCounters {
  uint64_t requests = 0;
  uint64_t items = 0;
  Histogram latency_us;
};

struct ReactorCounters {
  uint64_t sessions_opened = 0, sessions_refused = 0, protocol_errors = 0;
  uint64_t requests = 0, timeouts = 0, cancelled = 0;
  uint64_t received_bytes = 0, sent_bytes = 0;  // payload
  std::array<OperationCounters, kOperations.size()> operations;
};

class Reactor final : private ServerLinkHandler, private ItemSink {
 public:
  // All references outlive the reactor.
  Reactor(Store& store, const Clock& clock, const ReactorOptions& options);
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  void add_listener(std::unique_ptr<Listener> listener);
  void adopt(std::unique_ptr<ServerLink> link);  // a connection from elsewhere (tests, simulator)

  // One turn: waits up to timeout_ms for something to do, then does it.
  void turn(int timeout_ms);
  // Makes a running turn() return early. Any thread.
  void wake();

  void drain();           // from now on new requests are refused and nobody new is let in
  bool quiet() const;     // no request is open
  void close_sessions();  // hangs up on everybody

  // One JSON object: docs/metrics.md.
  std::string stats_json() const;

 private:
  // ServerLinkHandler
  void on_frame(ServerLink& link, const FrameHeader& header, ConstByteSpan body) override;
  void on_payload_sent(ServerLink& link, uint64_t bytes) override;
  void on_closed(ServerLink& link, Status status, std::string_view reason) override;
  // ItemSink
  void item_settled(Request& request, uint32_t index) override;
  void link_used(Request& request) override;

  void accept_from(Listener& listener);
  void say_hello(LinkState& state, const FrameHeader& header, ConstByteSpan body);
  Session* find_session(const SessionTag& tag);
  Session* open_session(const HelloView& hello);
  void welcome(LinkState& state, Session& session);
  void refuse(LinkState& state, Status status, std::string_view reason);
  void hang_up(LinkState& state);

  void dispatch(LinkState& state, const FrameHeader& header, ConstByteSpan body);
  Status answer_key(FrameType type, const BlockId& id, uint64_t holder, uint64_t duration_ms);
  void answer_keys(LinkState& state, const FrameHeader& header, const BatchView& batch);
  void answer_text(LinkState& state, const FrameHeader& header);
  void answer_status(LinkState& state, const FrameHeader& header, Status status);
  void begin_remove(LinkState& state, const FrameHeader& header, const BatchView& batch);
  // Whether the session may have one request more under this number; it is refused if not.
  bool may_open(LinkState& state, const FrameHeader& header);
  void begin_request(LinkState& state, const FrameHeader& header, BatchView batch);
  void cancel_request(LinkState& state, const FrameHeader& header);
  void fail_request(ServerLink& link, uint64_t request_id, const SessionTag& tag, Status status,
                    std::string_view reason);
  static uint64_t deadline_ms_of(const FrameHeader& header);
  void begin_watch(LinkState& state, const FrameHeader& header, ConstByteSpan body);
  void answer_watches();
  void answer_watch(Watch& watch);
  void fail_watches(Status status, std::string_view reason);
  void run_queues();
  bool run_queue(Session& session, uint64_t quantum_bytes);
  void abandon_all(Request& request, Status status);
  void send_ready();
  void finish(Request& request);
  void count(FrameType type, uint64_t items, uint64_t started_ns);
  void release(Session& session, uint64_t bytes);

  void expire_requests();
  void check_links();
  void bury_dead();
  void touch(ServerLink& link);
  void settle_touched();
  int sleep_ms(int timeout_ms) const;

  Store& store_;
  const Clock& clock_;
  ReactorOptions options_;
  std::array<uint8_t, 16> server_id_{};
  uint64_t started_ns_;
  int epoll_ = -1;
  int wake_ = -1;
  bool draining_ = false;
  bool more_to_run_ = false;
  uint64_t next_session_ = 1;
  uint64_t next_look_ns_ = 0;
  uint64_t spin_ns_;
  uint64_t busy_ns_ = 0;

  std::vector<std::unique_ptr<Listener>> listeners_;
  std::unordered_map<ServerLink*, LinkState> links_;
  std::unordered_map<uint64_t, std::unique_ptr<Session>> sessions_;
  std::set<std::pair<uint64_t, Request*>> deadlines_;
  std::vector<Request*> dirty_;
  class RemoveTask;
  std::set<std::unique_ptr<RemoveTask>> removes_;
  EventLog events_;
  Watches watches_;
  ReactorCounters counters_;
  bool any_dead_ = false;
  std::vector<ServerLink*> touched_;    // links to flush before the turn ends
  std::vector<ServerLink*> unwatched_;  // links without a descriptor: looked at every turn
  std::vector<Session*> active_;        // sessions with items that were not started
};

}  // namespace cairn
