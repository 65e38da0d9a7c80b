#include "testing/link_pair.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "transport/dialing.h"
#include "transport/rdma_server.h"
#include "transport/ring_channel.h"
#include "transport/sockets.h"

namespace cairn {

namespace {

std::pair<int, int> tcp_pair() {
  Address address;
  address.host = "127.0.0.1";
  ListeningSocket listening = listen_socket(address).take();
  Patience patience(system_clock().now_ms() + 1000, nullptr);
  const int client = dial(listening.bound, patience).take();
  int server = -1;
  while (server < 0) server = accept4(listening.socket, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  ::close(listening.socket);
  return {server, client};
}

std::pair<int, int> unix_pair() {
  int ends[2];
  const int made = socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends);
  CAIRN_CHECK(made == 0, "no socket pair");
  return {ends[0], ends[1]};
}

// Copies min(total lengths) bytes from one list of ranges to another.
void copy_vectors(std::span<const iovec> from, std::span<const iovec> to) {
  size_t source = 0, target = 0, source_at = 0, target_at = 0;
  while (source < from.size() && target < to.size()) {
    const size_t step = std::min(from[source].iov_len - source_at, to[target].iov_len - target_at);
    std::memcpy(static_cast<std::byte*>(to[target].iov_base) + target_at,
                static_cast<const std::byte*>(from[source].iov_base) + source_at, step);
    source_at += step;
    target_at += step;
    if (source_at == from[source].iov_len) {
      ++source;
      source_at = 0;
    }
    if (target_at == to[target].iov_len) {
      ++target;
      target_at = 0;
    }
  }
}

// Both ends of a shm link map the memory that the first of them made.
std::unique_ptr<ByteChannel> channel_of(int socket, RingEnd end, bool shm) {
  static int made = -1;
  if (!shm) return socket_channel(socket);
  if (end == RingEnd::service) return ring_channel(socket, SharedRings::make(kRingBytes, made).take(), end);
  auto rings = SharedRings::map(made).take();
  ::close(made);
  return ring_channel(socket, std::move(rings), end);
}

}  // namespace

std::vector<LinkKind> stream_kinds() {
  return {LinkKind::tcp, LinkKind::shm, LinkKind::fake, LinkKind::fake_dribbling};
}

std::vector<LinkKind> link_kinds() {
  std::vector<LinkKind> kinds = stream_kinds();
  if (std::getenv("CAIRN_TESTBED_ADDRESS") != nullptr) kinds.push_back(LinkKind::rdma);
  return kinds;
}

LinkPair::LinkPair(LinkKind kind, uint64_t seed, const Slab& slab) {
  if (kind == LinkKind::rdma) {
    connect_rdma(slab);
    return;
  }
  if (kind == LinkKind::fake || kind == LinkKind::fake_dribbling) {
    ChannelFaults faults;
    if (kind == LinkKind::fake_dribbling) faults.seed = seed + 1;
    fake_ = std::make_unique<ChannelPair>(faults);
    server = std::make_unique<StreamServerLink>(fake_->take_server(), "fake");
    client = std::make_unique<StreamClientLink>(fake_->take_client());
  } else {
    const bool shm = kind == LinkKind::shm;
    const auto [server_end, client_end] = shm ? unix_pair() : tcp_pair();
    raw_server_ = server_end;
    server = std::make_unique<StreamServerLink>(channel_of(server_end, RingEnd::service, shm), "peer");
    client = std::make_unique<StreamClientLink>(channel_of(client_end, RingEnd::client, shm));
  }
  server->set_handler(this);
  client->set_handler(this);
}

LinkPair::~LinkPair() {
  if (server_closed.empty()) server->close();
  server.reset();
  client.reset();
}

// The client connects on a thread of its own: it blocks until the service has answered its hello.
void LinkPair::connect_rdma(const Slab& slab) {
  Address address;
  address.kind = Address::Kind::rdma;
  address.host = std::getenv("CAIRN_TESTBED_ADDRESS");
  auto listening = listen_at(address, {&slab, {}});
  CAIRN_CHECK(listening.ok(), "no RDMA listener");
  listener_ = listening.take();
  address = parse_address(listener_->url()).take();
  auto connecting = std::async(std::launch::async, [&] { return connect_to(address, ConnectOptions{}); });
  const uint64_t until = system_clock().now_ms() + 5000;
  const auto drive = [&] {
    auto link = listener_->accept();
    if (link == nullptr) return;
    server = std::move(link);
    server->set_handler(this);
  };
  while (at_server.empty() && system_clock().now_ms() < until) drive();
  CAIRN_CHECK(!at_server.empty(), "no hello came over RDMA");
  at_server.clear();
  FrameBuilder frame(FrameType::welcome);
  WelcomeBody body;
  body.credits = 1;
  frame.append(body);
  server->send(frame.finish());
  server->flush();
  while (connecting.wait_for(std::chrono::milliseconds(0)) != std::future_status::ready) drive();
  auto connected = connecting.get();
  if (auto* failure = std::get_if<ConnectFailure>(&connected)) std::fprintf(stderr, "%s\n", failure->reason.c_str());
  client = std::move(std::get<Connected>(connected).link);
  client->set_handler(this);
}

const std::vector<ExtentBody>& LinkPair::let_in(uint64_t request_id, uint32_t index, bool writes) {
  static const std::vector<ExtentBody> nothing;
  const auto found = memory.find({request_id, index});
  if (found == memory.end() || client->memory_domain() == nullptr) return nothing;
  CAIRN_CHECK(found->second.size() == 1, "memory in pieces is not let in to");
  const ByteSpan range(static_cast<std::byte*>(found->second[0].iov_base), found->second[0].iov_len);
  Opened& opened = opened_.emplace_back();
  opened.memory = client->memory_domain()->expose(range).take();
  const uint32_t key = client->let_in(request_id, *opened.memory, range, writes).value();
  opened.extents = {{reinterpret_cast<uint64_t>(range.data()), range.size(), key, 0}};
  // The service learns of memory by a request, which goes behind.
  const size_t before = at_server.size();
  client->send(FrameBuilder(FrameType::ping, request_id).finish());
  run_until([&] { return at_server.size() > before; });
  at_server.resize(before);
  return opened.extents;
}

void LinkPair::pull(PullOp& op) {
  op.from = let_in(op.request_id, op.index, false);
  server->pull(op);
}

void LinkPair::send_results(uint64_t request_id, std::span<ResultItem> items, uint16_t flags) {
  for (ResultItem& item : items) item.to = let_in(request_id, item.body.index, true);
  server->send_results(request_id, items, flags);
}

bool LinkPair::run_until(const std::function<bool()>& done) {
  // Enough turns for the slowest seed to move what any test sends; sockets on loopback need a few.
  constexpr int kTurns = 200'000;
  uint64_t last = 0;
  for (int turn = 0, still = 0; turn < kTurns && still < 20'000; ++turn) {
    if (done()) return true;
    if (listener_ != nullptr) {
      listener_->accept();
      listener_->poll();
    }
    if (server_closed.empty()) {
      server->progress(true, true);
      server->flush();
    }
    if (client_closed.empty()) client->progress(true, true);
    const uint64_t now = server->moved_bytes() + at_client.size() + at_server.size();
    still = now == last ? still + 1 : 0;
    last = now;
  }
  return done();
}

void LinkPair::cut() {
  if (fake_ != nullptr) return fake_->cut();
  if (listener_ != nullptr) {
    load_verbs().take()->disconnect(dynamic_cast<RdmaServerLink&>(*server).connection());
    return;
  }
  shutdown(raw_server_, SHUT_RDWR);
}

void LinkPair::on_frame(ServerLink& link, const FrameHeader& header, ConstByteSpan body) {
  at_server.push_back({header, {body.begin(), body.end()}});
  if (hold_each > 0 && at_server.size() % hold_each == 0) link.hold(true);
}

// As the reactor does it: the peer is told.
void LinkPair::on_violation(ServerLink& link, Status status, std::string_view reason) {
  violations.push_back(std::string(status_row(status).name) + ": " + std::string(reason));
  link.leave(build_reason(FrameType::refuse, 0, SessionTag{}, status, reason));
}

void LinkPair::on_closed(ServerLink&, Status status, std::string_view reason) {
  server_closed.push_back(std::string(status_row(status).name) + ": " + std::string(reason));
}

bool LinkPair::source(uint64_t request_id, uint32_t index, uint64_t, uint64_t, std::vector<iovec>& out) {
  const auto found = memory.find({request_id, index});
  if (found == memory.end()) return false;
  out.insert(out.end(), found->second.begin(), found->second.end());
  return true;
}

bool LinkPair::destination(uint64_t request_id, uint32_t index, uint64_t, std::vector<iovec>& out) {
  return source(request_id, index, 0, 0, out);
}

void LinkPair::on_frame(const FrameHeader& header, ConstByteSpan body) {
  at_client.push_back({header, {body.begin(), body.end()}});
}

void LinkPair::on_closed(Status status, std::string_view reason) {
  client_closed.push_back(std::string(status_row(status).name) + ": " + std::string(reason));
}

Buffer patterned(Slab& slab, uint64_t bytes, uint64_t seed) {
  Buffer buffer = slab.allocate(bytes);
  CAIRN_CHECK(static_cast<bool>(buffer), "the test's slab is too small");
  std::vector<std::byte> all(bytes);
  fill_pattern(all, seed);
  std::vector<iovec> parts;
  buffer.slice(0, bytes, parts);
  const iovec from{all.data(), all.size()};
  copy_vectors({&from, 1}, parts);
  return buffer;
}

bool holds_pattern(const Buffer& buffer, uint64_t seed) {
  std::vector<std::byte> all(buffer.length());
  std::vector<iovec> parts;
  buffer.slice(0, buffer.length(), parts);
  const iovec to{all.data(), all.size()};
  copy_vectors(parts, {&to, 1});
  return check_pattern(all, seed) < 0;
}

}  // namespace cairn
