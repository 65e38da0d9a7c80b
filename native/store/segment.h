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
  uint32_t writes = 0;                     // submitted and not settled
  uint32_t pins = 0;                       // records in it whose block is not settled: it may not be given up
  bool summarised = false;                 // sealed, and its summary is on the drive
  uint64_t blocks = 0, payload_bytes = 0;  // live records and their payload
  // Of a shared segment: what live records take (format::packed_pages), by whose they are.
  std::map<uint32_t, uint64_t> tenant_bytes;
  uint64_t least_birth = UINT64_MAX;          // of any block whose record lies in it, live or not
  uint32_t latest_expiry_ticks = 0;           // when the last record in it has expired; UINT32_MAX: some never do
  std::vector<format::SummaryEntry> entries;  // while open or sealing

  // About what live records of the tenant take, their headers included.
  uint64_t bytes_of(uint32_t tenant) const {
    if (owner != format::kSharedOwner) return owner == tenant ? payload_bytes + blocks * format::kPageBytes : 0;
    const auto found = tenant_bytes.find(tenant);
    return found == tenant_bytes.end() ? 0 : found->second;
  }
  // `pages` are those of a segment.
  void count(uint32_t tenant, uint64_t bytes, uint64_t pages) {
    ++blocks;
    payload_bytes += bytes;
    if (owner == format::kSharedOwner) tenant_bytes[tenant] += format::packed_pages(bytes, pages) * format::kPageBytes;
  }
  void uncount(uint32_t tenant, uint64_t bytes, uint64_t pages) {
    CAIRN_CHECK(blocks > 0, "a segment counts fewer blocks than it has");
    CAIRN_CHECK(payload_bytes >= bytes, "a segment counts fewer bytes than its blocks have");
    --blocks;
    payload_bytes -= bytes;
    if (owner != format::kSharedOwner) return;
    const auto found = tenant_bytes.find(tenant);
    const uint64_t taken = format::packed_pages(bytes, pages) * format::kPageBytes;
    CAIRN_CHECK(found != tenant_bytes.end(), "a segment loses a block of a tenant that had none in it");
    CAIRN_CHECK(found->second >= taken, "a segment counts fewer bytes of a tenant than its blocks have");
    found->second -= taken;
    if (found->second == 0) tenant_bytes.erase(found);
  }
  void forget_all() {
    blocks = payload_bytes = 0;
    tenant_bytes.clear();
  }
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
