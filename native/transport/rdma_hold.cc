#include "transport/rdma_hold.h"

#include <netinet/in.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include "transport/sockets.h"

namespace cairn {

Result<std::unique_ptr<RdmaHold>> RdmaHold::create(const Verbs& verbs, rdma_cm_id* id) {
  const std::string what = std::string("cannot use the RDMA device ") + id->verbs->device->name;
  std::unique_ptr<RdmaHold> hold(new RdmaHold(verbs));
  hold->events_ = verbs.create_event_channel();
  if (hold->events_ == nullptr) return Error::from_errno(errno, what);
  if (const int code = set_nonblocking(hold->events_->fd); code != 0) return Error::from_errno(code, what);
  if (verbs.create_id(hold->events_, &hold->id_, nullptr, RDMA_PS_TCP) != 0) return Error::from_errno(errno, what);
  sockaddr_storage own{};  // what is bound to an address of the device belongs to the device
  const sockaddr* from = rdma_get_local_addr(id);
  std::memcpy(&own, from, from->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in));
  (own.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(own).sin6_port
                             : reinterpret_cast<sockaddr_in&>(own).sin_port) = 0;
  if (verbs.bind_addr(hold->id_, reinterpret_cast<sockaddr*>(&own)) != 0) return Error::from_errno(errno, what);
  if (hold->id_->verbs != id->verbs) return Error::from_errno(ENODEV, what);
  return hold;
}

RdmaHold::~RdmaHold() {
  if (id_ != nullptr) verbs_.destroy_id(id_);
  if (events_ != nullptr) verbs_.destroy_event_channel(events_);
}

bool RdmaHold::gone() {
  rdma_cm_event* event = nullptr;
  while (!gone_ && verbs_.get_cm_event(events_, &event) == 0) {
    gone_ = event->event == RDMA_CM_EVENT_DEVICE_REMOVAL;
    verbs_.ack_cm_event(event);
  }
  return gone_;
}

void end_channel(const Verbs& verbs, ibv_comp_channel* channel) {
  const int fd = channel->fd;
  if (verbs.destroy_comp_channel(channel) != 0) ::close(fd);
}

}  // namespace cairn
