// The client's handshake: connect, HELLO, WELCOME. Blocks, within its time.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "transport/dialing.h"
#include "transport/handshake.h"
#include "transport/rdma_listener.h"
#include "transport/ring_channel.h"
#include "transport/sockets.h"
#include "transport/stream_client.h"

namespace cairn {

namespace {

constexpr const char* kNoRings =
    "the service's shared memory did not arrive: this process is at its limit of open files; raise it (ulimit -n)";

// Over the socket alone: a link is made of it when both sides have spoken.
class Handshake {
 public:
  Handshake(int socket, Patience& patience, bool rings) : socket_(socket), rings_(rings), patience_(patience) {}
  ~Handshake() {
    if (socket_ >= 0) ::close(socket_);
    for (const int descriptor : descriptors_) ::close(descriptor);
  }
  Handshake(const Handshake&) = delete;
  Handshake& operator=(const Handshake&) = delete;

  std::variant<Connected, ConnectFailure> run(const ConnectOptions& options) {
    if (!send_hello(options)) return failure_;
    FrameHeader header;
    if (!read_exactly(reinterpret_cast<std::byte*>(&header), sizeof(header))) return failure_;
    if (const char* wrong = check_header(header)) {
      const bool version = header.magic == kFrameMagic && header.version != kProtocolVersion;
      return ConnectFailure{version ? Status::bad_version : Status::invalid, wrong};
    }
    CAIRN_CHECK(header.body_bytes <= kBodyBytesMost, "an absurd length got past the check of the header");
    std::vector<std::byte> body(header.body_bytes);
    if (!read_exactly(body.data(), body.size())) return failure_;
    if (const char* wrong = check_body(header, body)) return ConnectFailure{Status::invalid, wrong};
    return understand(header, body);
  }

 private:
  std::variant<Connected, ConnectFailure> understand(const FrameHeader& header, ConstByteSpan body) {
    Connected connected;
    if (auto failure = understand_welcome(header, body, connected.welcome)) return std::move(*failure);
    if (!rings_) {
      connected.link = std::make_unique<StreamClientLink>(socket_channel(std::exchange(socket_, -1)));
      return connected;
    }
    if ((connected.welcome.body.features & kFeatureRings) == 0)
      return ConnectFailure{Status::bad_version, "the service knows no rings in shared memory; upgrade it"};
    if (descriptors_.empty() && cut_off_) return ConnectFailure{Status::busy, kNoRings};
    if (descriptors_.size() != 1)
      return ConnectFailure{Status::invalid, "the service did not hand its shared memory over with its welcome"};
    auto rings = SharedRings::map(descriptors_.front());
    if (!rings) return ConnectFailure{Status::busy, rings.error().message};
    connected.link =
        std::make_unique<StreamClientLink>(ring_channel(std::exchange(socket_, -1), rings.take(), RingEnd::client));
    return connected;
  }

  bool send_hello(const ConnectOptions& options) {
    std::vector<std::byte> bytes = build_hello(options, rings_ ? kFeatureRings : 0);
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t sent = ::send(socket_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent >= 0) {
        at += static_cast<size_t>(sent);
        CAIRN_CHECK(at <= bytes.size(), "more was sent than the hello holds");
      } else if (!await(errno, POLLOUT)) {
        return false;
      }
    }
    return true;
  }

  bool read_exactly(std::byte* to, size_t length) {
    while (length > 0) {
      const ssize_t got = receive(to, length);
      if (got > 0) {
        CAIRN_CHECK(static_cast<size_t>(got) <= length, "more was received than there is memory for");
        to += got;
        length -= static_cast<size_t>(got);
      } else if (got == 0) {
        failure_ = {Status::disconnected, "the service closed the connection during the handshake"};
        return false;
      } else if (!await(errno, POLLIN)) {
        return false;
      }
    }
    return true;
  }

