// Devices and domains of the service's end of RDMA.
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "transport/rdma_server.h"
#include "transport/sockets.h"

namespace cairn {

namespace {

// Small, for most commands are, and a thousand clients that say nothing should cost little.
constexpr uint32_t kMessageBytes = 2048;
constexpr uint16_t kCredits = 24;  // of one client: messages on their way to us
// A client has its credit's worth of receives, and those for two messages that only give credit back. From so many on
// they share: a client that finds none waits a little (RNR). Soft-RoCE of Linux 6.1 breaks a connection that binds
// windows then.
constexpr uint32_t kReceivesEach = kCredits + 2;
constexpr uint32_t kReceivesMost = 8192;
constexpr uint32_t kDomainsMost = 256;
constexpr size_t kUnmetMost = 16;  // domains of those who connected and were not let in yet
constexpr uint32_t kInlineBytes = 220;
constexpr uint64_t kLingerNs = 1'000'000'000;
constexpr uint64_t kLastWordsNs = 200'000'000;
constexpr uint8_t kRnrRetries = 5;  // a client that takes nothing although it gave credit: its own link ends
constexpr uint32_t kReadsMost = 16;
constexpr size_t kPolledMost = 32;

}  // namespace

std::string peer_of(rdma_cm_id* id) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  const sockaddr* peer = rdma_get_peer_addr(id);
  const socklen_t length = peer->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  if (getnameinfo(peer, length, host.data(), host.size(), port.data(), port.size(), NI_NUMERICHOST | NI_NUMERICSERV) !=
      0)
    return "an RDMA peer";
  return std::string(host.data()) + " port " + port.data();
}

// --- domains ---------------------------------------------------------------------------------------------

Result<std::unique_ptr<RdmaDomain>> RdmaDomain::create(const Verbs& verbs, ibv_context* context, ByteSpan slab,
                                                       uint32_t receives_most) {
  std::unique_ptr<RdmaDomain> domain(new RdmaDomain(verbs));
  domain->domain_ = verbs.alloc_pd(context);
  if (domain->domain_ == nullptr) return Error::from_errno(errno, "cannot make a protection domain");
  auto registered = register_own(verbs, domain->domain_, slab);
  if (!registered) return registered.error();
  domain->slab_ = registered.take();
  domain->pool_ = std::make_unique<MessagePool>(verbs, domain->domain_, kMessageBytes);
  ibv_srq_init_attr wanted{};
  wanted.attr.max_wr = domain->receives_most_ = receives_most;
  wanted.attr.max_sge = 1;
  domain->shared_ = verbs.create_srq(domain->domain_, &wanted);
  if (domain->shared_ == nullptr) return Error::from_errno(errno, "cannot make a shared receive queue");
  return domain;
}

bool RdmaDomain::add_receives(uint32_t more) {
  CAIRN_CHECK(more <= receives_left(), "more receives are added than the queue holds");
  for (; more > 0; --more) {
    const uint32_t slot = pool_->take();
    if (slot == MessagePool::kNone) return false;
    spent_.push_back(slot);
    ++provided_;
  }
  return post_receives();
}

RdmaDomain::~RdmaDomain() {
  CAIRN_CHECK(links == 0, "a protection domain ends with links in it");
  if (shared_ != nullptr) verbs_.destroy_srq(shared_);
  pool_.reset();
  slab_ = RdmaMemory();
  if (domain_ == nullptr) return;
  const int code = verbs_.dealloc_pd(domain_);
  CAIRN_CHECK(has_ended(code), "a protection domain ends with something left in it");
}

bool RdmaDomain::post_receives() {
  constexpr size_t kTogether = 32;
  std::array<ibv_recv_wr, kTogether> requests;
  std::array<ibv_sge, kTogether> memory;
  while (!spent_.empty()) {
    const size_t count = std::min(spent_.size(), kTogether);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t slot = spent_[spent_.size() - count + i];
      memory[i] = {reinterpret_cast<uint64_t>(pool_->at(slot)), kMessageBytes, pool_->key_of(slot)};
      requests[i] = {};
      requests[i].wr_id = kReceiveId | uint64_t{number} << 32 | slot;
      requests[i].sg_list = &memory[i];
      requests[i].num_sge = 1;
      requests[i].next = i + 1 < count ? &requests[i + 1] : nullptr;
    }
    ibv_recv_wr* refused = nullptr;
    if (ibv_post_srq_recv(shared_, requests.data(), &refused) != 0) return false;
    spent_.resize(spent_.size() - count);
  }
  return true;
}

