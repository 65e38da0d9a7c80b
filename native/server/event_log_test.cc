// What a reader of events may rely on: numbers without gaps for each tenant, and a loss that shows.
#include "server/event_log.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cairn {
namespace {

StoreEvent stored(uint32_t tenant, uint64_t sequence) {
  StoreEvent event;
  event.kind = StoreEvent::Kind::stored;
  event.id.tenant = tenant;
  event.sequence = sequence;
  return event;
}

StoreEvent of_drive(StoreEvent::Kind kind) {
  StoreEvent event;
  event.kind = kind;
  return event;
}

std::vector<EventBody> all_of(const EventLog& log, uint32_t tenant, uint64_t after = 0, uint32_t most = kEventsMost) {
  std::vector<EventBody> events;
  log.read(tenant, after, most, events);
  return events;
}

std::vector<uint32_t> fresh(EventLog& log) {
  std::vector<uint32_t> tenants;
  log.for_each_fresh([&](uint32_t tenant) { tenants.push_back(tenant); });
  return tenants;
}

TEST(EventLog, NumbersOfATenantHaveNoGapsWhateverOthersDo) {
  EventLog log;
  for (uint64_t i = 0; i < 100; ++i) log.on_event(stored(static_cast<uint32_t>(i % 3), i));
  const auto events = all_of(log, 1);
  ASSERT_EQ(events.size(), 33U);
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].number, i + 1);
    EXPECT_EQ(events[i].sequence, 1 + 3 * i);
  }
}

TEST(EventLog, ReadsBehindANumberAndAtMostSoMany) {
  EventLog log;
  for (uint64_t i = 1; i <= 10; ++i) log.on_event(stored(0, i));
  EXPECT_EQ(all_of(log, 0, 7).front().number, 8U);
  EXPECT_EQ(all_of(log, 0, 2, 3).back().number, 5U);
  EXPECT_TRUE(all_of(log, 0, 10).empty());
  EXPECT_TRUE(all_of(log, 0, UINT64_MAX).empty());
  EXPECT_TRUE(all_of(log, 7).empty());
}

TEST(EventLog, AFullRingKeepsTheNewestAndSaysWhichIsTheOldest) {
  EventLog log;
  EXPECT_EQ(log.range(0).oldest, 1U);
  EXPECT_EQ(log.range(0).newest, 0U);
  constexpr uint64_t kAll = 3 * kEventsMost + 17;
  for (uint64_t i = 1; i <= kAll; ++i) log.on_event(stored(0, i));
  EXPECT_EQ(log.range(0).newest, kAll);
  EXPECT_EQ(log.range(0).oldest, kAll - kEventsMost + 1);
  const auto events = all_of(log, 0, 5);
  ASSERT_EQ(events.size(), kEventsMost);
  for (const EventBody& event : events) EXPECT_EQ(event.number, event.sequence);
  EXPECT_EQ(events.front().number, log.range(0).oldest);
}

TEST(EventLog, ATenantWhoseRingWasGivenUpSeesWhatItMissed) {
  EventLog log(2);
  for (uint64_t i = 1; i <= 5; ++i) log.on_event(stored(1, i));
  log.on_event(stored(2, 1));
  log.on_event(stored(3, 1));  // tenant 1 was written least recently
  EXPECT_EQ(log.range(1).newest, 5U);
  EXPECT_EQ(log.range(1).oldest, 6U);
  log.on_event(stored(1, 6));  // and now tenant 2
  ASSERT_EQ(all_of(log, 1).size(), 1U);
  EXPECT_EQ(all_of(log, 1)[0].number, 6U);
  EXPECT_EQ(log.range(2).oldest, 2U);
  EXPECT_EQ(log.range(3).oldest, 1U);
}

TEST(EventLog, EventsOfDrivesGoToEverybodyWhoIsKnown) {
  EventLog log(1);
  log.on_event(stored(1, 1));
  log.know(2);  // takes the only ring
  (void)fresh(log);
  log.on_event(of_drive(StoreEvent::Kind::drive_lost));
  EXPECT_EQ(all_of(log, 2).size(), 1U);
  EXPECT_EQ(all_of(log, 2)[0].kind, 32);
  EXPECT_EQ(log.range(1).newest, 2U) << "without a ring it is counted as missed";
  EXPECT_EQ(log.range(1).oldest, 3U);
  EXPECT_EQ(fresh(log).size(), 2U);
}

TEST(EventLog, TellsOnceWhoHadEvents) {
  EventLog log;
  for (uint32_t i = 0; i < 10; ++i) log.on_event(stored(i % 2, i));
  EXPECT_TRUE(log.any_fresh());
  EXPECT_EQ(fresh(log), (std::vector<uint32_t>{0, 1}));
  EXPECT_FALSE(log.any_fresh());
  EXPECT_TRUE(fresh(log).empty());
}

}  // namespace
}  // namespace cairn
