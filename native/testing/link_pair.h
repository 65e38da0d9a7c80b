// A little language for link tests: both ends of one link, what arrived, and memory that is watched.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/pattern.h"
#include "testing/fake_channel.h"
#include "transport/stream_client.h"
#include "transport/stream_server.h"

namespace cairn {

enum class LinkKind { tcp, shm, fake, fake_dribbling, rdma };

inline const char* name_of(LinkKind kind) {
  constexpr const char* names[] = {"tcp", "shm", "fake", "fake_dribbling", "rdma"};
  return names[static_cast<size_t>(kind)];
}

// rdma only where there is a device (tools/testbed): CAIRN_TESTBED_ADDRESS says at which address.
std::vector<LinkKind> link_kinds();
// Those whose payload travels in frames.
std::vector<LinkKind> stream_kinds();

struct ArrivedFrame {
  FrameHeader header;
  std::vector<std::byte> body;
};

class LinkPair final : public ServerLinkHandler, public ClientLinkHandler {
 public:
  LinkPair(LinkKind kind, uint64_t seed, const Slab& slab);
  ~LinkPair();

  // Moves bytes on both sides until `done` or nothing more comes; false if it never was.
  bool run_until(const std::function<bool()>& done);
  void run() {
    run_until([] { return false; });
  }
  void cut();
  // As of the server link, with the client's memory of that item: in extents where the service moves the bytes itself.
  // Then the client lets it in first.
  void pull(PullOp& op);
  void send_results(uint64_t request_id, std::span<ResultItem> items, uint16_t flags);
  // Bytes as a hostile client would send them, past the client link.
  void inject(std::vector<std::byte> bytes) { client->send(std::move(bytes)); }

  std::unique_ptr<ServerLink> server;
  std::unique_ptr<ClientLink> client;
  std::vector<ArrivedFrame> at_server, at_client;
  std::vector<std::string> server_closed, client_closed, violations;
  uint64_t payload_sent = 0;
  size_t hold_each = 0;  // the server's link is held after so many frames, each time; 0: never
  // Memory of (request, item) as the client offers it.
  std::map<std::pair<uint64_t, uint32_t>, std::vector<iovec>> memory;

  // ServerLinkHandler
  void on_frame(ServerLink&, const FrameHeader& header, ConstByteSpan body) override;
  void on_violation(ServerLink& link, Status status, std::string_view reason) override;
  void on_payload_sent(ServerLink&, uint64_t bytes) override { payload_sent += bytes; }
  void on_closed(ServerLink&, Status status, std::string_view reason) override;
  // ClientLinkHandler
  bool source(uint64_t request_id, uint32_t index, uint64_t offset, uint64_t length, std::vector<iovec>& out) override;
  bool destination(uint64_t request_id, uint32_t index, uint64_t length, std::vector<iovec>& out) override;
  void on_frame(const FrameHeader& header, ConstByteSpan body) override;
  void on_closed(Status status, std::string_view reason) override;

 private:
  struct Opened {
    std::unique_ptr<ExposedMemory> memory;
    std::vector<ExtentBody> extents;
  };
  void connect_rdma(const Slab& slab);
  const std::vector<ExtentBody>& let_in(uint64_t request_id, uint32_t index, bool writes);
  bool progress();

  std::unique_ptr<Listener> listener_;
  std::deque<Opened> opened_;
  std::unique_ptr<ChannelPair> fake_;
  int raw_server_ = -1;
};

class RecordedPull final : public PullOp {
 public:
  RecordedPull(Slab& slab, uint64_t request, uint32_t item, uint64_t bytes) {
    request_id = request;
    index = item;
    length = bytes;
    buffer = slab.allocate(bytes);
  }
  void pulled(Status status) override { ended.push_back(status); }
  std::vector<Status> ended;
};

// A slab buffer filled with the pattern of `seed`.
Buffer patterned(Slab& slab, uint64_t bytes, uint64_t seed);
bool holds_pattern(const Buffer& buffer, uint64_t seed);

}  // namespace cairn
