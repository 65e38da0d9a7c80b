// Where RDMA meets the rest of the transports. Only transport.cc's dispatch on the kind of an address calls this.
#pragma once

#include <memory>
#include <variant>

#include "transport/transport.h"

namespace cairn {

Result<std::unique_ptr<Listener>> listen_rdma(const Address& address, const ListenOptions& options);

// Connects and shakes hands; blocks for at most timeout_ms.
std::variant<Connected, ConnectFailure> connect_rdma(const Address& address, const ConnectOptions& options);

}  // namespace cairn
