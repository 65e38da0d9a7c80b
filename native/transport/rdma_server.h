// The service's end of RDMA: listening, devices and their links. See transport.h for the contract.
//
// Everything here belongs to one reactor thread. Objects stand in this order, and end in the other: listener, device,
// domain (one for each tenant), link.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "transport/rdma_completions.h"
#include "transport/rdma_end.h"
#include "transport/rdma_hold.h"
#include "transport/rdma_spares.h"

namespace cairn {

class RdmaDevice;
class RdmaServerLink;

// What one tenant's connections share: a protection domain, in which the slab is registered for our own device, and the
// receives that wait for its messages.
class RdmaDomain {
 public:
  static Result<std::unique_ptr<RdmaDomain>> create(const Verbs& verbs, ibv_context* context, ByteSpan slab,
                                                    uint32_t receives_most);
  ~RdmaDomain();
  RdmaDomain(const RdmaDomain&) = delete;
  RdmaDomain& operator=(const RdmaDomain&) = delete;

  // More of them wait from now on. False: there is no memory, or the queue is broken.
  bool add_receives(uint32_t more);
  uint32_t receives_provided() const { return provided_; }
  uint32_t receives_left() const { return receives_most_ - provided_; }
  // A slot whose message was taken in; post_receives() gives it to the device again.
  void free_receive(uint32_t slot) { spent_.push_back(slot); }
  bool post_receives();
  ibv_pd* handle() const { return domain_; }
  ibv_srq* receives() const { return shared_; }
  MessagePool& pool() { return *pool_; }
  uint32_t slab_key() const { return slab_.local_key(); }
  // Whose it is: while it has no link it may become another tenant's.
  uint64_t mark() const { return mark_; }
  void become(uint64_t mark) {
    CAIRN_CHECK(links == 0, "a protection domain changes hands with links in it");
    mark_ = mark;
    met = false;
  }

  uint32_t number = 0;  // of its device; names it in the ids of receives
  uint32_t links = 0;   // queue pairs in it, closing ones too
  bool met = false;     // the service has let its tenant in

 private:
  explicit RdmaDomain(const Verbs& verbs) : verbs_(verbs) {}
  const Verbs& verbs_;
  uint64_t mark_ = 0;
  ibv_pd* domain_ = nullptr;
  ibv_srq* shared_ = nullptr;
  RdmaMemory slab_;
  std::unique_ptr<MessagePool> pool_;
  uint32_t receives_most_ = 0, provided_ = 0;
  std::vector<uint32_t> spent_;
};

class RdmaServerLink final : public ServerLink, public RdmaEnd {
 public:
  RdmaServerLink(RdmaDevice& device, RdmaDomain& domain, std::unique_ptr<RdmaQueue> queue, EndSizes sizes,
                 std::string peer, std::string host, bool windows);
  ~RdmaServerLink() override;

  void set_tag(const SessionTag& tag) override;
  bool belongs_to(std::string_view tenant) const override { return tenant_mark(tenant) == mark_; }
  const std::string& peer() const override { return peer_; }
  const std::string& host() const override { return host_; }
  uint32_t features() const override { return 0; }
  int event_fd() const override { return -1; }
  bool driven() const override { return true; }
  bool wants_write() const override { return false; }
  void progress(bool readable, bool) override;
  void send(std::vector<std::byte> frame) override;
  void send_results(uint64_t request_id, std::span<ResultItem> items, uint16_t flags) override;
  void pull(PullOp& op) override;
  void cancel(PullOp& op) override;
  void flush() override { pump(); }
  void leave(std::vector<std::byte> frame) override;
  void close() override;
  uint64_t moved_bytes() const override { return moved(); }
  Dues dues() const override;
  uint64_t queued_bytes() const override { return queued(); }
  void hold(bool held) override { hold_input(held); }
  bool held() const override { return input_held(); }

  bool touched = false;  // of the device

 private:
  uint32_t local_key() const override { return domain_.slab_key(); }
  void frame_arrived(const FrameHeader& header, ConstByteSpan body) override;
  void work_done(const Work& work) override;
  void failed(Status status, std::string_view reason) override;
  void broke_rule(Status status, std::string_view reason) override;
  FrameOptions options_of(uint64_t request_id, bool last);
  void note_window(uint64_t request_id, const ExtentBody& extent);
  void payload_dropped();

