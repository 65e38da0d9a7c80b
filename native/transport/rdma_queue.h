// One queue pair and what is in flight on it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/slab.h"
#include "transport/rdma_memory.h"
#include "transport/transport.h"

namespace cairn {

// The ids of receives have this bit, those of work in a RdmaQueue do not.
inline constexpr uint64_t kReceiveId = uint64_t{1} << 63;

enum class WorkKind : uint8_t { message, write, read, bind, invalidate };

// What a work request holds until it is done.
struct Work {
  WorkKind kind = WorkKind::message;
  bool last = false;            // write, read: the last of its item
  uint32_t slot = 0;            // message: of the pool; bind, invalidate: of the link's windows
  uint64_t bytes = 0;           // write, read: of the whole item, where it is the last; message: its length
  PullOp* op = nullptr;         // read; nullptr: cancelled
  MessagePool* pool = nullptr;  // message
  Buffer keep;                  // write, read: the memory
};

// Work requests that are posted together. Shared by the links of a device: nobody leaves anything in it.
class SendChain {
 public:
  static constexpr uint32_t kRequests = 32;
  static constexpr uint32_t kSges = 8;  // of one request
  bool full() const { return count_ == kRequests; }
  bool empty() const { return count_ == 0; }

 private:
  friend class RdmaQueue;
  std::array<ibv_send_wr, kRequests> requests_;
  std::array<std::array<ibv_sge, kSges>, kRequests> sges_;
  uint32_t count_ = 0;
};

struct QueueSizes {
  uint32_t requests = 63;  // in flight; devices keep room for one more, and round up to a power of two
  uint32_t sges = SendChain::kSges;
  uint32_t inline_bytes = 0;
  uint32_t receives = 0;  // without a shared queue
};

// Owns the queue pair and the connection's id. When the queue pair is destroyed the device has let go of all memory.
class RdmaQueue {
 public:
  // `id` belongs to the queue from then on; without one it stays the caller's.
  static Result<std::unique_ptr<RdmaQueue>> create(const Verbs& verbs, rdma_cm_id* id, ibv_pd* domain,
                                                   ibv_cq* completions, ibv_srq* shared, QueueSizes sizes);
  ~RdmaQueue();
  RdmaQueue(const RdmaQueue&) = delete;
  RdmaQueue& operator=(const RdmaQueue&) = delete;

  // Towards the peer that the connection manager found. `reads`: how many may be on their way from here.
  // 0 or an errno.
  int to_init(bool exposes_memory);
  int to_receive(const RdmaPath& path);
  int to_send(uint8_t reads, uint8_t rnr_retries);

  // Nothing of the peer is carried out any more, and nothing of ours. False: the device refuses.
  bool stop();
  // Destroys the queue pair. False: the device refused that and to stop it as well, so that it may go on to reach
  // memory.
  bool end();

  const char* status_text(ibv_wc_status status) const { return verbs_.wc_status_str(status); }
  uint32_t number() const { return pair_->qp_num; }
  rdma_cm_id* id() const { return id_; }
  ibv_qp* pair() const { return pair_; }
  const QueueSizes& sizes() const { return sizes_; }

  // Requests that fit now. Every request of a chain is told of here; begin() with room and a chain that is not full.
  uint32_t room() const { return sizes_.requests - (posted_ - retired_); }
  bool idle() const { return posted_ == retired_; }
  ibv_send_wr& begin(SendChain& chain, Work work);
  Work& newest() { return work_[(posted_ - 1) % work_.size()]; }
  static ibv_sge& add_sge(SendChain& chain);
  static uint32_t sges_of(const SendChain& chain);
  // Hands the chain to the device and empties it. False: the queue pair is broken.
  bool post(SendChain& chain);

  // Whether a completion can be of this queue: a device may say anything.
  bool is_open(uint64_t work_id) const { return static_cast<uint32_t>(work_id) + 1 - retired_ <= posted_ - retired_; }
  // The next piece of work that a completion of this queue ends, in order; one completion ends all before it, too.
  // False when there is no more. Of work that is_open().
  bool next_done(uint64_t work_id, Work& done);
  // Every piece of work that is not done, for what has to be changed in it. `visit` returns nothing.
  template <class Visit>
  void for_each_open(Visit&& visit) {
    for (uint32_t at = retired_; at != posted_; ++at) visit(work_[at % work_.size()]);
  }

 private:
  RdmaQueue(const Verbs& verbs, rdma_cm_id* id) : verbs_(verbs), id_(id) {}
  const Verbs& verbs_;
  rdma_cm_id* id_;
  ibv_qp* pair_ = nullptr;
  QueueSizes sizes_;
  std::vector<Work> work_;
  uint32_t posted_ = 0, retired_ = 0;  // running numbers
};

}  // namespace cairn
