#include "server/peers.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "wire/limits.h"

namespace cairn {
namespace {

TEST(Peers, AHostHasItsSessionsAndNoMore) {
  Peers peers(2);
  peers.opened("10.0.0.1");
  peers.opened("10.0.0.1");
  EXPECT_FALSE(peers.may_open("10.0.0.1"));
  EXPECT_TRUE(peers.may_open("10.0.0.2"));
  peers.closed("10.0.0.1");
  EXPECT_TRUE(peers.may_open("10.0.0.1"));
  peers.closed("10.0.0.1");
  EXPECT_TRUE(peers.empty()) << "whoever has nothing is forgotten";
}

TEST(Peers, ConnectionsThatSayNothingCountAsWell) {
  Peers peers(3);
  for (int i = 0; i < 3; ++i) peers.came("10.0.0.1");
  EXPECT_FALSE(peers.may_come("10.0.0.1"));
  EXPECT_TRUE(peers.may_come("10.0.0.2"));
  peers.heard("10.0.0.1");
  peers.opened("10.0.0.1");
  EXPECT_TRUE(peers.may_come("10.0.0.1"));
}

TEST(Peers, SessionsAndConnectionsTogetherAreFewMoreThanSessionsAlone) {
  constexpr uint64_t kMost = 100;
  Peers peers(kMost);
  for (uint64_t i = 0; i < 60; ++i) peers.opened("10.0.0.1");
  uint64_t came = 0;
  for (; came < 2 * kMost && peers.may_come("10.0.0.1"); ++came) peers.came("10.0.0.1");
  EXPECT_EQ(came, kMost - 60);
  for (uint64_t i = 0; i < came; ++i) peers.heard("10.0.0.1");
  for (uint64_t i = 60; i < kMost; ++i) peers.opened("10.0.0.1");
  for (came = 0; came < 2 * kMost && peers.may_come("10.0.0.1"); ++came) peers.came("10.0.0.1");
  EXPECT_EQ(came, kSessionLanesMost) << "the lanes of a session find room";
}

TEST(Peers, WhoHasNoAddressIsNotCounted) {
  Peers peers(1);
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(peers.may_come(""));
    peers.came("");
    peers.heard("");
    EXPECT_TRUE(peers.may_open(""));
    peers.opened("");
  }
  EXPECT_TRUE(peers.empty());
}

}  // namespace
}  // namespace cairn
