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
inline constexpr uint32_t kSessionRegionsMost = 1024;
inline constexpr uint32_t kSessionLanesMost = 16;
inline constexpr uint32_t kCreditsDefault = 128;  // requests in flight in one session
inline constexpr uint32_t kDeadlineMsDefault = 30'000;
inline constexpr uint32_t kDeadlineMsMost = 600'000;

}  // namespace cairn
