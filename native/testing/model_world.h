// A small store whose every short history is tried: two or three drives, two keys, one scope. The real LogStore over
// memory drives; what a step leaves is remembered as the drives' contents at the beginning of the present life and the
// steps taken since, so a history goes on from where another one was. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/slab.h"
#include "store/format.h"
#include "store/store.h"
#include "testing/memory_drive.h"
#include "testing/virtual_clock.h"

namespace cairn {

inline constexpr size_t kModelKeys = 2;
inline constexpr size_t kModelDrivesMost = 3;

struct ModelStep {
  enum class Kind : uint8_t {
    put,           // what: the key
    remove,        // what: the key
    remove_scope,  //
    evict,         // every sealed segment is given up
    attach,        // what: the drive
    detach,        // what: the drive
    vanish,        // what: the drive; it fails without a word
    close,         // in good order
    crash,         // what no flush covered is lost
    start,         // what: a set of drives, a bit each
    cut,           // `inner` on `what`, cut off behind the record write with this number; what was not flushed is lost
  };
  Kind kind = Kind::put;
  uint8_t what = 0;
  Kind inner = Kind::put;
  uint8_t writes = 0;
  bool kept = false;  // … or not: it reached the drives
  bool operator==(const ModelStep&) const = default;
};
std::string text_of(const ModelStep& step);
std::string text_of(const std::vector<ModelStep>& steps);
std::optional<ModelStep> model_step_of(const std::string& text);

struct ModelPlan {
  size_t drives = 2;
  size_t depth = 4;                  // steps; a start is part of the step before
  size_t cuts = 1;                   // steps of a history that may be cut off in their middle
  double seconds = 0;                // stop then; 0: never
  std::vector<ModelStep> only = {};  // this history alone, told step by step
};

struct ModelOutcome {
  uint64_t histories = 0, states = 0, gets = 0, hits = 0, starts = 0, begun_empty = 0, waiting = 0, crashes = 0,
           cuts = 0, believed = 0, given_up = 0, refused = 0, kept = 0;
  bool whole = true;  // it was not stopped
  std::vector<std::string> violations;
};

// Every history of the plan. Stops at the hundredth violation.
ModelOutcome explore(const ModelPlan& plan);

}  // namespace cairn
