// The client's way into a session over RDMA: address, route, connection, hello. Blocks, within its time.
#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "transport/dialing.h"
#include "transport/handshake.h"
#include "transport/rdma_client.h"
#include "transport/rdma_listener.h"
#include "transport/sockets.h"

namespace cairn {

namespace {

constexpr uint32_t kInlineBytes = 220;
constexpr uint8_t kReadsMost = 16;  // that the service may have on their way at once
constexpr uint8_t kRetries = 7;     // of a packet, and (7: without end) while the service has no receive ready

class Dialling {
 public:
  Dialling(const Verbs& verbs, const Address& address, const ConnectOptions& options, uint64_t deadline_ms)
      : verbs_(verbs),
        address_(address),
        options_(options),
        patience_(deadline_ms, options.interruption),
        dialled_(std::make_unique<RdmaDialled>(verbs)) {}
  ~Dialling() {
    if (id_ != nullptr) verbs_.destroy_id(id_);
  }
  Dialling(const Dialling&) = delete;
  Dialling& operator=(const Dialling&) = delete;

  // Where to: 0 or an errno, and the next address may be tried.
  int resolve(const sockaddr* to) {
    dialled_->events = verbs_.create_event_channel();
    if (dialled_->events == nullptr) return errno;
    if (const int code = set_nonblocking(dialled_->events->fd); code != 0) return code;
    if (verbs_.create_id(dialled_->events, &id_, nullptr, RDMA_PS_TCP) != 0) return errno;
    if (verbs_.resolve_addr(id_, nullptr, const_cast<sockaddr*>(to), wait_ms()) != 0) return errno;
    if (const int code = await(RDMA_CM_EVENT_ADDR_RESOLVED); code != 0) return code;
    if (id_->verbs == nullptr) return ENODEV;  // a loopback address resolves to no device at all
    if (verbs_.resolve_route(id_, wait_ms()) != 0) return errno;
    return await(RDMA_CM_EVENT_ROUTE_RESOLVED);
  }

  std::variant<Connected, ConnectFailure> run() {
    if (!prepare() || !connect()) return failure_;
    return shake_hands();
  }

 private:
  int wait_ms() const { return std::max(patience_.left_ms(), 1); }

  bool fail(int code, const std::string& what) {
    if (code == ECANCELED) {
      failure_ = {Status::cancelled, "cannot connect to " + to_url(address_) + ": interrupted"};
      return false;
    }
    if (code == ETIMEDOUT) {
      failure_ = {Status::timeout, "cannot connect to " + to_url(address_) + ": " + what + " in time"};
      return false;
    }
    failure_ = {Status::unreachable,
                Error::from_errno(code, "cannot connect to " + to_url(address_) + ": " + what).message};
    return false;
  }

  // The next event: 0 if it is the one; a reject is in failure_. Copies what a reply carries.
  int await(rdma_cm_event_type expected) {
    rdma_cm_event* event = nullptr;
    while (verbs_.get_cm_event(dialled_->events, &event) != 0) {
      if (errno != EAGAIN && errno != EINTR) return errno;
      pollfd waiting{dialled_->events->fd, POLLIN, 0};
      if (patience_.poll({&waiting, 1}, wait_ms()) == 0) return patience_.interrupted() ? ECANCELED : ETIMEDOUT;
    }
    const rdma_cm_event_type what = event->event;
    const int status = event->status;
    if (event->param.conn.private_data != nullptr &&
        (what == RDMA_CM_EVENT_CONNECT_RESPONSE || what == RDMA_CM_EVENT_REJECTED)) {
      const auto* from = static_cast<const std::byte*>(event->param.conn.private_data);
      // No memory is asked for: an event that is not acknowledged would keep its id from ever ending.
      const size_t bytes = std::min<size_t>(event->param.conn.private_data_len, answered_.size());
      std::copy_n(from, bytes, answered_.begin());
      answer_ = std::span(answered_).first(bytes);
    }
    verbs_.ack_cm_event(event);
    if (what == expected) return 0;
    if (what == RDMA_CM_EVENT_REJECTED) return ECONNREFUSED;
    if (what == RDMA_CM_EVENT_ADDR_ERROR || what == RDMA_CM_EVENT_ROUTE_ERROR)
      return status < 0 ? -status : EHOSTUNREACH;
    return what == RDMA_CM_EVENT_UNREACHABLE ? ETIMEDOUT : ECONNABORTED;
  }

