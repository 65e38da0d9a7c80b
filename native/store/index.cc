#include "store/index.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "base/entropy.h"

namespace cairn {

namespace {

// Full beyond this share of its slots, a shard grows.
constexpr uint64_t kLoadPercent = 85;

__extension__ using Wide = unsigned __int128;

// Both halves of a product of 128 bits, folded: each bit of the result depends on all of both factors.
constexpr uint64_t fold(uint64_t a, uint64_t b) {
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

std::array<uint64_t, 3>& hash_seed() {
  static std::array<uint64_t, 3> seed = entropy<std::array<uint64_t, 3>>();
  return seed;
}

}  // namespace

void reseed_hashes() {
  hash_seed() = entropy<std::array<uint64_t, 3>>();
}

uint64_t hash_of(const std::array<uint8_t, 16>& bytes, uint64_t more) {
  const std::array<uint64_t, 3>& seed = hash_seed();
  const auto low = load<uint64_t>(reinterpret_cast<const std::byte*>(bytes.data()));
  const auto high = load<uint64_t>(reinterpret_cast<const std::byte*>(bytes.data()) + 8);
  const uint64_t name = fold(low ^ seed[0], high ^ seed[1]);
  return fold(name ^ seed[2], more ^ 0x9E3779B97F4A7C15ULL);
}

uint64_t hash_of(const BlockId& id) {
  return hash_of(id.key.bytes, fold(id.layout ^ hash_seed()[0], uint64_t{id.tenant} ^ hash_seed()[2]));
}

Index::Index(Fresh fresh, Dropped dropped) : fresh_(std::move(fresh)), dropped_(std::move(dropped)) {
  CAIRN_CHECK(fresh_ != nullptr, "nobody tells the index what stands");
  CAIRN_CHECK(dropped_ != nullptr, "nobody is told what the index drops");
}

Place Index::Entry::place() const {
  return {static_cast<uint8_t>(drive), static_cast<uint32_t>(segment), static_cast<uint32_t>(page),
          static_cast<uint8_t>(use)};
}

void Index::Entry::set_place(const Place& place) {
  CAIRN_CHECK(place.drive < 1U << 5, "a place's drive does not fit the index");
  CAIRN_CHECK(place.segment < 1U << 24, "a place's segment does not fit the index");
  CAIRN_CHECK(place.page > 0, "a place where its segment's header lies does not fit the index");
  CAIRN_CHECK(place.page < 1U << 18, "a place's page does not fit the index");
  used = 1;
  drive = place.drive & 31;
  segment = place.segment & 0xFFFFFF;
  page = place.page & 0x3FFFF;
  use = place.use;
}

uint32_t Index::ticks_of(uint64_t expiry_unix_ms) {
  if (expiry_unix_ms == 0) return 0;
  const uint64_t since = expiry_unix_ms > kEpochUnixMs ? expiry_unix_ms - kEpochUnixMs : 1;
  const uint64_t ticks = since / kTickMs + (since % kTickMs != 0 ? 1 : 0);
  return ticks > UINT32_MAX ? 0 : static_cast<uint32_t>(ticks);  // beyond 17 years: for ever
}

uint64_t Index::hash(const IndexKey& key) {
  return hash_of(key.key.bytes, uint64_t{key.part} << 32 | key.keyspace);
}

// What the shard's bits leave spreads over any number of slots without a division.
uint64_t Index::home(uint64_t hash, uint64_t slots) {
  CAIRN_CHECK(slots > 0, "a name has no home in a table without slots");
  return static_cast<uint64_t>((static_cast<Wide>(hash << kShardBits) * slots) >> 64);
}

Index::Entry* Index::find(const IndexKey& key) {
  CAIRN_CHECK(key.keyspace < 1U << 24, "a name is looked for in a keyspace that no entry can have");
  const uint64_t h = hash(key);
  Shard& shard = shard_of(h);
  const uint64_t slots = shard.table.size();
  if (slots == 0) return nullptr;
  CAIRN_CHECK(shard.used < slots, "a full shard of the index would be searched for ever");
  for (uint64_t slot = home(h, slots);; slot = slot + 1 == slots ? 0 : slot + 1) {
    Entry& entry = shard.table[slot];
    if (!entry.used) return nullptr;
    if (entry.key != key.key || entry.keyspace != key.keyspace || entry.part != key.part) continue;
    if (fresh_(entry)) return &entry;
    dropped_(entry);
    erase_at(shard, slot);
    return nullptr;
  }
}

Index::Entry& Index::place_entry(std::vector<Entry>& table, const Entry& entry) {
  CAIRN_CHECK(entry.used, "a free slot is filled with nothing");
  const uint64_t slots = table.size();
  uint64_t slot = home(hash(key_of(entry)), slots);
  while (table[slot].used) slot = slot + 1 == slots ? 0 : slot + 1;
  table[slot] = entry;
  return table[slot];
}

void Index::grow(Shard& shard) {
  // Stale entries are left behind; if they were many, the size may even stay.
  std::vector<Entry> live;
  live.reserve(shard.used);
  for (const Entry& entry : shard.table) {
    if (!entry.used) continue;
    if (fresh_(entry)) {
      live.push_back(entry);
    } else {
      dropped_(entry);
    }
  }
  CAIRN_CHECK(shard.used >= live.size(), "a shard of the index holds more than it counted");
  CAIRN_CHECK(size_ >= shard.used, "a shard of the index holds more than the whole");
  size_ -= shard.used - live.size();
  shard.used = live.size();
  uint64_t slots = std::max<uint64_t>(shard.table.size(), kFirstSlots);
  if ((shard.used + 1) * 100 > slots * (kLoadPercent - 5)) slots += slots / 8;
  shard.table = std::vector<Entry>(slots);
  for (const Entry& entry : live) place_entry(shard.table, entry);
}

Index::Entry& Index::insert(const Entry& entry) {
  CAIRN_CHECK(entry.used, "an entry without a place is put into the index");
  CAIRN_CHECK(find(key_of(entry)) == nullptr, "a name is put into the index twice");
  Shard& shard = shard_of(hash(key_of(entry)));
  if ((shard.used + 1) * 100 > shard.table.size() * kLoadPercent) grow(shard);
  CAIRN_CHECK(shard.used < shard.table.size(), "a shard of the index is full after it grew");
  ++shard.used;
  ++size_;
  return place_entry(shard.table, entry);
}

// Backward shift: what probed past the slot moves up, so lookups never meet a gap that is not an end.
void Index::erase_at(Shard& shard, uint64_t slot) {
  const uint64_t slots = shard.table.size();
  CAIRN_CHECK(slot < slots, "a slot is erased that its shard does not have");
  CAIRN_CHECK(shard.table[slot].used, "an empty slot is erased");
  CAIRN_CHECK(shard.used > 0, "an entry is erased that its shard did not count");
  CAIRN_CHECK(size_ > 0, "an entry is erased that the index did not count");
  --shard.used;
  --size_;
  uint64_t hole = slot;
  for (uint64_t at = hole + 1 == slots ? 0 : hole + 1; shard.table[at].used; at = at + 1 == slots ? 0 : at + 1) {
    const uint64_t from = home(hash(key_of(shard.table[at])), slots);
    const uint64_t distance_hole = hole >= from ? hole - from : hole + slots - from;
    const uint64_t distance_at = at >= from ? at - from : at + slots - from;
    if (distance_hole < distance_at) {
      shard.table[hole] = shard.table[at];
      hole = at;
    }
  }
  shard.table[hole] = Entry{};
}

void Index::erase(Entry& entry) {
  Shard& shard = shard_of(hash(key_of(entry)));
  CAIRN_CHECK(&entry >= shard.table.data(), "an entry is erased that lies before its shard of the index");
  CAIRN_CHECK(&entry < shard.table.data() + shard.table.size(), "an entry is erased that lies behind its shard");
  erase_at(shard, static_cast<uint64_t>(&entry - shard.table.data()));
}

void Index::sweep(uint64_t slots) {
  for (uint64_t i = 0; i < slots; ++i) {
    Shard& shard = shards_[sweep_shard_];
    if (sweep_slot_ >= shard.table.size()) {
      sweep_shard_ = (sweep_shard_ + 1) % kShards;
      sweep_slot_ = 0;
      continue;
    }
    const Entry& entry = shard.table[sweep_slot_];
    if (entry.used && !fresh_(entry)) {
      dropped_(entry);
      erase_at(shard, sweep_slot_);  // the slot may hold another entry now: look again
    } else {
      ++sweep_slot_;
    }
  }
}

void Index::each(const std::function<void(Entry&)>& visit) {
  for (Shard& shard : shards_) {
    for (Entry& entry : shard.table) {
      if (entry.used && fresh_(entry)) visit(entry);
    }
  }
}

uint64_t Index::slots() const {
  uint64_t sum = 0;
  for (const Shard& shard : shards_) sum += shard.table.size();
  return sum;
}

uint64_t Index::memory_bytes() const {
  uint64_t sum = sizeof(*this) + shards_.capacity() * sizeof(Shard);
  for (const Shard& shard : shards_) sum += shard.table.capacity() * sizeof(Entry);
  return sum;
}

}  // namespace cairn
