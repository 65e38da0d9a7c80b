#include "store/groups.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "store/index.h"

namespace cairn {

size_t Groups::Hash::operator()(const Name& name) const {
  return hash_of(name.id, name.keyspace);
}

Groups::Row& Groups::at(uint32_t group) {
  CAIRN_CHECK(group != kNone, "no group is changed");
  CAIRN_CHECK(group < rows_.size(), "a group is changed that was never given");
  CAIRN_CHECK(rows_[group].id != GroupId{}, "a group is changed that was given up");
  return rows_[group];
}

uint32_t Groups::find(uint32_t keyspace, const GroupId& id) const {
  const auto found = numbers_.find({id, keyspace});
  return found == numbers_.end() ? kNone : found->second;
}

uint32_t Groups::join(uint32_t keyspace, const GroupId& id, uint32_t members_most) {
  CAIRN_CHECK(id != GroupId{}, "a block joins a group without a name");
  if (const uint32_t known = find(keyspace, id); known != kNone) {
    CAIRN_CHECK(!rows_[known].broken, "a broken group is still found by its name");
    CAIRN_CHECK(rows_[known].id == id, "a group's name leads to another group");
    // Whoever says more members than the first did is believed: the group is not there before they are.
    rows_[known].members_most = std::max(rows_[known].members_most, members_most);
    return known;
  }
  uint32_t group = static_cast<uint32_t>(rows_.size());
  if (free_.empty()) {
    rows_.emplace_back();
  } else {
    group = free_.back();
    free_.pop_back();
  }
  CAIRN_CHECK(group != kNone, "a group is given the number of none");
  CAIRN_CHECK(rows_[group].entries == 0, "a group that has members is given out again");
  CAIRN_CHECK(rows_[group].leases == 0, "a group that is leased is given out again");
  Row row;
  row.id = id;
  row.keyspace = keyspace;
  row.members_most = members_most;
  rows_[group] = row;
  numbers_.emplace(Name{id, keyspace}, group);
  return group;
}

void Groups::add(uint32_t group, bool counts, uint32_t expiry_ticks) {
  if (group == kNone) return;
  Row& row = at(group);
  CAIRN_CHECK(!row.broken, "a block joins a group that is broken");
  ++row.entries;
  if (counts) ++row.present;
  CAIRN_CHECK(row.present <= row.entries, "a group has more members than entries");
  if (expiry_ticks != 0)
    row.expiry_ticks = row.expiry_ticks == 0 ? expiry_ticks : std::min(row.expiry_ticks, expiry_ticks);
}

void Groups::remove(uint32_t group, bool counts) {
  if (group == kNone) return;
  Row& row = at(group);
  CAIRN_CHECK(row.entries > 0, "a group loses more entries than it had");
  CAIRN_CHECK(!counts || row.present > 0, "a group loses more members than it had");
  --row.entries;
  if (counts) --row.present;
  CAIRN_CHECK(row.present <= row.entries, "a group keeps members whose entries went");
  drop_if_unused(group);
}

void Groups::drop_if_unused(uint32_t group) {
  Row& row = rows_[group];
  if (row.entries > 0 || row.leases > 0) return;
  unname(group);
  row = Row{};
  free_.push_back(group);
}

void Groups::unname(uint32_t group) {
  const auto found = numbers_.find({rows_[group].id, rows_[group].keyspace});
  if (found != numbers_.end() && found->second == group) numbers_.erase(found);
}

void Groups::break_up(uint32_t group) {
  if (group == kNone) return;
  Row& row = at(group);
  if (row.broken) return;
  row.broken = true;
  unname(group);
}

void Groups::lease(uint32_t group, bool begins) {
  if (group == kNone) return;
  Row& row = at(group);
  CAIRN_CHECK(begins || row.leases > 0, "a group's lease ends that never began");
  CAIRN_CHECK(!begins || row.entries > 0, "a lease begins of a group without members");
  row.leases += begins ? 1 : 0;
  row.leases -= begins ? 0 : 1;
  if (!begins) drop_if_unused(group);
}

uint64_t Groups::memory_bytes() const {
  constexpr uint64_t kNodeBytes = sizeof(Name) + sizeof(uint32_t) + 2 * sizeof(void*);
  return rows_.capacity() * sizeof(Row) + free_.capacity() * sizeof(uint32_t) + numbers_.size() * kNodeBytes +
         numbers_.bucket_count() * sizeof(void*);
}

}  // namespace cairn
