#include "store/names.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "store/index.h"

namespace cairn {

size_t Names::Hash::operator()(const Name& name) const {
  return hash_of({}, name.value ^ uint64_t{name.tenant} << 32 ^ name.tenant);
}

void Names::check_numbers() const {
  CAIRN_CHECK(numbers_.size() <= most_, "there are more names than there may be");
  CAIRN_CHECK(numbers_.size() + free_.size() + 1 == rows_.size(), "a number is lost, or given to two names");
}

uint32_t Names::find(uint32_t tenant, uint64_t value) const {
  const Name name{tenant, value};
  if (last_number_ != kNone && last_ == name) return last_number_;
  const auto found = numbers_.find(name);
  if (found == numbers_.end()) return kNone;
  const Row& named = row(found->second);
  CAIRN_CHECK(named.tenant == tenant, "a name leads to the row of another tenant");
  CAIRN_CHECK(named.value == value, "a name leads to the row of another name");
  last_ = name;
  last_number_ = found->second;
  return found->second;
}

uint32_t Names::take(uint32_t tenant, uint64_t value) {
  if (const uint32_t number = find(tenant, value); number != kNone) return number;
  if (numbers_.size() >= most_) return kNone;
  uint32_t number = static_cast<uint32_t>(rows_.size());
  if (free_.empty()) {
    rows_.emplace_back();
  } else {
    number = free_.back();
    free_.pop_back();
  }
  CAIRN_CHECK(number != kNone, "a name is given the number of none");
  CAIRN_CHECK(number <= kMost, "a name's number does not fit the index");
  CAIRN_CHECK(rows_[number].blocks == 0, "a number that blocks hold is given to another name");
  rows_[number] = Row{tenant, value, 0, 0};
  numbers_.emplace(Name{tenant, value}, number);
  check_numbers();
  return number;
}

void Names::hold(uint32_t number) {
  if (number == kNone) return;
  CAIRN_CHECK(number < rows_.size(), "a name that was never given is held");
  ++rows_[number].blocks;
}

void Names::release(uint32_t number) {
  if (number == kNone) return;
  CAIRN_CHECK(number < rows_.size(), "a name that was never given is released");
  CAIRN_CHECK(rows_[number].blocks > 0, "a name is released more often than it was held");
  if (--rows_[number].blocks == 0) drop_if_unused(number);
}

void Names::drop_if_unused(uint32_t number) {
  const Row& row = rows_[number];
  if (keep_all_ || row.blocks > 0) return;
  const Name name{row.tenant, row.value};
  const auto found = numbers_.find(name);
  if (found == numbers_.end() || found->second != number) return;
  if (last_number_ == number) last_number_ = kNone;
  numbers_.erase(found);
  free_.push_back(number);
  check_numbers();
}

void Names::delete_before(uint32_t number, uint64_t sequence) {
  CAIRN_CHECK(number != kNone, "a delete of no name");
  CAIRN_CHECK(number < rows_.size(), "a delete of a name that was never given");
  rows_[number].deleted_before = std::max(rows_[number].deleted_before, sequence);
}

void Names::delete_tenant_before(uint32_t tenant, uint64_t sequence) {
  for (const auto& [name, number] : numbers_) {
    if (name.tenant == tenant) delete_before(number, sequence);
  }
}

void Names::keep_all(bool keep) {
  keep_all_ = keep;
  if (keep) return;
  for (uint32_t number = 1; number < rows_.size(); ++number) drop_if_unused(number);
}

uint64_t Names::memory_bytes() const {
  constexpr uint64_t kNodeBytes = sizeof(Name) + sizeof(uint32_t) + 2 * sizeof(void*) + 8;
  return rows_.capacity() * sizeof(Row) + free_.capacity() * sizeof(uint32_t) + numbers_.size() * kNodeBytes +
         numbers_.bucket_count() * sizeof(void*);
}

}  // namespace cairn
