// What the store keeps in memory of one segment of a drive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <new>
#include <vector>

#include "store/format.h"

namespace cairn {

// Page-aligned heap memory, for what is not payload: headers, summaries, tombstones.
class Pages {
 public:
  explicit Pages(uint64_t pages);
  std::byte* data() const { return memory_.get(); }
  uint64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t{format::kPageBytes}); }
  };
  uint64_t bytes_;
  std::unique_ptr<std::byte, Free> memory_;
};

// free → opening → open → sealing → sealed → evicting → wiping → free.
enum class SegmentState : uint8_t { free, opening, open, sealing, sealed, evicting, wiping };

struct Segment {
  SegmentState state = SegmentState::free;
  uint8_t use = 0;  // how often it was given up unread since the start; what index entries know it by
  uint16_t version = format::kVersion;
  uint32_t owner = format::kSharedOwner;
  uint8_t placement = 0;    // the class that the drive is told with every write to it
  uint64_t generation = 0;  // 0: never used
  uint64_t nonce = 0;
  uint64_t first_sequence = 0;  // of the store when the segment was opened
  uint64_t last_sequence = 0;   // the largest of a record in it
  uint32_t next_page = 1;
  uint32_t writes = 0;                        // submitted and not settled
  uint32_t pins = 0;                          // records in it whose block is not settled: it may not be given up
  bool summarised = false;                    // sealed, and its summary is on the drive
  uint64_t blocks = 0, payload_bytes = 0;     // live records and their payload
  uint64_t least_birth = UINT64_MAX;          // of any block whose record lies in it, live or not
  uint32_t latest_expiry_ticks = 0;           // when the last record in it has expired; UINT32_MAX: some never do
  std::vector<format::SummaryEntry> entries;  // while open or sealing

  void note_expiry(uint32_t ticks) {
    const uint32_t until = ticks == 0 ? UINT32_MAX : ticks;
    if (until > latest_expiry_ticks) latest_expiry_ticks = until;
  }
};

// The smallest sequence of a block on a drive, by owner of its segment.
struct OldestBirths {
  std::map<uint32_t, uint64_t> by_owner;
  void note(uint32_t owner, uint64_t birth) {
    const auto [at, fresh] = by_owner.try_emplace(owner, birth);
    if (!fresh && birth < at->second) at->second = birth;
  }
  // Whether there may be a block of the tenant that was put before `sequence`.
  bool any_before(uint32_t tenant, uint64_t sequence) const {
    for (const uint32_t owner : {tenant, format::kSharedOwner}) {
      const auto found = by_owner.find(owner);
      if (found != by_owner.end() && found->second < sequence) return true;
    }
    return false;
  }
};

}  // namespace cairn
