// Tenants do not see, evict or crowd out each other; admission; events.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "store/format.h"
#include "testing/fault_drive.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

std::function<void(PutCall&)> of(uint32_t tenant) {
  return [=](PutCall& call) { call.id.tenant = tenant; };
}

uint64_t held(const StoreWorld& world, uint32_t tenant) {
  for (const TenantStats& one : world.store->stats().tenants) {
    if (one.number == tenant) return one.payload_bytes;
  }
  return 0;
}

TenantOptions with_quota(uint32_t number, uint64_t quota_bytes) {
  TenantOptions tenant;
  tenant.number = number;
  tenant.quota_bytes = quota_bytes;
  return tenant;
}

class Events final : public EventSink {
 public:
  void on_event(const StoreEvent& event) override { all.push_back(event); }
  std::vector<StoreEvent> all;
};

// Which classes of data the drive is told of, by segment.
class ClassesSeen final : public DriveWatcher {
 public:
  DriveFault before(FaultDrive&, const IoRequest& request) override {
    if (request.kind == IoKind::write && request.offset >= format::kFirstSegmentOffset)
      by_segment[(request.offset - format::kFirstSegmentOffset) / 1_MiB].insert(request.placement);
    return DriveFault::none;
  }
  std::map<uint64_t, std::set<uint8_t>> by_segment;
};

