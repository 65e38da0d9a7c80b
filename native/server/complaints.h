// Links that ended because of what their peer did, kept for the log until somebody asks. A peer that does it again and
// again is one row; who floods the service with them fills nothing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "wire/status.h"

namespace cairn {

struct Complaint {
  std::string peer;  // empty: of others, for which there was no room
  Status status = Status::ok;
  std::string reason;
  uint64_t times = 0;
};

class Complaints {
 public:
  static constexpr size_t kRowsMost = 16;

  // Reactor thread, as is take().
  void add(const std::string& peer, Status status, std::string_view reason);
  std::vector<Complaint> take();
  // Any thread.
  bool any() const { return any_.load(std::memory_order_relaxed); }

 private:
  std::vector<Complaint> rows_;
  std::atomic<bool> any_{false};
};

}  // namespace cairn
