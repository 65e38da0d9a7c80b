// Turns, connections and sessions. What frames ask for is in dispatch.cc.
#include "server/reactor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "base/entropy.h"
#include "server/remove_task.h"

namespace cairn {

namespace {

constexpr int kWaitedMost = 256;
constexpr uint32_t kUnlookedMost = 8;
constexpr uint64_t kLookEveryNs = 250'000'000;
constexpr uint64_t kTimerGrainMs = 10;
// How long after its last event the reactor looks for the next without sleeping. On a single processor that
// would keep the client from running.
constexpr uint64_t kSpinNs = 50'000;
static_assert(kSpinNs < kTimerGrainMs * 1'000'000, "the reactor spins for longer than it would sleep");
static_assert(kTimerGrainMs * 1'000'000 < kLookEveryNs, "links are looked at more often than deadlines");

// FNV-1a of the name; numbers of sessions stay far below the bit that tells the two apart.
uint64_t holder_of(const Session& session) {
  CAIRN_CHECK(session.id < uint64_t{1} << 63, "the number of a session looks like that of a name");
  if (session.name.empty()) return session.id;
  uint64_t hash = 0xCBF29CE484222325;
  for (const char letter : session.name) hash = (hash ^ static_cast<uint8_t>(letter)) * 0x100000001B3;
  return hash | uint64_t{1} << 63;
}

}  // namespace

Reactor::Reactor(Store& store, TurnClock& clock, const ReactorOptions& options)
    : store_(store),
      clock_(clock),
      options_(options),
      started_ns_(clock.now_ns()),
      spin_ns_(std::thread::hardware_concurrency() > 1 ? kSpinNs : 0),
      names_(options.accept_unknown_tenants),
      shares_(*this, {options.session_window_bytes, options.shared_window_bytes, options.tenant_window_bytes}) {
  fill_entropy(std::as_writable_bytes(std::span(server_id_)));
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  CAIRN_CHECK(epoll_ >= 0, "the reactor has no wait set");
  CAIRN_CHECK(wake_ >= 0, "the reactor has no event to be woken by");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWakeEvent;
  const int added = epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event);
  CAIRN_CHECK(added == 0, "the wait set does not take its own event");
  watch_drives();
  store_.add_event_sink(events_);
}

void Reactor::watch_drives() {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;  // nobody reads a drive's event
  event.data.u64 = kDriveEvent;
  // A drive that went took its descriptor out of the wait set by closing it.
  for (const int fd : store_.event_fds()) {
    CAIRN_CHECK(fd >= 0, "a drive without an event is to be waited for");
    const int added = epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
    CAIRN_CHECK(added == 0 || errno == EEXIST, "the wait set does not take a drive's event");
  }
}

Result<Unit> Reactor::set_tenants(const std::vector<TenantOptions>& tenants) {
  if (auto named = names_.configure(tenants); !named) return named.error();
  shares_.configure(tenants);
  store_.set_tenants(tenants);
  return Unit{};
}

Reactor::~Reactor() {
  close_sessions();
  store_.remove_event_sink(events_);
  CAIRN_CHECK(removes_.empty(), "the reactor ended with deletes in flight");
  ::close(epoll_);
  ::close(wake_);
}

void Reactor::add_listener(std::unique_ptr<Listener> listener) {
  CAIRN_CHECK(listener != nullptr, "the reactor is given no listener");
  epoll_event event{};
  event.events = EPOLLIN;
  const uint64_t number = next_number_++;
  event.data.u64 = number;
  const int added = epoll_ctl(epoll_, EPOLL_CTL_ADD, listener->event_fd(), &event);
  CAIRN_CHECK(added == 0, "the wait set does not take a listener");
  if (listener->drives_links()) driving_.push_back(listener.get());
  listeners_.emplace(number, std::move(listener));
}

void Reactor::wake() {
  const uint64_t one = 1;
  // EAGAIN means that a wake-up is pending already.
  if (::write(wake_, &one, sizeof(one)) < 0)
    CAIRN_CHECK(errno == EAGAIN || errno == EINTR, "the wake-up event is broken");
}

