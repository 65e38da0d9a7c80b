#include "testing/model_world.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/entropy.h"
#include "base/pattern.h"
#include "store/index.h"
#include "store/loader.h"
#include "store/membership.h"
#include "store/recovery.h"
#include "testing/model_life.h"

namespace cairn {

namespace {

using Kind = ModelStep::Kind;

// --- all histories ---------------------------------------------------------------------------------------

class Explorer {
 public:
  Explorer(const ModelPlan& plan, Slab& slab)
      : plan_(plan),
        world_(plan.drives, slab, outcome_, !plan.only.empty()),
        began_(std::chrono::steady_clock::now()) {}

  ModelOutcome run() {
    const ModelNode root = first();
    if (!plan_.only.empty()) {
      follow(root);
    } else {
      visit(root, plan_.depth);
    }
    return outcome_;
  }

 private:
  struct Hash {
    size_t operator()(const std::pair<uint64_t, uint64_t>& one) const { return one.first ^ one.second; }
  };

  ModelNode first() const {
    ModelNode root;
    VirtualClock clock;
    for (size_t i = 0; i < plan_.drives; ++i) {
      auto platter = std::make_shared<Platter>(kModelDriveBytes);
      {
        MemoryDrive drive(platter);
        FormatOptions options;
        options.segment_bytes = format::kSegmentBytesLeast;
        const auto formatted = format_drive(drive, options, clock);
        CAIRN_CHECK(formatted.ok(), "a model's drive cannot be formatted");
      }
      root.platters.push_back(platter->copy());
    }
    return root;
  }

  bool stops() {
    if (outcome_.violations.size() >= kModelViolationsMost) return true;
    const double passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
    if (plan_.seconds > 0 && passed > plan_.seconds) outcome_.whole = false;
    return !outcome_.whole;
  }

  std::vector<ModelStep> steps_from(const ModelNode& node, size_t left) const {
    std::vector<ModelStep> steps;
    const auto sets = static_cast<uint8_t>((1U << plan_.drives) - 1);
    const auto add_cuts = [&](Kind inner, uint8_t what, uint8_t most) {
      for (uint8_t writes = 1; writes <= most && left > 0; ++writes) {
        if (node.cuts >= plan_.cuts) return;
        for (const bool kept : {false, true}) steps.push_back({Kind::cut, what, inner, writes, kept});
      }
    };
    if (node.off()) {
      for (uint8_t set = 1; set <= sets; ++set) steps.push_back({Kind::start, set});
      for (uint8_t set = 1; set <= sets; ++set) add_cuts(Kind::start, set, 3);
      return steps;
    }
    if (left == 0) return steps;
    for (uint8_t key = 0; key < kModelKeys; ++key) {
      steps.push_back({Kind::put, key});
      steps.push_back({Kind::remove, key});
    }
    steps.push_back({Kind::remove_scope});
    steps.push_back({Kind::evict});
    steps.push_back({Kind::close});
    steps.push_back({Kind::crash});
    for (uint8_t drive = 0; drive < plan_.drives; ++drive) {
      if (world_.is_attached(drive)) {
        steps.push_back({Kind::detach, drive});
        steps.push_back({Kind::vanish, drive});
        add_cuts(Kind::detach, drive, 3);
        add_cuts(Kind::vanish, drive, 2);
      } else {
        steps.push_back({Kind::attach, drive});
        add_cuts(Kind::attach, drive, 4);
      }
    }
    return steps;
  }

  ModelNode behind(const ModelNode& node, const ModelStep& step) const {
    ModelNode next = node;
    next.history.push_back(step);
    next.cuts += step.kind == Kind::cut ? 1 : 0;
    if (world_.off()) {
      next.order = world_.order();
      next.platters = world_.platters();
      next.before = world_.knowledge();
      next.life.clear();
      next.seed = node.seed * 0x9E3779B97F4A7C15ULL + node.life.size() + static_cast<uint64_t>(step.kind) + 1;
    } else {
      next.life.push_back(step);
    }
    return next;
  }

