// Who asked that a block be kept, and until when. Leases live in memory: they end with the process. One reactor thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "store/cache.h"
#include "wire/types.h"

namespace cairn {

class Leases {
 public:
  // Told when the first lease of a block begins and when the last one ends.
  class Watcher {
   public:
    virtual void lease_changed(const BlockId& id, uint32_t group, uint64_t bytes, bool begins) = 0;

   protected:
    ~Watcher() = default;
  };
  explicit Leases(Watcher& watcher) : watcher_(watcher) {}

  static constexpr size_t kHoldersMost = 1024;           // of one block
  static constexpr uint64_t kLeasesMost = 131'072;       // of one tenant: each holder of each block
  static constexpr uint64_t kLeasesOfAllMost = 1 << 20;  // of all tenants together

  // A holder's lease of a block runs until `until_ms` (of the monotonic clock), or as long as it did if that is later.
  // However often it is renewed it is one entry. The block's group and bytes are handed back to the watcher when it
  // ends. False: there are as many leases as there may be.
  bool take(const BlockId& id, uint32_t group, uint64_t bytes, uint64_t holder, uint64_t until_ms);
  // False when the holder has none.
  bool release(const BlockId& id, uint64_t holder);
  // The block is gone, and its leases with it.
  void forget(const BlockId& id);
  bool leased(const BlockId& id) const { return !leases_.empty() && leases_.contains(id); }
  // Ends what has run out.
  void expire(uint64_t now_ms);

  uint64_t blocks() const { return leases_.size(); }

 private:
  struct Lease {
    uint64_t holder = 0;
    uint64_t until_ms = 0;
  };
  struct Held {
    uint32_t group = 0;
    uint64_t bytes = 0;
    uint64_t look_ms = 0;  // when to look at it again: no later than the first of them ends
    std::vector<Lease> leases;
  };
  bool may_take(const BlockId& id) const;
  void count(uint32_t tenant, uint64_t fewer);
  void check_ends() const;

  Watcher& watcher_;
  std::unordered_map<BlockId, Held, BlockIdHash> leases_;
  std::set<std::pair<uint64_t, BlockId>> ends_;       // by look_ms, each block once
  std::unordered_map<uint32_t, uint64_t> of_tenant_;  // how many each has
  uint64_t all_ = 0;
};

}  // namespace cairn
