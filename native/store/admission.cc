#include "store/admission.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "store/index.h"

namespace cairn {

namespace {

constexpr uint64_t kDayMs = 86'400'000;
// The budget gathers for an hour at the most, so that a quiet night is not spent in a minute.
constexpr uint64_t kGatherMs = kDayMs / 24;

}  // namespace

Admission::Admission(const AdmissionOptions& options, uint64_t now_ms)
    : options_(options), budget_bytes_(options.bytes_per_day / 24), filled_ms_(now_ms) {
  if (!options_.second_touch) return;
  young_.resize(kBits / 64);
  old_.resize(kBits / 64);
}

// Two bits a name, a Bloom filter: 1 in 20 strangers is taken for known when it is full.
bool Admission::offered_before(const BlockId& id) {
  const uint64_t hash = hash_of(id);
  const uint64_t bits[] = {hash % kBits, (hash >> 32) % kBits};
  const auto holds = [&](const std::vector<uint64_t>& filter) {
    return std::all_of(std::begin(bits), std::end(bits),
                       [&](uint64_t bit) { return (filter[bit / 64] >> (bit % 64) & 1) != 0; });
  };
  CAIRN_CHECK(young_.size() == kBits / 64, "what was offered is looked up in no filter");
  CAIRN_CHECK(old_.size() == young_.size(), "the filters of what was offered are not of one size");
  const bool known = holds(young_) || holds(old_);
  if (known) return true;
  if (++offers_ > kOffersMost) {
    old_.swap(young_);
    std::fill(young_.begin(), young_.end(), 0);
    offers_ = 1;
  }
  for (const uint64_t bit : bits) young_[bit / 64] |= uint64_t{1} << (bit % 64);
  return false;
}

bool Admission::admit(const BlockId& id, uint64_t bytes, uint64_t now_ms) {
  CAIRN_CHECK(bytes > 0, "a block of no bytes is let in");
  CAIRN_CHECK(bytes <= kBlockBytesMost, "a block longer than any is let in");
  if (options_.second_touch && !offered_before(id)) return false;
  if (options_.bytes_per_day == 0) return true;
  CAIRN_CHECK(now_ms >= filled_ms_, "the clock went back");
  const double gathered = static_cast<double>(std::min(now_ms - filled_ms_, kGatherMs)) / static_cast<double>(kDayMs) *
                          static_cast<double>(options_.bytes_per_day);
  // Parts of a byte are not lost: time moves on only when at least one whole byte came together.
  if (gathered >= 1) {
    const uint64_t most = std::max(options_.bytes_per_day / 24, kBlockBytesMost);
    budget_bytes_ = std::min(budget_bytes_ + static_cast<uint64_t>(gathered), most);
    filled_ms_ = now_ms;
  }
  if (bytes > budget_bytes_) return false;
  budget_bytes_ -= bytes;
  return true;
}

}  // namespace cairn
