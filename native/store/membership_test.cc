// What a start makes of the drives that it finds.
#include "store/membership.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace cairn {
namespace {

using format::Membership;
using format::Uuid;

Uuid id(uint8_t number) {
  Uuid uuid{};
  uuid[0] = number;
  return uuid;
}

Membership record(uint8_t drive, uint8_t line, uint64_t epoch, const std::vector<uint8_t>& members,
                  const std::vector<uint8_t>& base = {}) {
  Membership record;
  record.drive = id(drive);
  record.origin = id(100);
  record.store = id(line);
  record.epoch = epoch;
  for (const uint8_t one : members) record.members[record.member_count++] = id(one);
  for (const uint8_t one : base.empty() ? members : base) record.base[record.base_count++] = id(one);
  return record;
}

DriveFacts drive(const Membership& record) {
  return {record.drive, record};
}

using State = StartPlan::State;

TEST(StartPlan, NewDrivesAreAStore) {
  const StartPlan plan = plan_start({{id(1), {}}, {id(2), {}}}, {});
  EXPECT_EQ(plan.state, State::fresh);
  EXPECT_EQ(plan.roles, (std::vector{Role::member, Role::member}));
}

TEST(StartPlan, GoesOnWithMostOfItsDrives) {
  const StartPlan plan = plan_start({drive(record(1, 9, 4, {1, 2, 3})), drive(record(2, 9, 4, {1, 2, 3}))}, {});
  EXPECT_EQ(plan.state, State::warm);
  EXPECT_EQ(plan.missing, std::vector{id(3)});
}

TEST(StartPlan, BeginsEmptyOnHalfOfThemAndWaitsOnFewer) {
  const StartPlan half = plan_start({drive(record(1, 9, 4, {1, 2}))}, {});
  EXPECT_EQ(half.state, State::cold);
  EXPECT_EQ(half.roles, std::vector{Role::voided});
  EXPECT_NE(half.why.find("02000000"), std::string::npos) << "which is missing";
  const StartPlan fewer = plan_start({drive(record(1, 9, 4, {1, 2, 3}))}, {});
  EXPECT_EQ(fewer.state, State::closed);
  EXPECT_NE(fewer.why.find("--without-missing-drives"), std::string::npos);
}

TEST(StartPlan, HalfOfThemMayWaitForOneMore) {
  const StartPlan half = plan_start({drive(record(1, 9, 4, {1, 2}))}, {.half_waits = true});
  EXPECT_EQ(half.state, State::closed);
  EXPECT_TRUE(half.for_now);
  EXPECT_FALSE(plan_start({drive(record(1, 9, 4, {1, 2, 3}))}, {.half_waits = true}).for_now) << "fewer wait for ever";
}

TEST(StartPlan, TheOperatorMayGoOnWithoutThem) {
  const StartPlan plan = plan_start({drive(record(1, 9, 4, {1, 2, 3}))}, {.without_missing = true});
  EXPECT_EQ(plan.state, State::warm);
  EXPECT_EQ(plan.roles, std::vector{Role::member});
  EXPECT_EQ(plan.store, Uuid{}) << "a line of its own, so that the others are recognised";
}

TEST(StartPlan, WhoWasWrittenOffIsChecked) {
  const StartPlan plan = plan_start({drive(record(1, 9, 4, {1, 2})), drive(record(2, 9, 5, {2}))}, {});
  EXPECT_EQ(plan.state, State::warm);
  EXPECT_EQ(plan.roles, (std::vector{Role::outsider, Role::member}));
}

TEST(StartPlan, AMemberWithAnOlderRecordMissedNothing) {
  const StartPlan plan = plan_start({drive(record(1, 9, 5, {1, 2}, {1, 2, 3})), drive(record(2, 9, 4, {1, 2, 3}))}, {});
  EXPECT_EQ(plan.state, State::warm);
  EXPECT_EQ(plan.roles, (std::vector{Role::member, Role::member}));
  EXPECT_FALSE(plan.complete);
}

// Of five drives two went at once, and the record of that reached one of the rest; then the others went on.
TEST(StartPlan, AChangeThatWasCutOffOutvotesNobody) {
  const std::vector<uint8_t> all = {1, 2, 3, 4, 5};
  const StartPlan plan = plan_start({drive(record(1, 9, 5, {1, 2, 3}, all)), drive(record(2, 9, 4, all))}, {});
  EXPECT_EQ(plan.state, State::closed) << "three, four and five may have gone on without them";
}

// Two of three went on without the first and were let go: nobody else can come that knows more.
TEST(StartPlan, WaitsForNobodyWhoWasLetGo) {
  DriveFacts second = drive(record(2, 8, 1, {2, 3})), third = drive(record(3, 8, 1, {2, 3}));
  second.record->left = third.record->left = 1;
  const StartPlan plan = plan_start({drive(record(1, 9, 4, {1, 2, 3})), second, third}, {.half_waits = true});
  EXPECT_EQ(plan.state, State::cold);
  EXPECT_EQ(plan.roles, (std::vector{Role::voided, Role::voided, Role::voided}));
  EXPECT_EQ(plan_start({drive(record(1, 9, 4, {1, 2, 3})), second}, {}).state, State::closed) << "the third may come";
}

// Of four the fourth went, and the record of that reached one; then the third and the fourth went on without the
// others.
TEST(StartPlan, HalfOfTheBaseOutvotesNobody) {
  const std::vector<uint8_t> all = {1, 2, 3, 4};
  const StartPlan plan = plan_start({drive(record(1, 9, 5, {1, 2, 3}, all)), drive(record(2, 9, 4, all))}, {});
  EXPECT_EQ(plan.state, State::closed);
}

TEST(StartPlan, PartsThatWereUsedApartBeginEmpty) {
  const StartPlan plan = plan_start({drive(record(1, 8, 1, {1})), drive(record(2, 9, 1, {2}))}, {});
  EXPECT_EQ(plan.state, State::cold);
  EXPECT_EQ(plan.roles, (std::vector{Role::voided, Role::voided}));
}

TEST(StartPlan, ADriveOfAnotherStoreIsLeftAlone) {
  Membership foreign = record(2, 7, 1, {2});
  foreign.origin = id(101);
  const StartPlan plan = plan_start({drive(record(1, 9, 1, {1})), drive(foreign)}, {});
  EXPECT_EQ(plan.state, State::warm);
  EXPECT_EQ(plan.roles, (std::vector{Role::member, Role::refused}));
  EXPECT_NE(plan.reasons[1].find("another store"), std::string::npos);
}

TEST(StartPlan, ADriveThatWasLetGoBelongsToNoStore) {
  Membership left = record(2, 7, 3, {1});
  left.left = 1;
  const StartPlan plan = plan_start({drive(record(1, 9, 1, {1})), drive(left)}, {});
  EXPECT_EQ(plan.roles, (std::vector{Role::member, Role::voided}));
}

TEST(StartPlan, ReadOnlyServesOnlyWhatCannotBeOutdated) {
  EXPECT_EQ(
      plan_start({drive(record(1, 9, 4, {1, 2, 3})), drive(record(2, 9, 4, {1, 2, 3}))}, {.read_only = true}).state,
      State::closed);
  EXPECT_EQ(plan_start({drive(record(1, 9, 4, {1}))}, {.read_only = true}).state, State::warm);
}

}  // namespace
}  // namespace cairn