  bool prepare() {
    for (const auto& one : options_.domains) {
      const auto given = std::dynamic_pointer_cast<RdmaClientDomain>(one);
      if (given != nullptr && given->context() == id_->verbs && !given->gone()) dialled_->domain = given;
    }
    if (dialled_->domain == nullptr) {
      auto created = RdmaClientDomain::create(verbs_, id_);
      if (!created) return refuse(created.error());
      dialled_->domain = created.take();
    }
    const RdmaClientDomain& domain = *dialled_->domain;
    if (domain.facts().max_qp_wr <= 0) return fail(EOPNOTSUPP, "the device takes no work");
    QueueSizes sizes;
    sizes.requests = std::min<uint32_t>(sizes.requests, static_cast<uint32_t>(domain.facts().max_qp_wr));
    sizes.sges = 1;
    sizes.inline_bytes = kInlineBytes;
    sizes.receives = kClientReceives;
    dialled_->channel = verbs_.create_comp_channel(domain.context());
    if (dialled_->channel == nullptr) return fail(errno, "no channel for completions");
    const int most = static_cast<int>(sizes.requests + sizes.receives);
    dialled_->completions = verbs_.create_cq(domain.context(), most, nullptr, dialled_->channel, 0);
    if (dialled_->completions == nullptr) return fail(errno, "no queue for completions");
    if (const int code = set_nonblocking(dialled_->channel->fd); code != 0) return fail(code, "completions");
    if (!watch()) return fail(errno, "cannot wait for completions");
    dialled_->pool = std::make_unique<MessagePool>(verbs_, domain.handle(), kClientMessageBytes);
    auto made = RdmaQueue::create(verbs_, id_, domain.handle(), dialled_->completions, nullptr, sizes);
    if (!made) return refuse(made.error());
    dialled_->queue = made.take();
    id_ = nullptr;  // the queue's
    if (const int code = dialled_->queue->to_init(true); code != 0) return fail(code, "the queue pair");
    for (uint32_t i = 0; i < kClientReceives; ++i) {
      const uint32_t slot = dialled_->pool->take();
      if (slot == MessagePool::kNone || !post_client_receive(*dialled_->queue, *dialled_->pool, slot))
        return fail(ENOMEM, "no memory for messages; raise the limit of locked memory (ulimit -l)");
    }
    return true;
  }

  bool refuse(const Error& error) {
    failure_ = {Status::unreachable, "cannot connect to " + to_url(address_) + ": " + error.message};
    return false;
  }

  bool watch() {
    dialled_->waits = epoll_create1(EPOLL_CLOEXEC);
    if (dialled_->waits < 0) return false;
    epoll_event event{};
    event.events = EPOLLIN;
    return epoll_ctl(dialled_->waits, EPOLL_CTL_ADD, dialled_->channel->fd, &event) == 0 &&
           epoll_ctl(dialled_->waits, EPOLL_CTL_ADD, dialled_->events->fd, &event) == 0;
  }

  bool connect() {
    const RdmaClientDomain& domain = *dialled_->domain;
    RdmaRequest request;
    request.credits = kClientCredits;
    request.message_bytes = kClientMessageBytes;
    request.features = domain.windows() ? kRdmaWindows : 0;
    request.tenant = tenant_mark(options_.tenant);
    rdma_conn_param param{};
    param.private_data = &request;
    param.private_data_len = sizeof(request);
    param.responder_resources =
        static_cast<uint8_t>(std::min<int>(kReadsMost, std::max(domain.facts().max_qp_rd_atom, 1)));
    param.retry_count = kRetries;
    param.rnr_retry_count = kRetries;
    param.qp_num = dialled_->queue->number();
    rdma_cm_id* id = dialled_->queue->id();
    if (verbs_.connect(id, &param) != 0) return fail(errno, "the connection manager");
    if (const int code = await(RDMA_CM_EVENT_CONNECT_RESPONSE); code != 0) return rejected(code);
    RdmaReply reply;
    if (const char* wrong = decode_rdma_reply(answer_, reply)) {
      failure_ = {Status::invalid, wrong};
      return false;
    }
    dialled_->windows = domain.windows() && (reply.features & kRdmaWindows) != 0;
    dialled_->sizes = {kClientCredits, reply.credits, reply.message_bytes, 1};
    int code = dialled_->queue->to_receive(RdmaPath{});
    if (code == 0) code = dialled_->queue->to_send(0, kRetries);
    if (code == 0 && verbs_.establish(id) != 0) code = errno;
    return code == 0 || fail(code, "the queue pair");
  }

  bool rejected(int code) {
    Status status = Status::unreachable;
    std::string reason;
    if (code != ECONNREFUSED) return fail(code, "no answer to the connection");
    if (!decode_rdma_reject(answer_, status, reason)) return fail(code, "nobody listens there for RDMA");
    failure_ = {status, "the service refused the connection: " + reason};
    return false;
  }

