// What a seed decides about a run of the simulator.
#include <algorithm>
#include <cstdint>
#include <random>

#include "store/format.h"
#include "testing/sim_world.h"

namespace cairn {

SimPlan SimPlan::drawn(uint64_t seed) {
  std::mt19937_64 random(seed * 0x9E3779B97F4A7C15ULL + 1);
  const auto share = [&](double most) {
    return random() % 2 == 0 ? 0.0 : std::uniform_real_distribution<>(0, most)(random);
  };
  SimPlan plan;
  plan.seed = seed;
  plan.lives = 2 + static_cast<uint32_t>(random() % 4);
  plan.life_seconds_most = 20 + random() % 200;
  plan.drives = 1 + static_cast<uint32_t>(random() % 3);
  plan.drive_bytes = (9 + random() % 40) * kMiB;
  plan.segment_bytes = random() % 4 == 0 ? 8 * kMiB : random() % 2 == 0 ? 2 * kMiB : 1 * kMiB;
  plan.drive_bytes = std::max<uint64_t>(plan.drive_bytes, format::kFirstSegmentOffset + 5 * plan.segment_bytes);
  plan.slab_bytes = (16 + random() % 16) * kMiB;
  plan.load.clients = 1 + static_cast<uint32_t>(random() % 4);
  plan.load.tenants = 1 + static_cast<uint32_t>(random() % 2);
  plan.load.keys_per_client = 20 + static_cast<uint32_t>(random() % 300);
  plan.load.think_ms_most = 20ULL << random() % 11;
  // A crowd does as much in a short life as a few do in a long one.
  if (plan.load.think_ms_most < 500) plan.life_seconds_most = 2 + plan.life_seconds_most / 10;
  if (plan.load.think_ms_most > 5000) plan.life_seconds_most *= 10;
  plan.load.deadline_ms_most = random() % 3 == 0 ? 50 : 20'000;
  plan.load.dies = share(0.01);
  plan.load.cancels = share(0.02);
  plan.load.dribbling = random() % 4 == 0;
  SimFaults& faults = plan.faults;
  if (random() % 3 != 0) {
    faults.read_error = share(0.1);
    faults.write_error = share(0.1);
    faults.flush_error = share(0.05);
  }
  if (random() % 3 == 0) {
    faults.misdirected_read = share(0.1);
    faults.misdirected_write = share(0.1);
    faults.bit_rot = share(0.1);
    faults.lying_flush = share(0.3);
  }
  faults.stall = share(0.01);
  faults.latency_us_most = 50 + random() % 3000;
  plan.faults_at_start = random() % 4 == 0;
  plan.drive_leaves = plan.drives > 1 ? share(0.03) : 0;
  plan.drive_is_replaced = plan.drives > 1 ? share(0.02) : 0;
  plan.wide_deletes = share(0.05);
  plan.leases = share(0.2);
  plan.quota_bytes = random() % 4 == 0 ? (6 + random() % 10) * kMiB : 0;
  plan.scrub_bytes_per_second = random() % 3 == 0 ? 1 * kMiB : 0;
  plan.starts_without = plan.drives > 1 ? share(0.5) : 0;
  return plan;
}

}  // namespace cairn
