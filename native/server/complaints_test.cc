#include "server/complaints.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace cairn {
namespace {

TEST(Complaints, OnePeerThatDoesItAgainIsOneRow) {
  Complaints complaints;
  EXPECT_FALSE(complaints.any());
  complaints.add("10.0.0.1 port 5", Status::invalid, "no frame");
  complaints.add("10.0.0.1:6", Status::invalid, "no frame");
  complaints.add("10.0.0.2 port 6", Status::invalid, "no frame");
  EXPECT_TRUE(complaints.any());
  const auto rows = complaints.take();
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].peer, "10.0.0.1 port 5");
  EXPECT_EQ(rows[0].times, 2U);
  EXPECT_EQ(rows[1].times, 1U);
  EXPECT_FALSE(complaints.any());
  EXPECT_TRUE(complaints.take().empty());
}

TEST(Complaints, AFloodOfPeersIsCountedAndTakesNoRoom) {
  Complaints complaints;
  constexpr uint64_t kPeers = 1000;
  for (uint64_t i = 0; i < kPeers; ++i) complaints.add("host " + std::to_string(i), Status::invalid, "no frame");
  const auto rows = complaints.take();
  ASSERT_EQ(rows.size(), Complaints::kRowsMost);
  uint64_t times = 0;
  for (const Complaint& row : rows) times += row.times;
  EXPECT_EQ(times, kPeers);
  EXPECT_EQ(rows.back().peer, "");
}

}  // namespace
}  // namespace cairn
