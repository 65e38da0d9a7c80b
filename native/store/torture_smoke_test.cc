// What cairn-torture runs for minutes, for a second each: that the tool still works, and finds nothing where it looks.
#include <gtest/gtest.h>

#include "testing/torture.h"
#include "testing/torture_crash.h"

namespace cairn {
namespace {

std::string run(void (*part)(const TortureOptions&, TortureReport&), const TortureOptions& options, double seconds) {
  TortureReport report(seconds);
  part(options, report);
  EXPECT_EQ(report.violations(), 0U) << "stderr says how to come to it again";
  return report.finish();
}

TEST(TortureSmoke, ShortWorkloadsSurviveACrashAtAnyMoment) {
  EXPECT_NE(run(torture_crash_points, {}, 2).find("\"crash_points\":"), std::string::npos);
}

TEST(TortureSmoke, LongWorkloadsSurviveACrashAtARandomMoment) {
  TortureOptions options;
  options.random = 15;
  EXPECT_NE(run(torture_random_crashes, options, 0).find("\"workloads\":15"), std::string::npos);
}

TEST(TortureSmoke, AFlippedBitOfMetadataIsAMissAtMost) {
  TortureOptions options;
  options.shards = 128;
  EXPECT_NE(run(torture_bit_flips, options, 0).find("\"misses_most\":1"), std::string::npos);
}

TEST(TortureSmoke, RandomDamageIsAMissAtMost) {
  TortureOptions options;
  options.payload = 2000;
  EXPECT_NE(run(torture_damages, options, 0).find("\"damages\":2000"), std::string::npos);
}

TEST(TortureSmoke, AFailedRequestCostsItsOwnerOnly) {
  EXPECT_NE(run(torture_fault_sites, {}, 2).find("\"runs\":"), std::string::npos);
}

// The oracle is worth nothing if it does not see a loss: here the drive loses what it said it had flushed.
TEST(TortureSmoke, ALossIsSeen) {
  VirtualClock clock;
  TortureReport report(0);
  TortureBlocks blocks;
  const size_t block = blocks.add({.name = "lost", .bytes = 5000});
  const auto slab = Slab::create(4 * kMiB).take();
  TortureWorld world(report, blocks, *slab, clock);
  world.platters.push_back(TortureWorld::formatted(5 * kMiB + 4096, kMiB, clock));
  const Platter before = world.platters[0]->copy();
  ASSERT_EQ(world.open(nullptr), "");
  world.begin({TortureStep::Kind::put, {block}});
  world.until_idle();
  world.stop();
  *world.platters[0] = before;
  ASSERT_EQ(world.open(nullptr), "");
  world.check();
  EXPECT_EQ(report.violations(), 1U);
}

TEST(TortureSmoke, EveryFateOfTwoWritesIsThere) {
  const std::vector<Fates> all = all_fates(2);
  EXPECT_EQ(all.size(), 4U + 8U);  // each whole or not; each torn in four ways while the other is whole
}

}  // namespace
}  // namespace cairn
