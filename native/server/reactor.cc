// Turns and connections. Who is let in and how it ends: sessions.cc; what frames ask for: dispatch.cc.
#include "server/reactor.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/entropy.h"
#include "server/remove_task.h"

namespace cairn {

namespace {

constexpr uint32_t kUnlookedMost = 8;
constexpr uint64_t kTimerGrainMs = 10;
// How long after its last event the reactor looks for the next without sleeping. On a single processor that
// would keep the client from running.
constexpr uint64_t kSpinNs = 50'000;
static_assert(kSpinNs < kTimerGrainMs * 1'000'000, "the reactor spins for longer than it would sleep");

// What one tenant or one host may have of all sessions, unless it was said.
uint32_t limit_of(uint32_t told, uint32_t sessions_most) {
  return told > 0 ? told : sessions_most - sessions_most / 4;
}

}  // namespace

Reactor::Reactor(Store& store, TurnClock& clock, const ReactorOptions& options)
    : store_(store),
      clock_(clock),
      options_(options),
      started_ns_(clock.now_ns()),
      spin_ns_(std::thread::hardware_concurrency() > 1 ? kSpinNs : 0),
      names_(options.accept_unknown_tenants),
      peers_(limit_of(options.sessions_per_peer_most, options.sessions_most)),
      shares_(*this, {.session_window_bytes = options.session_window_bytes,
                      .shared_window_bytes = options.shared_window_bytes,
                      .tenant_window_bytes = options.tenant_window_bytes,
                      .tenant_sessions_most = limit_of(options.sessions_per_tenant_most, options.sessions_most)}) {
  CAIRN_CHECK(options.sessions_most > 0, "a service that takes no session");
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
  listener->set_filter(*this);
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
  state.opened_ns = state.last_frame_ns = clock_.now_ns();
  for (DueState& due : state.dues) due.since_ns = state.opened_ns;
  const std::string no_room = no_room_for_connection(adopted.host());
  if (no_room.empty()) {
    peers_.came(adopted.host());
    state.half_open = true;
  }
  watch(state);
  if (!no_room.empty()) refuse(state, Status::busy, no_room);
}

void Reactor::watch(LinkState& state) {
  ServerLink& link = *state.link;
  if (link.driven()) return;
  if (link.event_fd() < 0) {
    unwatched_.push_back(&link);
    return;
  }
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = link.number;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, link.event_fd(), &event) != 0) hang_up(state);
}

void Reactor::accept_from(Listener& listener) {
  constexpr int kAcceptsATurn = 16;
  for (int i = 0; i < kAcceptsATurn; ++i) {
    auto link = listener.accept();
    if (link == nullptr) return;
    adopt(std::move(link));
  }
}

// How long a turn may sleep, given how long it was allowed to.
int Reactor::sleep_ms(int timeout_ms) const {
  if (shares_.runnable() || work_.any() || events_at_ < events_count_) return 0;
  if (store_.behind() || !dirty_.empty() || !unwatched_.empty() || events_.any_fresh()) return 0;
  if (store_.hungry() || !store_.loaded()) timeout_ms = std::min(timeout_ms, 1);
  if (!deadlines_.empty()) timeout_ms = std::min<int>(timeout_ms, kTimerGrainMs);
  const uint64_t watch_ns = watches_.next_deadline_ns();
  if (watch_ns == UINT64_MAX) return timeout_ms;
  const uint64_t now_ns = clock_.now_ns();
  const uint64_t left_ms = watch_ns > now_ns ? (watch_ns - now_ns) / 1'000'000 + 1 : 0;
  return static_cast<int>(std::min<uint64_t>(left_ms, static_cast<uint64_t>(timeout_ms)));
}

void Reactor::heed(uint64_t number, uint32_t events) {
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
  LinkState& state = found->second;
  touch(link);
  const bool broken = (events & (EPOLLHUP | EPOLLERR)) != 0;
  // What is not read says nothing of a peer that is gone: what is sent to it does.
  const bool waits = !may_speak(state);
  if ((events & EPOLLOUT) != 0 || (broken && waits)) link.progress(false, true);
  if (state.dead) return;
  if (waits) return broken ? hang_up(state) : void();
  if (!broken && (events & EPOLLIN) == 0) return;
  if (state.leaving) return link.progress(true, false);
  work_.wake(state);
}

bool Reactor::poll_listeners() {
  bool any = false;
  for (Listener* listener : driving_) any = listener->poll() || any;
  return any;
}

