// What a restart might find on one drive though the index has it no more: given up, dropped, or put and answered with
// an error, while its segment is not wiped. Deletes have to reach it all the same, and whoever puts such a key anew
// buries what was there before: else, once the new block is gone as well, a restart would bring back the old one.
// One reactor thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <unordered_map>
#include <vector>

namespace cairn {

class Ghosts {
 public:
  // Beyond that their keys are not remembered, and their segment may hold any; 60 bytes each.
  static constexpr size_t kKeysMost = 1024 * 1024;

  // In whichever segment: until the drive is read anew, or heard what it missed.
  static constexpr uint32_t kSomewhere = UINT32_MAX;

  void note(uint32_t segment) { (void)segments_[segment]; }
  // Nobody can tell what lies there: it may be any key.
  void note_unknown(uint32_t segment) {
    note(segment);
    unknown_.insert(segment);
  }
  // `key`: a hash of the block's id. Another block of the same hash costs a tombstone that deletes nothing.
  void note(uint32_t segment, uint64_t key);
  // The segment is wiped, or used again: nothing of it will be found.
  void wiped(uint32_t segment);

  bool any() const { return !segments_.empty(); }
  bool may_hold(uint64_t key) const { return !unknown_.empty() || keys_.contains(key); }

 private:
  std::map<uint32_t, std::vector<uint64_t>> segments_;
  std::unordered_map<uint64_t, uint32_t> keys_;  // and how many of them
  std::set<uint32_t> unknown_;                   // segments that may hold what is not in `keys_`
};

}  // namespace cairn
