#include "transport/sockets.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "base/persist.h"

namespace cairn {

namespace {

constexpr int kBacklog = 256;

Error cannot(const char* verb, const Address& address, int number) {
  return Error::from_errno(number, std::string("cannot ") + verb + " " + to_url(address));
}

// A socket file that a killed service left behind is removed; one that answers belongs to somebody.
Result<Unit> clear_stale(const Address& address) {
  const sockaddr_un name = unix_address(address.path);
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (probe < 0) return cannot("listen at", address, errno);
  const auto tried = [&] { return connect(probe, reinterpret_cast<const sockaddr*>(&name), sizeof(name)); };
  const int code = persist(tried) == 0 ? 0 : errno;
  ::close(probe);
  if (code == 0 || code == EAGAIN) {
    return Error{EADDRINUSE, "cannot listen at " + to_url(address) + ": another service is listening there"};
  }
  struct stat file{};
  if (code == ECONNREFUSED && lstat(address.path.c_str(), &file) == 0 && S_ISSOCK(file.st_mode)) {
    unlink(address.path.c_str());
  }
  return Unit{};
}

Result<ListeningSocket> listen_unix(const Address& address) {
  if (auto cleared = clear_stale(address); !cleared) return cleared.error();
  const int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listening < 0) return cannot("listen at", address, errno);
  const sockaddr_un name = unix_address(address.path);
  // Whoever may open the socket may use the service: only its owner, until an operator widens it.
  if (bind(listening, reinterpret_cast<const sockaddr*>(&name), sizeof(name)) != 0 ||
      chmod(address.path.c_str(), S_IRUSR | S_IWUSR) != 0 || listen(listening, kBacklog) != 0) {
    const int number = errno;
    ::close(listening);
    return cannot("listen at", address, number);
  }
  return ListeningSocket{listening, address};
}

uint16_t bound_port(int socket) {
  CAIRN_CHECK(socket >= 0, "the port of a socket that is none");
  sockaddr_storage name{};
  socklen_t length = sizeof(name);
  getsockname(socket, reinterpret_cast<sockaddr*>(&name), &length);
  if (name.ss_family == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6*>(&name)->sin6_port);
  return ntohs(reinterpret_cast<const sockaddr_in*>(&name)->sin_port);
}

}  // namespace

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un name{};
  CAIRN_CHECK(!path.empty(), "a socket without a path");
  CAIRN_CHECK(path.size() < sizeof(name.sun_path), "the path of a socket is longer than the system takes");
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path.c_str(), path.size() + 1);  // parse_address held the length
  return name;
}

Result<Addresses> resolve_passive(const Address& address) {
  CAIRN_CHECK(address.kind != Address::Kind::shm, "the path of a socket is looked for among hosts");
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | AI_PASSIVE;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (code != 0) return Error{0, "cannot find the host '" + address.host + "': " + gai_strerror(code)};
  return Addresses(found);
}

int set_nonblocking(int fd) {
  const int flags = persist([&] { return fcntl(fd, F_GETFL); });
  if (flags < 0) return errno;
  return persist([&] { return fcntl(fd, F_SETFL, flags | O_NONBLOCK); }) != 0 ? errno : 0;
}

Result<ListeningSocket> listen_socket(const Address& address) {
  if (address.kind == Address::Kind::shm) return listen_unix(address);
  auto resolved = resolve_passive(address);
  if (!resolved) return resolved.error();
  const addrinfo* at = resolved.value().get();
  const int listening = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listening < 0) return cannot("listen at", address, errno);
  const int on = 1;
  setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(listening, at->ai_addr, at->ai_addrlen) != 0 || listen(listening, kBacklog) != 0) {
    const int number = errno;
    ::close(listening);
    return cannot("listen at", address, number);
  }
  Address bound = address;
  bound.port = bound_port(listening);
  return ListeningSocket{listening, bound};
}

int descriptors_for_links() {
  constexpr rlim_t kKept = 320;  // dpu/cairn_dpu/limits.py counts on it
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > INT_MAX) return INT_MAX;
  return static_cast<int>(limit.rlim_cur - std::min(kKept, limit.rlim_cur / 2));
}

void tune_socket(int socket, Address::Kind kind) {
  CAIRN_CHECK(socket >= 0, "a socket is tuned that is none");
  if (kind != Address::Kind::tcp) return;
  const int on = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  // A peer that vanished without a word is noticed within about a minute even on an idle session.
  const int idle_s = 30, interval_s = 10, probes = 3;
  setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

std::string host_of(const sockaddr* address) {
  CAIRN_CHECK(address != nullptr, "an address that is none is written out");
  sockaddr_in plain{};
  if (address->sa_family == AF_INET6) {
    const auto& name = reinterpret_cast<const sockaddr_in6&>(*address);
    if (IN6_IS_ADDR_V4MAPPED(&name.sin6_addr)) {
      plain.sin_family = AF_INET;
      std::memcpy(&plain.sin_addr, &name.sin6_addr.s6_addr[12], sizeof(plain.sin_addr));
      address = reinterpret_cast<const sockaddr*>(&plain);
    }
  }
  if (address->sa_family != AF_INET && address->sa_family != AF_INET6) return {};
  const socklen_t length = address->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  char host[NI_MAXHOST] = "?";
  (void)getnameinfo(address, length, host, sizeof(host), nullptr, 0, NI_NUMERICHOST);
  return host;
}

std::string peer_host(int socket) {
  sockaddr_storage name{};
  socklen_t length = sizeof(name);
  // A peer that is gone already has none; its link ends with the next look at it.
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&name), &length) != 0) return {};
  return host_of(reinterpret_cast<const sockaddr*>(&name));
}

std::string peer_name(int socket, Address::Kind kind) {
  CAIRN_CHECK(socket >= 0, "the peer of a socket that is none");
  if (kind == Address::Kind::shm) {
    ucred who{};
    socklen_t length = sizeof(who);
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &length) != 0) return "unix";
    return "pid " + std::to_string(who.pid) + " uid " + std::to_string(who.uid);
  }
  sockaddr_storage name{};
  socklen_t length = sizeof(name);
  char host[NI_MAXHOST] = "?";
  char port[NI_MAXSERV] = "?";
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&name), &length) == 0) {
    getnameinfo(reinterpret_cast<const sockaddr*>(&name), length, host, sizeof(host), port, sizeof(port),
                NI_NUMERICHOST | NI_NUMERICSERV);
  }
  return std::string(host) + ":" + port;
}

}  // namespace cairn
