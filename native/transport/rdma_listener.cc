// Listening for RDMA connections, through the connection manager.
#include "transport/rdma_listener.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "transport/rdma_server.h"
#include "transport/sockets.h"

namespace cairn {

namespace {

constexpr int kBacklog = 256;
constexpr int kWokenMost = 8;  // by devices, before the connection manager is heeded in any case
constexpr uint64_t kAttemptEveryNs = 250'000'000;
// Requests to connect that wait for a protection domain, and how long they do.
constexpr size_t kWaitingMost = 64;
constexpr uint64_t kWaitNs = 4'000'000'000;

class RdmaListener final : public Listener {
 public:
  RdmaListener(const Verbs& verbs, const ListenOptions& options) : verbs_(verbs), options_(options) {
    CAIRN_CHECK(options.slab != nullptr, "a listener for RDMA without the memory that it moves");
  }
  ~RdmaListener() override {
    stop_accepting();
    turn_away([](const Waiting&) { return true; }, Status::draining, "the service is shutting down");
    devices_.clear();
    if (told_ >= 0) ::close(told_);
    if (channel_ != nullptr) verbs_.destroy_event_channel(channel_);
    if (waits_ >= 0) ::close(waits_);
  }
  RdmaListener(const RdmaListener&) = delete;
  RdmaListener& operator=(const RdmaListener&) = delete;

  // 0 or an errno.
  int begin(const Address& address, const sockaddr* at) {
    waits_ = epoll_create1(EPOLL_CLOEXEC);
    if (waits_ < 0) return errno;
    told_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (told_ < 0 || !watch(told_)) return errno;
    channel_ = verbs_.create_event_channel();
    if (channel_ == nullptr) return errno;
    if (int code = set_nonblocking(channel_->fd); code != 0) return code;
    if (!watch(channel_->fd)) return errno;
    std::memcpy(&at_, at, at->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in));
    if (const int code = begin_listening(); code != 0) return code;
    Address bound = address;
    bound.port = ntohs(verbs_.get_src_port(id_));
    (at_.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(at_).sin6_port
                               : reinterpret_cast<sockaddr_in&>(at_).sin_port) = htons(bound.port);
    url_ = to_url(bound);
    return 0;
  }

  int event_fd() const override { return waits_; }
  const std::string& url() const override { return url_; }

  std::unique_ptr<ServerLink> accept() override {
    uint64_t ignored = 0;
    (void)!::read(told_, &ignored, sizeof(ignored));
    bool woken = false;
    for (const auto& [context, device] : devices_) woken = device->clear_event() || woken;
    if (woken) poll();
    if (!waiting_.empty()) {
      if (auto link = ask_again()) return link;
    }
    // A look at the manager is a system call, and its events stay until they are read.
    if (woken && ++unheeded_ < kWokenMost) return nullptr;
    unheeded_ = 0;
    rdma_cm_event* event = nullptr;
    while (verbs_.get_cm_event(channel_, &event) == 0) {
      if (auto link = heed(*event)) return link;
    }
    return nullptr;
  }

  bool drives_links() const override { return true; }
  void set_filter(AcceptFilter& filter) override { filter_ = &filter; }
  void stop_accepting() override {
    accepting_ = false;
    stop_listening();
  }

  bool poll() override {
    bool any = false;
    for (const auto& [context, device] : devices_) any = device->poll() || any;
    std::erase_if(devices_, [this](const auto& one) {
      const RdmaDevice& device = *one.second;
      const bool over = device.taken_away() && !device.has_links();
      // Its event is an error from now on, and would never be heeded.
      if (over) (void)epoll_ctl(waits_, EPOLL_CTL_DEL, device.event_fd(), nullptr);
      return over;
    });
    if (accepting_ && id_ == nullptr) listen_again();
    return any;
  }

  bool rest() override {
    bool quiet = true;
    for (const auto& [context, device] : devices_) quiet = device->arm() && quiet;
    return quiet;
  }