  // With whatever descriptors come along: they are ours.
  ssize_t receive(std::byte* to, size_t length) {
    constexpr size_t kDescriptorsMost = 4;
    iovec part{to, length};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kDescriptorsMost * sizeof(int))> control;
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (rings_) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
    }
    const ssize_t got = recvmsg(socket_, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 || !rings_) return got;
    cut_off_ = cut_off_ || (message.msg_flags & MSG_CTRUNC) != 0;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; ++i) {
        int descriptor = -1;
        std::memcpy(&descriptor, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
        descriptors_.push_back(descriptor);
      }
    }
    return got;
  }

  // Waits until the socket may be tried again; false when it is broken or the time is up.
  bool await(int number, short events) {
    CAIRN_CHECK(events == POLLIN || events == POLLOUT, "a handshake waits for nothing it can go on with");
    if (number != EAGAIN && number != EINTR) {
      failure_ = {Status::disconnected, std::string("the handshake failed: ") + std::strerror(number)};
      return false;
    }
    pollfd waiting{socket_, events, 0};
    if (patience_.poll({&waiting, 1}, patience_.left_ms()) > 0) return true;
    failure_ = patience_.interrupted()
                   ? ConnectFailure{Status::cancelled, "the handshake was interrupted"}
                   : ConnectFailure{Status::timeout, "the service did not answer the handshake in time"};
    return false;
  }

  int socket_;
  bool rings_;
  Patience& patience_;
  std::vector<int> descriptors_;
  bool cut_off_ = false;  // a descriptor came, and this process could not take it
  ConnectFailure failure_;
};

}  // namespace

std::vector<std::byte> build_hello(const ConnectOptions& options, uint32_t features) {
  CAIRN_CHECK(options.tenant.size() <= kNameBytesMost, "a tenant's name does not fit a hello");
  CAIRN_CHECK(options.token.size() <= kNameBytesMost, "a token does not fit a hello");
  CAIRN_CHECK(options.name.size() <= kNameBytesMost, "a client's name does not fit a hello");
  FrameBuilder frame(FrameType::hello);
  HelloBody hello;
  hello.features = features;
  hello.join = options.join;
  hello.tenant_bytes = static_cast<uint16_t>(options.tenant.size());
  hello.token_bytes = static_cast<uint16_t>(options.token.size());
  hello.name_bytes = static_cast<uint16_t>(options.name.size());
  frame.append(hello);
  frame.append_text(options.tenant);
  frame.append_text(options.token);
  frame.append_text(options.name);
  return frame.finish();
}

std::optional<ConnectFailure> understand_welcome(const FrameHeader& header, ConstByteSpan body, Welcome& welcome) {
  if (header.type == FrameType::refuse) {
    ReasonView refused;
    if (const char* wrong = decode_reason(body, refused)) return ConnectFailure{Status::invalid, wrong};
    // A status that this side has no row for comes from a newer service, and a success is none.
    const bool known = static_cast<size_t>(refused.status) < kStatusTable.size() && refused.status != Status::ok;
    return ConnectFailure{known ? refused.status : Status::invalid,
                          "the service refused the session: " + std::string(refused.reason)};
  }
  if (header.type != FrameType::welcome)
    return ConnectFailure{Status::invalid, "the service did not answer with a welcome"};
  if (const char* wrong = decode_fixed(body, welcome.body)) return ConnectFailure{Status::invalid, wrong};
  if (welcome.body.credits == 0) return ConnectFailure{Status::invalid, "the service grants no credits"};
  welcome.tag = header.tag;
  return std::nullopt;
}

ConnectFailure failure_of(const Error& error) {
  switch (error.system_errno) {
    case ETIMEDOUT:
      return {Status::timeout, error.message};
    case ECANCELED:
      return {Status::cancelled, error.message};
    default:
      return {Status::unreachable, error.message};
  }
}

std::variant<Connected, ConnectFailure> connect_to(const Address& address, const ConnectOptions& options) {
  static_assert(kNameBytesMost == 256, "the sentence below names another length");
  if (options.tenant.size() > kNameBytesMost || options.token.size() > kNameBytesMost ||
      options.name.size() > kNameBytesMost) {
    return ConnectFailure{Status::invalid, "tenant, token and name have at most 256 bytes each"};
  }
  if (address.kind == Address::Kind::rdma) return connect_rdma(address, options);
  Patience patience(system_clock().now_ms() + static_cast<uint64_t>(options.timeout_ms), options.interruption);
  auto socket = dial(address, patience);
  if (!socket) return failure_of(socket.error());
  tune_socket(socket.value(), address.kind);
  return Handshake(socket.value(), patience, address.kind == Address::Kind::shm).run(options);
}

}  // namespace cairn
