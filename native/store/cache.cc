#include "store/cache.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

namespace cairn {

void Cache::check_list(const List& list) const {
  CAIRN_CHECK(list.bytes <= bytes_, "a tenant's part of the cache is larger than the whole");
  CAIRN_CHECK(list.order.size() <= entries_.size(), "a tenant has blocks in the cache that are not found there");
  CAIRN_CHECK(list.order.empty() == (list.bytes == 0),
              "a tenant has bytes in the cache and no block, or a block of none");
}

const Cache::Entry* Cache::find(const BlockId& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return nullptr;
  CAIRN_CHECK(found->second->id == id, "a name leads to another block in the cache");
  Order& order = lists_.at(id.tenant).order;
  order.splice(order.begin(), order, found->second);
  return &*found->second;
}

void Cache::insert(const BlockId& id, const Buffer& buffer, uint64_t birth, uint32_t crc) {
  CAIRN_CHECK(static_cast<bool>(buffer), "nothing is put into the cache");
  CAIRN_CHECK(birth > 0, "a block that was never put is put into the cache");
  erase(id);
  List& list = lists_[id.tenant];
  list.order.push_front({id, buffer, birth, crc});
  buffer.set_cached(true);
  entries_[id] = list.order.begin();
  list.bytes += buffer.capacity();
  bytes_ += buffer.capacity();
  check_list(list);
}

void Cache::erase(const BlockId& id) {
  const auto found = entries_.find(id);
  if (found != entries_.end()) drop(lists_.at(id.tenant), found->second);
}

void Cache::drop(List& list, Order::iterator at) {
  const uint64_t bytes = at->buffer.capacity();
  CAIRN_CHECK(bytes_ >= bytes, "the cache counts less than it holds");
  CAIRN_CHECK(list.bytes >= bytes, "a tenant's part of the cache counts less than it holds");
  bytes_ -= bytes;
  list.bytes -= bytes;
  const size_t listed = entries_.erase(at->id);
  CAIRN_CHECK(listed == 1, "a block leaves the cache that was not found in it");
  at->buffer.set_cached(false);
  list.order.erase(at);
  check_list(list);
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
    const uint32_t weight = tenants_.at(tenant).options.weight;
    CAIRN_CHECK(weight > 0, "a tenant's share is measured by no weight");
    if (list.bytes > 0) by_excess.emplace_back(list.bytes / weight, &list);
  }
  std::stable_sort(by_excess.begin(), by_excess.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  return std::any_of(by_excess.begin(), by_excess.end(), [this](const auto& one) { return evict_from(*one.second); });
}

void Cache::forget(uint32_t tenant) {
  const auto found = lists_.find(tenant);
  if (found == lists_.end()) return;
  CAIRN_CHECK(found->second.bytes == 0, "a tenant is forgotten that has blocks in the cache");
  lists_.erase(found);
}

uint64_t Cache::bytes_of(uint32_t tenant) const {
  const auto found = lists_.find(tenant);
  return found == lists_.end() ? 0 : found->second.bytes;
}

}  // namespace cairn