// --- the device ------------------------------------------------------------------------------------------

Result<std::unique_ptr<RdmaDevice>> RdmaDevice::create(const Verbs& verbs, rdma_cm_id* id, ByteSpan slab,
                                                       std::function<void()> told) {
  auto hold = RdmaHold::create(verbs, id);
  if (!hold) return hold.error();
  ibv_context* context = id->verbs;
  std::unique_ptr<RdmaDevice> device(new RdmaDevice(verbs, hold.take(), slab));
  const std::string what = std::string("cannot use the RDMA device ") + context->device->name;
  CAIRN_CHECK(!slab.empty(), "a device without memory to move");
  if (const int code = verbs.query_device(context, &device->facts_); code != 0) return Error::from_errno(code, what);
  const auto entries_most = static_cast<uint32_t>(std::max(device->facts_.max_cqe, 1));
  auto completions = Completions::create(verbs, context, entries_most);
  if (!completions) return Error{0, what + ": " + completions.error().message};
  device->completions_ = completions.take();
  const uint32_t receives = std::min(kReceivesMost, static_cast<uint32_t>(std::max(device->facts_.max_srq_wr, 1)));
  const auto make = [&verbs, context, slab, receives] { return RdmaDomain::create(verbs, context, slab, receives); };
  device->spares_ = std::make_unique<RdmaSpares>(kDomainsMost, make, std::move(told));
  return device;
}

RdmaDevice::~RdmaDevice() {
  CAIRN_CHECK(links_.empty(), "a device ends with links on it");
  if (!taken_away_) say_last_words();
  for (Lingering& one : lingering_) drop_queue(std::move(one.queue), *one.domain);
  spares_.reset();
  domains_.clear();
}

// A service that shuts down has just told its clients so.
void RdmaDevice::say_last_words() {
  const uint64_t until = system_clock().now_ns() + kLastWordsNs;
  while (!lingering_.empty() && system_clock().now_ns() < until) {
    pollfd waiting{event_fd(), POLLIN, 0};
    if (arm()) ::poll(&waiting, 1, 10);
    clear_event();
    poll();
  }
}

// Whoever named tenants that there are not left domains behind in which nobody is. True if there were any.
bool RdmaDevice::reclaim(const RdmaDomain* keep) {
  const size_t ended = std::erase_if(domains_, [&](const auto& one) {
    const RdmaDomain& domain = *one.second;
    if (domain.links > 0 || &domain == keep) return false;
    completions_->release_receives(domain.receives_provided());
    return true;
  });
  spares_->ended(ended);
  return ended > 0;
}

RdmaDomain* RdmaDevice::domain_of(uint64_t mark, Refusal& refusal) {
  size_t unmet = 0;
  RdmaDomain* idle = nullptr;
  for (const auto& [number, domain] : domains_) {
    if (domain->mark() == mark) return domain.get();
    if (domain->links == 0) idle = domain.get();
    unmet += domain->links > 0 && !domain->met ? 1 : 0;
  }
  if (unmet >= kUnmetMost) {
    refusal.reason = "too many tenants have connected and said no hello yet";
    return nullptr;
  }
  // Nothing of whoever had it before can be reached by a key of the next: its connections are gone.
  if (idle == nullptr) {
    auto spare = spares_->take(refusal.later, refusal.reason);
    if (spare == nullptr) return nullptr;
    spare->number = next_domain_++;
    idle = spare.get();
    domains_.emplace(idle->number, std::move(spare));
  }
  idle->become(mark);
  return idle;
}

