// Every limit both sides must agree on, with the arithmetic between them held by the compiler.
#pragma once

#include <cstdint>

namespace cairn {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;

inline constexpr uint64_t kBlockBytesMost = 64 * kMiB;
inline constexpr uint32_t kBatchItemsMost = 4096;
inline constexpr uint32_t kItemExtentsMost = 128;
inline constexpr uint32_t kBatchExtentsMost = 16384;
inline constexpr uint32_t kBodyBytesMost = 1 * kMiB;
inline constexpr uint32_t kGroupMembersMost = 1024;
inline constexpr uint64_t kLeaseMsMost = 3'600'000;
inline constexpr uint32_t kEventsMost = 4096;    // in one answer, and kept for one tenant
inline constexpr uint32_t kNameBytesMost = 256;  // client name, tenant
inline constexpr uint32_t kReasonBytesMost = 1024;
inline constexpr uint64_t kRegionBytesMost = 1024 * kGiB;
inline constexpr uint32_t kSessionLanesMost = 16;
inline constexpr uint32_t kCreditsDefault = 128;  // requests in flight in one session
inline constexpr uint32_t kDeadlineMsDefault = 30'000;
inline constexpr uint32_t kDeadlineMsMost = 600'000;

static_assert((kBlockBytesMost & (kBlockBytesMost - 1)) == 0, "the slab gives memory in powers of two");
static_assert(kBlockBytesMost <= UINT64_MAX / kBatchItemsMost, "the payload of a batch overflows its sum");
static_assert(kItemExtentsMost <= UINT16_MAX, "an item counts its extents in 16 bits");
static_assert(kItemExtentsMost <= kBatchExtentsMost, "a batch cannot hold the extents of one item");
static_assert(kGroupMembersMost <= UINT16_MAX, "an item names the members of its group in 16 bits");
static_assert(kNameBytesMost <= UINT16_MAX, "a hello has 16 bits for each of its lengths");
static_assert(kReasonBytesMost <= UINT16_MAX, "a reason has 16 bits for its length");
static_assert(kSessionLanesMost >= 1 && kSessionLanesMost <= UINT16_MAX, "a welcome names the lanes in 16 bits");
static_assert(kCreditsDefault >= 1, "a session could ask for nothing");
static_assert(kDeadlineMsDefault >= 1 && kDeadlineMsDefault <= kDeadlineMsMost, "the default deadline is refused");
static_assert(kLeaseMsMost <= UINT64_MAX / 1'000'000, "a lease in nanoseconds overflows");
static_assert(kRegionBytesMost >= kBlockBytesMost, "a region cannot hold a block");

}  // namespace cairn
