#include "store/index.h"

#include <algorithm>
#include <array>

#include "base/bytes.h"
#include "base/check.h"
#include "base/entropy.h"

namespace cairn {

namespace {

// Full beyond this share of its slots, a shard grows.
constexpr uint64_t kLoadPercent = 85;

constexpr uint64_t pack(const Place& place) {
  // The top bit marks a used slot, so that no place packs to 0.
  return uint64_t{1} << 63 | uint64_t{place.use} << 47 | uint64_t{place.drive} << 42 | uint64_t{place.segment} << 18 |
         place.page;
}

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

uint64_t hash_of(const BlockId& id) {
  const std::array<uint64_t, 3>& seed = hash_seed();
  const auto low = load<uint64_t>(reinterpret_cast<const std::byte*>(id.key.bytes.data()));
  const auto high = load<uint64_t>(reinterpret_cast<const std::byte*>(id.key.bytes.data()) + 8);
  const uint64_t name = fold(low ^ seed[0], high ^ seed[1]);
  return fold(name ^ id.layout ^ seed[2], (uint64_t{id.tenant} << 32 | id.tenant) ^ 0x9E3779B97F4A7C15ULL);
}

Index::Index(std::function<bool(const Place&)> fresh) : fresh_(std::move(fresh)) {}

Place Index::place_of(const Entry& entry) {
  Place place;
  place.page = static_cast<uint32_t>(entry.place & ((1U << 18) - 1));
  place.segment = static_cast<uint32_t>(entry.place >> 18 & ((1U << 24) - 1));
  place.drive = static_cast<uint8_t>(entry.place >> 42 & 31);
  place.use = static_cast<uint16_t>(entry.place >> 47);
  return place;
}

bool Index::expired(const Entry& entry, uint64_t now_unix_ms) {
  return entry.expiry_ticks != 0 && now_unix_ms >= kEpochUnixMs + entry.expiry_ticks * kTickMs;
}

// What the shard's bits leave spreads over any number of slots without a division.
uint64_t Index::home(uint64_t hash, uint64_t slots) {
  return static_cast<uint64_t>((static_cast<Wide>(hash << kShardBits) * slots) >> 64);
}

Index::Entry* Index::find(const BlockId& id) {
  const uint64_t h = hash_of(id);
  Shard& shard = shard_of(h);
  const uint64_t slots = shard.table.size();
  if (slots == 0) return nullptr;
  for (uint64_t slot = home(h, slots);; slot = slot + 1 == slots ? 0 : slot + 1) {
    Entry& entry = shard.table[slot];
    if (entry.place == 0) return nullptr;
    if (entry.key != id.key || entry.layout != id.layout || entry.tenant != id.tenant) continue;
    if (fresh_(place_of(entry))) return &entry;
    erase_at(shard, slot);
    return nullptr;
  }
}

void Index::place_entry(std::vector<Entry>& table, const Entry& entry) {
  const uint64_t slots = table.size();
  uint64_t slot = home(hash_of(id_of(entry)), slots);
  while (table[slot].place != 0) slot = slot + 1 == slots ? 0 : slot + 1;
  table[slot] = entry;
}

void Index::grow(Shard& shard) {
  // Stale entries are left behind; if they were many, the size may even stay.
  std::vector<Entry> live;
  live.reserve(shard.used);
  for (const Entry& entry : shard.table) {
    if (entry.place != 0 && fresh_(place_of(entry))) live.push_back(entry);
  }
  size_ -= shard.used - live.size();
  shard.used = live.size();
  uint64_t slots = std::max<uint64_t>(shard.table.size(), kFirstSlots);
  if ((shard.used + 1) * 100 > slots * (kLoadPercent - 5)) slots += slots / 8;
  shard.table = std::vector<Entry>(slots);
  for (const Entry& entry : live) place_entry(shard.table, entry);
}

void Index::insert(const BlockId& id, const Place& place, uint32_t length, uint64_t expiry_unix_ms,
                   uint32_t sequence_rest) {
  CAIRN_CHECK(length > 0 && length <= kLengthMask, "a block's length does not fit the index");
  Entry entry;
  entry.key = id.key;
  entry.layout = id.layout;
  entry.tenant = id.tenant;
  entry.place = pack(place);
  entry.length = length;
  entry.sequence_rest = sequence_rest;
  if (expiry_unix_ms != 0) {
    const uint64_t since = expiry_unix_ms > kEpochUnixMs ? expiry_unix_ms - kEpochUnixMs : 1;
    const uint64_t ticks = (since + kTickMs - 1) / kTickMs;
    entry.expiry_ticks = ticks > UINT32_MAX ? 0 : static_cast<uint32_t>(ticks);  // beyond 17 years: for ever
  }
  if (Entry* old = find(id)) {
    *old = entry;
    return;
  }
  Shard& shard = shard_of(hash_of(id));
  if ((shard.used + 1) * 100 > shard.table.size() * kLoadPercent) grow(shard);
  place_entry(shard.table, entry);
  ++shard.used;
  ++size_;
}

// Backward shift: what probed past the slot moves up, so lookups never meet a gap that is not an end.
void Index::erase_at(Shard& shard, uint64_t slot) {
  const uint64_t slots = shard.table.size();
  CAIRN_CHECK(shard.used > 0 && shard.table[slot].place != 0, "an empty slot is erased");
  --shard.used;
  --size_;
  uint64_t hole = slot;
  for (uint64_t at = hole + 1 == slots ? 0 : hole + 1; shard.table[at].place != 0; at = at + 1 == slots ? 0 : at + 1) {
    const uint64_t from = home(hash_of(id_of(shard.table[at])), slots);
    const uint64_t distance_hole = hole >= from ? hole - from : hole + slots - from;
    const uint64_t distance_at = at >= from ? at - from : at + slots - from;
    if (distance_hole < distance_at) {
      shard.table[hole] = shard.table[at];
      hole = at;
    }
  }
  shard.table[hole] = Entry{};
}

bool Index::erase(const BlockId& id) {
  const uint64_t h = hash_of(id);
  Shard& shard = shard_of(h);
  Entry* entry = find(id);
  if (entry == nullptr) return false;
  erase_at(shard, static_cast<uint64_t>(entry - shard.table.data()));
  return true;
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
    if (entry.place != 0 && !fresh_(place_of(entry))) {
      erase_at(shard, sweep_slot_);  // the slot may hold another entry now: look again
    } else {
      ++sweep_slot_;
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
