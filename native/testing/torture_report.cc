#include <cstdio>

#include "testing/torture.h"

namespace cairn {

namespace {

constexpr uint64_t kSaidMost = 40;  // what goes wrong most often goes wrong a million times

}  // namespace

void TortureReport::violation(const std::string& sentence) {
  if (++violations_ <= kSaidMost) std::fprintf(stderr, "%s: %s\n", how_.c_str(), sentence.c_str());
}

std::string TortureReport::finish() {
  json.boolean("stopped_early", stopped_).real("seconds", passed_s()).number("violations", violations_);
  return json.end_object().take();
}

}  // namespace cairn
