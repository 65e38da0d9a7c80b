// The in-process stand-in for a socket: two ends, bytes in memory, misbehaviour by seed. Everything above
// ByteChannel runs on it as on the real thing, in one thread and without a system call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <utility>

#include "transport/channel.h"

namespace cairn {

struct ChannelFaults {
  uint64_t seed = 0;            // 0: every call moves all it can
  double nothing_now = 0.3;     // how often a call says EAGAIN
  size_t most_per_call = 1000;  // bytes one call moves at the most
  size_t capacity = 1 << 20;    // bytes in flight in one direction
};

class ChannelPair {
 public:
  explicit ChannelPair(const ChannelFaults& faults = {});
  // Each end is taken once.
  std::unique_ptr<ByteChannel> take_client() { return std::move(client_); }
  std::unique_ptr<ByteChannel> take_server() { return std::move(server_); }
  // The link breaks: both ends see the peer gone, bytes in flight are lost.
  void cut();

 private:
  struct Wire;
  class End;
  std::shared_ptr<Wire> wire_;
  std::unique_ptr<ByteChannel> client_, server_;
};

}  // namespace cairn
