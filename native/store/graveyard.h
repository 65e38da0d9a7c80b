// The deletes that a drive may still have to be told of: one that is being loaded, or was away while they were made.
// Bounded: of what is older than the oldest it remembers, floor() says how far. One reactor thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include "store/format.h"
#include "wire/types.h"

namespace cairn {

class Graveyard {
 public:
  static constexpr size_t kRememberedMost = 256 * 1024;

  // What `sequence` deleted: everything of that name that was put before. `drives`: which of them hold the tombstone, a
  // bit a drive.
  void bury(const format::Tombstone& tombstone, uint32_t drives);
  // Whether a block with these names, born at `birth`, is deleted by what is remembered.
  bool covers(const BlockId& id, const GroupId& group, Scope scope, uint64_t birth) const;
  // Those with a sequence of at least `from`, the oldest first.
  std::vector<format::Tombstone> since(uint64_t from) const;
  // Those that this drive does not hold, the oldest first; without what concerns another drive alone.
  std::vector<format::Tombstone> missing_on(uint8_t drive) const;

  // The number under which earlier blocks of that key are buried, if this drive does not hold that; else 0.
  uint64_t earlier_unheld(const BlockId& id, uint8_t drive) const;

  // Another drive has that number from now on; or: this one did not take the tombstone after all.
  void forget_drive(uint8_t drive);
  void unheld(const format::Tombstone& tombstone, uint8_t drive);

  // Forgets the oldest beyond kRememberedMost. Not while a drive is loading: then all are needed.
  void trim();
  // The same in small steps, for a store that runs.
  void trim_some();
  // Deletes with a smaller sequence may have been forgotten.
  uint64_t floor() const { return floor_; }
  void raise_floor(uint64_t sequence) { floor_ = floor_ > sequence ? floor_ : sequence; }
  uint64_t size() const { return order_.size(); }

 private:
  void forget_front();
  struct Name {
    Key key;
    uint64_t value = 0;
    uint32_t tenant = 0;
    format::Buried kind{};
    bool operator==(const Name&) const = default;
  };
  struct Hash {
    size_t operator()(const Name& name) const;
  };
  struct Grave {
    uint64_t sequence = 0;
    uint32_t drives = 0;
  };
  uint64_t sequence_of(const Name& name) const;
  uint64_t& count(format::Buried kind);

  std::unordered_map<Name, Grave, Hash> buried_;  // the youngest delete of each name
  std::deque<format::Tombstone> order_;
  // How many names there are of each sort; of the last two most often none.
  uint64_t keys_ = 0, earlier_ = 0, wide_ = 0;
  uint64_t floor_ = 0;
};

}  // namespace cairn
