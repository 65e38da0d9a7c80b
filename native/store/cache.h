// The read cache: buffers of blocks, least recently used out first, and only what nobody else holds.
#pragma once

#include <cstdint>
#include <list>
#include <unordered_map>

#include "base/slab.h"
#include "store/index.h"
#include "wire/types.h"

namespace cairn {

struct BlockIdHash {
  size_t operator()(const BlockId& id) const { return hash_of(id); }
};

class Cache {
 public:
  struct Entry {
    BlockId id;
    Buffer buffer;
    uint64_t sequence = 0;  // which put's bytes these are
    uint32_t crc = 0;       // CRC32C of the whole block
  };

  // The entry, now the most recently used; nullptr if absent. Valid until the next call.
  const Entry* find(const BlockId& id);
  void insert(const BlockId& id, const Buffer& buffer, uint64_t sequence, uint32_t crc);
  void erase(const BlockId& id);
  // Drops the least recently used entry that nobody else holds; false when there is none.
  bool evict_one();

  uint64_t bytes() const { return bytes_; }
  uint64_t blocks() const { return order_.size(); }

 private:
  using Order = std::list<Entry>;  // front: most recently used
  void drop(Order::iterator at);

  Order order_;
  std::unordered_map<BlockId, Order::iterator, BlockIdHash> entries_;
  uint64_t bytes_ = 0;
};

}  // namespace cairn
