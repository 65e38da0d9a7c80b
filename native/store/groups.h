// Groups: blocks that exist, are evicted and expire as one. A group is there once all its members are, and gone as
// soon as one of them is; the index entries of the others name it, so they are gone in the same moment and swept
// later. One reactor thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/check.h"
#include "wire/types.h"

namespace cairn {

class Groups {
 public:
  struct Row {
    GroupId id{};
    uint32_t keyspace = 0;
    uint32_t members_most = 0;  // how many there are when all are; 0: nobody said, so each stands for itself
    uint32_t present = 0;       // index entries that name it and were counted; a striped block counts once
    uint32_t entries = 0;       // all index entries that name it, stale ones included
    uint32_t leases = 0;        // of its members
    uint32_t expiry_ticks = 0;  // of the first to expire; 0: never
    bool broken = false;
  };
  static constexpr uint32_t kNone = 0;

  Groups() { rows_.resize(1); }

  // The group that a new member joins; a broken one is left behind and begun anew.
  uint32_t join(uint32_t keyspace, const GroupId& id, uint32_t members_most);
  uint32_t find(uint32_t keyspace, const GroupId& id) const;  // kNone when there is none, or it is broken

  // Whether members are visible: complete and whole.
  bool complete(uint32_t group) const { return !broken(group) && row(group).present >= row(group).members_most; }
  bool broken(uint32_t group) const { return row(group).broken; }
  const Row& row(uint32_t group) const {
    CAIRN_CHECK(group < rows_.size(), "a group is asked for that was never given");
    return rows_[group];
  }

  // An index entry that names the group comes or goes. `counts`: it is the first part of a member.
  void add(uint32_t group, bool counts, uint32_t expiry_ticks);
  void remove(uint32_t group, bool counts);
  // A member is gone for good, so all are.
  void break_up(uint32_t group);
  void lease(uint32_t group, bool begins);

  uint64_t size() const { return numbers_.size(); }
  uint64_t memory_bytes() const;

 private:
  struct Name {
    GroupId id;
    uint32_t keyspace;
    bool operator==(const Name&) const = default;
  };
  struct Hash {
    size_t operator()(const Name& name) const;
  };
  Row& at(uint32_t group);
  void unname(uint32_t group);
  void drop_if_unused(uint32_t group);

  std::vector<Row> rows_;  // [0] is kNone
  std::vector<uint32_t> free_;
  std::unordered_map<Name, uint32_t, Hash> numbers_;
};

}  // namespace cairn
