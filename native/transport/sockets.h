// Sockets for stream links: listening, accepting, connecting. Not part of the transport's face.
#pragma once

#include <string>

#include "base/result.h"
#include "transport/transport.h"

namespace cairn {

struct ListeningSocket {
  int socket = -1;  // non-blocking; owned by the caller
  Address bound;    // with the port the system chose
};

Result<ListeningSocket> listen_socket(const Address& address);

// A connected, non-blocking socket, or an Error. Blocks for at most timeout_ms.
Result<int> connect_socket(const Address& address, int timeout_ms);

// The options a data socket wants: no Nagle, keep-alive. Harmless on a Unix socket.
void tune_socket(int socket, Address::Kind kind);

// Whom the socket talks to, for logs.
std::string peer_name(int socket, Address::Kind kind);

}  // namespace cairn
