// The client's end of RDMA. See transport.h for the contract.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "transport/rdma_end.h"
#include "transport/rdma_hold.h"

namespace cairn {

inline constexpr uint32_t kClientMessageBytes = 4096;
inline constexpr uint16_t kClientCredits = 32;
// Two messages that only give credit back may be on their way besides: each stands for half of the credit. And one is
// being taken in when the credit for it goes back.
inline constexpr uint32_t kClientReceives = kClientCredits + 3;

class RdmaClientDomain final : public MemoryDomain, public std::enable_shared_from_this<RdmaClientDomain> {
 public:
  // Of the device that the connection of `id` uses.
  static Result<std::shared_ptr<RdmaClientDomain>> create(const Verbs& verbs, rdma_cm_id* id);
  ~RdmaClientDomain() override;
  RdmaClientDomain(const RdmaClientDomain&) = delete;
  RdmaClientDomain& operator=(const RdmaClientDomain&) = delete;

  Result<std::unique_ptr<ExposedMemory>> expose(ByteSpan memory) override;
  Result<std::unique_ptr<ExposedMemory>> expose_dma_buf(ByteSpan memory, int descriptor, uint64_t offset) override;
  const Verbs& verbs() const { return verbs_; }
  bool gone() override { return hold_->gone(); }
  bool holds_on() const override { return holds_on_; }
  void hold_on() { holds_on_ = true; }
  ibv_context* context() const { return hold_->context(); }
  ibv_pd* handle() const { return domain_; }
  bool windows() const { return windows_; }
  const ibv_device_attr& facts() const { return facts_; }

 private:
  RdmaClientDomain(const Verbs& verbs, std::unique_ptr<RdmaHold> hold) : verbs_(verbs), hold_(std::move(hold)) {}
  const Verbs& verbs_;
  std::unique_ptr<RdmaHold> hold_;  // ends behind everything on the device
  ibv_pd* domain_ = nullptr;
  ibv_device_attr facts_{};
  bool windows_ = false;
  std::atomic<bool> holds_on_{false};
};

class RdmaExposed final : public ExposedMemory {
 public:
  enum class By : uint8_t {
    windows,  // one bound to it for each request
    regions,  // one registered for each request, for the device has no windows
    itself,   // it is open for as long as it is there: memory of another device
  };
  RdmaExposed(std::shared_ptr<RdmaClientDomain> domain, RdmaMemory memory, By by)
      : domain_(std::move(domain)), memory_(std::move(memory)), by_(by) {}
  ~RdmaExposed() override;
  bool stays_open() const override { return by_ != By::windows; }
  By by() const { return by_; }
  const RdmaMemory& memory() const { return memory_; }
  const RdmaClientDomain* domain() const { return domain_.get(); }

 private:
  std::shared_ptr<RdmaClientDomain> domain_;
  RdmaMemory memory_;
  By by_;
};

// What a connection is made of before it is a link. Ends in the other order.
struct RdmaDialled {
  const Verbs& verbs;
  std::shared_ptr<RdmaClientDomain> domain;
  rdma_event_channel* events = nullptr;
  ibv_comp_channel* channel = nullptr;
  ibv_cq* completions = nullptr;
  std::unique_ptr<MessagePool> pool;
  std::unique_ptr<RdmaQueue> queue;
  EndSizes sizes;
  bool windows = false;  // the service takes them back
  int waits = -1;        // readable when any of the two channels is

  explicit RdmaDialled(const Verbs& with) : verbs(with) {}
  RdmaDialled(const RdmaDialled&) = delete;
  RdmaDialled& operator=(const RdmaDialled&) = delete;
  ~RdmaDialled();
};

// Gives the slot to the device for a message. False: the queue pair is broken.
bool post_client_receive(RdmaQueue& queue, MessagePool& pool, uint32_t slot);

class RdmaClientLink final : public ClientLink, private RdmaEnd {
 public:
  explicit RdmaClientLink(std::unique_ptr<RdmaDialled> dialled);
  ~RdmaClientLink() override;

  int event_fd() const override { return dialled_->waits; }
  bool wants_write() const override { return false; }
  void progress(bool readable, bool writable) override;
  bool polled() const override { return true; }
  bool poll() override;
  bool rest() override;
  void send(std::vector<std::byte> frame) override;
  void forget(uint64_t) override {}  // no payload passes through here
  void close() override;
  std::shared_ptr<MemoryDomain> memory_domain() override { return dialled_->domain; }
  std::optional<uint32_t> let_in(uint64_t request_id, const ExposedMemory& memory, ByteSpan range,
                                 bool writes) override;

 private:
  struct Window {
    ibv_mw* handle = nullptr;
    uint32_t key = 0;
    bool open = false;  // bound, or on its way to be
  };
  // A last frame that waits until the windows of its request are shut.
  struct Held {
    FrameHeader header;
    std::vector<std::byte> body;
    uint32_t waiting = 0;
  };

  uint32_t local_key() const override { return 0; }  // the service moves the bytes
  void frame_arrived(const FrameHeader& header, ConstByteSpan body) override;
  void work_done(const Work& work) override;
  void failed(Status status, std::string_view reason) override;

  uint32_t take_window();
  bool end_regions(uint64_t request_id);
  void shut(Window& window, uint32_t index);
  void invalidated(uint32_t key);
  void clear_event();
  void heed_manager();
  bool take_in();
  bool post_receive(uint32_t slot);
  void hang_up();

  SendChain chain_;
  std::unique_ptr<RdmaDialled> dialled_;
  std::vector<Window> windows_;
  std::vector<uint32_t> free_windows_;
  std::unordered_map<uint64_t, std::vector<uint32_t>> let_in_;  // request → windows that were opened for it
  std::unordered_multimap<uint64_t, RdmaMemory> regions_;       // request → what was registered for it alone
  std::unordered_map<uint32_t, uint64_t> shutting_;             // window → request whose frame is held
  std::unordered_map<uint64_t, Held> held_;
  bool armed_ = false;  // the next completion makes an event
};

}  // namespace cairn