 private:
  // 0 or an errno.
  int begin_listening() {
    int code = 0;
    if (verbs_.create_id(channel_, &id_, nullptr, RDMA_PS_TCP) != 0) return errno;
    if (verbs_.bind_addr(id_, reinterpret_cast<sockaddr*>(&at_)) != 0 || verbs_.listen(id_, kBacklog) != 0)
      code = errno;
    if (code != 0) stop_listening();
    return code;
  }

  void stop_listening() {
    if (id_ != nullptr) verbs_.destroy_id(id_);
    id_ = nullptr;
  }

  // The device that had our address was taken away. It, or another one, may have it again.
  void listen_again() {
    const uint64_t now = system_clock().now_ns();
    if (now < next_attempt_ns_) return;
    next_attempt_ns_ = now + kAttemptEveryNs;
    (void)begin_listening();
  }

  bool watch(int fd) const {
    epoll_event event{};
    event.events = EPOLLIN;
    return epoll_ctl(waits_, EPOLL_CTL_ADD, fd, &event) == 0;
  }

  // Acknowledges the event in any case.
  std::unique_ptr<ServerLink> heed(rdma_cm_event& event) {
    rdma_cm_id* id = event.id;
    const rdma_cm_event_type what = event.event;
    if (what == RDMA_CM_EVENT_CONNECT_REQUEST) {
      rdma_conn_param wanted = event.param.conn;
      std::array<std::byte, 256> data{};
      std::memcpy(data.data(), wanted.private_data, wanted.private_data_len);
      const ConstByteSpan given(data.data(), wanted.private_data_len);
      verbs_.ack_cm_event(&event);
      return take(id, wanted, given);
    }
    auto* link = static_cast<RdmaServerLink*>(id == id_ ? nullptr : id->context);
    ibv_context* context = id->verbs;
    verbs_.ack_cm_event(&event);
    if (what == RDMA_CM_EVENT_DEVICE_REMOVAL) {
      const auto device = devices_.find(context);
      if (device != devices_.end()) device->second->take_away();
      const auto on_it = [context](const Waiting& one) { return one.id->verbs == context; };
      turn_away(on_it, Status::busy, "the device was taken away");
      if (id == id_) stop_listening();
      return nullptr;
    }
    if (what == RDMA_CM_EVENT_DISCONNECTED) (void)verbs_.disconnect(id);  // the peer's wait for an answer ends
    if (link != nullptr && what != RDMA_CM_EVENT_ESTABLISHED && what != RDMA_CM_EVENT_ADDR_CHANGE) {
      link->lost(Status::disconnected, "the peer closed the connection");
    }
    return nullptr;
  }

  std::unique_ptr<ServerLink> take(rdma_cm_id* id, const rdma_conn_param& wanted, ConstByteSpan given) {
    RdmaRequest request;
    const char* wrong = decode_rdma_request(given, request);
    const auto refuse = [&](Status status, std::string_view reason) {
      reject(verbs_, id, status, reason);
      verbs_.destroy_id(id);
      return nullptr;
    };
    if (wrong != nullptr) {
      const bool ours = given.size() >= sizeof(request) && request.magic == kRdmaMagic;
      const bool version = ours && (request.version_least > kRdmaVersion || request.version_most < kRdmaVersion);
      return refuse(version ? Status::bad_version : Status::invalid, wrong);
    }
    if (filter_ != nullptr) {
      const std::string why = filter_->why_not(peer_of(id), host_of(rdma_get_peer_addr(id)));
      if (!why.empty()) return refuse(Status::busy, why);
    }
    std::string reason;
    RdmaDevice* device = device_of(id, reason);
    if (device == nullptr) return refuse(Status::busy, reason);
    bool later = false;
    auto link = device->accept(id, wanted, request, options_.path, later);
    if (!later) return link;
    if (waiting_.size() >= kWaitingMost) return refuse(Status::busy, "too many others wait to be let in; try again");
    waiting_.push_back({id, wanted, request, device, system_clock().now_ns() + kWaitNs});
    return nullptr;
  }