// A drive that mixes what two tenants store has to copy the one's blocks when the other's are given up: it wears out.
TEST(Tenants, AreClassesOfTheirOwnToADriveThatKeepsThemApart) {
  StoreWorld world(64_MiB, 1, 8_MiB, 1_MiB);
  world.close();
  world.platters[0]->placement_classes = 3;
  ClassesSeen seen;
  for (int life = 0; life < 2; ++life) {
    std::vector<std::unique_ptr<Drive>> drives;
    drives.push_back(std::make_unique<FaultDrive>(world.platters[0], world.clock, &seen, "drive"));
    auto store = Store::open(std::move(drives), *world.slab, world.clock, {}).take();
    for (int i = 0; i < 12; ++i) {
      PutCall put(std::to_string(life) + " " + std::to_string(i), 300'000);
      put.store = store.get();
      put.id.tenant = 1 + static_cast<uint32_t>(i % 2);
      store->begin_put(put);
      for (int turn = 0; turn < 100 && put.ended.empty(); ++turn) store->poll();
      ASSERT_EQ(put.ended.at(0), Status::ok);
    }
    store->close();
  }
  std::set<uint8_t> all;
  for (const auto& [segment, classes] : seen.by_segment) {
    EXPECT_EQ(classes.size(), 1U) << segment;
    all.insert(classes.begin(), classes.end());
  }
  EXPECT_GT(all.size(), 1U);
}

TEST(Tenants, HaveKeyspacesOfTheirOwn) {
  StoreWorld world;
  ASSERT_EQ(world.put("key", 5000, of(1)), Status::ok);
  EXPECT_EQ(world.get_as(2, "key"), Status::not_found);
  ASSERT_EQ(world.put("key", 7000, of(2)), Status::ok);
  ASSERT_EQ(world.remove_all(DeleteKind::tenant, [](DeleteCall& call) { call.ids[0].tenant = 1; }), Status::ok);
  EXPECT_EQ(world.get_as(1, "key"), Status::not_found);
  EXPECT_EQ(world.get_as(2, "key"), Status::ok);
}

// Without it a tenant that is over its quota would evict its neighbours, or be refused although it has old blocks.
TEST(Tenants, OverTheirQuotaGiveUpTheirOwnOldest) {
  StoreWorld world(64_MiB, 1, 16_MiB, 1_MiB);
  world.store->set_tenants({with_quota(1, 3_MiB)});
  for (int i = 0; i < 10; ++i) ASSERT_EQ(world.put("neighbour " + std::to_string(i), 100'000, of(2)), Status::ok);
  for (int i = 0; i < 60; ++i) {
    Status status = Status::timeout;
    PutCall call(std::to_string(i), 200'000);
    call.store = world.store.get();
    call.id.tenant = 1;
    world.store->begin_put(call);
    ASSERT_TRUE(world.run_until([&] { return !call.ended.empty(); })) << i;
    status = call.ended[0];
    ASSERT_EQ(status, Status::ok) << i;
    EXPECT_LE(held(world, 1), 3_MiB);
  }
  EXPECT_EQ(world.get_as(1, "59"), Status::ok);
  EXPECT_EQ(world.get_as(1, "0"), Status::not_found);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(world.get_as(2, "neighbour " + std::to_string(i)), Status::ok) << i;
}

TEST(Tenants, ABlockLargerThanTheQuotaIsRefused) {
  StoreWorld world;
  world.store->set_tenants({with_quota(1, 1_MiB)});
  EXPECT_EQ(world.put("a", 2_MiB, of(1)), Status::quota_exceeded);
  EXPECT_EQ(world.put("a", 2_MiB, of(2)), Status::ok);
}

TEST(Tenants, WithNothingToGiveUpAreRefusedByTheirQuota) {
  StoreWorld world;
  world.store->set_tenants({with_quota(1, 1_MiB)});
  ASSERT_EQ(world.put("a", 200'000, of(1)), Status::ok);
  ASSERT_EQ(world.store->lease({key_of("a"), 0, 1}, 9, 60'000), Status::ok);
  PutCall call("b", 900'000);
  call.store = world.store.get();
  call.id.tenant = 1;
  world.store->begin_put(call);
  ASSERT_TRUE(world.run_until([&] { return !call.ended.empty(); }));
  EXPECT_EQ(call.ended[0], Status::quota_exceeded);
  EXPECT_EQ(world.get_as(1, "a"), Status::ok);
}

// What makes a shared cache useless to a quiet tenant: another one floods it.
TEST(Tenants, AFloodOfOneLeavesTheOthersTheirShare) {
  StoreWorld world(128_MiB, 1, 8_MiB, 1_MiB);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(world.put("victim " + std::to_string(i), 200'000, of(1)), Status::ok);
  for (int i = 0; i < 2000; ++i) ASSERT_EQ(world.put("flood " + std::to_string(i), 200'000, of(2)), Status::ok);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(world.get_as(1, "victim " + std::to_string(i)), Status::ok) << i;
}

TEST(Admission, BySecondTouchStoresWhatIsOfferedTwice) {
  StoreWorld world;
  StoreOptions options;
  options.admission.second_touch = true;
  world.close();
  world.open(options);
  EXPECT_EQ(world.put("a", 5000), Status::not_admitted);
  EXPECT_EQ(world.put("a", 5000), Status::ok);
  EXPECT_EQ(world.put("b", 5000), Status::not_admitted);
  EXPECT_EQ(world.store->stats().refused_admission, 2U);
}

TEST(Admission, ByBytesADayIsSpreadOverTheDay) {
  StoreWorld world;
  StoreOptions options;
  options.admission.bytes_per_day = 24_MiB;
  world.close();
  world.open(options);
  EXPECT_EQ(world.put("a", 600'000), Status::ok);
  EXPECT_EQ(world.put("b", 600'000), Status::not_admitted);
  world.clock.advance_ms(3'600'000);
  EXPECT_EQ(world.put("b", 600'000), Status::ok);
}

TEST(Events, TellWhatCameAndWentWithoutAGap) {
  StoreWorld world(8_MiB, 1, 8_MiB, 1_MiB);
  Events events;
  world.store->add_event_sink(events);
  for (int i = 0; i < 60; ++i) ASSERT_EQ(world.put(std::to_string(i), 200'000), Status::ok);
  ASSERT_EQ(world.remove("59"), Status::ok);
  std::set<Key> there;
  for (size_t i = 0; i < events.all.size(); ++i) {
    const StoreEvent& event = events.all[i];
    EXPECT_EQ(event.number, events.all[0].number + i);
    if (event.kind == StoreEvent::Kind::stored) {
      EXPECT_TRUE(there.insert(event.id.key).second);
    }
    if (event.kind == StoreEvent::Kind::evicted || event.kind == StoreEvent::Kind::deleted) {
      EXPECT_EQ(there.erase(event.id.key), 1U);
    }
  }
  for (int i = 0; i < 60; ++i)
    EXPECT_EQ(there.contains(key_of(std::to_string(i))), world.exists(std::to_string(i))) << i;
  world.store->remove_event_sink(events);
}

}  // namespace
}  // namespace cairn
