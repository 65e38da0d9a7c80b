// Long polls for events: begun, answered at the end of a turn, ended.
#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "server/reactor.h"

namespace cairn {

namespace {

constexpr int64_t kFrameCostNs = 2'000;
constexpr int64_t kEventCostNs = 20;

}  // namespace

void Reactor::begin_watch(LinkState& state, const FrameHeader& header, ConstByteSpan body) {
  WatchBody asked;
  if (const char* wrong = decode_watch(body, asked)) return refuse(state, Status::invalid, wrong);
  ++counters_.requests;
  ++state.session->share->did.requests;
  if (draining_) {
    return fail_request(*state.link, header.request_id, header.tag, Status::draining, "the service is shutting down");
  }
  if (!may_open(state, header)) return;
  Watch watch;
  watch.request_id = header.request_id;
  watch.session = state.session;
  watch.link = state.link.get();
  watch.tenant = state.session->tenant_id;
  watch.after = asked.after;
  watch.events_most = asked.events_most;
  watch.started_ns = clock_.now_ns();
  watch.deadline_ns = watch.started_ns + deadline_ms_of(header) * 1'000'000;
  events_.know(watch.tenant);
  watches_.add(watch);
  if (asked.after != kWatchFromNow && events_.newest(watch.tenant) <= asked.after) return;
  Watch* added = watches_.find(*state.session, header.request_id);
  CAIRN_CHECK(added != nullptr, "a watch that was begun a moment ago is not there");
  watches_.make_due(*added);
}

// A watch is answered when its link has sent everything else, so a client that does not read is owed one answer at
// most, and a watch it may not have counts against its credits until then.
void Reactor::answer_watches() {
  events_.for_each_fresh([this](uint32_t tenant) { watches_.make_due(tenant, events_.newest(tenant)); });
  if (watches_.size() == 0) return;
  watches_.make_due_until(clock_.now_ns());
  for (Watch* watch : watches_.some_due()) {
    CAIRN_CHECK(watch->due, "a watch is answered that is not due");
    ServerLink& link = *watch->link;
    const LinkState& state = links_.at(link.number);
    // Of one that is full its event tells when it is not; it is not asked for each watch.
    if (state.dead || (state.writable_wanted && link.wants_write())) continue;
    touch(link);
    link.flush();
    if (state.dead || link.queued_bytes() > 0) continue;
    answer_watch(*watch);
  }
}

void Reactor::answer_watch(Watch& watch) {
  std::vector<EventBody> events;
  events_.read(watch.tenant, watch.after, watch.events_most, events);
  CAIRN_CHECK(events.size() <= watch.events_most, "a watch is told more events than it asked for");
  if (!events.empty()) {
    CAIRN_CHECK(events.front().number > watch.after, "a watch is told of an event that it knows");
    CAIRN_CHECK(events.back().number - events.front().number == events.size() - 1, "events are told with a gap");
  }
  CAIRN_CHECK(watch.tenant == watch.session->tenant_id, "a watch would be told of another tenant's events");
  FrameBuilder frame(FrameType::events, watch.request_id, sizeof(EventsBody) + events.size() * sizeof(EventBody));
  frame.header().tag = watch.session->tag;
  frame.header().flags = kFrameLast;
  frame.header().item_count = static_cast<uint32_t>(events.size());
  frame.append(events_.range(watch.tenant));
  frame.append_bytes(std::as_bytes(std::span(events)));
  watch.link->send(frame.finish());
  work_.charge(links_.at(watch.link->number), kFrameCostNs + static_cast<int64_t>(events.size()) * kEventCostNs);
  count(*watch.session->share, FrameType::watch, events.size(), watch.started_ns);
  watches_.remove(watch);
}

// Nothing that is still to come would be told to them.
void Reactor::fail_watches(Status status, std::string_view reason) {
  for (const auto& [id, session] : sessions_) {
    for (ServerLink* lane : session->lanes) {
      for (Watch* watch : watches_.of_link(*session, lane)) {
        fail_request(*lane, watch->request_id, session->tag, status, reason);
        touch(*lane);
        watches_.remove(*watch);
      }
    }
  }
}

}  // namespace cairn
