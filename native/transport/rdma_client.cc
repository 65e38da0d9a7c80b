#include "transport/rdma_client.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "transport/sockets.h"

namespace cairn {

namespace {

// That the message took a window back. Soft-RoCE hands out the kernel's number of this flag, which is that of another
// flag here (rxe_resp.c, IB_WC_WITH_INVALIDATE); a key that is no window's is of no account. To shut a window that is
// shut brings Linux 6.1 down, there.
constexpr unsigned kTookBack = IBV_WC_WITH_INV | IBV_WC_IP_CSUM_OK;

bool ends_request(const FrameHeader& header) {
  return (header.flags & kFrameLast) != 0 || header.type == FrameType::failed || header.type == FrameType::cancelled;
}

// For a device whose windows do not work as they should.
bool windows_forbidden() {
  const char* setting = std::getenv("CAIRN_RDMA_WINDOWS");
  return setting != nullptr && std::string_view(setting) == "off";
}

}  // namespace

// --- the domain ------------------------------------------------------------------------------------------

Result<std::shared_ptr<RdmaClientDomain>> RdmaClientDomain::create(const Verbs& verbs, rdma_cm_id* id) {
  auto hold = RdmaHold::create(verbs, id);
  if (!hold) return hold.error();
  ibv_context* context = id->verbs;
  std::shared_ptr<RdmaClientDomain> domain(new RdmaClientDomain(verbs, hold.take()));
  const std::string what = std::string("cannot use the RDMA device ") + context->device->name;
  if (const int code = verbs.query_device(context, &domain->facts_); code != 0) return Error::from_errno(code, what);
  domain->domain_ = verbs.alloc_pd(context);
  if (domain->domain_ == nullptr) return Error::from_errno(errno, what);
  constexpr unsigned kWindows = IBV_DEVICE_MEM_WINDOW_TYPE_2A | IBV_DEVICE_MEM_WINDOW_TYPE_2B;
  domain->windows_ = (domain->facts_.device_cap_flags & kWindows) != 0 && !windows_forbidden();
  return domain;
}

// A device that does not give it up keeps it until the process ends: nothing of it is reached any more.
RdmaClientDomain::~RdmaClientDomain() {
  if (domain_ != nullptr) (void)verbs_.dealloc_pd(domain_);
}

Result<std::unique_ptr<ExposedMemory>> RdmaClientDomain::expose(ByteSpan memory) {
  // Without windows this tells at once whether the memory can be pinned, and keeps it pinned.
  auto registered = windows_ ? register_for_windows(verbs_, domain_, memory) : register_own(verbs_, domain_, memory);
  if (!registered) return registered.error();
  const auto by = windows_ ? RdmaExposed::By::windows : RdmaExposed::By::regions;
  return std::unique_ptr<ExposedMemory>(std::make_unique<RdmaExposed>(shared_from_this(), registered.take(), by));
}

Result<std::unique_ptr<ExposedMemory>> RdmaClientDomain::expose_dma_buf(ByteSpan memory, int descriptor,
                                                                        uint64_t offset) {
  auto registered = register_dma_buf(verbs_, domain_, memory, descriptor, offset);
  if (!registered) return registered.error();
  return std::unique_ptr<ExposedMemory>(
      std::make_unique<RdmaExposed>(shared_from_this(), registered.take(), RdmaExposed::By::itself));
}

RdmaExposed::~RdmaExposed() {
  if (!memory_.end() && by_ == By::itself) domain_->hold_on();
}

RdmaDialled::~RdmaDialled() {
  queue.reset();
  pool.reset();
  if (completions != nullptr) verbs.destroy_cq(completions);
  if (channel != nullptr) end_channel(verbs, channel);
  if (events != nullptr) verbs.destroy_event_channel(events);  // it may be all that there is
  if (waits >= 0) ::close(waits);
}

// --- the link --------------------------------------------------------------------------------------------

RdmaClientLink::RdmaClientLink(std::unique_ptr<RdmaDialled> dialled)
    : RdmaEnd(std::move(dialled->queue), chain_, *dialled->pool, dialled->sizes), dialled_(std::move(dialled)) {}

RdmaClientLink::~RdmaClientLink() {
  hang_up();
}

void RdmaClientLink::hang_up() {
  // From here on the peer reaches nothing. The windows end before the queue pair to which they are bound.
  // Any of the three is enough: that the queue pair stops, that its windows end, that it ends itself. What the device
  // does not give up stays with it.
  const std::unique_ptr<RdmaQueue> stopped = take_queue();
  if (stopped != nullptr) (void)stopped->stop();
  for (const Window& window : windows_) (void)ibv_dealloc_mw(window.handle);
  windows_.clear();
  regions_.clear();
  free_windows_.clear();
  let_in_.clear();
  shutting_.clear();
  held_.clear();
}

void RdmaClientLink::close() {
  try {
    if (open() && chain_.empty()) pump();  // not after one that found no memory in the middle
  } catch (const std::bad_alloc&) {
    chain_ = {};  // what was to be said is not
  }
  hang_up();
}

void RdmaClientLink::send(std::vector<std::byte> frame) {
  queue_frame(std::move(frame), {});
  pump();
}

void RdmaClientLink::failed(Status status, std::string_view reason) {
  handler_->on_closed(status, reason);
}

// --- memory that the peer is let in to -------------------------------------------------------------------

// An index, or UINT32_MAX when the device gives no more.
uint32_t RdmaClientLink::take_window() {
  if (free_windows_.empty()) {
    ibv_mw* handle = ibv_alloc_mw(dialled_->domain->handle(), IBV_MW_TYPE_2);
    if (handle == nullptr) return UINT32_MAX;
    windows_.push_back({handle, handle->rkey, false});
    return static_cast<uint32_t>(windows_.size() - 1);
  }
  const uint32_t index = free_windows_.back();
  free_windows_.pop_back();
  CAIRN_CHECK(!windows_[index].open, "a window that is open is taken for another request");
  return index;
}

std::optional<uint32_t> RdmaClientLink::let_in(uint64_t request_id, const ExposedMemory& memory, ByteSpan range,
                                               bool writes) {
  const auto& exposed = static_cast<const RdmaExposed&>(memory);
  CAIRN_CHECK(exposed.domain() == dialled_->domain.get(), "a peer is let in to memory that its device does not know");
  CAIRN_CHECK(!range.empty(), "a peer is let in to no memory");
  if (exposed.by() == RdmaExposed::By::itself) return exposed.memory().remote_key();
  if (!open()) return std::nullopt;
  if (exposed.by() == RdmaExposed::By::regions) {
    const RdmaClientDomain& domain = *dialled_->domain;
    auto registered = register_open(domain.verbs(), domain.handle(), range, writes);
    if (!registered) return std::nullopt;
    return regions_.emplace(request_id, registered.take())->second.remote_key();
  }
  const uint32_t index = take_window();
  if (index == UINT32_MAX) return std::nullopt;
  Window& window = windows_[index];
  window.handle->rkey = window.key;  // to bind it, the device is told by which key it knows it
  window.key = ibv_inc_rkey(window.key);
  window.open = true;
  Extra bind;
  bind.request.opcode = IBV_WR_BIND_MW;
  bind.request.bind_mw.mw = window.handle;
  bind.request.bind_mw.rkey = window.key;
  bind.request.bind_mw.bind_info.mr = exposed.memory().region();
  bind.request.bind_mw.bind_info.addr = reinterpret_cast<uint64_t>(range.data());
  bind.request.bind_mw.bind_info.length = range.size();
  bind.request.bind_mw.bind_info.mw_access_flags = writes ? IBV_ACCESS_REMOTE_WRITE : IBV_ACCESS_REMOTE_READ;
  bind.work.kind = WorkKind::bind;
  bind.work.slot = index;
  queue_extra(bind);
  let_in_[request_id].push_back(index);
  return window.key;
}

void RdmaClientLink::shut(Window& window, uint32_t index) {
  CAIRN_CHECK(window.open, "a window is shut that is not open");
  Extra invalidate;
  invalidate.request.opcode = IBV_WR_LOCAL_INV;
  invalidate.request.invalidate_rkey = window.key;
  invalidate.work.kind = WorkKind::invalidate;
  invalidate.work.slot = index;
  queue_extra(invalidate);
}

void RdmaClientLink::invalidated(uint32_t key) {
  const auto found = std::find_if(windows_.begin(), windows_.end(),
                                  [key](const Window& window) { return window.open && window.key == key; });
  if (found != windows_.end()) found->open = false;
}

void RdmaClientLink::frame_arrived(const FrameHeader& header, ConstByteSpan body) {
  if (ends_request(header) && !end_regions(header.request_id))
    return lost(Status::invalid, "the device does not give up memory that was registered for a request");
  const auto let_in = ends_request(header) ? let_in_.find(header.request_id) : let_in_.end();
  if (let_in == let_in_.end()) return handler_->on_frame(header, body);
  const std::vector<uint32_t> windows = std::move(let_in->second);
  let_in_.erase(let_in);
  Held held{header, {}, 0};
  for (const uint32_t index : windows) {
    if (!windows_[index].open) {  // the service shut it
      free_windows_.push_back(index);
      continue;
    }
    shut(windows_[index], index);
    shutting_[index] = header.request_id;
    ++held.waiting;
  }
  if (held.waiting == 0) return handler_->on_frame(header, body);
  held.body.assign(body.begin(), body.end());
  held_[header.request_id] = std::move(held);
}

// Of one request. False: the service may still reach some of it by the queue pair, which has to end.
bool RdmaClientLink::end_regions(uint64_t request_id) {
  bool ended = true;
  const auto [first, last] = regions_.equal_range(request_id);
  for (auto one = first; one != last; ++one) ended = one->second.end() && ended;
  regions_.erase(first, last);
  return ended;
}

void RdmaClientLink::work_done(const Work& work) {
  if (work.kind != WorkKind::invalidate) return;
  CAIRN_CHECK(work.slot < windows_.size(), "a window was shut that there is not");
  windows_[work.slot].open = false;
  free_windows_.push_back(work.slot);
  const auto shutting = shutting_.find(work.slot);
  CAIRN_CHECK(shutting != shutting_.end(), "a window was shut for no request");
  const auto held = held_.find(shutting->second);
  shutting_.erase(shutting);
  CAIRN_CHECK(held != held_.end(), "a window was shut for a request that has no frame");
  if (--held->second.waiting > 0) return;
  const Held frame = std::move(held->second);
  held_.erase(held);
  handler_->on_frame(frame.header, frame.body);
}

// --- driving ---------------------------------------------------------------------------------------------

bool RdmaClientLink::post_receive(uint32_t slot) {
  return post_client_receive(queue(), *dialled_->pool, slot);
}

// One notice was asked for, so that there is one event at most.
void RdmaClientLink::clear_event() {
  ibv_cq* completions = nullptr;
  void* context = nullptr;
  const Verbs& verbs = dialled_->domain->verbs();
  if (!armed_ || verbs.get_cq_event(dialled_->channel, &completions, &context) != 0) return;
  verbs.ack_cq_events(completions, 1);
  armed_ = false;
}

void RdmaClientLink::heed_manager() {
  const Verbs& verbs = dialled_->domain->verbs();
  rdma_cm_event* event = nullptr;
  while (verbs.get_cm_event(dialled_->events, &event) == 0) {
    const rdma_cm_event_type what = event->event;
    rdma_cm_id* id = event->id;
    verbs.ack_cm_event(event);
    if (what == RDMA_CM_EVENT_DISCONNECTED) (void)verbs.disconnect(id);  // the peer's wait for an answer ends
    if (what == RDMA_CM_EVENT_DISCONNECTED || what == RDMA_CM_EVENT_DEVICE_REMOVAL ||
        what == RDMA_CM_EVENT_TIMEWAIT_EXIT)
      lost(Status::disconnected, "the service closed the connection");
  }
}

bool RdmaClientLink::take_in() {
  constexpr int kTogether = 16;
  std::array<ibv_wc, kTogether> done;
  int count = 0;
  bool any = false;
  do {
    count = ibv_poll_cq(dialled_->completions, kTogether, done.data());
    if (count < 0) {
      lost(Status::disconnected, "the device's completions are broken");
      return true;
    }
    any = any || count > 0;
    for (int i = 0; i < count && open(); ++i) {
      const ibv_wc& one = done[static_cast<size_t>(i)];
      if ((one.wr_id & kReceiveId) == 0) {
        completed(one);
        continue;
      }
      if (one.status != IBV_WC_SUCCESS) {
        receive_failed(one.status);
        continue;
      }
      const auto slot = static_cast<uint32_t>(one.wr_id);
      if (!dialled_->pool->holds(slot) || one.byte_len > dialled_->pool->slot_bytes()) {
        lost(Status::disconnected, "the device reports a message in memory that it was not given");
        return true;
      }
      if ((one.wc_flags & kTookBack) != 0) invalidated(one.invalidated_rkey);
      received({dialled_->pool->at(slot), one.byte_len});
      if (open() && !post_receive(slot)) lost(Status::disconnected, "the device takes no more receives");
    }
  } while (count == kTogether && open());
  return any;
}

bool RdmaClientLink::poll() {
  if (!open()) return false;
  const bool any = take_in();
  if (any && open()) pump();
  return any;
}

bool RdmaClientLink::rest() {
  if (!open() || armed_) return true;
  if (ibv_req_notify_cq(dialled_->completions, 0) != 0) {
    lost(Status::disconnected, "the device gives no notice of completions; was it taken away?");
    return false;
  }
  armed_ = true;
  return !poll();
}

void RdmaClientLink::progress(bool readable, bool) {
  CAIRN_CHECK(handler_ != nullptr, "a link is driven that reports to nobody");
  if (!open()) return;
  if (readable) clear_event();
  const bool any = take_in();
  // What came before the end was taken in. An event of the manager's stays until it is read.
  if (!any && readable && open()) heed_manager();
  if (open()) pump();
}

}  // namespace cairn
