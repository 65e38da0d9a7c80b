#include "store/graveyard.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "store/index.h"

namespace cairn {

using format::Buried;

size_t Graveyard::Hash::operator()(const Name& name) const {
  return hash_of(name.key.bytes, name.value ^ uint64_t{name.tenant} << 32 ^ static_cast<uint64_t>(name.kind));
}

uint64_t& Graveyard::count(Buried kind) {
  return kind == Buried::key ? keys_ : kind == Buried::earlier ? earlier_ : wide_;
}

void Graveyard::bury(const format::Tombstone& tombstone, uint32_t drives) {
  const Name name{tombstone.key, tombstone.value, tombstone.tenant, tombstone.kind};
  Grave& youngest = buried_[name];
  if (youngest.sequence == 0) count(name.kind) += 1;
  if (youngest.sequence == tombstone.sequence) youngest.drives |= drives;
  if (youngest.sequence >= tombstone.sequence) return;
  youngest = {tombstone.sequence, drives};
  order_.push_back(tombstone);
}

std::vector<format::Tombstone> Graveyard::missing_on(uint8_t drive) const {
  CAIRN_CHECK(drive < sizeof(Grave::drives) * 8, "a drive is asked for that a grave has no bit for");
  std::vector<format::Tombstone> all;
  for (const format::Tombstone& one : order_) {
    if (one.kind == Buried::earlier) continue;
    const auto found = buried_.find({one.key, one.value, one.tenant, one.kind});
    const bool youngest = found != buried_.end() && found->second.sequence == one.sequence;
    if (youngest && (found->second.drives >> drive & 1) == 0) all.push_back(one);
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.sequence < b.sequence; });
  return all;
}

uint64_t Graveyard::earlier_unheld(const BlockId& id, uint8_t drive) const {
  CAIRN_CHECK(drive < sizeof(Grave::drives) * 8, "a drive is asked for that a grave has no bit for");
  if (earlier_ == 0) return 0;
  const auto found = buried_.find({id.key, id.layout, id.tenant, Buried::earlier});
  return found == buried_.end() || (found->second.drives >> drive & 1) != 0 ? 0 : found->second.sequence;
}

void Graveyard::forget_drive(uint8_t drive) {
  CAIRN_CHECK(drive < sizeof(Grave::drives) * 8, "a drive is forgotten that a grave has no bit for");
  for (auto& [name, grave] : buried_) grave.drives &= ~(1U << drive);
}

void Graveyard::unheld(const format::Tombstone& tombstone, uint8_t drive) {
  CAIRN_CHECK(drive < sizeof(Grave::drives) * 8, "a drive holds no tombstone that a grave has no bit for");
  const auto found = buried_.find({tombstone.key, tombstone.value, tombstone.tenant, tombstone.kind});
  if (found != buried_.end() && found->second.sequence == tombstone.sequence) found->second.drives &= ~(1U << drive);
}

uint64_t Graveyard::sequence_of(const Name& name) const {
  const auto found = buried_.find(name);
  return found == buried_.end() ? 0 : found->second.sequence;
}

bool Graveyard::covers(const BlockId& id, const GroupId& group, Scope scope, uint64_t birth) const {
  if (buried_.empty()) return false;
  if (sequence_of({id.key, id.layout, id.tenant, Buried::key}) > birth) return true;
  if (earlier_ > 0 && sequence_of({id.key, id.layout, id.tenant, Buried::earlier}) > birth) return true;
  if (wide_ == 0) return false;
  if (group != GroupId{} && sequence_of({Key{group}, id.layout, id.tenant, Buried::group}) > birth) return true;
  if (scope != 0 && sequence_of({Key{}, scope, id.tenant, Buried::scope}) > birth) return true;
  return sequence_of({Key{}, id.layout, id.tenant, Buried::layout}) > birth ||
         sequence_of({Key{}, 0, id.tenant, Buried::tenant}) > birth;
}

std::vector<format::Tombstone> Graveyard::since(uint64_t from) const {
  std::vector<format::Tombstone> all;
  for (const format::Tombstone& one : order_) {
    if (one.sequence >= from) all.push_back(one);
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.sequence < b.sequence; });
  return all;
}

void Graveyard::trim() {
  if (order_.size() <= kRememberedMost) return;
  std::sort(order_.begin(), order_.end(), [](const auto& a, const auto& b) { return a.sequence < b.sequence; });
  while (order_.size() > kRememberedMost * 3 / 4) forget_front();
}

// What was buried first is most often the oldest. Where it is not, the floor says that what is older may be forgotten,
// too.
void Graveyard::trim_some() {
  constexpr int kAtOnce = 4096;
  for (int i = 0; i < kAtOnce && order_.size() > kRememberedMost; ++i) forget_front();
}

void Graveyard::forget_front() {
  const format::Tombstone& oldest = order_.front();
  raise_floor(oldest.sequence);
  const auto found = buried_.find({oldest.key, oldest.value, oldest.tenant, oldest.kind});
  if (found != buried_.end() && found->second.sequence == oldest.sequence) {
    CAIRN_CHECK(count(oldest.kind) > 0, "a delete is forgotten that was never counted");
    count(oldest.kind) -= 1;
    buried_.erase(found);
  }
  order_.pop_front();
}

}  // namespace cairn
