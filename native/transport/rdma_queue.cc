#include "transport/rdma_queue.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/check.h"
#include "transport/rdma_hold.h"

namespace cairn {

namespace {

ibv_mtu mtu_of(uint32_t bytes) {
  CAIRN_CHECK(bytes >= 256 && bytes <= 4096 && std::has_single_bit(bytes), "a size of packets that no path has");
  return static_cast<ibv_mtu>(std::countr_zero(bytes) - 7);
}
static_assert(IBV_MTU_256 == 1 && IBV_MTU_4096 == 5, "the sizes of packets are numbered otherwise");

}  // namespace

Result<std::unique_ptr<RdmaQueue>> RdmaQueue::create(const Verbs& verbs, rdma_cm_id* id, ibv_pd* domain,
                                                     ibv_cq* completions, ibv_srq* shared, QueueSizes sizes) {
  CAIRN_CHECK(sizes.requests > 0 && sizes.sges > 0, "a queue pair that can do nothing");
  CAIRN_CHECK((shared == nullptr) == (sizes.receives > 0), "a queue pair has receives of its own, or shared ones");
  CAIRN_CHECK(sizes.sges <= SendChain::kSges, "a queue pair whose requests have more pieces than a chain");
  std::unique_ptr<RdmaQueue> queue(new RdmaQueue(verbs, id));
  ibv_qp_init_attr wanted{};
  wanted.qp_type = IBV_QPT_RC;
  wanted.send_cq = completions;
  wanted.recv_cq = completions;
  wanted.srq = shared;
  wanted.cap.max_send_wr = sizes.requests;
  wanted.cap.max_send_sge = sizes.sges;
  wanted.cap.max_recv_wr = sizes.receives;
  wanted.cap.max_recv_sge = shared == nullptr ? 1 : 0;
  wanted.cap.max_inline_data = sizes.inline_bytes;
  queue->pair_ = verbs.create_qp(domain, &wanted);
  if (queue->pair_ == nullptr && sizes.inline_bytes > 0) {  // a device that takes no data inline
    sizes.inline_bytes = wanted.cap.max_inline_data = 0;
    queue->pair_ = verbs.create_qp(domain, &wanted);
  }
  if (queue->pair_ == nullptr) {
    queue->id_ = nullptr;
    return Error::from_errno(errno, "cannot make a queue pair");
  }
  queue->sizes_ = sizes;
  queue->work_.resize(std::bit_ceil(sizes.requests));
  return queue;
}

RdmaQueue::~RdmaQueue() {
  // The device stops before the memory that it may be writing goes back.
  (void)end();
  for_each_open([](Work& work) {
    if (work.pool != nullptr) work.pool->give_back(work.slot);
  });
  if (id_ != nullptr) verbs_.destroy_id(id_);
}

int RdmaQueue::to_init(bool exposes_memory) {
  ibv_qp_attr attributes{};
  int mask = 0;
  attributes.qp_state = IBV_QPS_INIT;
  if (verbs_.init_qp_attr(id_, &attributes, &mask) != 0) return errno;
  // The connection manager would let the peer in.
  attributes.qp_access_flags = exposes_memory ? IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE : 0;
  return verbs_.modify_qp(pair_, &attributes, mask);
}

int RdmaQueue::to_receive(const RdmaPath& path) {
  ibv_qp_attr attributes{};
  int mask = 0;
  attributes.qp_state = IBV_QPS_RTR;
  if (verbs_.init_qp_attr(id_, &attributes, &mask) != 0) return errno;
  if (path.dscp >= 0) attributes.ah_attr.grh.traffic_class = static_cast<uint8_t>(path.dscp << 2);
  if (path.service_level >= 0) attributes.ah_attr.sl = static_cast<uint8_t>(path.service_level);
  if (path.mtu_bytes > 0) attributes.path_mtu = std::min(attributes.path_mtu, mtu_of(path.mtu_bytes));
  attributes.min_rnr_timer = 8;  // 0.16 ms: a queue that is empty for a moment is filled again at the next turn
  return verbs_.modify_qp(pair_, &attributes, mask);
}

int RdmaQueue::to_send(uint8_t reads, uint8_t rnr_retries) {
  ibv_qp_attr attributes{};
  int mask = 0;
  attributes.qp_state = IBV_QPS_RTS;
  if (verbs_.init_qp_attr(id_, &attributes, &mask) != 0) return errno;
  attributes.max_rd_atomic = reads;
  attributes.rnr_retry = rnr_retries;
  return verbs_.modify_qp(pair_, &attributes, mask);
}

bool RdmaQueue::stop() {
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_ERR;
  return has_ended(verbs_.modify_qp(pair_, &attributes, IBV_QP_STATE));
}

bool RdmaQueue::end() {
  if (pair_ == nullptr) return true;
  if (has_ended(verbs_.destroy_qp(pair_))) {
    pair_ = nullptr;
    return true;
  }
  const bool stopped = stop();
  pair_ = nullptr;  // it stays with the device
  return stopped;
}

ibv_send_wr& RdmaQueue::begin(SendChain& chain, Work work) {
  CAIRN_CHECK(room() > 0, "work is begun that does not fit the queue");
  CAIRN_CHECK(!chain.full(), "work is begun that does not fit the chain");
  ibv_send_wr& request = chain.requests_[chain.count_];
  request = {};
  request.wr_id = posted_;
  request.sg_list = chain.sges_[chain.count_].data();
  if (chain.count_ > 0) chain.requests_[chain.count_ - 1].next = &request;
  ++chain.count_;
  work_[posted_ % work_.size()] = std::move(work);
  ++posted_;
  return request;
}

ibv_sge& RdmaQueue::add_sge(SendChain& chain) {
  CAIRN_CHECK(chain.count_ > 0, "a piece is added to no request");
  ibv_send_wr& request = chain.requests_[chain.count_ - 1];
  CAIRN_CHECK(request.num_sge < static_cast<int>(SendChain::kSges), "a request has more pieces than it may");
  return request.sg_list[request.num_sge++];
}

uint32_t RdmaQueue::sges_of(const SendChain& chain) {
  CAIRN_CHECK(chain.count_ > 0, "the pieces of no request are counted");
  return static_cast<uint32_t>(chain.requests_[chain.count_ - 1].num_sge);
}

bool RdmaQueue::post(SendChain& chain) {
  if (chain.empty()) return true;
  CAIRN_CHECK(chain.count_ <= posted_ - retired_, "requests are posted that were never begun");
  // One completion tells of all before it.
  chain.requests_[chain.count_ - 1].send_flags |= IBV_SEND_SIGNALED;
  chain.count_ = 0;
  ibv_send_wr* refused = nullptr;
  return ibv_post_send(pair_, chain.requests_.data(), &refused) == 0;
}

bool RdmaQueue::next_done(uint64_t work_id, Work& done) {
  const auto end = static_cast<uint32_t>(work_id) + 1;
  if (retired_ == end) return false;
  CAIRN_CHECK(end - retired_ <= posted_ - retired_, "work is done that was never begun");
  done = std::exchange(work_[retired_ % work_.size()], Work{});
  ++retired_;
  return true;
}

}  // namespace cairn
