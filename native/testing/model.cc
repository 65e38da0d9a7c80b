// cairn-model: every short history of a small store whose drives come and go.
//   cairn-model [--drives N] [--depth N] [--cuts N] [--stop-at SECONDS] [--only "start:3 put:0 …"]
// Prints one JSON object. Ends with 1 if anything was violated; each violation is a line on stderr that begins with its
// history, as --only takes it.
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

#include "base/json.h"
#include "testing/model_world.h"

namespace {

int usage() {
  std::fprintf(
      stderr,
      "usage: cairn-model [--drives 2|3] [--depth N] [--cuts N] [--stop-at SECONDS] [--only \"STEP STEP …\"]\n");
  return 2;
}

}  // namespace

int main(int count, char** words) {
  cairn::ModelPlan plan;
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string word = words[i], value = words[i + 1];
    if (word == "--drives") {
      plan.drives = std::strtoul(value.c_str(), nullptr, 10);
    } else if (word == "--depth") {
      plan.depth = std::strtoul(value.c_str(), nullptr, 10);
    } else if (word == "--cuts") {
      plan.cuts = std::strtoul(value.c_str(), nullptr, 10);
    } else if (word == "--stop-at") {
      plan.seconds = std::strtod(value.c_str(), nullptr);
    } else if (word == "--only") {
      std::istringstream text(value);
      for (std::string one; text >> one;) {
        const auto step = cairn::model_step_of(one);
        if (!step) return usage();
        plan.only.push_back(*step);
      }
    } else {
      return usage();
    }
  }
  if (count % 2 == 0 || plan.drives < 1 || plan.drives > cairn::kModelDrivesMost) return usage();
  const cairn::ModelOutcome outcome = cairn::explore(plan);
  for (const std::string& what : outcome.violations) std::fprintf(stderr, "%s\n", what.c_str());
  cairn::JsonWriter json;
  json.begin_object().number("drives", plan.drives).number("depth", plan.depth);
  json.number("histories", outcome.histories).number("states", outcome.states).number("gets", outcome.gets);
  json.number("hits", outcome.hits).number("kept", outcome.kept).number("starts", outcome.starts);
  json.number("begun_empty", outcome.begun_empty).number("waiting", outcome.waiting);
  json.number("crashes", outcome.crashes).number("cuts", outcome.cuts).number("believed", outcome.believed);
  json.number("given_up", outcome.given_up).number("refused", outcome.refused);
  json.number("stopped_early", outcome.whole ? 0 : 1).number("violations", outcome.violations.size());
  std::printf("%s\n", json.end_object().take().c_str());
  return outcome.violations.empty() ? 0 : 1;
}