  // The link does it by itself: hello goes out, and the first frame is the answer.
  std::variant<Connected, ConnectFailure> shake_hands() {
    class First final : public ClientLinkHandler {
     public:
      bool source(uint64_t, uint32_t, uint64_t, uint64_t, std::vector<iovec>&) override { return false; }
      bool destination(uint64_t, uint32_t, uint64_t, std::vector<iovec>&) override { return false; }
      void on_frame(const FrameHeader& header, ConstByteSpan body) override {
        if (ended) return;
        ended = true;
        failure = understand_welcome(header, body, welcome);
      }
      void on_closed(Status status, std::string_view reason) override {
        if (ended) return;
        ended = true;
        failure = ConnectFailure{status, std::string(reason)};
      }
      bool ended = false;
      Welcome welcome;
      std::optional<ConnectFailure> failure;
    } first;
    auto link = std::make_unique<RdmaClientLink>(std::move(dialled_));
    link->set_handler(&first);
    link->send(build_hello(options_));
    while (!first.ended) {
      pollfd waiting{link->event_fd(), POLLIN, 0};
      if (patience_.over() || (link->rest() && patience_.poll({&waiting, 1}, wait_ms()) == 0)) {
        if (patience_.interrupted()) return ConnectFailure{Status::cancelled, "the handshake was interrupted"};
        return ConnectFailure{Status::timeout, "the service did not answer the handshake in time"};
      }
      link->progress(true, true);
    }
    if (first.failure) return std::move(*first.failure);
    Connected connected;
    connected.link = std::move(link);
    connected.welcome = first.welcome;
    return connected;
  }

  const Verbs& verbs_;
  const Address& address_;
  const ConnectOptions& options_;
  Patience patience_;
  rdma_cm_id* id_ = nullptr;
  std::array<std::byte, UINT8_MAX> answered_;  // as long as private data can be
  std::span<const std::byte> answer_;
  ConnectFailure failure_;
  std::unique_ptr<RdmaDialled> dialled_;  // before the id ends
};

}  // namespace

bool post_client_receive(RdmaQueue& queue, MessagePool& pool, uint32_t slot) {
  ibv_sge memory{reinterpret_cast<uint64_t>(pool.at(slot)), pool.slot_bytes(), pool.key_of(slot)};
  ibv_recv_wr request{};
  request.wr_id = kReceiveId | slot;
  request.sg_list = &memory;
  request.num_sge = 1;
  ibv_recv_wr* refused = nullptr;
  return ibv_post_recv(queue.pair(), &request, &refused) == 0;
}

std::variant<Connected, ConnectFailure> connect_rdma(const Address& address, const ConnectOptions& options) {
  auto verbs = load_verbs();
  if (!verbs) return ConnectFailure{Status::unsupported, verbs.error().message};
  const uint64_t until_ms = system_clock().now_ms() + static_cast<uint64_t>(options.timeout_ms);
  Patience patience(until_ms, options.interruption);
  auto found = look_up_host(address, patience);
  if (!found) return failure_of(found.error());
  std::vector<const sockaddr*> places;
  for (const addrinfo* one = found.value().get(); one != nullptr; one = one->ai_next) places.push_back(one->ai_addr);
  int code = EADDRNOTAVAIL;
  for (size_t i = 0; i < places.size(); ++i) {
    // An address that does not answer leaves time for the others.
    const uint64_t now_ms = system_clock().now_ms();
    const uint64_t share_ms = (until_ms > now_ms ? until_ms - now_ms : 0) / (places.size() - i);
    Dialling dialling(*verbs.value(), address, options, now_ms + share_ms);
    code = dialling.resolve(places[(options.lane + i) % places.size()]);
    if (code == ECANCELED) break;
    if (code != 0) continue;
    auto connected = dialling.run();
    const auto* failure = std::get_if<ConnectFailure>(&connected);
    const bool silent =
        failure != nullptr && (failure->status == Status::unreachable || failure->status == Status::timeout);
    if (!silent || i + 1 == places.size()) return connected;
  }
  const std::string what = "cannot connect to " + to_url(address);
  if (code == ECANCELED) return ConnectFailure{Status::cancelled, what + ": interrupted"};
  if (code == ETIMEDOUT) return ConnectFailure{Status::timeout, what + ": its address does not answer in time"};
  if (code == ENODEV)
    return ConnectFailure{Status::unreachable, Error::from_errno(code, what, "; this host has no RDMA device").message};
  return ConnectFailure{Status::unreachable, Error::from_errno(code, what).message};
}

}  // namespace cairn
