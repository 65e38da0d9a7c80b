// What a block may be after all that was asked and answered: absent, exactly one of some versions, or either.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "store/store.h"

namespace cairn {

struct TortureBlock {
  std::string name;
  uint64_t bytes = 0;
  uint32_t tenant = 0;
  uint64_t layout = 0;
  Scope scope = 0;
  uint8_t group = 0;  // 0: none
  uint16_t group_members = 0;
  BlockId id() const;
  GroupId group_id() const;
};

// The blocks of a run and what is put under them; versions of a block differ in every word.
class TortureBlocks {
 public:
  static constexpr uint32_t kVersions = 32;

  size_t add(const TortureBlock& block);
  size_t size() const { return blocks_.size(); }
  const TortureBlock& operator[](size_t block) const { return blocks_[block]; }
  const BlockId& id(size_t block) const { return ids_[block]; }
  const std::vector<std::byte>& content(size_t block, uint32_t version) const;
  // The version of which these are the bytes from `offset`; kVersions: of none.
  uint32_t version_of(size_t block, uint64_t offset, const std::vector<iovec>& parts) const;
  // size(): none of them has that id.
  size_t find(const BlockId& id) const;

 private:
  std::vector<TortureBlock> blocks_;
  std::vector<BlockId> ids_;
  mutable std::unordered_map<uint64_t, std::vector<std::byte>> contents_;
};

class TortureOracle {
 public:
  struct Known {
    uint32_t versions = 0;   // it may be one of these, a bit each
    uint32_t returning = 0;  // evicted, not deleted: once what was put since is lost, it may be one of these as well
    bool absent = true;      // … or not there
    bool raced = false;      // a put and a delete of it were out together: nobody can tell which came last
    uint8_t puts = 0, deletes = 0;
    uint8_t next = 0;
  };
  explicit TortureOracle(const TortureBlocks& blocks) : blocks_(&blocks), known_(blocks.size()) {}

  const Known& operator[](size_t block) const { return known_[block]; }
  uint64_t changes() const { return changes_; }
  // A miss is right: it may be gone itself, or another member of its group.
  bool may_be_absent(size_t block) const;

  uint32_t put_begins(size_t block);
  void put_ends(size_t block, uint32_t version, Status status, Durability durability);
  // The rest of its group goes as well; a restart may find that again.
  void delete_begins(size_t block);
  void delete_ends(size_t block, Status status);
  // Evicted or expired; a restart may find it again. Its group goes in the same moment, though the others' events come
  // one by one, and a member may have been put anew before them.
  void given_up(size_t block);
  // What was out is never answered.
  void life_ends();

 private:
  void settled(Known& one);
  bool same_group(size_t one, size_t two) const;

  const TortureBlocks* blocks_;
  std::vector<Known> known_;
  uint64_t changes_ = 0;
};

}  // namespace cairn
