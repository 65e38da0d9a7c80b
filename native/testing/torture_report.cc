#include <cstdint>
#include <cstdio>
#include <string>

#include "testing/torture.h"

namespace cairn {

namespace {

constexpr uint64_t kSaidMost = 40;  // what goes wrong most often goes wrong a million times

}  // namespace

void TortureReport::violation(const std::string& sentence, Harm harm) {
  ++by_harm_[static_cast<size_t>(harm)];
  if (++violations_ <= kSaidMost) std::fprintf(stderr, "%s: %s\n", how_.c_str(), sentence.c_str());
}

std::string TortureReport::finish() {
  const auto of = [this](Harm harm) { return by_harm_[static_cast<size_t>(harm)]; };
  json.number("wrong_bytes", of(Harm::wrong_bytes)).number("lost_acknowledged", of(Harm::lost_acknowledged));
  json.number("undeleted", of(Harm::undeleted));
  json.boolean("stopped_early", stopped_).real("seconds", passed_s()).number("violations", violations_);
  return json.end_object().take();
}

}  // namespace cairn
