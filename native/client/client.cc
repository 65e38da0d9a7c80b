// Operations become requests, requests become frames. Connection, answers and deadlines: the files beside.
#include "client/client.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/event.h"

namespace cairn {

namespace {

// How long before the caller's deadline the service is to answer a watch in which nothing happened, so that the answer
// arrives in time.
constexpr uint64_t kWatchMarginMs = 250;
static_assert(kWatchMarginMs < kDeadlineMsDefault, "a watch would be answered before it is asked");

bool has_items(FrameType type) {
  return type == FrameType::put || type == FrameType::get || type == FrameType::prefetch;
}

}  // namespace

Client::Client(Ways ways, ClientOptions options, int wake)
    : ways_(std::move(ways)), options_(std::move(options)), wake_(wake) {
  CAIRN_CHECK(wake_ >= 0, "a client is made that nothing could wake");
}

void Client::check_session() const {
  CAIRN_CHECK((state_ == Link::up) == !lanes_.empty(),
              "a session that is up has no lanes, or one that is down has some");
  CAIRN_CHECK(!lost_ || state_ == Link::up, "a session was lost that was not up");
  CAIRN_CHECK(lanes_.size() <= 2 * kSessionLanesMost,
              "a session, and the one before it, have more lanes than they may");
  CAIRN_CHECK(lanes_.empty() || !lanes_.front()->leaving, "a session is up and has been left");
  CAIRN_CHECK(open_.size() == due_.size(), "an operation is open and has no deadline, or the reverse");
}

void Client::split(const std::shared_ptr<Operation>& operation) {
  const auto count = static_cast<uint32_t>(operation->settled_.size());
  CAIRN_CHECK(count > 0, "an operation that asks for nothing is sent");
  CAIRN_CHECK(operation->state_ == Operation::State::open, "an operation is sent whose memory is its caller's again");
  CAIRN_CHECK(operation->unsettled_ == count, "an operation has answers before it was sent");
  CAIRN_CHECK(!lanes_.empty(), "an operation is spread over no lanes");
  CAIRN_CHECK(welcome_.batch_items_most > 0, "an operation is sent in batches of nothing");
  CAIRN_CHECK(welcome_.batch_items_most <= kBatchItemsMost, "an operation is sent in batches that no frame holds");
  if (operation->type == FrameType::match && operation->keys.size() > welcome_.batch_items_most) {
    return settle_rest(*operation, Status::too_large);
  }
  // Payload is spread over the lanes; what moves none takes one.
  const auto staying = std::count_if(lanes_.begin(), lanes_.end(), [](const auto& lane) { return !lane->leaving; });
  const auto lanes = static_cast<uint32_t>(operation->moves_payload() ? staying : 1);
  const uint32_t share = std::clamp<uint32_t>((count + lanes - 1) / lanes, 1, welcome_.batch_items_most);
  for (uint32_t first = 0; first < count;) {
    Lane& lane = *lanes_[next_lane_++ % static_cast<size_t>(staying)];  // those that leave stand behind
    uint32_t items = std::min(share, count - first);
    const auto domain = lane.link->memory_domain();
    if (operation->moves_payload() && (domain != nullptr || !operation->gpus.empty()))
      items = share_of_bounce(domain.get(), *operation, first, items);
    enqueue(lane, operation, first, items);
    first += items;
  }
  for (const auto& lane : lanes_) send_waiting(*lane);
}

void Client::enqueue(Lane& lane, const std::shared_ptr<Operation>& operation, uint32_t first, uint32_t count) {
  const uint64_t id = next_id_++;
  CAIRN_CHECK(count > 0, "a request for nothing");
  CAIRN_CHECK(uint64_t{first} + count <= operation->settled_.size(), "a request for items that its operation has not");
  Request& request = lane.requests[id];
  CAIRN_CHECK(request.operation == nullptr, "two requests have one number");
  request.operation = operation;
  request.first = first;
  request.count = count;
  lane.waiting.push_back(id);
}

void Client::send_waiting(Lane& lane) {
  while (!lost_ && lane.credits > 0 && !lane.waiting.empty()) {
    const uint64_t id = lane.waiting.front();
    lane.waiting.pop_front();
    const auto found = lane.requests.find(id);
    if (found == lane.requests.end()) continue;  // given up before it was sent
    CAIRN_CHECK(!found->second.sent, "a request is sent twice");
    CAIRN_CHECK(found->second.operation != nullptr, "a request is sent that was given up");
    if (!take_bounce(lane, found->second)) {
      lane.waiting.push_front(id);
      return;
    }
    --lane.credits;
    found->second.sent = true;
    lane.link->send(build_request(lane, id, found->second));
  }
}

uint32_t Client::deadline_ms_of(const Operation& operation) {
  const uint64_t now = system_clock().now_ns();
  uint64_t left_ms = operation.due_ns_ > now ? (operation.due_ns_ - now) / 1'000'000 : 0;
  if (operation.type == FrameType::watch) left_ms -= std::min(left_ms / 2, kWatchMarginMs);
  return static_cast<uint32_t>(std::max<uint64_t>(left_ms, 1));
}

std::vector<std::byte> Client::build_request(Lane& lane, uint64_t id, Request& request) {
  const Operation& op = *request.operation;
  CAIRN_CHECK(request.count <= kBatchItemsMost, "a request of more items than a frame holds");
  FrameBuilder frame(op.type, id, sizeof(BatchBody) + request.count * sizeof(ItemBody));
  frame.header().tag = lane.tag;
  frame.header().deadline_ms = deadline_ms_of(op);
  if (op.type == FrameType::stats) return frame.finish();
  if (op.type == FrameType::watch) {
    frame.append(WatchBody{op.after, op.events_most, 0});
    return frame.finish();
  }
  BatchBody batch;
  batch.layout = op.layout;
  batch.durability = op.durability;
  batch.delete_kind = op.delete_kind;
  batch.scope = op.scope;
  batch.duration_ms = op.duration_ms;
  if (!has_items(op.type)) {
    const bool all = op.type == FrameType::match;
    const auto keys = all ? std::span(op.keys) : std::span(op.keys).subspan(request.first, request.count);
    frame.header().item_count = static_cast<uint32_t>(keys.size());
    frame.append(batch);
    frame.append_bytes(std::as_bytes(keys));
    return frame.finish();
  }
  CAIRN_CHECK(op.crcs_.empty() || op.crcs_.size() == op.keys.size(), "an operation has not one checksum for each key");
  std::vector<ItemBody> items(request.count);
  std::vector<ExtentBody> extents;
  const bool reached = op.moves_payload() && lane.link->memory_domain() != nullptr;
  for (uint32_t i = 0; i < request.count; ++i) {
    const uint32_t item = request.first + i;
    ItemBody& body = items[i];
    body.key = op.keys[item];
    body.group = op.group;
    body.group_members = op.group_members;
    body.ttl_ms = op.ttl_ms;
    if (!op.moves_payload()) continue;
    body.length = op.room(item);
    if (!op.ranges.empty()) {
      body.range_offset = op.ranges[item].offset;
      body.range_bytes = op.ranges[item].length;
    }
    if (checksum_is_known(request, i)) {
      body.flags |= kItemHasCrc;
      body.crc = op.crcs_[item];
    }
  }
  if (reached) reach(lane, id, request, items, extents);
  batch.extent_count = static_cast<uint32_t>(extents.size());
  frame.header().item_count = request.count;
  frame.append(batch);
  frame.append_bytes(std::as_bytes(std::span(items)));
  frame.append_bytes(std::as_bytes(std::span(extents)));
  return frame.finish();
}

// --- settling --------------------------------------------------------------------------------------------

void Client::settle(Operation& operation, uint32_t item, Status status) {
  CAIRN_CHECK(item < operation.settled_.size(), "an item is settled that the operation does not have");
  if (operation.settled_[item]) return;
  operation.settled_[item] = true;
  operation.statuses[item] = status;
  CAIRN_CHECK(operation.unsettled_ > 0, "more items are settled than an operation has");
  --operation.unsettled_;
}

void Client::settle_rest(Operation& operation, Status status) {
  for (uint32_t i = 0; i < operation.settled_.size(); ++i) settle(operation, i, status);
  CAIRN_CHECK(operation.unsettled_ == 0, "an operation was settled and waits for answers");
  finish_if_settled(operation);
}

void Client::finish_if_settled(Operation& operation) {
  if (operation.unsettled_ > 0 || operation.state_ == Operation::State::done) return;
  operation.state_ = Operation::State::done;
  const size_t timed = due_.erase({operation.due_ns_, &operation});
  CAIRN_CHECK(timed == 1, "an operation is done that had no deadline");
  tell_completion(operation);
  changed_.notify_all();
  const size_t closed = open_.erase(&operation);  // may destroy it, if the caller let go
  CAIRN_CHECK(closed == 1, "an operation is done that was not open");
}

// An event that cannot be written to is made good by whoever waits for the operation, who looks when its time is over.
void Client::tell_completion(const Operation& operation) noexcept {
  if (completion_ < 0) return;
  try {
    const std::lock_guard<std::mutex> held(completed_lock_);
    completed_.push_back(operation.id);
  } catch (const std::bad_alloc&) {
    return;
  }
  (void)write_event(completion_);
}

// The service has let go of the request; items without an answer get `rest`.
void Client::finish_request(Lane& lane, uint64_t request_id, Status rest) {
  auto node = lane.requests.extract(request_id);
  if (node.empty()) return;
  Request& request = node.mapped();
  CAIRN_CHECK(!request.operation || !request.fencing, "a request was given up and still takes answers");
  CAIRN_CHECK(!request.fencing || request.sent, "the service is waited for to let go of what it was never told");
  if (request.sent) ++lane.credits;
  if (const auto operation = request.operation) {
    // A service that gave an item up may answer before all of its bytes are sent: from here on they are the caller's.
    if (operation->type == FrameType::put) lane.link->forget(request_id);
    for (uint32_t i = 0; i < request.count; ++i) settle(*operation, request.first + i, rest);
    finish_if_settled(*operation);
  }
  if (request.fencing) end_fence(request.fencing);
  if (request.bounced.empty()) return send_waiting(lane);
  request.bounced.clear();
  for (const auto& one : lanes_) send_waiting(*one);
}

// --- regions ---------------------------------------------------------------------------------------------

Result<MemoryRegion*> Client::alloc_region(uint64_t bytes) {
  if (inherited()) return Error{0, kInherited, 0};
  auto created = MemoryRegion::create(bytes);
  if (!created) return created.error();
  return keep_region(created.take());
}

Result<MemoryRegion*> Client::register_memory(ByteSpan memory, int gpu) {
  if (memory.empty()) return Error{0, "a region has at least one byte"};
  if (inherited()) return Error{0, kInherited, 0};
  CAIRN_CHECK(gpu == kHostMemory || Gpu::loaded() != nullptr, "memory of a GPU is registered without its driver");
  if (!ways_.any(Address::Kind::rdma) && gpu == kHostMemory) return nullptr;
  return keep_region(MemoryRegion::over(memory, gpu));
}

Result<MemoryRegion*> Client::keep_region(std::unique_ptr<MemoryRegion> owned) {
  MemoryRegion* region = owned.get();
  Lock lock(lock_);
  if (regions_.contains(region->base())) return Error{EEXIST, "that memory is registered already"};
  // Pinning takes its time; nobody else's call waits for it.
  const Domains domains = domains_;
  const bool by_device = state_ == Link::up && !lost_ && way_->kind == Address::Kind::rdma;
  lock.unlock();
  for (const auto& domain : domains) {
    auto exposed = expose_region(*domain, *region);
    // While nothing goes by that device it may be gone: install() tries again.
    if (!exposed && by_device && region->gpu() == kHostMemory) return exposed.error();
  }
  lock.lock();
  {
    const std::lock_guard<std::mutex> held(regions_lock_);
    const bool fresh = regions_.emplace(region->base(), std::move(owned)).second;
    if (!fresh) return Error{EEXIST, "that memory is registered already"};
    measure_reach();
  }
  if (region->gpu() != kHostMemory) gpu_regions_.fetch_add(1, std::memory_order_release);
  untold_ = true;
  if (state_ == Link::up) expose_everywhere(*region);  // a device may have come meanwhile
  publish();
  return region;
}

void Client::measure_reach() {
  const std::byte* reach = nullptr;
  for (const auto& [base, region] : regions_) {
    reach = std::max(reach, static_cast<const std::byte*>(region->base() + region->bytes()));
    region->reach = reach;
  }
}

bool Client::region_is_shared(const MemoryRegion& region) {
  if (inherited()) return false;
  const Lock lock(lock_);
  return !region.exposed.empty();
}

void Client::free_region(MemoryRegion* region, Interruption* interruption) {
  CAIRN_CHECK(region != nullptr, "no region is freed");
  if (inherited()) return;
  Lock lock(lock_);
  check_session();
  if (!region->exposed.empty()) end_requests_in(lock, *region, interruption);
  if (region->gpu() != kHostMemory) {
    end_operations_in(lock, *region, interruption);
    gpu_regions_.fetch_sub(1, std::memory_order_release);
  }
  const auto listed = regions_.find(region->base());
  CAIRN_CHECK(listed != regions_.end(), "a region is freed twice, or is another client's");
  CAIRN_CHECK(listed->second.get() == region, "a region is freed that lies where another does");
  for (const auto& lane : lanes_) {
    for (auto& [id, request] : lane->requests) std::erase(request.regions, region);
  }
  // Its memory goes back without anybody's waiting for the lock that guards the list.
  std::unique_ptr<MemoryRegion> freed;
  {
    const std::lock_guard<std::mutex> held(regions_lock_);
    freed = std::move(listed->second);
    regions_.erase(listed);
    measure_reach();
  }
  freed.reset();
  const auto holds_on = [](const auto& domain) { return domain->holds_on(); };
  if (std::any_of(domains_.begin(), domains_.end(), holds_on)) {
    lose_session("the device does not give up memory that is no region any more");
    reap();
  }
  untold_ = true;
  publish();
}

}  // namespace cairn
