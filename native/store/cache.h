// The read cache: buffers of blocks, and only what nobody else holds is given up. Each tenant has its own list, least
// recently used out first; who is furthest beyond its share gives. So one tenant's flood leaves the others' share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <unordered_map>

#include "base/slab.h"
#include "store/index.h"
#include "store/tenants.h"
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
    uint64_t birth = 0;  // which put's bytes these are
    uint32_t crc = 0;    // CRC32C of the whole block
  };

  // `tenants` tells the weights, and outlives the cache.
  explicit Cache(Tenants& tenants) : tenants_(tenants) {}

  // The entry, now the most recently used; nullptr if absent. Valid until the next call.
  const Entry* find(const BlockId& id);
  void insert(const BlockId& id, const Buffer& buffer, uint64_t birth, uint32_t crc);
  void erase(const BlockId& id);
  // Drops one block that nobody else holds: of the tenant furthest beyond its share, the least recently used. False
  // when every block is in use.
  bool evict_one();

  uint64_t bytes() const { return bytes_; }
  uint64_t blocks() const { return entries_.size(); }
  uint64_t bytes_of(uint32_t tenant) const;
  void forget(uint32_t tenant);  // one that has nothing here

 private:
  using Order = std::list<Entry>;  // front: most recently used
  struct List {
    Order order;
    uint64_t bytes = 0;
  };
  void drop(List& list, Order::iterator at);
  bool evict_from(List& list);
  void check_list(const List& list) const;

  Tenants& tenants_;
  std::map<uint32_t, List> lists_;
  std::unordered_map<BlockId, Order::iterator, BlockIdHash> entries_;
  uint64_t bytes_ = 0;
};

}  // namespace cairn
