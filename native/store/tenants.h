// What the store knows of its tenants: their limits, what they hold, what they did. One reactor thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "store/slab_shares.h"

namespace cairn {

struct TenantOptions {
  uint32_t number = 0;
  std::string name;
  uint64_t quota_bytes = 0;      // payload on the drives, all told; 0: none
  uint64_t in_flight_bytes = 0;  // payload moving at once, over all of its sessions; 0: the service's default
  uint32_t weight = 1;           // of its share of drives, memory and bandwidth; at least 1
  uint32_t sessions_most = 0;    // 0: the service's default
};

struct TenantCounters {
  uint64_t puts = 0, put_exists = 0, put_bytes = 0, gets = 0, hits = 0, hits_memory = 0, get_bytes = 0, deletes = 0;
  uint64_t evicted_blocks = 0, evicted_bytes = 0, expired_blocks = 0;
  uint64_t refused_quota = 0, refused_admission = 0;

  void add(const TenantCounters& other);
};

class Tenants {
 public:
  struct Row {
    TenantOptions options;
    TenantCounters counters;
    uint64_t blocks = 0, payload_bytes = 0;  // in the index
    uint64_t pending_bytes = 0;              // of puts that are not settled
    uint64_t leased_bytes = 0;
    bool configured = false;
    MemoryLine memory;
  };

  // Known tenants get their options; one that is met without gets none and weight 1.
  void configure(const std::vector<TenantOptions>& all);
  Row& at(uint32_t tenant);
  const Row* find(uint32_t tenant) const;
  // Lets go of one that is not configured and has nothing any more; what it did is added to that of those before it.
  // False, and nothing is done: it has something, or is configured.
  bool forget(uint32_t tenant);
  const TenantCounters& forgotten() const { return forgotten_; }
  const std::map<uint32_t, Row>& rows() const { return rows_; }

 private:
  std::map<uint32_t, Row> rows_;  // a map: rows keep their addresses, and what walks them meets them in order
  Row* last_ = nullptr;
  TenantCounters forgotten_;
};

}  // namespace cairn
