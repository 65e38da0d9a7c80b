// Which way a client takes to its service, and when it looks for the better one again.
#include "client/ways.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>

namespace cairn {
namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kBegan = 1'000'000 * kMs;
// `jitter` from 0 to this, of a rest in milliseconds, is from three quarters of it to five.
uint64_t longest_jitter(uint64_t rest_ms) {
  return rest_ms * kMs / 2;
}

std::string kinds(const Ways& ways, uint64_t now_ns) {
  std::string text;
  for (const Address* way : ways.order(now_ns)) text += std::string(text.empty() ? "" : " ") + name_of(way->kind);
  return text;
}

const Address& other(const Ways& ways) {
  for (const Address* way : ways.order(kBegan)) {
    if (!ways.prefers(*way)) return *way;
  }
  return ways.best();
}

struct WaysTest : ::testing::Test {
  Ways ways = Ways::parse("auto://store:9600").take();
  const Address& rdma = ways.best();
  const Address& tcp = other(ways);

  // Fails at `now_ns`, without jitter: the least of a rest.
  void fails(uint64_t now_ns, Status status = Status::unreachable) { ways.failed(rdma, status, now_ns, 0); }
  bool rests(uint64_t now_ns) const {
    const bool rests = !ways.wants_better(tcp, now_ns);
    EXPECT_EQ(kinds(ways, now_ns), rests ? "tcp rdma" : "rdma tcp");
    return rests;
  }
};

TEST_F(WaysTest, RdmaComesFirstAndBothGoToOnePlace) {
  EXPECT_EQ(kinds(ways, kBegan), "rdma tcp");
  EXPECT_EQ(to_url(rdma), "rdma://store:9600");
  EXPECT_EQ(to_url(tcp), "tcp://store:9600");
  EXPECT_TRUE(ways.several());
  EXPECT_TRUE(ways.prefers(rdma));
  EXPECT_FALSE(ways.prefers(tcp));
  EXPECT_TRUE(ways.any(Address::Kind::rdma));
  EXPECT_FALSE(ways.any(Address::Kind::shm));
}

TEST_F(WaysTest, ASessionByTheBestWayWantsNoOther) {
  EXPECT_FALSE(ways.wants_better(rdma, kBegan));
  EXPECT_TRUE(ways.wants_better(tcp, kBegan));
}

TEST_F(WaysTest, TheWayThatFailedRestsAndComesFirstAgain) {
  fails(kBegan);
  EXPECT_TRUE(rests(kBegan));
  EXPECT_TRUE(rests(kBegan + 749 * kMs));
  EXPECT_FALSE(rests(kBegan + 750 * kMs));
}

TEST_F(WaysTest, TheRestDoublesUpToItsMost) {
  uint64_t now = kBegan;
  for (const uint64_t rest_ms : {1000, 2000, 4000, 8000, 16'000, 30'000, 30'000}) {
    fails(now);
    EXPECT_TRUE(rests(now + rest_ms * 3 / 4 * kMs - 1)) << rest_ms;
    EXPECT_FALSE(rests(now + rest_ms * 3 / 4 * kMs)) << rest_ms;
    now += rest_ms * kMs;
  }
}

TEST_F(WaysTest, ClientsThatFailedTogetherDoNotReturnTogether) {
  ways.failed(rdma, Status::timeout, kBegan, longest_jitter(1000));
  EXPECT_TRUE(rests(kBegan + 1250 * kMs - 1));
  EXPECT_FALSE(rests(kBegan + 1250 * kMs));
}

TEST_F(WaysTest, WhatHeldRestsBrieflyNextTime) {
  for (int i = 0; i < 5; ++i) fails(kBegan);
  ways.held(tcp);  // says nothing of RDMA
  fails(kBegan);
  EXPECT_TRUE(rests(kBegan + 20'000 * kMs));
  ways.held(rdma);
  fails(kBegan);
  EXPECT_FALSE(rests(kBegan + 750 * kMs));
}

TEST_F(WaysTest, AFailureOfTheOtherWayChangesNothing) {
  ways.failed(tcp, Status::unreachable, kBegan, 0);
  EXPECT_FALSE(rests(kBegan));
}

TEST_F(WaysTest, AHostWithoutTheMeansLooksForThemOnlyWhenNothingElseWorks) {
  fails(kBegan, Status::unsupported);
  EXPECT_TRUE(rests(kBegan + 3600 * 1000 * kMs));
  fails(kBegan + 3600 * 1000 * kMs);  // it was tried all the same, and the means are there
  EXPECT_FALSE(rests(kBegan + 2 * 3600 * 1000 * kMs));
}

TEST_F(WaysTest, ACopyKeepsAddressesOfItsOwn) {
  const Ways copy = ways;
  EXPECT_FALSE(copy.prefers(rdma));
  EXPECT_TRUE(copy.prefers(copy.best()));
  const Address* best = &ways.best();
  const Ways moved = std::move(ways);
  EXPECT_TRUE(moved.prefers(*best));
}

TEST(WaysOfOneUrl, AreOneAndDoNotRest) {
  for (const std::string url : {"rdma://store:9600", "tcp://store:9600", "shm:///run/cairn.sock"}) {
    Ways ways = Ways::parse(url).take();
    EXPECT_FALSE(ways.several());
    ways.failed(ways.best(), Status::unreachable, kBegan, 0);
    EXPECT_EQ(ways.order(kBegan).size(), 1u);
    EXPECT_EQ(to_url(*ways.order(kBegan).front()), url);
    EXPECT_FALSE(ways.wants_better(ways.best(), kBegan));
  }
}

TEST(WaysOfOneUrl, AWrongOneIsToldWithWhatWasWritten) {
  for (const std::string url : {"auto://store", "auto://:9600", "auto://store:port", "auto://::1:9600", "auto:"}) {
    const auto parsed = Ways::parse(url);
    ASSERT_FALSE(parsed.ok()) << url;
    const std::string& message = parsed.error().message;
    EXPECT_NE(message.find("'" + url + "'"), std::string::npos) << message;
    EXPECT_NE(message.find("expected auto://HOST:PORT, rdma://HOST:PORT"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace cairn
