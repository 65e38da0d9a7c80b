#include "store/leases.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace cairn {

void Leases::check_ends() const {
  CAIRN_CHECK(ends_.size() >= leases_.size(), "a block is leased and nothing will end it");
}

void Leases::take(const BlockId& id, uint32_t group, uint64_t bytes, uint64_t holder, uint64_t until_ms) {
  CAIRN_CHECK(bytes > 0, "a block of no bytes is leased");
  Held& block = leases_[id];
  std::vector<Lease>& held = block.leases;
  const bool first = held.empty();
  const auto own = std::find_if(held.begin(), held.end(), [&](const Lease& one) { return one.holder == holder; });
  if (own == held.end()) {
    held.push_back({holder, until_ms});
  } else if (own->until_ms >= until_ms) {
    return;
  } else {
    own->until_ms = until_ms;
  }
  ends_.emplace(until_ms, id);
  check_ends();
  if (!first) return;
  block.group = group;
  block.bytes = bytes;
  watcher_.lease_changed(id, group, bytes, true);
}

bool Leases::release(const BlockId& id, uint64_t holder) {
  const auto found = leases_.find(id);
  if (found == leases_.end()) return false;
  if (std::erase_if(found->second.leases, [&](const Lease& one) { return one.holder == holder; }) == 0) return false;
  if (found->second.leases.empty()) forget(BlockId(id));
  return true;
}

void Leases::forget(const BlockId& id) {
  const auto found = leases_.find(id);
  if (found == leases_.end()) return;
  const BlockId gone = id;
  const Held held = std::move(found->second);
  CAIRN_CHECK(held.bytes > 0, "a lease ends that its watcher was never told of");
  leases_.erase(found);
  check_ends();
  watcher_.lease_changed(gone, held.group, held.bytes, false);
}

void Leases::expire(uint64_t now_ms) {
  while (!ends_.empty() && ends_.begin()->first <= now_ms) {
    const BlockId id = ends_.begin()->second;
    ends_.erase(ends_.begin());
    const auto found = leases_.find(id);
    if (found == leases_.end()) continue;
    std::erase_if(found->second.leases, [&](const Lease& one) { return one.until_ms <= now_ms; });
    if (found->second.leases.empty()) forget(id);
  }
  check_ends();
}

}  // namespace cairn
