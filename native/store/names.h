// Names that many blocks share, as small numbers: a keyspace is one layout of one tenant, a scope one label of one
// tenant. An index entry holds the numbers; what was deleted wholesale is said once here, and every entry that is
// older is absent from that moment on. One reactor thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/check.h"
#include "wire/types.h"

namespace cairn {

class Names {
 public:
  struct Row {
    uint32_t tenant = 0;
    uint64_t value = 0;           // the layout, or the scope
    uint64_t blocks = 0;          // index entries that name it, stale ones included
    uint64_t deleted_before = 0;  // entries with a smaller birth are deleted
  };
  static constexpr uint32_t kNone = 0;
  static constexpr uint32_t kMost = (1U << 24) - 1;

  // `most` rows at once.
  explicit Names(uint32_t most = kMost) : most_(most) {
    CAIRN_CHECK(most <= kMost, "more names are allowed than an index entry can tell apart");
    rows_.resize(1);
  }

  // The number of a name, or kNone when nothing holds it.
  uint32_t find(uint32_t tenant, uint64_t value) const;
  // The number, made if need be; kNone when there are as many as there may be.
  uint32_t take(uint32_t tenant, uint64_t value);
  const Row& row(uint32_t number) const {
    CAIRN_CHECK(number != kNone, "the row of no name is asked for");
    CAIRN_CHECK(number < rows_.size(), "a name is asked for that was never given");
    return rows_[number];
  }

  // An entry names it, or no longer does. A row that nothing names is free for another name, unless it is kept.
  void hold(uint32_t number);
  void release(uint32_t number);
  // From now on entries born before `sequence` are deleted.
  void delete_before(uint32_t number, uint64_t sequence);
  // … of every name of the tenant.
  void delete_tenant_before(uint32_t tenant, uint64_t sequence);
  // While a drive is being loaded entries may still come that a delete has to meet.
  void keep_all(bool keep);

  uint64_t size() const { return numbers_.size(); }
  uint64_t memory_bytes() const;

 private:
  struct Name {
    uint32_t tenant;
    uint64_t value;
    bool operator==(const Name&) const = default;
  };
  struct Hash {
    size_t operator()(const Name& name) const;
  };
  void drop_if_unused(uint32_t number);
  void check_numbers() const;

  uint32_t most_;
  bool keep_all_ = false;
  std::vector<Row> rows_;  // [0] is kNone
  std::vector<uint32_t> free_;
  std::unordered_map<Name, uint32_t, Hash> numbers_;
  // Batches ask for the same name again and again.
  mutable Name last_{};
  mutable uint32_t last_number_ = kNone;
};

}  // namespace cairn
