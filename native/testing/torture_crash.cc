#include "testing/torture_crash.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace cairn {

namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kSectorBytes = 512;

}  // namespace

CrashImage CrashImage::of(const FaultDrive& drive) {
  CrashImage image{drive.platter().copy(), drive.unflushed()};
  image.durable.lose_cached();
  return image;
}

const char* name_of(Survived share) {
  constexpr const char* kNames[] = {"nothing", "all", "first half", "last half", "header only", "payload only"};
  return kNames[static_cast<size_t>(share)];
}

std::string text_of(const Fates& fates) {
  std::string text = "of the unflushed writes survive [";
  for (const Survived share : fates) text += (text.back() == '[' ? "" : ", ") + std::string(name_of(share));
  return text + "]";
}

std::vector<Fates> all_fates(size_t writes) {
  const Fates none(writes, Survived::nothing), whole(writes, Survived::all);
  std::set<Fates> all{none, whole};
  for (size_t i = 0; i < writes; ++i) {
    Fates one = none, but_one = whole;
    one[i] = Survived::all;
    but_one[i] = Survived::nothing;
    all.insert(one);
    all.insert(but_one);
    for (const Survived torn :
         {Survived::first_half, Survived::last_half, Survived::header_only, Survived::payload_only}) {
      Fates fates = whole;
      fates[i] = torn;
      all.insert(fates);
    }
  }
  return {all.begin(), all.end()};
}

Platter after_crash(const CrashImage& image, const Fates& fates) {
  Platter platter = image.durable;
  for (size_t i = 0; i < fates.size(); ++i) {
    const auto& [offset, bytes] = image.unflushed[i];
    const uint64_t length = bytes->size();
    // A write of one page has no payload behind its header: its first sector stands for that.
    const uint64_t header = length > kPageBytes ? kPageBytes : kSectorBytes;
    const uint64_t half = length / 2 / kSectorBytes * kSectorBytes;
    uint64_t from = 0, to = length;
    if (fates[i] == Survived::nothing) to = 0;
    if (fates[i] == Survived::first_half) to = half;
    if (fates[i] == Survived::last_half) from = half;
    if (fates[i] == Survived::header_only) to = header;
    if (fates[i] == Survived::payload_only) from = header;
    if (from < to) platter.write(offset + from, bytes->data() + from, to - from);
  }
  return platter;
}

}  // namespace cairn
