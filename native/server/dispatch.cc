// What frames ask for.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "server/reactor.h"
#include "server/remove_task.h"

namespace cairn {

namespace {

// What a frame names is what the store deletes.
static_assert(static_cast<uint8_t>(DeleteKind::keys) == kRemoveKeys);
static_assert(static_cast<uint8_t>(DeleteKind::group) == kRemoveGroup);
static_assert(static_cast<uint8_t>(DeleteKind::scope) == kRemoveScope);
static_assert(static_cast<uint8_t>(DeleteKind::layout) == kRemoveLayout);
static_assert(static_cast<uint8_t>(DeleteKind::tenant) == kRemoveTenant);

constexpr uint64_t kChargeLeast = 4 * kKiB;
static_assert(kChargeLeast > 0, "an item of no weight looks like no item");
// What a client may have us remember of requests that are open, apart from payload: a session, and all of them
// together, of which each tenant has a fair part.
constexpr uint64_t kSessionRequestBytesMost = 8 * kMiB;
constexpr uint64_t kRequestBytesMost = 48 * kMiB;
static_assert(kSessionRequestBytesMost > kBodyBytesMost, "a session cannot open one full batch");
// Deletes of one tenant that are on their way at a time.
constexpr uint64_t kDeletesMost = 16;

// What things cost, in nanoseconds: more or less, see work.h.
constexpr int64_t kFrameNs = 400;
constexpr int64_t kHelloNs = 20'000;
constexpr int64_t kStatsNs = 8'000;
constexpr int64_t kLookUpNs = 120;
constexpr int64_t kLeaseNs = 700;
constexpr int64_t kDeleteNs = 30'000;
constexpr int64_t kDeleteKeyNs = 600;
constexpr int64_t kItemNs = 150;
constexpr size_t kKeysLeast = 64;  // that are looked up at a time

int64_t cost_of_key(FrameType type) {
  return type == FrameType::lease || type == FrameType::release ? kLeaseNs : kLookUpNs;
}

size_t operation_index(FrameType type) {
  const auto* found = std::find(kOperations.begin(), kOperations.end(), type);
  CAIRN_CHECK(found != kOperations.end(), "an operation without counters");
  return static_cast<size_t>(found - kOperations.begin());
}

std::vector<std::byte> statuses_frame(const FrameHeader& header, std::span<const Status> statuses) {
  CAIRN_CHECK(!statuses.empty(), "an answer without a status");
  CAIRN_CHECK(statuses.size() <= kBatchItemsMost, "more statuses than a batch has items");
  FrameBuilder frame(FrameType::statuses, header.request_id, statuses.size_bytes());
  frame.header().tag = header.tag;
  frame.header().flags = kFrameLast;
  frame.header().item_count = static_cast<uint32_t>(statuses.size());
  frame.append_bytes(std::as_bytes(statuses));
  return frame.finish();
}

std::vector<std::byte> empty_frame(FrameType type, const FrameHeader& header) {
  FrameBuilder frame(type, header.request_id);
  frame.header().tag = header.tag;
  frame.header().flags = kFrameLast;
  return frame.finish();
}

}  // namespace

void Reactor::on_frame(ServerLink& link, const FrameHeader& header, ConstByteSpan body) {
  LinkState& state = links_.at(link.number);
  CAIRN_CHECK(state.link.get() == &link, "a frame came by a link with the number of another");
  if (state.dead) return;
  CAIRN_CHECK(!state.leaving, "a peer that was refused is heard");
  touch(link);
  state.last_frame_ns = clock_.now_ns();
  if (state.session == nullptr) {
    work_.charge(state, kHelloNs);
    say_hello(state, header, body);
  } else {
    work_.charge(state, kFrameNs);
    dispatch(state, header, body);
  }
  hold_back(state);
}

void Reactor::dispatch(LinkState& state, const FrameHeader& header, ConstByteSpan body) {
  CAIRN_CHECK(state.session != nullptr, "a command came by a link without a session");
  CAIRN_CHECK(header.tag == state.session->tag, "a frame without the session's tag got past the link");
  if (header.payload_bytes != 0) return refuse(state, Status::invalid, "payload behind a frame that carries none");
  switch (header.type) {
    case FrameType::ping:
      return state.link->send(empty_frame(FrameType::pong, header));
    case FrameType::goodbye:
      return hang_up(state);
    case FrameType::stats:
      return answer_text(state, header);
    case FrameType::cancel:
      return cancel_request(state, header);
    case FrameType::watch:
      return begin_watch(state, header, body);
    case FrameType::put:
    case FrameType::get:
    case FrameType::prefetch:
    case FrameType::exists:
    case FrameType::match:
    case FrameType::touch:
    case FrameType::lease:
    case FrameType::release:
    case FrameType::remove: {
      BatchView batch;
      if (const char* wrong = decode_batch(header, body, batch)) return refuse(state, Status::invalid, wrong);
      ++counters_.requests;
      ++state.session->share->did.requests;
      if (draining_) {
        return fail_request(*state.link, header.request_id, header.tag, Status::draining,
                            "the service is shutting down");
      }
      if (!batch.items.empty()) return begin_request(state, header, std::move(batch));
      Unfinished asked;
      asked.header = header;
      asked.batch = std::move(batch);
      asked.started_ns = clock_.now_ns();
      if (header.type == FrameType::remove) return begin_remove(state, asked);
      return answer_keys(state, asked);
    }
    default:
      return refuse(state, Status::invalid, "a frame that only the service sends, or a second hello");
  }
}

void Reactor::fail_request(ServerLink& link, uint64_t request_id, const SessionTag& tag, Status status,
                           std::string_view reason) {
  link.send(build_reason(FrameType::failed, request_id, tag, status, reason));
}

void Reactor::answer_text(LinkState& state, const FrameHeader& header) {
  const uint64_t started_ns = clock_.now_ns();
  work_.charge(state, kStatsNs);
  FrameBuilder frame(FrameType::text, header.request_id);
  frame.header().tag = header.tag;
  frame.header().flags = kFrameLast;
  frame.append_text(stats_text(state));
  state.link->send(frame.finish());
  count(*state.session->share, FrameType::stats, 1, started_ns);
}

Status Reactor::answer_key(FrameType type, const BlockId& id, uint64_t holder, uint64_t duration_ms) {
  switch (type) {
    case FrameType::lease:
      return duration_ms == 0 ? Status::invalid : store_.lease(id, holder, duration_ms);
    case FrameType::release:
      return store_.release(id, holder);
    case FrameType::touch:
      return store_.touch(id) ? Status::ok : Status::not_found;
    default:
      CAIRN_CHECK(type == FrameType::exists, "a key is asked for something that no answer was written for");
      return store_.exists(id) ? Status::ok : Status::not_found;
  }
}

void Reactor::answer_keys(LinkState& state, Unfinished& asked) {
  const FrameHeader& header = asked.header;
  const uint32_t tenant = state.session->tenant_id;
  const std::vector<Key>& keys = asked.batch.keys;
  const int64_t cost = cost_of_key(header.type);
  const auto part = std::max(kKeysLeast, static_cast<size_t>(std::max<int64_t>(state.work_left_ns, 0) / cost));
  const size_t end = std::min(keys.size(), asked.next + part);
  const size_t first = asked.next;
  const bool matching = header.type == FrameType::match;
  bool over = end == keys.size();
  if (!matching) asked.statuses.resize(keys.size());
  for (; asked.next < end; ++asked.next) {
    const BlockId id{keys[asked.next], asked.batch.fixed.layout, tenant};
    if (!matching) {
      asked.statuses[asked.next] = answer_key(header.type, id, state.session->holder, asked.batch.fixed.duration_ms);
    } else if (!store_.exists(id)) {
      over = true;
      break;
    }
  }
  work_.charge(state, cost * static_cast<int64_t>(asked.next - first + 1));
  if (!over) {
    state.unfinished = std::make_unique<Unfinished>(std::move(asked));
    return;
  }
  if (matching) {
    FrameBuilder frame(FrameType::matched, header.request_id, sizeof(uint64_t));
    frame.header().tag = header.tag;
    frame.header().flags = kFrameLast;
    frame.append(uint64_t{asked.next});
    state.link->send(frame.finish());
  } else {
    state.link->send(statuses_frame(header, asked.statuses));
  }
  count(*state.session->share, header.type, keys.size(), asked.started_ns);
}

// --- deletes ---------------------------------------------------------------------------------------------

void Reactor::begin_remove(LinkState& state, Unfinished& asked) {
  Share& share = *state.session->share;
  if (share.deletes >= kDeletesMost) {  // one that ends wakes the next
    state.unfinished = std::make_unique<Unfinished>(std::move(asked));
    work_.forget(state);
    share.deletes_waiting.add(state);
    return;
  }
  const FrameHeader& header = asked.header;
  const BatchView& batch = asked.batch;
  work_.charge(state, kDeleteNs + kDeleteKeyNs * static_cast<int64_t>(batch.keys.size()));
  CAIRN_CHECK(batch.fixed.delete_kind <= kRemoveTenant, "a delete of an unknown kind got past the decoder");
  CAIRN_CHECK(!batch.keys.empty(), "a delete that names nothing got past the decoder");
  CAIRN_CHECK(batch.fixed.delete_kind == kRemoveKeys || batch.keys.size() == 1,
              "a delete of a name with more keys than the name got past the decoder");
  const uint64_t number = next_number_++;
  auto task = std::make_unique<RemoveTask>(*this, number, *state.link, share, header);
  ++share.deletes;
  const uint32_t tenant = state.session->tenant_id;
  task->kind = static_cast<DeleteKind>(batch.fixed.delete_kind);
  switch (task->kind) {
    case DeleteKind::keys:
      task->ids.reserve(batch.keys.size());
      for (const Key& key : batch.keys) task->ids.push_back({key, batch.fixed.layout, tenant});
      break;
    case DeleteKind::group:
      task->group = batch.keys[0].bytes;
      [[fallthrough]];
    case DeleteKind::layout:
      task->ids = {{Key{}, batch.fixed.layout, tenant}};
      break;
    case DeleteKind::scope:
    case DeleteKind::tenant:
      task->scope = batch.fixed.scope;
      task->ids = {{Key{}, 0, tenant}};
      break;
  }
  RemoveTask& op = *task;
  const bool fresh = removes_.emplace(number, std::move(task)).second;
  CAIRN_CHECK(fresh, "two deletes have one number");
  store_.remove(op);
}

void Reactor::RemoveTask::done() {
  CAIRN_CHECK(statuses.size() == ids.size(), "a delete has not one answer for each of its keys");
  if (link_ != nullptr && !reactor_.links_.at(link_->number).dead) {
    link_->send(statuses_frame(header_, statuses));
    reactor_.touch(*link_);
  }
  reactor_.count(share_, FrameType::remove, ids.size(), started_ns_);
  CAIRN_CHECK(share_.deletes > 0, "more deletes of a tenant end than were begun");
  --share_.deletes;
  if (LinkState* next = share_.deletes_waiting.at()) {
    share_.deletes_waiting.remove(*next);
    reactor_.touch(*next->link);
    if (may_speak(*next)) reactor_.work_.wake(*next);
  }
  const size_t ended = reactor_.removes_.erase(number_);  // destroys *this
  CAIRN_CHECK(ended == 1, "a delete ends twice");
}

// --- requests with payload ---------------------------------------------------------------------------------

bool Reactor::may_open(LinkState& state, const FrameHeader& header) {
  const Session& session = *state.session;
  if (session.requests.size() + watches_.of_session(session) >= options_.credits) {
    refuse(state, Status::busy, "more requests in flight than the session has credits");
    return false;
  }
  if (session.requests.contains(header.request_id) || watches_.find(session, header.request_id) != nullptr) {
    refuse(state, Status::invalid, "a request number that is in use");
    return false;
  }
  return true;
}

uint64_t Reactor::deadline_ms_of(const FrameHeader& header) {
  return header.deadline_ms == 0 ? kDeadlineMsDefault : std::min(header.deadline_ms, kDeadlineMsMost);
}

void Reactor::begin_request(LinkState& state, const FrameHeader& header, BatchView batch) {
  if (!may_open(state, header)) return;
  Session& session = *state.session;
  const size_t items = batch.items.size();
  CAIRN_CHECK(items <= kBatchItemsMost, "a batch of too many items got past the decoder");
  CAIRN_CHECK(batch.keys.empty(), "a batch has keys beside its items");
  const uint64_t bytes = Request::bytes_of(batch);
  const uint64_t left = kRequestBytesMost - std::min(kRequestBytesMost, request_bytes_ + bytes);
  // As much is left for the others as the tenant then has.
  if (session.request_bytes + bytes > kSessionRequestBytesMost || session.share->request_bytes + bytes > left) {
    ++counters_.requests_refused;
    return fail_request(*state.link, header.request_id, header.tag, Status::busy,
                        "too many items are open in this session, or in its tenant's sessions together");
  }
  work_.charge(state, kItemNs * static_cast<int64_t>(items));
  auto request = std::make_unique<Request>();
  request->id = header.request_id;
  request->number = next_number_++;
  request->type = header.type;
  request->session = &session;
  request->link = state.link.get();
  request->store = &store_;
  request->sink = this;
  request->started_ns = clock_.now_ns();
  request->deadline_ns = request->started_ns + deadline_ms_of(header) * 1'000'000;
  request->batch = std::move(batch);
  request->bytes = bytes;
  session.request_bytes += bytes;
  session.share->request_bytes += bytes;
  request_bytes_ += bytes;
  request->states.assign(items, ItemState::queued);
  request->charges.assign(items, 0);
  request->unsettled = static_cast<uint32_t>(items);
  session.items_open += items;
  const bool timed = deadlines_.emplace(std::pair(request->deadline_ns, request->number), request.get()).second;
  CAIRN_CHECK(timed, "two requests have one number, and one of them no deadline");
  session.queue.push_back(request.get());
  shares_.wake(session, request->started_ns);
  const bool fresh = session.requests.emplace(request->id, std::move(request)).second;
  CAIRN_CHECK(fresh, "a request was opened under a number that is in use");
}

uint64_t Reactor::next_bytes(Session& session) {
  while (!session.queue.empty()) {
    Request& request = *session.queue.front();
    CAIRN_CHECK(request.session == &session, "a request waits in the queue of another session");
    while (request.next < request.states.size() && request.states[request.next] != ItemState::queued) ++request.next;
    if (request.next == request.states.size()) {
      session.queue.pop_front();
      continue;
    }
    const ItemBody& item = request.batch.items[request.next];
    if (request.weighed == request.next) return request.weight;
    uint64_t bytes = item.length;
    if (request.type != FrameType::put) {  // what will move, whatever room its client says to have for it
      const BlockId id{item.key, request.batch.fixed.layout, session.tenant_id};
      bytes = store_.get_bytes(id, item.range_offset, item.range_bytes);
    }
    request.weighed = request.next;
    return request.weight = std::clamp(bytes, kChargeLeast, kBlockBytesMost);
  }
  return 0;
}

void Reactor::start_next(Session& session, uint64_t bytes) {
  CAIRN_CHECK(!session.queue.empty(), "an item is to be started of a session that has none");
  Request& request = *session.queue.front();
  request.check(request.next);
  CAIRN_CHECK(request.charges[request.next] == 0, "an item that is started is charged already");
  CAIRN_CHECK(session.window_used >= bytes, "an item is started that its session's window does not count");
  request.charges[request.next] = bytes;
  request.start_next(session.tenant_id, clock_.unix_ms());
}

void Reactor::item_settled(Request& request, uint32_t index) {
  CAIRN_CHECK(!request.ready.empty(), "an item ended and left no result");
  const ResultItem& result = request.ready.back();
  CAIRN_CHECK(result.body.index == index, "the result of another item is counted");
  CAIRN_CHECK(request.states[index] == ItemState::settled, "an item ended that is still under way");
  // Bytes that are still to be sent stay charged until on_payload_sent().
  const uint64_t stays = result.buffer ? result.body.length : 0;
  const uint64_t charged = request.charges[index];
  if (charged >= stays) {
    shares_.give_back(*request.session, charged - stays);
  } else {
    shares_.take(*request.session, stays - charged);
  }
  request.charges[index] = 0;
  CAIRN_CHECK(request.session->items_open > 0, "more items of a session ended than were open");
  --request.session->items_open;
  if (request.type == FrameType::put && result.body.status == Status::ok) {
    counters_.received_bytes += result.body.length;
    request.session->share->did.received_bytes += result.body.length;
  }
  if (request.dirty) return;
  request.dirty = true;
  dirty_.push_back(&request);
}

void Reactor::link_used(Request& request) {
  touch(*request.link);
}

void Reactor::send_ready() {
  // Sending may settle nothing more, but a link that breaks here only marks itself dead: see bury_dead().
  std::vector<Request*> dirty;
  dirty.swap(dirty_);
  for (Request* request : dirty) {
    CAIRN_CHECK(request->dirty, "a request is to be answered and does not know");
    CAIRN_CHECK(!request->ready.empty(), "a request is to be answered and has no result");
    request->dirty = false;
    std::vector<ResultItem> items;
    items.swap(request->ready);
    std::vector<uint64_t> lengths;
    lengths.reserve(items.size());
    for (const ResultItem& item : items) lengths.push_back(item.buffer ? item.body.length : 0);
    const bool last = request->unsettled == 0;
    touch(*request->link);
    request->link->send_results(request->id, items, last ? kFrameLast : 0);
    CAIRN_CHECK(request->ready.empty(), "items ended while results were sent, and one frame was the last already");
    for (size_t i = 0; i < items.size(); ++i) {
      if (items[i].body.status == Status::bad_region) shares_.give_back(*request->session, lengths[i]);
    }
    if (last) finish(*request);
  }
}

void Reactor::finish(Request& request) {
  CAIRN_CHECK(request.unsettled == 0, "a request ends with items open");
  CAIRN_CHECK(request.ready.empty(), "a request ends with results that its client was not sent");
  if (request.dirty) std::erase(dirty_, &request);
  count(*request.session->share, request.type, request.states.size(), request.started_ns);
  deadlines_.erase({request.deadline_ns, request.number});
  request.session->request_bytes -= request.bytes;
  request.session->share->request_bytes -= request.bytes;
  request_bytes_ -= request.bytes;
  std::erase(request.session->queue, &request);
  const size_t ended = request.session->requests.erase(request.id);  // destroys it
  CAIRN_CHECK(ended == 1, "a request ends that its session does not know");
}

void Reactor::abandon_all(Request& request, Status status) {
  for (uint32_t i = 0; i < request.states.size(); ++i) {
    if (request.states[i] != ItemState::settled) request.abandon(i, status);
  }
  CAIRN_CHECK(request.unsettled == 0, "a request was given up and has items open");
  // What is settled but not sent gives its part of the window back, and is not sent.
  for (ResultItem& item : request.ready) {
    if (!item.buffer) continue;
    shares_.give_back(*request.session, item.body.length);
    item.buffer = {};
    item.body = ResultBody{item.body.index, status, 0, 0, 0, 0, 0};
  }
}

void Reactor::cancel_request(LinkState& state, const FrameHeader& header) {
  const auto found = state.session->requests.find(header.request_id);
  if (found != state.session->requests.end()) {
    ++counters_.cancelled;
    ++state.session->share->did.cancelled;
    work_.charge(state, kItemNs * static_cast<int64_t>(found->second->states.size()));
    abandon_all(*found->second, Status::cancelled);
    found->second->ready.clear();
    finish(*found->second);
  } else if (Watch* watch = watches_.find(*state.session, header.request_id)) {
    ++counters_.cancelled;
    ++state.session->share->did.cancelled;
    watches_.remove(*watch);
  }
  state.link->send(empty_frame(FrameType::cancelled, header));
}

void Reactor::expire_requests() {
  const uint64_t now = clock_.now_ns();
  while (!deadlines_.empty() && deadlines_.begin()->first.first <= now) {
    Request& request = *deadlines_.begin()->second;
    CAIRN_CHECK(deadlines_.begin()->first.second == request.number, "a deadline is kept under another's number");
    ++counters_.timeouts;
    ++request.session->share->did.timeouts;
    deadlines_.erase(deadlines_.begin());
    abandon_all(request, Status::timeout);
  }
  if (!dirty_.empty()) {
    send_ready();
    settle_touched();
  }
}

void Reactor::count(Share& share, FrameType type, uint64_t items, uint64_t started_ns) {
  const size_t index = operation_index(type);
  OperationCounters& counters = counters_.operations[index];
  ++counters.requests;
  counters.items += items;
  // Not the turn's time: most of what is asked is answered in the turn that it came in.
  const uint64_t took_us = (clock_.source().now_ns() - started_ns) / 1000;
  counters.latency_us.add(took_us);
  TenantActivity::Operation& own = share.did.operations[index];
  ++own.requests;
  own.items += items;
  own.max_us = std::max(own.max_us, took_us);
}

}  // namespace cairn
