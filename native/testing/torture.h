// Systematic damage to the store: what cairn-torture runs (testing/torture.cc), one function a part.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include "base/json.h"

namespace cairn {

struct TortureOptions {
  uint64_t seed = 1;
  uint64_t random = 0;   // crash-points: so many random workloads instead of the exhaustive ones
  uint64_t payload = 0;  // bit-flips: so many random damages instead of the exhaustive ones
  uint64_t shard = 0, shards = 1;
  double stop_at_s = 0;  // of real time; 0: never
  std::string only;      // this workload, bit or fault alone, as a violation names it
};

// What a part found. Violations go to stderr as they come, figures into one JSON object.
class TortureReport {
 public:
  explicit TortureReport(double stop_at_s) : stop_at_s_(stop_at_s) { json.begin_object(); }

  // What the next violations are a violation of: how to come to it again.
  void at(std::string how) { how_ = std::move(how); }
  // What a user would have of it; any other violation is of the store's own order, such as a count that is off.
  enum class Harm : uint8_t { other, wrong_bytes, lost_acknowledged, undeleted };
  void violation(const std::string& sentence, Harm harm = Harm::other);
  uint64_t violations() const { return violations_; }
  double passed_s() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count(); }
  // Remembers that it was: the figures then say so.
  bool time_is_up() {
    stopped_ = stopped_ || (stop_at_s_ > 0 && passed_s() >= stop_at_s_);
    return stopped_;
  }
  // One line, to be printed last.
  std::string finish();

  JsonWriter json;

 private:
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  double stop_at_s_;
  bool stopped_ = false;
  std::string how_;
  uint64_t violations_ = 0;
  std::array<uint64_t, 4> by_harm_{};
};

void torture_crash_points(const TortureOptions& options, TortureReport& report);
void torture_random_crashes(const TortureOptions& options, TortureReport& report);
void torture_bit_flips(const TortureOptions& options, TortureReport& report);
void torture_damages(const TortureOptions& options, TortureReport& report);
void torture_fault_sites(const TortureOptions& options, TortureReport& report);
void torture_histories(const TortureOptions& options, TortureReport& report);
// The words after the part are its own (testing/torture.cc says which). The exit status: 0, 1 after a violation, 3 when
// the machine did not let it live; -1: these are no words of it.
int torture_life(int count, char** words);

}  // namespace cairn
