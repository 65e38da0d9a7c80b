// The way from an address to a connected socket: names, several addresses, full queues. Not part of the transport's
// face.
#pragma once

#include <vector>

#include "base/patience.h"
#include "base/result.h"
#include "transport/sockets.h"

namespace cairn {

// As long as the patience lasts. An Error that is none of the system's or the host's tells of that: ETIMEDOUT, or
// ECANCELED when it was interrupted.
Result<Addresses> look_up_host(const Address& address, Patience& patience);

// Borrowed.
struct Place {
  const sockaddr* name;
  socklen_t length;
  int family;
};

// A connected, non-blocking socket, as long as the patience lasts. A host with several addresses is tried at all of
// them, one beginning a little after the other (RFC 8305), so that one that does not answer costs no more than that.
Result<int> dial(const Address& address, Patience& patience);
// … at places that were looked up; `address` is what they are called in an Error.
Result<int> dial_one_of(const Address& address, std::vector<Place> places, Patience& patience);

}  // namespace cairn
