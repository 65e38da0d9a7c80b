#include "server/peers.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "wire/limits.h"

namespace cairn {

Peers::Peers(uint64_t sessions_most) : sessions_most_(sessions_most) {
  CAIRN_CHECK(sessions_most > 0, "no host may have a session");
}

Peers::Row Peers::row_of(const std::string& host) const {
  const auto found = rows_.find(host);
  return found == rows_.end() ? Row{} : found->second;
}

bool Peers::may_come(const std::string& host) const {
  const Row row = row_of(host);
  CAIRN_CHECK(!host.empty() || row.sessions + row.half_open == 0, "a peer without an address was counted");
  const uint64_t left = sessions_most_ - std::min(sessions_most_, row.sessions);
  return row.half_open < std::min(sessions_most_, std::max<uint64_t>(left, kSessionLanesMost));
}

bool Peers::may_open(const std::string& host) const {
  return row_of(host).sessions < sessions_most_;
}

void Peers::came(const std::string& host) {
  if (host.empty()) return;
  CAIRN_CHECK(may_come(host), "a host has more connections than it may");
  ++rows_[host].half_open;
}

void Peers::heard(const std::string& host) {
  take_from(host, &Row::half_open);
}

void Peers::opened(const std::string& host) {
  if (host.empty()) return;
  CAIRN_CHECK(may_open(host), "a host has more sessions than it may");
  ++rows_[host].sessions;
}

void Peers::closed(const std::string& host) {
  take_from(host, &Row::sessions);
}

void Peers::take_from(const std::string& host, uint64_t Row::* figure) {
  if (host.empty()) return;
  const auto found = rows_.find(host);
  CAIRN_CHECK(found != rows_.end(), "a host gives back what it never had");
  Row& row = found->second;
  CAIRN_CHECK(row.*figure > 0, "a host gives back more than it had");
  --(row.*figure);
  if (row.sessions + row.half_open == 0) rows_.erase(found);
}

}  // namespace cairn
