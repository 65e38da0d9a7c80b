// cairn-simulate: runs seeds of the simulation and prints one JSON object a seed, then one for all.
//   cairn-simulate [--from SEED] [--seeds N] [--hours H] [--twice] [--stop-at SECONDS] [--trace TENANT:KEY]
// Ends with 1 if anything was violated; each violation is a sentence with its seed, on stderr.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/json.h"
#include "testing/sim_world.h"

namespace {

struct Options {
  uint64_t from = 1, seeds = 100;
  double hours = 0;      // 0: by the number of seeds
  double stop_at_s = 0;  // of real time; 0: never
  bool twice = false;    // every seed again, to see that it replays
  bool each = false;
  bool traces = false;
  cairn::SimKey trace;
};

bool parse(int count, char** words, Options& options) {
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const char* value = i + 1 < count ? words[i + 1] : nullptr;
    if (word == "--twice") {
      options.twice = true;
      continue;
    }
    if (word == "--each") {
      options.each = true;
      continue;
    }
    if (value == nullptr) return false;
    ++i;
    if (word == "--from") {
      options.from = std::strtoull(value, nullptr, 10);
    } else if (word == "--seeds") {
      options.seeds = std::strtoull(value, nullptr, 10);
    } else if (word == "--hours") {
      options.hours = std::strtod(value, nullptr);
      options.seeds = UINT64_MAX;
    } else if (word == "--trace") {
      options.traces = true;
      unsigned tenant = 0, number = 0;
      if (std::sscanf(value, "%u:%u", &tenant, &number) != 2) return false;
      options.trace = {tenant, number};
    } else if (word == "--stop-at") {
      options.stop_at_s = std::strtod(value, nullptr);
    } else {
      return false;
    }
  }
  return true;
}

cairn::SimOutcome run(const Options& options, uint64_t seed) {
  cairn::SimWorld world(cairn::SimPlan::drawn(seed));
  if (options.traces) world.trace(options.trace);
  return world.run();
}

void add(cairn::SimOutcome& all, const cairn::SimOutcome& one) {
  all.simulated_seconds += one.simulated_seconds;
  for (const auto field : {&cairn::SimOutcome::turns,
                           &cairn::SimOutcome::requests,
                           &cairn::SimOutcome::lives,
                           &cairn::SimOutcome::kills,
                           &cairn::SimOutcome::power_losses,
                           &cairn::SimOutcome::closes,
                           &cairn::SimOutcome::crashes_while_loading,
                           &cairn::SimOutcome::gets,
                           &cairn::SimOutcome::hits,
                           &cairn::SimOutcome::puts,
                           &cairn::SimOutcome::deletes,
                           &cairn::SimOutcome::doubts,
                           &cairn::SimOutcome::evicted,
                           &cairn::SimOutcome::drive_errors,
                           &cairn::SimOutcome::drive_lies,
                           &cairn::SimOutcome::stalls,
                           &cairn::SimOutcome::drives_left,
                           &cairn::SimOutcome::drives_replaced,
                           &cairn::SimOutcome::starts_without,
                           &cairn::SimOutcome::wrong_bytes,
                           &cairn::SimOutcome::lost,
                           &cairn::SimOutcome::undeleted})
    all.*field += one.*field;
}

void print(const cairn::SimOutcome& one, uint64_t seeds, double real_seconds, uint64_t violations, uint64_t diverged) {
  cairn::JsonWriter json;
  json.begin_object().number("seeds", seeds).number("last_seed", one.seed).real("real_seconds", real_seconds);
  json.real("simulated_hours", one.simulated_seconds / 3600)
      .real("times_real_time", one.simulated_seconds / real_seconds);
  json.number("turns", one.turns)
      .number("requests", one.requests)
      .number("lives", one.lives)
      .number("kills", one.kills);
  json.number("power_losses", one.power_losses).number("closes", one.closes);
  json.number("crashes_while_loading", one.crashes_while_loading).number("gets", one.gets).number("hits", one.hits);
  json.number("puts", one.puts)
      .number("deletes", one.deletes)
      .number("doubts", one.doubts)
      .number("evicted", one.evicted);
  json.number("drive_errors", one.drive_errors).number("drive_lies", one.drive_lies).number("stalls", one.stalls);
  json.number("drives_left", one.drives_left).number("drives_replaced", one.drives_replaced);
  json.number("starts_without_drives", one.starts_without);
  json.number("wrong_bytes", one.wrong_bytes).number("lost_acknowledged", one.lost).number("undeleted", one.undeleted);
  json.number("event_hash", one.event_hash).number("violations", violations).number("diverged", diverged);
  std::printf("%s\n", json.end_object().take().c_str());
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** words) {
  Options options;
  if (!parse(count, words, options)) {
    std::fprintf(
        stderr, "usage: cairn-simulate [--from SEED] [--seeds N | --hours H] [--twice] [--each] [--stop-at SECONDS]\n");
    return 2;
  }
  const auto began = std::chrono::steady_clock::now();
  const auto passed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count(); };
  cairn::SimOutcome all;
  uint64_t violations = 0, diverged = 0, seeds = 0;
  for (uint64_t seed = options.from; seeds < options.seeds; ++seed) {
    if (options.hours > 0 && all.simulated_seconds >= options.hours * 3600) break;
    if (options.stop_at_s > 0 && passed() >= options.stop_at_s) break;
    const double before = passed();
    const cairn::SimOutcome one = run(options, seed);
    ++seeds;
    for (const std::string& what : one.violations) std::fprintf(stderr, "seed %lu: %s\n", seed, what.c_str());
    violations += one.violations.size();
    if (options.twice && run(options, seed).event_hash != one.event_hash) {
      ++diverged;
      std::fprintf(stderr, "seed %lu: a second run of it went another way\n", seed);
    }
    add(all, one);
    all.seed = seed;
    all.event_hash = one.event_hash;
    if (options.each) print(one, 1, passed() - before, one.violations.size(), 0);
  }
  print(all, seeds, passed(), violations, diverged);
  return violations + diverged == 0 ? 0 : 1;
}