  // Those that wait, the first come first.
  std::unique_ptr<ServerLink> ask_again() {
    const uint64_t now = system_clock().now_ns();
    turn_away([now](const Waiting& one) { return now >= one.until_ns; }, Status::busy,
              "the service is still making room for another tenant; try again");
    while (!waiting_.empty()) {
      const Waiting first = waiting_.front();
      bool later = false;
      auto link = first.device->accept(first.id, first.wanted, first.request, options_.path, later);
      if (later) return nullptr;
      waiting_.pop_front();
      if (link != nullptr) return link;
    }
    return nullptr;
  }

  template <class Whom>
  void turn_away(Whom whom, Status status, std::string_view reason) {
    std::erase_if(waiting_, [&](const Waiting& one) {
      if (!whom(one)) return false;
      reject(verbs_, one.id, status, reason);
      verbs_.destroy_id(one.id);
      return true;
    });
  }

  void tell() const {
    const uint64_t one = 1;
    (void)!::write(told_, &one, sizeof(one));  // EAGAIN: it was told already
  }

  RdmaDevice* device_of(rdma_cm_id* id, std::string& reason) {
    ibv_context* context = id->verbs;
    const auto known = devices_.find(context);
    if (known != devices_.end() && !known->second->taken_away()) return known->second.get();
    if (known != devices_.end()) {
      reason = "the device was taken away";
      return nullptr;
    }
    auto created = RdmaDevice::create(verbs_, id, options_.slab->memory(), [this] { tell(); });
    if (!created) {
      reason = created.error().message;
      return nullptr;
    }
    auto device = created.take();
    if (!watch(device->event_fd())) {
      reason = Error::from_errno(errno, "cannot wait for the device").message;
      return nullptr;
    }
    device->arm();
    return devices_.emplace(context, std::move(device)).first->second.get();
  }

  struct Waiting {
    rdma_cm_id* id;
    rdma_conn_param wanted;
    RdmaRequest request;
    RdmaDevice* device;
    uint64_t until_ns;
  };
  const Verbs& verbs_;
  ListenOptions options_;
  std::deque<Waiting> waiting_;
  int told_ = -1;  // an event: a device may have an answer
  AcceptFilter* filter_ = nullptr;
  int waits_ = -1;
  int unheeded_ = 0;
  rdma_event_channel* channel_ = nullptr;
  rdma_cm_id* id_ = nullptr;  // nullptr: the device that had the address was taken away
  bool accepting_ = true;
  uint64_t next_attempt_ns_ = 0;
  sockaddr_storage at_{};  // with the real port
  std::string url_;
  std::map<ibv_context*, std::unique_ptr<RdmaDevice>> devices_;
};

}  // namespace

void reject(const Verbs& verbs, rdma_cm_id* id, Status status, std::string_view reason) {
  const RdmaReject answer = build_rdma_reject(status, reason);
  // A peer that is gone already needs no answer.
  (void)verbs.reject(id, &answer, sizeof(answer));
}

Result<std::unique_ptr<Listener>> listen_rdma(const Address& address, const ListenOptions& options) {
  auto verbs = load_verbs();
  if (!verbs) return verbs.error();
  auto found = resolve_passive(address);
  if (!found) return found.error();
  int code = EADDRNOTAVAIL;
  for (const addrinfo* one = found.value().get(); one != nullptr; one = one->ai_next) {
    auto listener = std::make_unique<RdmaListener>(*verbs.value(), options);
    code = listener->begin(address, one->ai_addr);
    if (code == 0) return std::unique_ptr<Listener>(std::move(listener));
  }
  if (code == ENODEV)
    return Error::from_errno(code, "cannot listen at " + to_url(address),
                             "; no RDMA device has that address (rdma link, ip address)");
  return Error::from_errno(code, "cannot listen at " + to_url(address));
}

}  // namespace cairn
