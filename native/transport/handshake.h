// What a client says first and what it makes of the answer, over any transport.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "transport/transport.h"

namespace cairn {

std::vector<std::byte> build_hello(const ConnectOptions& options, uint32_t features = 0);
// Of a step on the way to a connection: by its errno, `timeout`, `cancelled` or `unreachable`.
ConnectFailure failure_of(const Error& error);
// Nothing, and the welcome is filled in; or why there is no session.
std::optional<ConnectFailure> understand_welcome(const FrameHeader& header, ConstByteSpan body, Welcome& welcome);

}  // namespace cairn
