// Who is heard next: a flood makes no turn longer, and takes nothing of what others may have done.
#include "server/work.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "testing/fake_channel.h"
#include "transport/stream_server.h"

namespace cairn {
namespace {

// Links that always have something more to say, each thing at a cost.
class WorkTest : public testing::Test, protected Work::Ear {
 protected:
  LinkState& link(uint32_t tenant, int64_t cost_ns, uint64_t weight = 1) {
    Share& share = shares_[tenant];
    share.weight = weight;
    sessions_.push_back(std::make_unique<Session>());
    sessions_.back()->share = &share;
    sessions_.back()->tenant_id = tenant;
    links_.push_back(std::make_unique<LinkState>());
    LinkState& state = *links_.back();
    state.session = sessions_.back().get();
    wires_.push_back(std::make_unique<ChannelPair>());
    state.link = std::make_unique<StreamServerLink>(wires_.back()->take_server(), "caller");
    costs_[&state] = cost_ns;
    work_.wake(state);
    return state;
  }
  void hear(LinkState& state) override {
    state.link->hold(false);
    while (left_[&state] != 0) {
      work_.charge(state, costs_[&state]);
      done_ns_[state.session->tenant_id] += costs_[&state];
      ++heard_[&state];
      turn_ns_ += costs_[&state];
      if (left_[&state] > 0) --left_[&state];
      if (work_.spent(state)) {
        state.link->hold(true);
        return;
      }
    }
  }
  void turn() {
    turn_ns_ = 0;
    work_.begin_turn();
    work_.run();
    longest_ns_ = std::max(longest_ns_, turn_ns_);
  }
  void floods(LinkState& state) { left_[&state] = -1; }

  Work work_{*this};
  std::map<uint32_t, Share> shares_;
  std::vector<std::unique_ptr<Session>> sessions_;
  std::vector<std::unique_ptr<ChannelPair>> wires_;
  std::vector<std::unique_ptr<LinkState>> links_;
  std::map<LinkState*, int64_t> costs_, left_, heard_;
  std::map<uint32_t, int64_t> done_ns_;
  int64_t turn_ns_ = 0, longest_ns_ = 0;
};

TEST_F(WorkTest, ATurnIsBoundedHoweverManyFlood) {
  for (uint32_t i = 0; i < 200; ++i) floods(link(i % 7, 1'000 + 37 * i));
  for (int i = 0; i < 100; ++i) turn();
  EXPECT_LE(longest_ns_, Work::kTurnNs + 10'000);
}

TEST_F(WorkTest, WhoAsksLittleIsHeardInTheSameTurn) {
  for (int i = 0; i < 200; ++i) floods(link(1, 8'000));
  turn();
  LinkState& quiet = link(2, 1'000);
  for (int i = 0; i < 50; ++i) {
    left_[&quiet] = 1;
    work_.wake(quiet);
    turn();
    turn();
    EXPECT_EQ(left_[&quiet], 0) << "turn " << i;
  }
}

TEST_F(WorkTest, TenantsAreHeardByWeightWhateverTheirSessions) {
  for (int i = 0; i < 50; ++i) floods(link(1, 3'000));
  floods(link(2, 20'000, 3));
  for (int i = 0; i < 400; ++i) turn();
  EXPECT_NEAR(static_cast<double>(done_ns_[2]) / static_cast<double>(done_ns_[1]), 3, 0.2);
}

TEST_F(WorkTest, LinksOfOneTenantTakeTurns) {
  LinkState& dear = link(1, 40'000);
  LinkState& cheap = link(1, 1'000);
  floods(dear);
  floods(cheap);
  for (int i = 0; i < 200; ++i) turn();
  const auto dear_ns = static_cast<double>(40'000 * heard_[&dear]),
             cheap_ns = static_cast<double>(1'000 * heard_[&cheap]);
  EXPECT_NEAR(dear_ns / cheap_ns, 1, 0.8) << "what one asks for at a time is not counted for it";
}

// What was done ahead of a tenant's turn is worked off before it is heard again.
TEST_F(WorkTest, SomethingLongIsPaidForLater) {
  floods(link(1, 5'000'000));
  floods(link(2, 5'000));
  for (int i = 0; i < 2'000; ++i) turn();
  EXPECT_NEAR(static_cast<double>(done_ns_[1]) / static_cast<double>(done_ns_[2]), 1, 0.2);
}

TEST_F(WorkTest, OneThatIsAloneHasAllOfEveryTurn) {
  floods(link(1, 1'000));
  for (int i = 0; i < 10; ++i) turn();
  EXPECT_GE(done_ns_[1], 10 * Work::kTurnNs - 10'000);
}

TEST_F(WorkTest, WhoLeavesWhileHeardTakesNobodysTurn) {
  LinkState& gone = link(1, 1'000);
  LinkState& stays = link(2, 1'000);
  floods(gone);
  floods(stays);
  turn();
  work_.forget(gone);
  const int64_t before = heard_[&gone];
  turn();
  EXPECT_EQ(heard_[&gone], before);
  EXPECT_GT(heard_[&stays], 0);
  work_.forget(stays);
  EXPECT_FALSE(work_.any());
}

}  // namespace
}  // namespace cairn
