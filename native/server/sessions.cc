// Who is let in, how a link ends, and what goes with it.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/entropy.h"
#include "server/reactor.h"
#include "server/remove_task.h"

namespace cairn {

namespace {

constexpr uint64_t kLookEveryNs = 250'000'000;
// How long a link that nothing moves on keeps the memory that its next large block would be glad of.
constexpr uint64_t kTrimNs = 1'000'000'000;
// How long a peer that was refused has to read why and hang up, and how many may be at it at a time: what such a link
// holds is little, but it is somebody's who did wrong.
constexpr uint64_t kLeaveNs = 1'000'000'000;
constexpr size_t kLeavingMost = 64;
// Names of tenants that have nothing here: how many are kept at the most, and for how long; and how many of all names
// are looked at in one look.
constexpr size_t kIdleNamesMost = 1024;
constexpr uint64_t kIdleNameNs = 600'000'000'000;
constexpr int kSweptAtOnce = 64;
static_assert(kLeaveNs >= kLookEveryNs, "a peer that was refused has less time than a look takes to come round");

// FNV-1a of the name; numbers of sessions stay far below the bit that tells the two apart.
uint64_t holder_of(const Session& session) {
  CAIRN_CHECK(session.id < uint64_t{1} << 63, "the number of a session looks like that of a name");
  if (session.name.empty()) return session.id;
  uint64_t hash = 0xCBF29CE484222325;
  for (const char letter : session.name) hash = (hash ^ static_cast<uint8_t>(letter)) * 0x100000001B3;
  return hash | uint64_t{1} << 63;
}

}  // namespace

void Reactor::refuse(LinkState& state, Status status, std::string_view reason) {
  if (state.session == nullptr) {
    ++counters_.sessions_refused;
  } else if (status != Status::timeout) {
    ++counters_.protocol_errors;
    ++state.session->share->did.protocol_errors;
  }
  if (status != Status::draining) complaints_.add(state.link->peer(), status, reason);
  send_off(state, status, reason);
}

void Reactor::on_violation(ServerLink& link, Status status, std::string_view reason) {
  CAIRN_CHECK(status != Status::ok && status != Status::disconnected, "a rule is broken although all is well");
  LinkState& state = links_.at(link.number);
  CAIRN_CHECK(state.link.get() == &link, "a rule is broken under the number of another link");
  CAIRN_CHECK(!state.dead, "a link that was closed breaks a rule");
  ++counters_.protocol_errors;
  if (state.session != nullptr) ++state.session->share->did.protocol_errors;
  complaints_.add(link.peer(), status, reason);
  send_off(state, status, reason);
}

void Reactor::send_off(LinkState& state, Status status, std::string_view reason) {
  if (state.dead) return;
  CAIRN_CHECK(!state.leaving, "a link is sent off twice");
  let_go(state);
  state.link->hold(false);  // what comes is thrown away
  end_half_open(state);     // who was refused and is on its way out holds no place
  state.leaving = true;
  state.left_ns = clock_.now_ns();
  leaving_.push_back(state.link->number);
  touch(*state.link);
  const SessionTag tag = state.session == nullptr ? SessionTag{} : state.session->tag;
  state.link->leave(build_reason(FrameType::refuse, 0, tag, status, reason));
}

// Who was told and does not go is hung up on: after a while, or when too many others wait to be.
void Reactor::hasten_leaving() {
  const uint64_t now = clock_.now_ns();
  while (!leaving_.empty()) {
    LinkState& state = links_.at(leaving_.front());
    CAIRN_CHECK(state.leaving, "a link that was not refused is to be hung up on");
    if (!state.dead && leaving_.size() <= kLeavingMost && now - state.left_ns < kLeaveNs) return;
    hang_up(state);
    leaving_.pop_front();
  }
}

void Reactor::hang_up(LinkState& state) {
  if (state.dead) return;
  state.dead = true;
  any_dead_ = true;
  state.link->close();
}

Session* Reactor::find_session(const SessionTag& tag) {
  for (const auto& [id, session] : sessions_) {
    if (session->tag == tag) return session.get();
  }
  return nullptr;
}

std::string Reactor::no_room_for_connection(const std::string& host) const {
  if (peers_.may_come(host)) return {};
  return "this address has as many connections without a session as one may: " +
         std::to_string(peers_.sessions_most()) + " (sessions_per_peer_most)";
}

std::string Reactor::why_not(const std::string& peer, const std::string& host) {
  std::string reason = no_room_for_connection(host);
  if (reason.empty()) return reason;
  ++counters_.sessions_refused;
  complaints_.add(peer, Status::busy, reason);
  return reason;
}

std::string Reactor::no_room_for(const LinkState& state, uint32_t tenant) const {
  if (!peers_.may_open(state.link->host())) {
    return "this address has as many sessions as one may: " + std::to_string(peers_.sessions_most()) +
           " (sessions_per_peer_most)";
  }
  if (shares_.may_join(tenant)) return {};
  return "the tenant has as many sessions as it may: " + std::to_string(shares_.sessions_most(tenant)) +
         (shares_.has_own_limit(tenant) ? " (sessions, in the setting tenant)" : " (sessions_per_tenant_most)");
}

// The connection has become part of a session, or is over.
void Reactor::end_half_open(LinkState& state) {
  if (!state.half_open) return;
  state.half_open = false;
  peers_.heard(state.link->host());
}

Session* Reactor::open_session(const LinkState& state, const HelloView& hello, uint32_t tenant) {
  CAIRN_CHECK(sessions_.size() < options_.sessions_most, "more sessions are opened than the service takes");
  auto session = std::make_unique<Session>();
  session->id = next_session_++;
  fill_entropy(std::as_writable_bytes(std::span(session->tag)));
  CAIRN_CHECK(session->tag != SessionTag{}, "a session has the tag that stands for none");
  session->tenant = hello.tenant;
  session->name = hello.name;
  session->host = state.link->host();
  session->tenant_id = tenant;
  session->holder = holder_of(*session);
  shares_.join(*session, tenant);
  peers_.opened(session->host);
  Session* opened = session.get();
  const bool fresh = sessions_.emplace(opened->id, std::move(session)).second;
  CAIRN_CHECK(fresh, "two sessions have one number");
  ++counters_.sessions_opened;
  ++opened->share->did.sessions_opened;
  return opened;
}

void Reactor::say_hello(LinkState& state, const FrameHeader& header, ConstByteSpan body) {
  CAIRN_CHECK(state.session == nullptr, "a link that belongs to a session says hello");
  HelloView hello;
  if (header.type != FrameType::hello) return refuse(state, Status::invalid, "the first frame is not a hello");
  if (const char* wrong = decode_hello(body, hello)) return refuse(state, Status::invalid, wrong);
  if (hello.fixed.version_least > kProtocolVersion || hello.fixed.version_most < kProtocolVersion) {
    return refuse(state, Status::bad_version, "this service speaks version 1 of the protocol only");
  }
  if (draining_) return refuse(state, Status::draining, "the service is shutting down");
  if ((state.link->features() & kFeatureRings & ~hello.fixed.features) != 0) {
    return refuse(
        state, Status::bad_version,
        "over shm this service speaks through rings in shared memory, which this client does not know; upgrade it");
  }
  Session* session = nullptr;
  if (hello.fixed.join == SessionTag{}) {
    if (sessions_.size() >= options_.sessions_most)
      return refuse(state, Status::busy,
                    "the service has as many sessions as it takes: " + std::to_string(options_.sessions_most) +
                        " (sessions_most)");
    if (!state.link->belongs_to(hello.tenant))
      return refuse(state, Status::denied, "the connection was made for another tenant");
    const TenantNames::Found tenant = names_.find(hello.tenant);
    if (tenant.status != Status::ok) return refuse(state, tenant.status, tenant.reason);
    if (const std::string no_room = no_room_for(state, tenant.number); !no_room.empty()) {
      if (!shares_.all().contains(tenant.number)) forget_tenant(tenant.number);
      return refuse(state, Status::busy, no_room);
    }
    if (auto ready = state.link->prepare(); !ready) return refuse(state, Status::busy, ready.error().message);
    session = open_session(state, hello, tenant.number);
  } else {
    session = find_session(hello.fixed.join);
    if (session == nullptr) return refuse(state, Status::denied, "the session to join does not exist");
    if (session->tenant != hello.tenant || !state.link->belongs_to(hello.tenant))
      return refuse(state, Status::denied, "the session to join belongs to another tenant");
    if (session->lanes.size() >= kSessionLanesMost)
      return refuse(state, Status::too_large, "the session has as many lanes as it may");
    CAIRN_CHECK(!session->lanes.empty(), "a session without lanes is still there");
    if (auto ready = state.link->prepare(); !ready) return refuse(state, Status::busy, ready.error().message);
  }
  work_.forget(state);  // it is the tenant's from now on
  session->lanes.push_back(state.link.get());
  CAIRN_CHECK(session->lanes.size() <= kSessionLanesMost, "a session has more lanes than it may");
  CAIRN_CHECK(session->share != nullptr, "a session belongs to no tenant");
  state.session = session;
  end_half_open(state);
  welcome(state, *session);
}

void Reactor::welcome(LinkState& state, Session& session) {
  WelcomeBody body;
  body.lanes_most = kSessionLanesMost;
  body.features = state.link->features();
  body.server_id = server_id_;
  body.session_id = session.id;
  body.block_bytes_most = store_.block_bytes_most();
  body.window_bytes = options_.session_window_bytes;
  body.credits = options_.credits;
  body.batch_items_most = kBatchItemsMost;
  body.body_bytes_most = kBodyBytesMost;
  body.deadline_ms_most = kDeadlineMsMost;
  FrameBuilder frame(FrameType::welcome, 0, sizeof(body));
  frame.header().tag = session.tag;
  frame.append(body);
  state.link->send_welcome(frame.finish());
  state.link->set_tag(session.tag);
  touch(*state.link);  // from here on it may be one that is polled
}

void Reactor::on_closed(ServerLink& link, Status status, std::string_view reason) {
  CAIRN_CHECK(status != Status::ok, "a link breaks although all is well");
  LinkState& state = links_.at(link.number);
  CAIRN_CHECK(state.link.get() == &link, "a link breaks under the number of another");
  if (status != Status::disconnected && !state.leaving) {
    ++counters_.protocol_errors;
    if (state.session != nullptr) ++state.session->share->did.protocol_errors;
    complaints_.add(link.peer(), status, reason);
  }
  state.dead = true;
  any_dead_ = true;
}

void Reactor::on_payload_sent(ServerLink& link, uint64_t bytes) {
  CAIRN_CHECK(bytes > 0, "payload without bytes was sent");
  counters_.sent_bytes += bytes;
  Session* session = links_.at(link.number).session;
  CAIRN_CHECK(session != nullptr, "payload was sent to a link without a session");
  session->share->did.sent_bytes += bytes;
  shares_.give_back(*session, bytes);
}

void Reactor::check_links() {
  const uint64_t now = clock_.now_ns();
  next_look_ns_ = now + kLookEveryNs;
  forget_idle();
  sweep_names();
  const auto older = [now](uint64_t since_ns, uint64_t limit_ms) { return now - since_ns > limit_ms * 1'000'000; };
  for (auto& [number, state] : links_) {
    if (state.dead || state.leaving) continue;
    const Dues dues = state.link->dues();
    bool stuck = false;
    for (size_t i = 0; i < kDueKinds; ++i) {
      DueState& seen = state.dues[i];
      if (dues[i].done != seen.done || !dues[i].open) seen.since_ns = now;
      seen.done = dues[i].done;
      stuck = stuck || older(seen.since_ns, options_.stall_timeout_ms);
    }
    if (!state.awake && !state.trimmed && now - state.active_ns > kTrimNs) {
      state.trimmed = true;
      state.link->trim();
    }
    if (state.session == nullptr && older(state.opened_ns, options_.handshake_timeout_ms)) {
      refuse(state, Status::timeout, "no hello came in time");
    } else if (stuck) {
      ++counters_.timeouts;
      complaints_.add(state.link->peer(), Status::timeout, "nothing of what is under way has moved for too long");
      hang_up(state);
    } else if (options_.idle_timeout_ms > 0 && state.session != nullptr && state.session->requests.empty() &&
               watches_.of_session(*state.session) == 0 && older(state.last_frame_ns, options_.idle_timeout_ms)) {
      refuse(state, Status::timeout, "the session was idle for too long");
    }
  }
}

void Reactor::bury_dead() {
  any_dead_ = false;
  for (auto at = links_.begin(); at != links_.end();) {
    if (!at->second.dead) {
      ++at;
      continue;
    }
    bury(at->second);
    at = links_.erase(at);
  }
}

// --- names of tenants ----------------------------------------------------------------------------------------

bool Reactor::forget_tenant(uint32_t number) {
  if (names_.configured(number)) return false;
  const auto share = shares_.all().find(number);
  if (share != shares_.all().end() && (share->second.sessions > 0 || share->second.deletes > 0)) return false;
  if (!store_.forget_tenant(number)) return false;
  // Nobody has a million events a second for as long as the service runs: no number that it had is larger.
  if (!events_.forget(number, (clock_.now_ns() - started_ns_) / 1000)) return false;
  const bool gone = shares_.forget(number);
  CAIRN_CHECK(gone, "a tenant is forgotten that has something on its way");
  names_.forget(number);
  texts_.erase(number);
  ++counters_.names_expired;
  return true;
}

void Reactor::forget_idle() {
  while (!idle_.empty()) {
    const auto [since_ns, number] = idle_.front();
    if (idle_.size() <= kIdleNamesMost && clock_.now_ns() - since_ns < kIdleNameNs) break;
    idle_.pop_front();
    const auto share = shares_.all().find(number);
    // Who came back meanwhile is in here once more, or has a session.
    if (share != shares_.all().end() && share->second.idle_since_ns == since_ns) forget_tenant(number);
  }
}

// Those that had something when their last session ended, and have not any more; and those that were met on drives
// only.
void Reactor::sweep_names() {
  for (int i = 0; i < kSweptAtOnce; ++i) {
    const auto share = shares_.all().lower_bound(swept_);
    const uint32_t next = std::min({share == shares_.all().end() ? UINT32_MAX : share->first, names_.next_seen(swept_),
                                    store_.next_tenant(swept_)});
    if (next == UINT32_MAX) {
      swept_ = 0;
      return;
    }
    swept_ = next + 1;
    const auto known = shares_.all().find(next);
    const uint64_t since_ns = known == shares_.all().end() ? started_ns_ : known->second.idle_since_ns;
    if (clock_.now_ns() - since_ns >= kIdleNameNs) forget_tenant(next);
  }
}

// The last lane went, and everything of the session with it.
void Reactor::bury(Session& session) {
  CAIRN_CHECK(session.requests.empty(), "a session ends with requests open");
  CAIRN_CHECK(session.queue.empty(), "a session ends with requests that wait to be started");
  CAIRN_CHECK(session.items_open == 0, "a session ends with items open");
  CAIRN_CHECK(watches_.of_session(session) == 0, "a session ends with watches open");
  Share& share = *session.share;
  shares_.leave(session);
  if (share.sessions == 0) {
    share.idle_since_ns = clock_.now_ns();
    idle_.emplace_back(share.idle_since_ns, share.number);
    forget_idle();
  }
  peers_.closed(session.host);
  const size_t gone = sessions_.erase(session.id);
  CAIRN_CHECK(gone == 1, "a session ends that is not known");
}

void Reactor::let_go(LinkState& state) {
  ServerLink* link = state.link.get();
  CAIRN_CHECK(link != nullptr, "a link that is gone is let go of");
  if (Session* session = state.session) {
    std::vector<Request*> orphans;
    for (const auto& [id, request] : session->requests) {
      if (request->link == link) orphans.push_back(request.get());
    }
    for (Request* request : orphans) {
      abandon_all(*request, Status::disconnected);
      request->ready.clear();
      finish(*request);
    }
    for (Watch* watch : watches_.of_link(*session, link)) watches_.remove(*watch);
    if (session->share->deletes_waiting.holds(state)) session->share->deletes_waiting.remove(state);
  }
  work_.forget(state);
  state.unfinished.reset();
  if (std::exchange(state.paused, false)) std::erase(paused_, &state);
  for (const auto& [number, task] : removes_) task->forget(link);
}

void Reactor::bury(LinkState& state) {
  CAIRN_CHECK(state.dead, "a link that lives is buried");
  ServerLink* link = state.link.get();
  let_go(state);
  end_half_open(state);
  output_bytes_ -= std::exchange(state.queued_bytes, 0);
  if (state.leaving) std::erase(leaving_, link->number);
  if (Session* session = state.session) {
    const size_t lanes = std::erase(session->lanes, link);
    CAIRN_CHECK(lanes == 1, "a link is not once among the lanes of its session");
    if (session->lanes.empty()) bury(*session);
  }
  std::erase(unwatched_, link);
  std::erase(touched_, link);
  std::erase(awake_, link);
}

}  // namespace cairn
