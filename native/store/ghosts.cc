#include "store/ghosts.h"

#include <cstdint>
#include <vector>

#include "base/check.h"

namespace cairn {

void Ghosts::note(uint32_t segment, uint64_t key) {
  std::vector<uint64_t>& keys = segments_[segment];
  if (keys_.size() >= kKeysMost) return note_unknown(segment);
  keys.push_back(key);
  ++keys_[key];
}

void Ghosts::wiped(uint32_t segment) {
  unknown_.erase(segment);
  const auto found = segments_.find(segment);
  if (found == segments_.end()) return;
  for (const uint64_t key : found->second) {
    const auto counted = keys_.find(key);
    CAIRN_CHECK(counted != keys_.end(), "a ghost leaves that was never counted");
    CAIRN_CHECK(counted->second > 0, "a ghost leaves more often than it was counted");
    if (--counted->second == 0) keys_.erase(counted);
  }
  segments_.erase(found);
}

}  // namespace cairn
