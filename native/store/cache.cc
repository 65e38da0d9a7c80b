#include "store/cache.h"

namespace cairn {

const Cache::Entry* Cache::find(const BlockId& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return nullptr;
  order_.splice(order_.begin(), order_, found->second);
  return &*found->second;
}

void Cache::insert(const BlockId& id, const Buffer& buffer, uint64_t sequence, uint32_t crc) {
  erase(id);
  order_.push_front({id, buffer, sequence, crc});
  entries_[id] = order_.begin();
  bytes_ += buffer.capacity();
}

void Cache::erase(const BlockId& id) {
  const auto found = entries_.find(id);
  if (found != entries_.end()) drop(found->second);
}

void Cache::drop(Order::iterator at) {
  CAIRN_CHECK(bytes_ >= at->buffer.capacity(), "the cache counts less than it holds");
  bytes_ -= at->buffer.capacity();
  entries_.erase(at->id);
  order_.erase(at);
}

bool Cache::evict_one() {
  for (auto at = order_.rbegin(); at != order_.rend(); ++at) {
    if (!at->buffer.unique()) continue;
    drop(std::prev(at.base()));
    return true;
  }
  return false;
}

}  // namespace cairn
