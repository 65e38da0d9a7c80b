#include "store/leases.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace cairn {

void Leases::check_ends() const {
  CAIRN_CHECK(ends_.size() == leases_.size(), "a block is leased and nothing will end it, or twice");
  CAIRN_CHECK(all_ >= leases_.size(), "more blocks are leased than there are leases");
}

bool Leases::may_take(const BlockId& id) const {
  const auto own = of_tenant_.find(id.tenant);
  const auto block = leases_.find(id);
  return all_ < kLeasesOfAllMost && (own == of_tenant_.end() || own->second < kLeasesMost) &&
         (block == leases_.end() || block->second.leases.size() < kHoldersMost);
}

bool Leases::take(const BlockId& id, uint32_t group, uint64_t bytes, uint64_t holder, uint64_t until_ms) {
  CAIRN_CHECK(bytes > 0, "a block of no bytes is leased");
  const auto found = leases_.find(id);
  if (found != leases_.end()) {
    for (Lease& one : found->second.leases) {
      if (one.holder != holder) continue;
      one.until_ms = std::max(one.until_ms, until_ms);  // it is looked at again when it would have ended before
      return true;
    }
  }
  if (!may_take(id)) return false;
  Held& block = found != leases_.end() ? found->second : leases_[id];
  const bool first = block.leases.empty();
  block.leases.push_back({holder, until_ms});
  ++all_;
  ++of_tenant_[id.tenant];
  if (first || until_ms < block.look_ms) {
    if (!first) ends_.erase({block.look_ms, id});
    block.look_ms = until_ms;
    ends_.emplace(until_ms, id);
  }
  check_ends();
  if (!first) return true;
  block.group = group;
  block.bytes = bytes;
  watcher_.lease_changed(id, group, bytes, true);
  return true;
}

void Leases::count(uint32_t tenant, uint64_t fewer) {
  const auto own = of_tenant_.find(tenant);
  CAIRN_CHECK(own != of_tenant_.end() && own->second >= fewer, "more leases of a tenant end than it had");
  CAIRN_CHECK(all_ >= fewer, "more leases end than there were");
  all_ -= fewer;
  if ((own->second -= fewer) == 0) of_tenant_.erase(own);
}

bool Leases::release(const BlockId& id, uint64_t holder) {
  const auto found = leases_.find(id);
  if (found == leases_.end()) return false;
  if (std::erase_if(found->second.leases, [&](const Lease& one) { return one.holder == holder; }) == 0) return false;
  count(id.tenant, 1);
  if (found->second.leases.empty()) forget(BlockId(id));
  return true;
}

void Leases::forget(const BlockId& id) {
  const auto found = leases_.find(id);
  if (found == leases_.end()) return;
  const BlockId gone = id;
  const Held held = std::move(found->second);
  CAIRN_CHECK(held.bytes > 0, "a lease ends that its watcher was never told of");
  if (!held.leases.empty()) count(gone.tenant, held.leases.size());
  ends_.erase({held.look_ms, gone});
  leases_.erase(found);
  check_ends();
  watcher_.lease_changed(gone, held.group, held.bytes, false);
}

void Leases::expire(uint64_t now_ms) {
  while (!ends_.empty() && ends_.begin()->first <= now_ms) {
    const BlockId id = ends_.begin()->second;
    Held& block = leases_.at(id);
    const size_t over = std::erase_if(block.leases, [&](const Lease& one) { return one.until_ms <= now_ms; });
    if (over > 0) count(id.tenant, over);
    if (block.leases.empty()) {
      forget(id);
      continue;
    }
    ends_.erase(ends_.begin());
    const auto soonest = [](const Lease& one, const Lease& other) { return one.until_ms < other.until_ms; };
    block.look_ms = std::min_element(block.leases.begin(), block.leases.end(), soonest)->until_ms;
    ends_.emplace(block.look_ms, id);
  }
  check_ends();
}

}  // namespace cairn
