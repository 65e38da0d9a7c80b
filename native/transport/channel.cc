#include "transport/channel.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"

namespace cairn {

namespace {

class SocketChannel final : public ByteChannel {
 public:
  explicit SocketChannel(int socket) : socket_(socket) {
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

  long receive(std::span<const iovec> into, ByteWitness* witness) override {
    CAIRN_CHECK(!into.empty(), "a receive of nothing: it would look as if the peer had gone");
    CAIRN_CHECK(into.size() <= IOV_MAX, "more ranges are received than the system takes at once");
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(into.data());
    message.msg_iovlen = into.size();
    const ssize_t got = recvmsg(socket_, &message, MSG_DONTWAIT);
    if (got < 0) return -errno;
    if (witness != nullptr) show(into, static_cast<size_t>(got), *witness);
    return got;
  }

  // A peer that is gone already sees no end.
  void finish() override { (void)shutdown(socket_, SHUT_WR); }

  int event_fd() const override { return socket_; }

 private:
  static void show(std::span<const iovec> into, size_t bytes, ByteWitness& witness) {
    for (const iovec& part : into) {
      const size_t take = std::min(part.iov_len, bytes);
      if (take > 0) witness.saw({static_cast<const std::byte*>(part.iov_base), take});
      bytes -= take;
    }
  }

  int socket_;
};

}  // namespace

std::unique_ptr<ByteChannel> socket_channel(int socket) {
  return std::make_unique<SocketChannel>(socket);
}

}  // namespace cairn
