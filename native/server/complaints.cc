#include "server/complaints.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"

namespace cairn {

namespace {

// The port differs with every connection of one peer.
std::string_view host_of(std::string_view peer) {
  const size_t port = peer.find(" port ");
  return peer.substr(0, port != std::string_view::npos ? port : peer.rfind(':'));
}

}  // namespace

void Complaints::add(const std::string& peer, Status status, std::string_view reason) {
  CAIRN_CHECK(status != Status::ok, "a link that did nothing wrong is complained of");
  any_.store(true, std::memory_order_relaxed);
  const auto same = [&](const Complaint& row) {
    return host_of(row.peer) == host_of(peer) && row.status == status && row.reason == reason;
  };
  auto row = std::find_if(rows_.begin(), rows_.end(), same);
  if (row == rows_.end() && rows_.size() < kRowsMost) row = rows_.insert(row, {peer, status, std::string(reason), 0});
  if (row == rows_.end()) {
    row = rows_.end() - 1;
    if (!row->peer.empty()) *row = {{}, status, "and others", row->times};
  }
  ++row->times;
}

std::vector<Complaint> Complaints::take() {
  any_.store(false, std::memory_order_relaxed);
  return std::exchange(rows_, {});
}

}  // namespace cairn
