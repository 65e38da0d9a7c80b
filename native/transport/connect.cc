// The client's handshake: connect, HELLO, WELCOME. Blocks, within its time.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
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
#include "transport/handshake.h"
#include "transport/rdma_listener.h"
#include "transport/sockets.h"
#include "transport/stream_client.h"

namespace cairn {

namespace {

class Handshake {
 public:
  Handshake(int socket, int timeout_ms)
      : channel_(socket_channel(socket)), deadline_ms_(system_clock().now_ms() + static_cast<uint64_t>(timeout_ms)) {
    CAIRN_CHECK(timeout_ms > 0, "a handshake that has no time");
  }

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
    connected.link = std::make_unique<StreamClientLink>(std::move(channel_));
    return connected;
  }

  bool send_hello(const ConnectOptions& options) {
    std::vector<std::byte> bytes = build_hello(options);
    for (size_t at = 0; at < bytes.size();) {
      const iovec part{bytes.data() + at, bytes.size() - at};
      const long sent = channel_->send({&part, 1});
      if (sent >= 0) {
        at += static_cast<size_t>(sent);
        CAIRN_CHECK(at <= bytes.size(), "more was sent than the hello holds");
      } else if (!await(sent, POLLOUT)) {
        return false;
      }
    }
    return true;
  }

  bool read_exactly(std::byte* to, size_t length) {
    while (length > 0) {
      const iovec part{to, length};
      const long got = channel_->receive({&part, 1});
      if (got > 0) {
        CAIRN_CHECK(static_cast<size_t>(got) <= length, "more was received than there is memory for");
        to += got;
        length -= static_cast<size_t>(got);
      } else if (got == 0) {
        failure_ = {Status::disconnected, "the service closed the connection during the handshake"};
        return false;
      } else if (!await(got, POLLIN)) {
        return false;
      }
    }
    return true;
  }

  // Waits until the channel may be tried again; false when it is broken or the time is up.
  bool await(long error, short events) {
    CAIRN_CHECK(error < 0, "a handshake waits although bytes moved");
    CAIRN_CHECK(events == POLLIN || events == POLLOUT, "a handshake waits for nothing it can go on with");
    if (error != -EAGAIN && error != -EINTR) {
      failure_ = {Status::disconnected,
                  std::string("the handshake failed: ") + std::strerror(static_cast<int>(-error))};
      return false;
    }
    const uint64_t now = system_clock().now_ms();
    pollfd waiting{channel_->event_fd(), events, 0};
    if (now >= deadline_ms_ || poll(&waiting, 1, static_cast<int>(deadline_ms_ - now)) == 0) {
      failure_ = {Status::timeout, "the service did not answer the handshake in time"};
      return false;
    }
    return true;
  }

  std::unique_ptr<ByteChannel> channel_;
  uint64_t deadline_ms_;
  ConnectFailure failure_;
};

}  // namespace

std::vector<std::byte> build_hello(const ConnectOptions& options) {
  CAIRN_CHECK(options.tenant.size() <= kNameBytesMost, "a tenant's name does not fit a hello");
  CAIRN_CHECK(options.token.size() <= kNameBytesMost, "a token does not fit a hello");
  CAIRN_CHECK(options.name.size() <= kNameBytesMost, "a client's name does not fit a hello");
  FrameBuilder frame(FrameType::hello);
  HelloBody hello;
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
    return ConnectFailure{refused.status, "the service refused the session: " + std::string(refused.reason)};
  }
  if (header.type != FrameType::welcome)
    return ConnectFailure{Status::invalid, "the service did not answer with a welcome"};
  if (const char* wrong = decode_fixed(body, welcome.body)) return ConnectFailure{Status::invalid, wrong};
  if (welcome.body.credits == 0) return ConnectFailure{Status::invalid, "the service grants no credits"};
  welcome.tag = header.tag;
  return std::nullopt;
}

std::variant<Connected, ConnectFailure> connect_to(const Address& address, const ConnectOptions& options) {
  static_assert(kNameBytesMost == 256, "the sentence below names another length");
  if (options.tenant.size() > kNameBytesMost || options.token.size() > kNameBytesMost ||
      options.name.size() > kNameBytesMost) {
    return ConnectFailure{Status::invalid, "tenant, token and name have at most 256 bytes each"};
  }
  if (address.kind == Address::Kind::rdma) return connect_rdma(address, options);
  const uint64_t start_ms = system_clock().now_ms();
  auto socket = connect_socket(address, options.timeout_ms);
  if (!socket) {
    const Status status = socket.error().system_errno == ETIMEDOUT ? Status::timeout : Status::unreachable;
    return ConnectFailure{status, socket.error().message};
  }
  tune_socket(socket.value(), address.kind);
  const int left_ms = options.timeout_ms - static_cast<int>(system_clock().now_ms() - start_ms);
  return Handshake(socket.value(), std::max(left_ms, 1)).run(options);
}

}  // namespace cairn
