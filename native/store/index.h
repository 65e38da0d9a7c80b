// The index: which block lies where. Open addressing in shards that grow by an eighth each on its own, so the
// table is neither half empty nor copied at once (at 100 M blocks a shard is 1.2 MB); 48 bytes an entry. The hash is
// seeded at random: clients choose the keys, and must not be able to choose a crowd in one place. One reactor thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "wire/types.h"

namespace cairn {

// A hash of a block's name, by a seed that is new in every process. Any thread.
uint64_t hash_of(const BlockId& id);
// Draws a new seed, for a simulation that replays. Only while no table of hashes exists, and on one thread.
void reseed_hashes();

// Where a block lies. `use` counts how often its segment was given up, modulo 2^16: when it differs from the
// segment's, the entry is stale, that is, absent. (Generations would not do: on a drive of 65,536 segments each
// segment's grow by 65,536.) The sweep drops stale entries long before a count comes round.
struct Place {
  uint8_t drive = 0;
  uint32_t segment = 0;  // 24 bits
  uint32_t page = 0;     // 18 bits
  uint16_t use = 0;
};

class Index {
 public:
  struct Entry {
    Key key;
    uint64_t layout = 0;
    uint64_t place = 0;  // packed; 0: empty
    uint32_t tenant = 0;
    uint32_t length = 0;         // block bytes; bit 31: touched
    uint32_t expiry_ticks = 0;   // kTickMs since kEpochUnixMs, rounded up; 0: never
    uint32_t sequence_rest = 0;  // sequence minus the segment's first
  };
  static_assert(sizeof(Entry) == 48);
  static constexpr uint32_t kTouched = 1U << 31;
  static constexpr uint32_t kLengthMask = kTouched - 1;
  static constexpr uint64_t kTickMs = 128;
  static constexpr uint64_t kEpochUnixMs = 1'735'689'600'000;  // 2025-01-01

  // `fresh` says whether a place still stands; entries of places that do not are dropped when met.
  explicit Index(std::function<bool(const Place&)> fresh);

  // The entry of a block, or nullptr. Valid until the next insert, erase or sweep.
  Entry* find(const BlockId& id);
  void insert(const BlockId& id, const Place& place, uint32_t length, uint64_t expiry_unix_ms, uint32_t sequence_rest);
  bool erase(const BlockId& id);
  // Looks at the next `slots` slots and drops what is stale.
  void sweep(uint64_t slots);

  uint64_t size() const { return size_; }  // stale entries included
  uint64_t slots() const;
  uint64_t memory_bytes() const;

  static Place place_of(const Entry& entry);
  static bool expired(const Entry& entry, uint64_t now_unix_ms);

 private:
  static constexpr int kShardBits = 12;
  static constexpr size_t kShards = size_t{1} << kShardBits;
  static constexpr uint64_t kFirstSlots = 16;
  struct Shard {
    std::vector<Entry> table;
    uint64_t used = 0;
  };

  static uint64_t home(uint64_t hash, uint64_t slots);
  static BlockId id_of(const Entry& entry) { return {entry.key, entry.layout, entry.tenant}; }
  Shard& shard_of(uint64_t hash) { return shards_[hash >> (64 - kShardBits)]; }
  void grow(Shard& shard);
  void erase_at(Shard& shard, uint64_t slot);
  static void place_entry(std::vector<Entry>& table, const Entry& entry);

  std::function<bool(const Place&)> fresh_;
  std::vector<Shard> shards_{kShards};
  uint64_t size_ = 0;
  size_t sweep_shard_ = 0;
  uint64_t sweep_slot_ = 0;
};

}  // namespace cairn
