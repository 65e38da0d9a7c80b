// The admission dial: off, or what keeps useless writes from the drives. It costs hits
// (docs/decisions/0005-eviction.md). One reactor thread.
#pragma once

#include <cstdint>
#include <vector>

#include "wire/limits.h"
#include "wire/types.h"

namespace cairn {

struct AdmissionOptions {
  bool second_touch = false;   // a block is stored when it is offered for the second time
  uint64_t bytes_per_day = 0;  // payload taken a day, over all tenants, spread evenly; 0: as much as comes
};

class Admission {
 public:
  Admission(const AdmissionOptions& options, uint64_t now_ms);
  // Whether a put of that block, of so many bytes, is let in. One that is counts.
  bool admit(const BlockId& id, uint64_t bytes, uint64_t now_ms);

 private:
  // What was offered lately, as two filters of which the older is dropped when the younger is full.
  static constexpr uint64_t kBits = uint64_t{1} << 23;  // 1 MiB each
  static constexpr uint64_t kOffersMost = kBits / 8;
  static_assert(kBits % 64 == 0, "a filter is not whole words");
  static_assert(kBits <= uint64_t{1} << 32, "half a hash does not reach every bit of a filter");
  bool offered_before(const BlockId& id);

  AdmissionOptions options_;
  std::vector<uint64_t> young_, old_;
  uint64_t offers_ = 0;
  uint64_t budget_bytes_ = 0, filled_ms_ = 0;
};

}  // namespace cairn
