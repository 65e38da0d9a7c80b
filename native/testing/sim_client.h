// A client of a simulation: it speaks the wire format over a fake channel, one request at a time, to keys of its own
// (gets go to anybody's). It cancels, runs into deadlines and dies as the seed says. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "testing/fake_channel.h"
#include "testing/sim_oracle.h"
#include "testing/virtual_clock.h"
#include "transport/stream_client.h"
#include "wire/frame.h"

namespace cairn {

// What a run is made of, as far as clients are concerned.
struct SimLoad {
  uint32_t clients = 2, tenants = 1;
  uint32_t keys_per_client = 60;
  uint64_t think_ms_most = 400;
  uint32_t deadline_ms_most = 20'000;
  double dies = 0.002, cancels = 0.01;  // of the steps in which a request is open
  bool dribbling = false;               // links move a few bytes a call, or none
};

class SimClient final : public ClientLinkHandler {
 public:
  class Server {
   public:
    // A new connection: the service's end is taken care of.
    virtual std::unique_ptr<ByteChannel> connect(SimClient& client) = 0;
    virtual void note(uint64_t what) = 0;  // goes into the hash of the run

   protected:
    ~Server() = default;
  };

  SimClient(Server& server, SimOracle& oracle, const VirtualClock& clock, const SimLoad& load, uint32_t number,
            uint64_t seed);

  // One turn. True if anything happened.
  bool step();
  uint64_t next_event_ns() const { return open_ ? give_up_ns_ : paused_ ? UINT64_MAX : act_ns_; }
  // The process of the service ended: begin anew.
  void reset();
  bool idle() const { return !open_; }
  void pause(bool paused) { paused_ = paused; }
  uint64_t requests = 0;
  uint32_t tenant() const { return number_ % load_.tenants; }

 private:
  struct Item {
    SimKey key;
    uint32_t version = 0;
    uint64_t offset = 0, length = 0;
    std::vector<std::byte> memory;
    bool settled = false;
  };

  bool source(uint64_t request_id, uint32_t index, uint64_t offset, uint64_t length, std::vector<iovec>& out) override;
  bool destination(uint64_t request_id, uint32_t index, uint64_t length, std::vector<iovec>& out) override;
  void on_frame(const FrameHeader& header, ConstByteSpan body) override;
  void on_closed(Status status, std::string_view reason) override;

  void connect();
  void act();
  void begin(FrameType type);
  void send_request(FrameType type);
  void settle(Item& item, Status status, uint64_t nbytes);
  void take_results(const FrameHeader& header, ConstByteSpan body);
  void take_statuses(const FrameHeader& header, ConstByteSpan body);
  void close_request(Status rest);
  void die(uint64_t back_ms_most);
  SimKey draw_key(bool own);
  bool happens(double share) { return std::uniform_real_distribution<>()(random_) < share; }

  Server& server_;
  SimOracle& oracle_;
  const VirtualClock& clock_;
  const SimLoad& load_;
  uint32_t number_;
  std::mt19937_64 random_;
  std::unique_ptr<ClientLink> link_;
  SessionTag tag_{};
  bool welcomed_ = false, open_ = false, cancelling_ = false, durable_ = true, lost_ = false, paused_ = false;
  FrameType type_{};
  uint64_t request_id_ = 0;
  uint64_t asked_ = 0;  // the oracle's step then
  uint64_t asked_unix_ms_ = 0;
  uint64_t act_ns_ = 0, give_up_ns_ = 0;
  std::vector<Item> items_;
};

}  // namespace cairn