  RdmaDevice& device_;
  RdmaDomain& domain_;
  uint32_t number_of_queue_;
  uint64_t mark_;
  std::string peer_, host_;
  bool windows_;
  bool tagged_ = false;
  SessionTag tag_{};
  uint64_t payload_out_ = 0;                        // written to the client and not yet done
  std::unordered_map<uint64_t, uint32_t> exposed_;  // request → the key that its last frame takes back
};

// Whom a connection is with, for logs.
std::string peer_of(rdma_cm_id* id);
// Tells the peer why it gets no connection. The id stays the caller's.
void reject(const Verbs& verbs, rdma_cm_id* id, Status status, std::string_view reason);

// One device as the connection manager names it: a port of a NIC, most often.
class RdmaDevice {
 public:
  // The one that the connection of `id` uses. `told` is called, on another thread, when accept() may have an answer
  // that it had not before.
  static Result<std::unique_ptr<RdmaDevice>> create(const Verbs& verbs, rdma_cm_id* id, ByteSpan slab,
                                                    std::function<void()> told);
  ~RdmaDevice();
  RdmaDevice(const RdmaDevice&) = delete;
  RdmaDevice& operator=(const RdmaDevice&) = delete;

  // Takes the id, unless `later` becomes true: then it is asked again. nullptr otherwise: the connection was rejected,
  // with the reason.
  std::unique_ptr<RdmaServerLink> accept(rdma_cm_id* id, const rdma_conn_param& wanted, const RdmaRequest& request,
                                         const RdmaPath& path, bool& later);
  // Takes in what is complete. True if anything was.
  bool poll();
  // Asks to be woken. False when something is complete already.
  bool arm();
  bool clear_event() { return completions_->clear_event(); }  // whether there was one
  int event_fd() const { return completions_->event_fd(); }
  // The system took it away: every link breaks. It can end once none is left.
  void take_away();
  bool taken_away() const { return taken_away_; }
  bool has_links() const { return !links_.empty(); }

  // --- for links ---
  SendChain& chain() { return chain_; }
  void forget(const RdmaServerLink& link, uint32_t queue_number);
  // What the queue still has on its way goes on, for a moment, and is dropped then.
  void linger(std::unique_ptr<RdmaQueue> queue, RdmaDomain& domain);
  void drop_queue(std::unique_ptr<RdmaQueue> queue, RdmaDomain& domain);

 private:
  struct Refusal {
    Status status = Status::busy;
    std::string reason;
    bool later = false;  // it may be otherwise in a moment
  };
  struct Lingering {
    std::unique_ptr<RdmaQueue> queue;
    RdmaDomain* domain;
    uint64_t until_ns;
  };
  RdmaDevice(const Verbs& verbs, std::unique_ptr<RdmaHold> hold, ByteSpan slab)
      : verbs_(verbs), hold_(std::move(hold)), context_(hold_->context()), slab_(slab) {}
  void fail_links(std::string_view reason);
  void say_last_words();
  bool reclaim(const RdmaDomain* keep);
  // nullptr or false: the refusal says why.
  RdmaDomain* domain_of(uint64_t mark, Refusal& refusal);
  std::unique_ptr<RdmaQueue> make_queue(rdma_cm_id* id, RdmaDomain& domain, Refusal& refusal);
  bool answer(RdmaQueue& queue, const RdmaRequest& request, const RdmaPath& path, uint32_t reads, Refusal& refusal);
  void take_in(const ibv_wc& completion);
  void take_message(const ibv_wc& completion);
  void settle();
  bool end_lingering(const ibv_wc& completion);
  void touch(RdmaServerLink& link);

  const Verbs& verbs_;
  std::unique_ptr<RdmaHold> hold_;  // ends behind everything on the device
  ibv_context* context_;
  ByteSpan slab_;
  bool taken_away_ = false;
  ibv_device_attr facts_{};
  std::unique_ptr<Completions> completions_;  // gone after every queue pair
  SendChain chain_;
  std::unordered_map<uint32_t, std::unique_ptr<RdmaDomain>> domains_;
  std::unique_ptr<RdmaSpares> spares_;
  uint32_t next_domain_ = 1;
  std::unordered_map<uint32_t, RdmaServerLink*> links_;  // by the number of the queue pair
  std::vector<RdmaServerLink*> touched_;
  std::vector<Lingering> lingering_;
};

}  // namespace cairn
