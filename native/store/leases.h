// Who asked that a block be kept, and until when. Leases live in memory: they end with the process. One reactor thread.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
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

  // A holder's lease of a block runs until `until_ms` (of the monotonic clock), or as long as it did if that is later.
  // The block's group and bytes are handed back to the watcher when it ends.
  void take(const BlockId& id, uint32_t group, uint64_t bytes, uint64_t holder, uint64_t until_ms);
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
    std::vector<Lease> leases;
  };

  void check_ends() const;

  Watcher& watcher_;
  std::unordered_map<BlockId, Held, BlockIdHash> leases_;
  std::multimap<uint64_t, BlockId> ends_;  // when to look at a block again; may be out of date
};

}  // namespace cairn
