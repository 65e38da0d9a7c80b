// The index: which block lies where. Open addressing in shards that grow by an eighth each on its own, so the
// table is neither half empty nor copied at once (at 100 M blocks a shard is 1.2 MB); 48 bytes an entry. The hash is
// seeded at random: clients choose the keys, and must not be able to choose a crowd in one place. One reactor thread.
//
// Tenant and layout of a block, and its scope, are names that many blocks share: an entry holds their numbers
// (store/names.h). A block that is striped has one entry a part.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

#include "wire/limits.h"
#include "wire/types.h"

namespace cairn {

// A hash of a block's name, by a seed that is new in every process. Any thread.
uint64_t hash_of(const BlockId& id);
// Of sixteen bytes and a number more.
uint64_t hash_of(const std::array<uint8_t, 16>& bytes, uint64_t more);
// Draws a new seed, for a simulation that replays. Only while no table of hashes exists, and on one thread.
void reseed_hashes();

// Where a record lies. `use` counts how often its segment was given up unread, modulo 2^8: when it differs from the
// segment's, the entry is stale, that is, absent. The sweep that follows drops stale entries long before a count
// comes round.
struct Place {
  uint8_t drive = 0;     // 5 bits
  uint32_t segment = 0;  // 24 bits
  uint32_t page = 0;     // 18 bits
  uint8_t use = 0;
  bool operator==(const Place&) const = default;
};

// What an entry is found by.
struct IndexKey {
  Key key;
  uint32_t keyspace = 0;  // 24 bits
  uint8_t part = 0;       // of a striped block; 0 for every other
};

class Index {
 public:
  struct Entry {
    Key key;
    // `single`: one record holds all of it, however long (version 1 of the format).
    uint64_t used : 1 = 0, use : 8 = 0, drive : 5 = 0, segment : 24 = 0, page : 18 = 0, single : 1 = 0, : 7;
    uint64_t birth : 48 = 0;  // the sequence of the put
    uint64_t group_low : 16 = 0;
    uint64_t keyspace : 24 = 0, scope : 24 = 0, group_high : 16 = 0;
    uint32_t expiry_ticks = 0;  // kTickMs since kEpochUnixMs, rounded up; 0: never
    uint32_t length_less_one : 26 = 0;
    uint32_t part : 4 = 0;
    uint32_t hits : 2 = 0;  // how often it was asked for since it was written, up to kHitsMost

    uint32_t length() const { return length_less_one + 1; }  // of the whole block
    uint32_t group() const { return static_cast<uint32_t>(group_high << 16 | group_low); }
    void set_group(uint32_t group) {
      group_high = static_cast<uint16_t>(group >> 16);
      group_low = static_cast<uint16_t>(group);
    }
    Place place() const;
    void set_place(const Place& place);
    void hit() {
      if (hits < kHitsMost) ++hits;
    }
  };
  static_assert(sizeof(Entry) == 48);
  static_assert(std::is_trivially_copyable_v<Entry>, "entries are moved between slots as bytes");
  static_assert(kBlockBytesMost <= uint64_t{1} << 26);
  static constexpr uint32_t kHitsMost = 3;
  static constexpr uint64_t kBirthMost = (uint64_t{1} << 48) - 1;
  static constexpr uint64_t kTickMs = 128;
  static constexpr uint64_t kEpochUnixMs = 1'735'689'600'000;  // 2025-01-01
  static_assert(kHitsMost < 1U << 2, "the most hits do not fit the bits of an entry");
  static_assert(kEpochUnixMs <= UINT64_MAX - UINT32_MAX * kTickMs, "the last time to expire cannot be told");

  // `fresh` says whether an entry still stands; those that do not are dropped when met. `dropped` is told of each of
  // them first; neither may touch the index.
  using Fresh = std::function<bool(const Entry&)>;
  using Dropped = std::function<void(const Entry&)>;
  Index(Fresh fresh, Dropped dropped);

  // The entry, or nullptr. Valid until the next insert, erase or sweep.
  Entry* find(const IndexKey& key);
  // Puts an entry where none of that name is.
  Entry& insert(const Entry& entry);
  void erase(Entry& entry);
  // Looks at the next `slots` slots and drops what is stale.
  void sweep(uint64_t slots);
  // Calls `visit` for every entry that stands; it may not change the index.
  void each(const std::function<void(Entry&)>& visit);

  uint64_t size() const { return size_; }  // stale entries included
  uint64_t slots() const;
  uint64_t memory_bytes() const;

  static uint32_t ticks_of(uint64_t expiry_unix_ms);
  static bool expired(uint32_t expiry_ticks, uint64_t now_unix_ms) {
    return expiry_ticks != 0 && now_unix_ms >= kEpochUnixMs + expiry_ticks * kTickMs;
  }

 private:
  static constexpr int kShardBits = 12;
  static constexpr size_t kShards = size_t{1} << kShardBits;
  static constexpr uint64_t kFirstSlots = 16;
  static_assert(kFirstSlots >= 8, "growing by an eighth would add no slot");
  struct Shard {
    std::vector<Entry> table;
    uint64_t used = 0;
  };

  static uint64_t hash(const IndexKey& key);
  static uint64_t home(uint64_t hash, uint64_t slots);
  static IndexKey key_of(const Entry& entry) {
    return {entry.key, static_cast<uint32_t>(entry.keyspace), static_cast<uint8_t>(entry.part)};
  }
  Shard& shard_of(uint64_t hash) { return shards_[hash >> (64 - kShardBits)]; }
  void grow(Shard& shard);
  void erase_at(Shard& shard, uint64_t slot);
  static Entry& place_entry(std::vector<Entry>& table, const Entry& entry);

  Fresh fresh_;
  Dropped dropped_;
  std::vector<Shard> shards_{kShards};
  uint64_t size_ = 0;
  size_t sweep_shard_ = 0;
  uint64_t sweep_slot_ = 0;
};

}  // namespace cairn