void Reactor::adopt(std::unique_ptr<ServerLink> link) {
  CAIRN_CHECK(link != nullptr, "the reactor is given no link");
  ServerLink& adopted = *link;
  CAIRN_CHECK(adopted.number == 0, "a link is adopted twice");
  adopted.number = next_number_++;
  adopted.set_handler(this);
  LinkState& state = links_[adopted.number];
  CAIRN_CHECK(state.link == nullptr, "two links have one number");
  state.link = std::move(link);
  state.opened_ns = state.last_frame_ns = state.moved_ns = clock_.now_ns();
  if (adopted.driven()) return;
  if (adopted.event_fd() < 0) {
    unwatched_.push_back(&adopted);
    return;
  }
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = adopted.number;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, adopted.event_fd(), &event) != 0) hang_up(state);
}

void Reactor::accept_from(Listener& listener) {
  constexpr int kAcceptsATurn = 64;
  for (int i = 0; i < kAcceptsATurn; ++i) {
    auto link = listener.accept();
    if (link == nullptr) return;
    adopt(std::move(link));
  }
}

// How long a turn may sleep, given how long it was allowed to.
int Reactor::sleep_ms(int timeout_ms) const {
  if (shares_.runnable() || store_.behind() || !dirty_.empty() || !unwatched_.empty() || events_.any_fresh()) return 0;
  if (store_.hungry() || !store_.loaded()) timeout_ms = std::min(timeout_ms, 1);
  if (!deadlines_.empty()) timeout_ms = std::min<int>(timeout_ms, kTimerGrainMs);
  const uint64_t watch_ns = watches_.next_deadline_ns();
  if (watch_ns == UINT64_MAX) return timeout_ms;
  const uint64_t now_ns = clock_.now_ns();
  const uint64_t left_ms = watch_ns > now_ns ? (watch_ns - now_ns) / 1'000'000 + 1 : 0;
  return static_cast<int>(std::min<uint64_t>(left_ms, static_cast<uint64_t>(timeout_ms)));
}

void Reactor::heed(uint64_t number, bool readable, bool writable) {
  if (number == kDriveEvent) return;  // the store is polled in any case
  if (number == kWakeEvent) {
    uint64_t ignored = 0;
    if (::read(wake_, &ignored, sizeof(ignored)) < 0)
      CAIRN_CHECK(errno == EAGAIN || errno == EINTR, "the wake-up event is broken");
    return;
  }
  CAIRN_CHECK(number >= kNumberFirst, "an event of ours is taken for a link");
  CAIRN_CHECK(number < next_number_, "the wait set names a link that there never was");
  if (const auto listener = listeners_.find(number); listener != listeners_.end())
    return accept_from(*listener->second);
  const auto found = links_.find(number);
  if (found == links_.end() || found->second.dead) return;
  ServerLink& link = *found->second.link;
  CAIRN_CHECK(link.number == number, "a link is kept under another's number");
  touch(link);
  link.progress(readable, writable);
}

bool Reactor::poll_listeners() {
  bool any = false;
  for (Listener* listener : driving_) any = listener->poll() || any;
  return any;
}

// From here on events tell of everything; false when something came before that.
bool Reactor::may_sleep() {
  bool quiet = true;
  for (Listener* listener : driving_) quiet = listener->rest() && quiet;
  return quiet;
}

void Reactor::turn(int timeout_ms) {
  CAIRN_CHECK(timeout_ms >= 0, "a turn may sleep for ever, and with it every deadline");
  clock_.hold();
  timeout_ms = sleep_ms(timeout_ms);
  std::array<epoll_event, kWaitedMost> events;
  const bool moved = poll_listeners();
  // Who asked a moment ago most often asks again: looking a little longer is cheaper than sleeping and waking.
  const bool spun = spin_ns_ == 0 || clock_.now_ns() - busy_ns_ > spin_ns_;
  const bool sleeps = !moved && timeout_ms > 0 && spun && may_sleep();
  int count = 0;
  // A look at the wait set is a system call: who polls does without, for a few turns.
  if (!moved || ++unlooked_ >= kUnlookedMost) {
    unlooked_ = 0;
    count = epoll_wait(epoll_, events.data(), kWaitedMost, sleeps ? timeout_ms : 0);
  }
  if (sleeps) clock_.hold();
  if ((count > 0 || moved) && spin_ns_ > 0) busy_ns_ = clock_.now_ns();
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    heed(event.data.u64, (event.events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0, (event.events & EPOLLOUT) != 0);
  }
  for (ServerLink* link : unwatched_) {
    touch(*link);
    link->progress(true, true);
  }
  // What is started reaches the drives in the same turn, before what they finished is checked and sent.
  shares_.run(clock_.now_ns());
  store_.poll();
  send_ready();
  answer_watches();
  settle_touched();
  expire_requests();
  if (clock_.now_ns() >= next_look_ns_) check_links();
  if (any_dead_) bury_dead();
  clock_.let_go();
}