std::unique_ptr<RdmaQueue> RdmaDevice::make_queue(rdma_cm_id* id, RdmaDomain& domain, Refusal& refusal) {
  QueueSizes sizes;
  sizes.requests = std::min<uint32_t>(sizes.requests, static_cast<uint32_t>(facts_.max_qp_wr));
  sizes.sges = std::min<uint32_t>(sizes.sges, static_cast<uint32_t>(facts_.max_sge));
  sizes.inline_bytes = kInlineBytes;
  const uint32_t wanted = (domain.links + 1) * kReceivesEach;
  const uint32_t missing = wanted - std::min(wanted, domain.receives_provided());  // those of links that left stay
  const uint32_t receives = std::min(missing, domain.receives_left());
  const uint32_t before = domain.receives_provided();
  if (!completions_->reserve_receives(receives) && !(reclaim(&domain) && completions_->reserve_receives(receives))) {
    refusal.reason = "the device has no room for another connection's messages";
    return nullptr;
  }
  const bool added = domain.add_receives(receives);
  completions_->release_receives(receives - (domain.receives_provided() - before));
  if (!added) {
    refusal.reason = "there is no memory for another connection's messages";
    return nullptr;
  }
  ibv_cq* completions = completions_->reserve_work(sizes.requests);
  if (completions == nullptr) {
    refusal.reason = "the device has no room for another connection's completions";
    return nullptr;
  }
  auto made = RdmaQueue::create(verbs_, id, domain.handle(), completions, domain.receives(), sizes);
  if (!made) {
    completions_->release_work(completions, sizes.requests);
    refusal.reason = made.error().message;
    return nullptr;
  }
  ++domain.links;
  return made.take();
}

// The device lets go of the queue's memory, and of the id.
void RdmaDevice::drop_queue(std::unique_ptr<RdmaQueue> queue, RdmaDomain& domain) {
  CAIRN_CHECK(queue != nullptr, "no queue is dropped");
  CAIRN_CHECK(domain.links > 0, "a link leaves a domain that has none");
  const ibv_cq* completions = queue->pair()->send_cq;
  const uint32_t requests = queue->sizes().requests;
  // It may be writing to memory that others get next.
  const bool over = queue->end();
  CAIRN_CHECK(over, "a queue pair does not end");
  queue.reset();
  completions_->release_work(completions, requests);
  --domain.links;
}

bool RdmaDevice::answer(RdmaQueue& queue, const RdmaRequest& request, const RdmaPath& path, uint32_t reads,
                        Refusal& refusal) {
  if (reads == 0) {
    refusal = {Status::invalid, "the client lets nobody read its memory (no responder resources)"};
    return false;
  }
  int code = queue.to_init(false);
  if (code == 0) code = queue.to_receive(path);
  if (code == 0) code = queue.to_send(static_cast<uint8_t>(reads), kRnrRetries);
  RdmaReply reply;
  reply.credits = kCredits;
  reply.message_bytes = kMessageBytes;
  reply.features = request.features & kRdmaWindows;
  rdma_conn_param param{};
  param.private_data = &reply;
  param.private_data_len = sizeof(reply);
  param.initiator_depth = static_cast<uint8_t>(reads);
  param.rnr_retry_count = 7;
  param.srq = 1;
  param.qp_num = queue.number();
  if (code == 0 && verbs_.accept(queue.id(), &param) != 0) code = errno;
  if (code == 0) return true;
  refusal.reason = Error::from_errno(code, "cannot accept the connection").message;
  return false;
}

std::unique_ptr<RdmaServerLink> RdmaDevice::accept(rdma_cm_id* id, const rdma_conn_param& wanted,
                                                   const RdmaRequest& request, const RdmaPath& path, bool& later) {
  Refusal refusal;
  const uint32_t reads = std::min<uint32_t>(
      {kReadsMost, static_cast<uint32_t>(std::max(facts_.max_qp_init_rd_atom, 0)), wanted.initiator_depth});
  RdmaDomain* domain = domain_of(request.tenant, refusal);
  later = refusal.later;
  if (later) return nullptr;
  auto queue = domain == nullptr ? nullptr : make_queue(id, *domain, refusal);
  if (queue == nullptr || !answer(*queue, request, path, reads, refusal)) {
    reject(verbs_, id, refusal.status, refusal.reason);
    if (queue != nullptr) {
      drop_queue(std::move(queue), *domain);
    } else {
      verbs_.destroy_id(id);
    }
    return nullptr;
  }
  CAIRN_CHECK(reads <= kReadsMost, "more reads at once than were agreed on");
  const EndSizes ends{kCredits, request.credits, request.message_bytes, reads};
  const uint32_t number = queue->number();
  auto link = std::make_unique<RdmaServerLink>(*this, *domain, std::move(queue), ends, peer_of(id),
                                               host_of(rdma_get_peer_addr(id)), (request.features & kRdmaWindows) != 0);
  id->context = link.get();
  const bool fresh = links_.emplace(number, link.get()).second;
  CAIRN_CHECK(fresh, "two queue pairs have one number");
  return link;
}

