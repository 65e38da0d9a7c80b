// What cairn-torture runs for minutes, for a second each: that the tool still works, and finds nothing where it looks.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

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
  options.shards = 512;
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

TEST(TortureSmoke, DrivesThatComeAndGoBringNothingBack) {
  TortureOptions options;
  options.random = 60;
  const std::string figures = run(torture_histories, options, 0);
  EXPECT_NE(figures.find("\"histories\":60"), std::string::npos);
  EXPECT_EQ(figures.find("\"hits\":0,"), std::string::npos) << "nothing was there to be judged";
}

// What was evicted, not deleted, may be found again where the put that followed was not kept, and nowhere else.
TEST(TortureSmoke, AnEvictedBlockReturnsOnlyWhereWhatFollowedWasNotKept) {
  TortureBlocks blocks;
  const size_t block = blocks.add({.name = "evicted", .bytes = 100});
  TortureOracle oracle(blocks);
  const auto put = [&](Durability durability) {
    const uint32_t version = oracle.put_begins(block);
    oracle.put_ends(block, version, Status::ok, durability);
    return 1U << version;
  };
  const uint32_t evicted = put(Durability::durable);
  oracle.given_up(block);
  const uint32_t relaxed = put(Durability::relaxed);
  EXPECT_EQ(oracle[block].versions, relaxed) << "the earlier put may be served beside the later";
  oracle.life_ends();
  EXPECT_EQ(oracle[block].versions, relaxed | evicted);
  const uint32_t durable = put(Durability::durable);
  oracle.life_ends();
  EXPECT_EQ(oracle[block].versions, durable);
  oracle.given_up(block);
  (void)put(Durability::relaxed);
  oracle.delete_begins(block);
  oracle.delete_ends(block, Status::ok);
  oracle.life_ends();
  EXPECT_EQ(oracle[block].versions, 0U) << "a deleted block may come back";
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