void Reactor::touch(ServerLink& link) {
  LinkState& state = links_.at(link.number);
  CAIRN_CHECK(state.link.get() == &link, "two links have one number");
  if (state.touched) return;
  state.touched = true;
  touched_.push_back(&link);
}

void Reactor::settle_touched() {
  // A link that breaks here ends its puts, and whoever waited for one of them is granted memory: its link is touched.
  for (size_t i = 0; i < touched_.size(); ++i) {
    ServerLink* link = touched_[i];
    LinkState& state = links_.at(link->number);
    CAIRN_CHECK(state.touched, "a link is to be flushed and does not know");
    state.touched = false;
    if (state.dead) continue;
    link->flush();
    if (state.dead || link->event_fd() < 0 || link->wants_write() == state.writable_wanted) continue;
    state.writable_wanted = link->wants_write();
    epoll_event event{};
    event.events = EPOLLIN | (state.writable_wanted ? static_cast<uint32_t>(EPOLLOUT) : 0U);
    event.data.u64 = link->number;
    const int changed = epoll_ctl(epoll_, EPOLL_CTL_MOD, link->event_fd(), &event);
    CAIRN_CHECK(changed == 0, "the wait set lost a link");
  }
  touched_.clear();
}

// --- sessions --------------------------------------------------------------------------------------------