void RdmaDevice::forget(const RdmaServerLink& link, uint32_t queue_number) {
  const auto found = links_.find(queue_number);
  if (found == links_.end() || found->second != &link) return;
  links_.erase(found);
  std::erase(touched_, &link);
}

void RdmaDevice::linger(std::unique_ptr<RdmaQueue> queue, RdmaDomain& domain) {
  CAIRN_CHECK(queue != nullptr, "no queue lingers");
  queue->id()->context = nullptr;
  if (queue->idle()) return drop_queue(std::move(queue), domain);
  lingering_.push_back({std::move(queue), &domain, system_clock().now_ns() + kLingerNs});
}

void RdmaDevice::take_away() {
  taken_away_ = true;
  fail_links("the device was taken away");
}

void RdmaDevice::fail_links(std::string_view reason) {
  const auto links = links_;
  for (const auto& [number, link] : links) link->lost(Status::disconnected, reason);
}

// --- completions -----------------------------------------------------------------------------------------

void RdmaDevice::touch(RdmaServerLink& link) {
  if (link.touched) return;
  link.touched = true;
  touched_.push_back(&link);
}

void RdmaDevice::take_message(const ibv_wc& completion) {
  const auto slot = static_cast<uint32_t>(completion.wr_id);
  const auto number = static_cast<uint32_t>((completion.wr_id & ~kReceiveId) >> 32);
  const auto domain = domains_.find(number);
  if (domain == domains_.end()) return;
  const auto link = links_.find(completion.qp_num);
  if (link != links_.end()) {
    touch(*link->second);
    if (completion.status == IBV_WC_SUCCESS) {
      CAIRN_CHECK(completion.byte_len <= kMessageBytes, "a message is longer than its memory");
      link->second->received({domain->second->pool().at(slot), completion.byte_len});
    } else {
      link->second->receive_failed(completion.status);
    }
  }
  domain->second->free_receive(slot);
}

// True if the completion was of a queue that has no link any more.
bool RdmaDevice::end_lingering(const ibv_wc& completion) {
  const auto found = std::find_if(lingering_.begin(), lingering_.end(),
                                  [&](const Lingering& one) { return one.queue->number() == completion.qp_num; });
  if (found == lingering_.end()) return false;
  Work work;
  const bool known = completion.status == IBV_WC_SUCCESS && found->queue->is_open(completion.wr_id);
  while (known && found->queue->next_done(completion.wr_id, work)) {
    if (work.pool != nullptr) work.pool->give_back(work.slot);
  }
  if (completion.status != IBV_WC_SUCCESS || found->queue->idle()) found->until_ns = 0;
  return true;
}

void RdmaDevice::take_in(const ibv_wc& completion) {
  if ((completion.wr_id & kReceiveId) != 0) return take_message(completion);
  const auto link = links_.find(completion.qp_num);
  if (link == links_.end()) {
    end_lingering(completion);
    return;
  }
  touch(*link->second);
  link->second->completed(completion);
}

void RdmaDevice::settle() {
  // Before the links give credit for them.
  for (const auto& [number, domain] : domains_) {
    if (!domain->post_receives()) fail_links("the device takes no more receives");
  }
  for (size_t i = 0; i < touched_.size(); ++i) {
    RdmaServerLink* link = touched_[i];
    link->touched = false;
    link->pump();
  }
  touched_.clear();
  if (lingering_.empty()) return;
  const uint64_t now = system_clock().now_ns();
  std::erase_if(lingering_, [&](Lingering& one) {
    if (one.until_ns > now) return false;
    drop_queue(std::move(one.queue), *one.domain);
    return true;
  });
}

bool RdmaDevice::poll() {
  std::array<ibv_wc, kPolledMost> done;
  bool any = false;
  constexpr int kRounds = 8;  // the drives have their turn, too
  for (int round = 0; round < kRounds; ++round) {
    bool broken = false;
    const size_t count = completions_->poll(done, broken);
    if (broken) {
      fail_links("the device's completions are broken");
      return true;
    }
    for (size_t i = 0; i < count; ++i) take_in(done[i]);
    any = any || count > 0;
    if (count < kPolledMost) break;
  }
  if (any || !lingering_.empty()) settle();
  return any;
}

bool RdmaDevice::arm() {
  if (completions_->armed()) return true;
  completions_->arm();
  return !poll();
}

}  // namespace cairn
