// By which transport a client reaches its service, and when it looks for a better one.
//
// A URL names one way, but for auto://HOST:PORT: RDMA there, and TCP at the same port while RDMA cannot be had. The
// preferred way that failed rests, twice as long each time, and is tried again then: a client goes back to RDMA.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "transport/transport.h"

namespace cairn {

// Not for several threads at a time.
class Ways {
 public:
  static Result<Ways> parse(std::string_view url);

  // In the order in which they are to be tried now; never empty.
  std::vector<const Address*> order(uint64_t now_ns) const;
  bool prefers(const Address& way) const { return &way == &all_.front(); }
  // Whether a session by `way` should try for a better one now.
  bool wants_better(const Address& way, uint64_t now_ns) const {
    return !prefers(way) && !hopeless_ && now_ns >= rest_until_ns_;
  }
  const Address& best() const { return all_.front(); }
  bool any(Address::Kind kind) const;

  // `way` could not be taken, or broke soon. `jitter`: any number; clients that failed together do not return together.
  void failed(const Address& way, Status status, uint64_t now_ns, uint64_t jitter);
  // `way` has carried a session for a while.
  void held(const Address& way);

 private:
  std::vector<Address> all_;  // the best first; never changed, so that addresses of them stay
  uint64_t rest_ms_ = 0;
  uint64_t rest_until_ns_ = 0;
  bool hopeless_ = false;  // this host cannot do it at all
};

}  // namespace cairn