  void visit(const ModelNode& node, size_t left) {
    world_.load(node);
    const std::vector<ModelStep> steps = steps_from(node, left);
    bool first = true;
    for (const ModelStep& step : steps) {
      if (stops()) return;
      std::vector<ModelStep> history = node.history;
      history.push_back(step);
      if (!std::exchange(first, false)) world_.load(node);
      world_.tell_of(history);
      ++outcome_.histories;
      const size_t before = outcome_.violations.size();
      if (!world_.take(step) || outcome_.violations.size() > before) continue;
      const size_t rest = step.kind == Kind::start ? left : left - 1;
      // With so many steps left, of which so many may be cut off.
      const size_t cuts = plan_.cuts - std::min(plan_.cuts, node.cuts + (step.kind == Kind::cut ? 1 : 0));
      auto [seen, fresh] = seen_.try_emplace(world_.fingerprint());
      outcome_.states += fresh ? 1 : 0;
      std::array<uint8_t, kModelCutsMost + 1>& left_then = seen->second;
      if (left_then[std::min(cuts, kModelCutsMost)] >= rest + 1) continue;
      for (size_t fewer = 0; fewer <= std::min(cuts, kModelCutsMost); ++fewer)
        left_then[fewer] = std::max(left_then[fewer], static_cast<uint8_t>(rest + 1));
      if (rest == 0 && !world_.off()) continue;
      visit(behind(node, step), rest);
    }
  }

  void follow(ModelNode node) {
    for (const ModelStep& step : plan_.only) {
      world_.load(node);
      std::vector<ModelStep> history = node.history;
      history.push_back(step);
      world_.tell_of(history);
      std::fprintf(stderr, "%s\n", text_of(step).c_str());
      ++outcome_.histories;
      if (!world_.take(step)) {
        std::fprintf(stderr, "  it could not be taken\n");
        continue;
      }
      (void)world_.fingerprint();  // a start takes the drives in the order in which it was told
      node = behind(node, step);
    }
  }

  ModelPlan plan_;
  ModelOutcome outcome_;
  ModelLife world_;
  std::chrono::steady_clock::time_point began_;
  std::unordered_map<std::pair<uint64_t, uint64_t>, std::array<uint8_t, kModelCutsMost + 1>, Hash> seen_;
};

constexpr std::array kNames = {"put",    "delete", "delete-scope", "evict", "attach", "detach",
                               "vanish", "close",  "crash",        "start", "cut"};

}  // namespace

// As cairn-model takes it: put:0 start:3 cut:attach:1:2:lost.
std::string text_of(const ModelStep& step) {
  std::string text = kNames[static_cast<size_t>(step.kind)];
  if (step.kind == Kind::cut) {
    return text + ":" + kNames[static_cast<size_t>(step.inner)] + ":" + std::to_string(step.what) + ":" +
           std::to_string(step.writes) + (step.kept ? ":kept" : ":lost");
  }
  const bool plain = step.kind == Kind::remove_scope || step.kind == Kind::evict || step.kind == Kind::close ||
                     step.kind == Kind::crash;
  return plain ? text : text + ":" + std::to_string(step.what);
}

std::string text_of(const std::vector<ModelStep>& steps) {
  std::string text;
  for (const ModelStep& step : steps) text += (text.empty() ? "" : " ") + text_of(step);
  return text;
}

std::optional<ModelStep> model_step_of(const std::string& text) {
  std::vector<std::string> words;
  for (size_t from = 0; from <= text.size();) {
    const size_t end = std::min(text.find(':', from), text.size());
    words.push_back(text.substr(from, end - from));
    from = end + 1;
  }
  const auto kind_of = [](const std::string& word) -> std::optional<Kind> {
    const auto at = std::find(kNames.begin(), kNames.end(), word);
    if (at == kNames.end()) return std::nullopt;
    return static_cast<Kind>(at - kNames.begin());
  };
  const auto number = [&](size_t at) {
    return static_cast<uint8_t>(at < words.size() ? std::strtoul(words[at].c_str(), nullptr, 10) : 0);
  };
  const auto kind = kind_of(words[0]);
  if (!kind) return std::nullopt;
  if (*kind != Kind::cut) return ModelStep{*kind, number(1)};
  const auto inner = words.size() == 5 ? kind_of(words[1]) : std::nullopt;
  if (!inner) return std::nullopt;
  return ModelStep{Kind::cut, number(2), *inner, number(3), words[4] == "kept"};
}

ModelOutcome explore(const ModelPlan& plan) {
  const auto slab = Slab::create(8 * kMiB).take();
  return Explorer(plan, *slab).run();
}

}  // namespace cairn
