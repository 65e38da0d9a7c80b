#include "store/cache.h"

#include <algorithm>
#include <vector>

namespace cairn {

const Cache::Entry* Cache::find(const BlockId& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return nullptr;
  Order& order = lists_.at(id.tenant).order;
  order.splice(order.begin(), order, found->second);
  return &*found->second;
}

void Cache::insert(const BlockId& id, const Buffer& buffer, uint64_t birth, uint32_t crc) {
  CAIRN_CHECK(static_cast<bool>(buffer), "nothing is put into the cache");
  erase(id);
  List& list = lists_[id.tenant];
  list.order.push_front({id, buffer, birth, crc});
  entries_[id] = list.order.begin();
  list.bytes += buffer.capacity();
  bytes_ += buffer.capacity();
}

void Cache::erase(const BlockId& id) {
  const auto found = entries_.find(id);
  if (found != entries_.end()) drop(lists_.at(id.tenant), found->second);
}

void Cache::drop(List& list, Order::iterator at) {
  const uint64_t bytes = at->buffer.capacity();
  CAIRN_CHECK(bytes_ >= bytes && list.bytes >= bytes, "the cache counts less than it holds");
  bytes_ -= bytes;
  list.bytes -= bytes;
  entries_.erase(at->id);
  list.order.erase(at);
}

bool Cache::evict_from(List& list) {
  for (auto at = list.order.rbegin(); at != list.order.rend(); ++at) {
    if (!at->buffer.unique()) continue;
    drop(list, std::prev(at.base()));
    return true;
  }
  return false;
}

bool Cache::evict_one() {
  if (lists_.size() == 1) return evict_from(lists_.begin()->second);
  std::vector<std::pair<uint64_t, List*>> by_excess;  // bytes for each unit of weight
  for (auto& [tenant, list] : lists_) {
    if (list.bytes > 0) by_excess.emplace_back(list.bytes / tenants_.at(tenant).options.weight, &list);
  }
  std::stable_sort(by_excess.begin(), by_excess.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  return std::any_of(by_excess.begin(), by_excess.end(), [this](const auto& one) { return evict_from(*one.second); });
}

uint64_t Cache::bytes_of(uint32_t tenant) const {
  const auto found = lists_.find(tenant);
  return found == lists_.end() ? 0 : found->second.bytes;
}

}  // namespace cairn