void Reactor::refuse(LinkState& state, Status status, std::string_view reason) {
  ++counters_.sessions_refused;
  if (status != Status::draining) complaints_.add(state.link->peer(), status, reason);
  const SessionTag tag = state.session == nullptr ? SessionTag{} : state.session->tag;
  state.link->send(build_reason(FrameType::refuse, 0, tag, status, reason));
  hang_up(state);
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

Session* Reactor::open_session(const HelloView& hello, uint32_t tenant) {
  CAIRN_CHECK(sessions_.size() < options_.sessions_most, "more sessions are opened than the service takes");
  auto session = std::make_unique<Session>();
  session->id = next_session_++;
  fill_entropy(std::as_writable_bytes(std::span(session->tag)));
  CAIRN_CHECK(session->tag != SessionTag{}, "a session has the tag that stands for none");
  session->tenant = hello.tenant;
  session->name = hello.name;
  session->tenant_id = tenant;
  session->holder = holder_of(*session);
  shares_.join(*session, tenant);
  Session* opened = session.get();
  const bool fresh = sessions_.emplace(opened->id, std::move(session)).second;
  CAIRN_CHECK(fresh, "two sessions have one number");
  ++counters_.sessions_opened;
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
  Session* session = nullptr;
  if (hello.fixed.join == SessionTag{}) {
    if (sessions_.size() >= options_.sessions_most)
      return refuse(state, Status::busy, "the service has as many sessions as it takes");
    if (!state.link->belongs_to(hello.tenant))
      return refuse(state, Status::denied, "the connection was made for another tenant");
    const TenantNames::Found tenant = names_.find(hello.tenant);
    if (tenant.status != Status::ok) return refuse(state, tenant.status, tenant.reason);
    session = open_session(hello, tenant.number);
  } else {
    session = find_session(hello.fixed.join);
    if (session == nullptr) return refuse(state, Status::denied, "the session to join does not exist");
    if (session->tenant != hello.tenant || !state.link->belongs_to(hello.tenant))
      return refuse(state, Status::denied, "the session to join belongs to another tenant");
    if (session->lanes.size() >= kSessionLanesMost)
      return refuse(state, Status::too_large, "the session has as many lanes as it may");
    CAIRN_CHECK(!session->lanes.empty(), "a session without lanes is still there");
    state.link->share_regions(*session->lanes.front());
  }
  session->lanes.push_back(state.link.get());
  CAIRN_CHECK(session->lanes.size() <= kSessionLanesMost, "a session has more lanes than it may");
  CAIRN_CHECK(session->share != nullptr, "a session belongs to no tenant");
  state.session = session;
  welcome(state, *session);
}

void Reactor::welcome(LinkState& state, Session& session) {
  WelcomeBody body;
  body.lanes_most = kSessionLanesMost;
  body.features = state.link->features();
  body.server_id = server_id_;
  body.session_id = session.id;
  body.block_bytes_most = kBlockBytesMost;
  body.window_bytes = options_.session_window_bytes;
  body.credits = options_.credits;
  body.batch_items_most = kBatchItemsMost;
  body.body_bytes_most = kBodyBytesMost;
  body.deadline_ms_most = kDeadlineMsMost;
  FrameBuilder frame(FrameType::welcome, 0, sizeof(body));
  frame.header().tag = session.tag;
  frame.append(body);
  state.link->send(frame.finish());
  state.link->set_tag(session.tag);
}

void Reactor::on_closed(ServerLink& link, Status status, std::string_view reason) {
  CAIRN_CHECK(status != Status::ok, "a link breaks although all is well");
  LinkState& state = links_.at(link.number);
  CAIRN_CHECK(state.link.get() == &link, "a link breaks under the number of another");
  if (status != Status::disconnected) {
    ++counters_.protocol_errors;
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
  shares_.give_back(*session, bytes);
}

void Reactor::check_links() {
  const uint64_t now = clock_.now_ns();
  next_look_ns_ = now + kLookEveryNs;
  const auto older = [now](uint64_t since_ns, uint64_t limit_ms) { return now - since_ns > limit_ms * 1'000'000; };
  for (auto& [number, state] : links_) {
    if (state.dead) continue;
    const uint64_t moved = state.link->moved_bytes();
    CAIRN_CHECK(moved >= state.moved_bytes, "a link has moved fewer bytes than it had before");
    if (moved != state.moved_bytes || !state.link->busy()) state.moved_ns = now;
    state.moved_bytes = moved;
    if (state.session == nullptr && older(state.opened_ns, options_.handshake_timeout_ms)) {
      refuse(state, Status::timeout, "no hello came in time");
    } else if (older(state.moved_ns, options_.stall_timeout_ms)) {
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

// The last lane went, and everything of the session with it.
void Reactor::bury(Session& session) {
  CAIRN_CHECK(session.requests.empty(), "a session ends with requests open");
  CAIRN_CHECK(session.queue.empty(), "a session ends with requests that wait to be started");
  CAIRN_CHECK(session.items_open == 0, "a session ends with items open");
  CAIRN_CHECK(watches_.of_session(session) == 0, "a session ends with watches open");
  shares_.leave(session);
  const size_t gone = sessions_.erase(session.id);
  CAIRN_CHECK(gone == 1, "a session ends that is not known");
}

void Reactor::bury(LinkState& state) {
  CAIRN_CHECK(state.dead, "a link that lives is buried");
  ServerLink* link = state.link.get();
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
    const size_t lanes = std::erase(session->lanes, link);
    CAIRN_CHECK(lanes == 1, "a link is not once among the lanes of its session");
    if (session->lanes.empty()) bury(*session);
  }
  for (const auto& [number, task] : removes_) task->forget(link);
  std::erase(unwatched_, link);
  std::erase(touched_, link);
}

void Reactor::drain() {
  draining_ = true;
  fail_watches(Status::draining, "the service is shutting down");
  for (auto at = listeners_.begin(); at != listeners_.end();) {
    if (at->second->drives_links()) {
      at->second->stop_accepting();
      ++at;
      continue;
    }
    epoll_ctl(epoll_, EPOLL_CTL_DEL, at->second->event_fd(), nullptr);
    at = listeners_.erase(at);
  }
}

bool Reactor::quiet() const {
  if (!removes_.empty()) return false;
  return std::all_of(sessions_.begin(), sessions_.end(), [](const auto& one) { return one.second->requests.empty(); });
}

void Reactor::close_sessions() {
  for (auto& [number, state] : links_) {
    if (state.dead) continue;
    if (state.session != nullptr)
      state.link->send(
          build_reason(FrameType::refuse, 0, state.session->tag, Status::draining, "the service is shutting down"));
    hang_up(state);
  }
  bury_dead();
  CAIRN_CHECK(links_.empty(), "everybody was hung up on, and a link is left");
  CAIRN_CHECK(sessions_.empty(), "everybody was hung up on, and a session is left");
  CAIRN_CHECK(deadlines_.empty(), "every session ended, and a request is left");
  CAIRN_CHECK(dirty_.empty(), "every session ended, and results are left to be sent");
  CAIRN_CHECK(watches_.size() == 0, "every session ended, and a watch is left");
}

}  // namespace cairn
