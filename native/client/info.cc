// What is told of a session, without waiting for it: a copy, made anew whenever something of it changes.
#include <algorithm>
#include <cstdint>
#include <mutex>
#include <new>
#include <string_view>
#include <utility>

#include "client/client.h"

namespace cairn {

// The last thing that went wrong. Without memory to note it, the one before stays.
void Client::note(std::string_view error) {
  try {
    last_error_.assign(error);
  } catch (const std::bad_alloc&) {
    last_error_.clear();
  }
  untold_ = true;
}

// With the lock.
void Client::publish() noexcept {
  connected_ = state_ == Link::up && !lost_;
  if (!std::exchange(untold_, false)) return;
  try {
    ClientInfo info;
    info.transport = name_of((way_ != nullptr ? *way_ : ways_.best()).kind);
    info.server_id = welcome_.server_id;
    info.session_id = welcome_.session_id;
    info.lanes = static_cast<uint32_t>(
        std::count_if(lanes_.begin(), lanes_.end(), [](const auto& lane) { return !lane->leaving; }));
    info.credits = welcome_.credits;
    info.window_bytes = welcome_.window_bytes;
    info.block_bytes_most = welcome_.block_bytes_most;
    info.connected = connected_;
    info.reconnects = reconnects_;
    info.returns = returns_;
    info.last_error = last_error_;
    info.gpu_regions = gpu_regions();
    const std::lock_guard<std::mutex> held(told_lock_);
    told_ = std::move(info);
    told_next_attempt_ns_ = next_attempt_ns_;
  } catch (const std::bad_alloc&) {
    untold_ = true;
  }
}

ClientInfo Client::info() {
  if (inherited()) {
    ClientInfo info;
    info.transport = name_of(ways_.best().kind);
    info.last_error = kInherited;
    return info;
  }
  const std::lock_guard<std::mutex> held(told_lock_);
  ClientInfo info = told_;
  info.connected = connected_;
  info.breaker = system_clock().now_ns() < told_next_attempt_ns_ ? "open" : "closed";
  return info;
}

}  // namespace cairn
