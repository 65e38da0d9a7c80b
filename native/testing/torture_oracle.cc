#include "testing/torture_oracle.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/pattern.h"
#include "testing/store_fixture.h"

namespace cairn {

BlockId TortureBlock::id() const {
  return {key_of(name), layout, tenant};
}

GroupId TortureBlock::group_id() const {
  GroupId id{};
  id[0] = group;
  return id;
}

size_t TortureBlocks::add(const TortureBlock& block) {
  blocks_.push_back(block);
  ids_.push_back(block.id());
  return blocks_.size() - 1;
}

const std::vector<std::byte>& TortureBlocks::content(size_t block, uint32_t version) const {
  std::vector<std::byte>& bytes = contents_[block * kVersions + version];
  if (bytes.empty()) {
    bytes.resize(blocks_[block].bytes);
    fill_pattern(bytes, seed_of(blocks_[block].name) + version);
  }
  return bytes;
}

uint32_t TortureBlocks::version_of(size_t block, uint64_t offset, const std::vector<iovec>& parts) const {
  for (uint32_t version = 0; version < kVersions; ++version) {
    const auto known = contents_.find(block * kVersions + version);
    if (known == contents_.end()) continue;  // never put
    uint64_t at = offset;
    bool same = true;
    for (const iovec& part : parts) {
      same = same && at + part.iov_len <= known->second.size() &&
             std::memcmp(part.iov_base, known->second.data() + at, part.iov_len) == 0;
      at += part.iov_len;
    }
    if (same) return version;
  }
  return kVersions;
}

size_t TortureBlocks::find(const BlockId& id) const {
  size_t block = 0;
  while (block < ids_.size() && ids_[block] != id) ++block;
  return block;
}

bool TortureOracle::same_group(size_t one, size_t two) const {
  const TortureBlock &a = (*blocks_)[one], &b = (*blocks_)[two];
  return one == two || (a.group != 0 && a.group == b.group && a.tenant == b.tenant && a.layout == b.layout);
}

bool TortureOracle::may_be_absent(size_t block) const {
  for (size_t i = 0; i < known_.size(); ++i) {
    if (same_group(i, block) && known_[i].absent) return true;
  }
  return false;
}

uint32_t TortureOracle::put_begins(size_t block) {
  Known& one = known_[block];
  ++changes_;
  ++one.puts;
  one.raced |= one.deletes > 0 || one.puts > 1;
  uint32_t version = one.next++ % TortureBlocks::kVersions;
  while ((one.versions >> version & 1U) != 0) version = one.next++ % TortureBlocks::kVersions;
  one.versions |= 1U << version;
  return version;
}

void TortureOracle::put_ends(size_t block, uint32_t version, Status status, Durability durability) {
  Known& one = known_[block];
  ++changes_;
  const bool durable = durability == Durability::durable;
  if (status == Status::ok && !one.raced) {
    one.returning = durable ? 0 : one.returning | (one.versions & ~(1U << version));
    one.versions = 1U << version;
    one.absent |= !durable;
  }
  if (status == Status::exists) one.versions &= ~(1U << version);
  if ((status == Status::ok || status == Status::exists) && durable && !one.raced) one.absent = false;
  --one.puts;
  settled(one);
}

void TortureOracle::delete_begins(size_t block) {
  Known& one = known_[block];
  ++changes_;
  ++one.deletes;
  one.raced |= one.puts > 0;
  for (size_t i = 0; i < known_.size(); ++i) known_[i].absent |= same_group(i, block);
}

void TortureOracle::delete_ends(size_t block, Status status) {
  Known& one = known_[block];
  ++changes_;
  if ((status == Status::ok || status == Status::not_found) && !one.raced) one.versions = one.returning = 0;
  --one.deletes;
  settled(one);
}

void TortureOracle::given_up(size_t block) {
  ++changes_;
  for (size_t i = 0; i < known_.size(); ++i) known_[i].absent |= same_group(i, block);
}

void TortureOracle::life_ends() {
  for (Known& one : known_) {
    one.puts = one.deletes = 0;
    one.raced = false;
    one.versions |= one.returning;
  }
}

void TortureOracle::settled(Known& one) {
  if (one.puts == 0 && one.deletes == 0) one.raced = false;
}

}  // namespace cairn