// Looks at the polled links that are awake. One for which nothing was there for a while goes to sleep: it costs nothing
// then, and its peer wakes it.
bool Reactor::poll_links() {
  bool any = false;
  const uint64_t now = clock_.now_ns();
  for (size_t i = 0; i < awake_.size();) {  // links are woken in here
    ServerLink& link = *awake_[i];
    LinkState& state = links_.at(link.number);
    const bool moved = !state.dead && link.poll();
    if (moved) {
      any = true;
      state.active_ns = now;
      touch(link);
    } else if (state.dead || (now - state.active_ns >= spin_ns_ && link.rest())) {
      state.awake = false;
      awake_[i] = awake_.back();
      awake_.pop_back();
      continue;
    }
    ++i;
  }
  return any;
}

// From here on events tell of everything; false when something came before that.
bool Reactor::may_sleep() {
  bool quiet = true;
  for (Listener* listener : driving_) quiet = listener->rest() && quiet;
  for (ServerLink* link : awake_) quiet = (links_.at(link->number).dead || link->rest()) && quiet;
  return quiet;
}

void Reactor::turn(int timeout_ms) {
  CAIRN_CHECK(timeout_ms >= 0, "a turn may sleep for ever, and with it every deadline");
  clock_.hold();
  timeout_ms = sleep_ms(timeout_ms);
  work_.begin_turn();
  const bool moved = poll_listeners() | poll_links();
  // Who asked a moment ago most often asks again: looking a little longer is cheaper than sleeping and waking.
  const bool spun = spin_ns_ == 0 || clock_.now_ns() - busy_ns_ > spin_ns_;
  const bool sleeps = !moved && timeout_ms > 0 && spun && may_sleep();
  // A look at the wait set is a system call: who polls does without, for a few turns.
  if (events_at_ == events_count_ && (!moved || ++unlooked_ >= kUnlookedMost)) {
    unlooked_ = 0;
    const int count =
        epoll_wait(epoll_, events_waiting_.data(), static_cast<int>(events_waiting_.size()), sleeps ? timeout_ms : 0);
    events_at_ = 0;
    events_count_ = count > 0 ? static_cast<size_t>(count) : 0;
  }
  if (sleeps) clock_.hold();
  if ((events_at_ < events_count_ || moved) && spin_ns_ > 0) busy_ns_ = clock_.now_ns();
  for (; events_at_ < events_count_ && !work_.turn_over(); ++events_at_)
    heed(events_waiting_[events_at_].data.u64, events_waiting_[events_at_].events);
  for (ServerLink* link : unwatched_) {
    touch(*link);
    link->progress(false, true);
    LinkState& state = links_.at(link->number);
    if (state.dead || !may_speak(state)) continue;
    if (state.leaving) {
      link->progress(true, false);
    } else {
      work_.wake(state);
    }
  }
  work_.run();
  // What is started reaches the drives in the same turn, before what they finished is checked and sent.
  shares_.run(clock_.now_ns());
  store_.poll();
  send_ready();
  answer_watches();
  settle_touched();
  expire_requests();
  if (clock_.now_ns() >= next_look_ns_) {
    check_links();
    settle_touched();
  }
  if (!paused_.empty()) resume_paused();
  if (!leaving_.empty()) hasten_leaving();
  if (any_dead_) bury_dead();
  clock_.let_go();
}

void Reactor::touch(ServerLink& link) {
  LinkState& state = links_.at(link.number);
  CAIRN_CHECK(state.link.get() == &link, "two links have one number");
  if (!state.awake && !state.dead && link.polled()) {
    state.awake = true;
    state.trimmed = false;
    state.active_ns = clock_.now_ns();
    awake_.push_back(&link);
  }
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
    if (state.dead) continue;
    note_output(state);
    const bool same = link->wants_write() == state.writable_wanted && may_speak(state) == state.readable_wanted;
    if (link->event_fd() < 0 || same) continue;
    state.writable_wanted = link->wants_write();
    state.readable_wanted = may_speak(state);
    epoll_event event{};
    event.events = (state.readable_wanted ? static_cast<uint32_t>(EPOLLIN) : 0U) |
                   (state.writable_wanted ? static_cast<uint32_t>(EPOLLOUT) : 0U);
    event.data.u64 = link->number;
    const int changed = epoll_ctl(epoll_, EPOLL_CTL_MOD, link->event_fd(), &event);
    CAIRN_CHECK(changed == 0, "the wait set lost a link");
  }
  touched_.clear();
}

// --- the end ---------------------------------------------------------------------------------------------

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
    if (state.session != nullptr && !state.leaving)
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
  CAIRN_CHECK(peers_.empty(), "every session ended, and a host is counted for one");
  CAIRN_CHECK(leaving_.empty(), "every link ended, and one is still leaving");
  CAIRN_CHECK(paused_.empty(), "every link ended, and one is still paused");
  CAIRN_CHECK(output_bytes_ == 0, "every link ended, and output of one is counted");
  CAIRN_CHECK(request_bytes_ == 0, "every session ended, and memory of a request is counted");
}

}  // namespace cairn
