#include "transport/channel.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"

namespace cairn {

namespace {

constexpr size_t kDescriptorsMost = 16;  // in one receive; a peer that sends more loses the rest (MSG_CTRUNC)

class SocketChannel final : public ByteChannel {
 public:
  SocketChannel(int socket, bool passes_descriptors) : socket_(socket), passes_descriptors_(passes_descriptors) {
    CAIRN_CHECK(socket_ >= 0, "a channel over a socket that is none");
  }
  ~SocketChannel() override { ::close(socket_); }
  SocketChannel(const SocketChannel&) = delete;
  SocketChannel& operator=(const SocketChannel&) = delete;

  long send(std::span<const iovec> from) override {
    CAIRN_CHECK(!from.empty(), "a send of nothing: it would look as if the peer took no bytes");
    CAIRN_CHECK(from.size() <= IOV_MAX, "more ranges are sent than the system takes at once");
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(from.data());
    message.msg_iovlen = from.size();
    const ssize_t sent = sendmsg(socket_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent >= 0 ? sent : -errno;
  }

  long send_descriptor(std::span<const iovec> from, int descriptor) override {
    if (!passes_descriptors_) return -EOPNOTSUPP;
    CAIRN_CHECK(descriptor >= 0, "a descriptor is handed over that is none");
    CAIRN_CHECK(!from.empty(), "a descriptor travels with the first byte, and there is none");
    CAIRN_CHECK(from.size() <= IOV_MAX, "more ranges are sent with a descriptor than the system takes at once");
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(from.data());
    message.msg_iovlen = from.size();
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
    const ssize_t sent = sendmsg(socket_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent >= 0 ? sent : -errno;
  }

  long receive(std::span<const iovec> into, std::vector<int>& descriptors) override {
    CAIRN_CHECK(!into.empty(), "a receive of nothing: it would look as if the peer had gone");
    CAIRN_CHECK(into.size() <= IOV_MAX, "more ranges are received than the system takes at once");
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kDescriptorsMost * sizeof(int))> control;
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(into.data());
    message.msg_iovlen = into.size();
    if (passes_descriptors_) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
    }
    const ssize_t got = recvmsg(socket_, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0) return -errno;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; ++i) {
        int descriptor = -1;
        std::memcpy(&descriptor, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
        descriptors.push_back(descriptor);
      }
    }
    return got;
  }

  // A peer that is gone already sees no end.
  void finish() override { (void)shutdown(socket_, SHUT_WR); }

  int event_fd() const override { return socket_; }

 private:
  int socket_;
  bool passes_descriptors_;
};

}  // namespace

std::unique_ptr<ByteChannel> socket_channel(int socket, bool passes_descriptors) {
  return std::make_unique<SocketChannel>(socket, passes_descriptors);
}

}  // namespace cairn
