// What a crash may leave of a drive: the platter as a flush left it, and of every write since then all, some or
// nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "testing/torture_world.h"

namespace cairn {

// One drive at the moment of a crash.
struct CrashImage {
  Platter durable;  // nothing of it is cached
  std::vector<Platter::CachedWrite> unflushed;

  static CrashImage of(const FaultDrive& drive);
};

// How much of one write is there.
enum class Survived : uint8_t { nothing, all, first_half, last_half, header_only, payload_only };
const char* name_of(Survived share);

// One fate for each unflushed write.
using Fates = std::vector<Survived>;
std::string text_of(const Fates& fates);
// None, all, each alone, all but each, each torn while the others are whole; without duplicates.
std::vector<Fates> all_fates(size_t writes);

// The image's platter after the crash.
Platter after_crash(const CrashImage& image, const Fates& fates);

}  // namespace cairn
