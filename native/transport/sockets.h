// Sockets for stream links: listening, accepting, connecting. Not part of the transport's face.
#pragma once

#include <netdb.h>
#include <sys/un.h>

#include <memory>
#include <string>

#include "base/result.h"
#include "transport/transport.h"

namespace cairn {

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

// Of an address with a host, to listen at. Blocks for as long as name servers take.
Result<Addresses> resolve_passive(const Address& address);

sockaddr_un unix_address(const std::string& path);

// 0 or an errno.
int set_nonblocking(int fd);

struct ListeningSocket {
  int socket = -1;  // non-blocking; owned by the caller
  Address bound;    // with the port the system chose
};

Result<ListeningSocket> listen_socket(const Address& address);

// Links get descriptors below this number. The rest of what the process may have is kept for drives, the admin API and
// files, so that no number of links keeps an operator out.
int descriptors_for_links();

// The options a data socket wants: no Nagle, keep-alive. Harmless on a Unix socket.
void tune_socket(int socket, Address::Kind kind);

// The address in numbers, without its port; IPv4 in IPv6 as IPv4. Empty for what is no address of a network.
std::string host_of(const sockaddr* address);

// Where what comes by the socket comes from, as host_of().
std::string peer_host(int socket);

// Whom the socket talks to, for logs.
std::string peer_name(int socket, Address::Kind kind);

}  // namespace cairn
