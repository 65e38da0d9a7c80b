#include <sys/un.h>

#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>

#include "transport/transport.h"

namespace cairn {

namespace {

constexpr std::string_view kForms = "expected rdma://HOST:PORT, tcp://HOST:PORT or shm:///PATH.sock";

Error wrong(std::string_view url, std::string_view why) {
  return Error{0, "cannot use the URL '" + std::string(url) + "': " + std::string(why) + "; " + std::string(kForms)};
}

Result<Address> parse_host(Address::Kind kind, std::string_view url, std::string_view rest) {
  const size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos) return wrong(url, "it names no port");
  std::string_view host = rest.substr(0, colon);
  const std::string_view port = rest.substr(colon + 1);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return wrong(url, "an IPv6 address needs brackets");
  }
  if (host.empty()) return wrong(url, "it names no host");
  Address address;
  address.kind = kind;
  address.host = host;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (error != std::errc{} || end != port.data() + port.size())
    return wrong(url, "its port is not a number from 0 to 65535");
  return address;
}

}  // namespace

Result<Address> parse_address(std::string_view url) {
  constexpr std::string_view tcp = "tcp://";
  constexpr std::string_view shm = "shm://";
  constexpr std::string_view rdma = "rdma://";
  if (url.starts_with(tcp)) return parse_host(Address::Kind::tcp, url, url.substr(tcp.size()));
  if (url.starts_with(rdma)) return parse_host(Address::Kind::rdma, url, url.substr(rdma.size()));
  if (!url.starts_with(shm)) return wrong(url, "its scheme is not known here");
  Address address;
  address.kind = Address::Kind::shm;
  address.path = url.substr(shm.size());
  if (address.path.empty() || address.path.front() != '/') return wrong(url, "the path of a socket is absolute");
  static_assert(sizeof(sockaddr_un::sun_path) == 108, "the sentence below names another length");
  if (address.path.size() >= sizeof(sockaddr_un::sun_path))
    return wrong(url, "the path of a socket has at most 107 bytes");
  return address;
}

const char* name_of(Address::Kind kind) {
  constexpr const char* kNames[] = {"tcp", "shm", "rdma"};
  return kNames[static_cast<size_t>(kind)];
}

std::string to_url(const Address& address) {
  if (address.kind == Address::Kind::shm) {
    CAIRN_CHECK(!address.path.empty(), "an address of a socket that has no path");
    return "shm://" + address.path;
  }
  CAIRN_CHECK(!address.host.empty(), "an address of a service on no host");
  const bool bracket = address.host.find(':') != std::string::npos;
  return name_of(address.kind) + std::string("://") + (bracket ? "[" + address.host + "]" : address.host) + ":" +
         std::to_string(address.port);
}

}  // namespace cairn
