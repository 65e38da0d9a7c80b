// An earlier block of a key lies on a drive that was away, was full, or is just coming back when the key is put anew:
// none of it may be served once the later put was acknowledged, whatever drives the next start has.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/pattern.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

constexpr uint64_t kBytes = 100'000;

DriveStats drive_of(StoreWorld& world, size_t platter) {
  for (DriveStats& one : world.store->stats().drives) {
    if (one.uuid == world.uuid(platter)) return one;
  }
  return {};
}

// The platter that a put went to.
size_t written_to(StoreWorld& world) {
  size_t found = world.platters.size();
  for (size_t i = 0; i < world.platters.size(); ++i) {
    if (drive_of(world, i).put_bytes > 0) found = i;
  }
  return found;
}

// A put of other bytes than get() takes for right.
void other_bytes(PutCall& call) {
  call.content = "later";
}

Status get(StoreWorld& world, const std::string& name, uint32_t tenant, bool& first) {
  GetCall call(name);
  call.id.tenant = tenant;
  world.store->get(call);
  EXPECT_TRUE(world.run_until([&] { return !call.ended.empty(); }));
  const Status ended = call.ended.empty() ? Status::timeout : call.ended[0];
  first = false;
  if (ended != Status::ok) return ended;
  std::vector<std::byte> pattern(call.block_length);
  fill_pattern(pattern, seed_of(name));
  first = call.bytes() == pattern;
  return ended;
}

// Whether the bytes of the first put are served.
bool serves_first(StoreWorld& world, const std::string& name, uint32_t tenant = 0) {
  bool first = false;
  (void)get(world, name, tenant, first);
  return first;
}

std::shared_ptr<Platter> take_out(StoreWorld& world, size_t platter) {
  auto taken = world.platters.at(platter);
  world.platters.erase(world.platters.begin() + static_cast<long>(platter));
  return taken;
}

// A put is on its way when the drive that holds the earlier block comes back; the machine stops `turns` after it was
// acknowledged.
void put_while_it_comes_back(uint64_t seed, int turns) {
  StoreWorld world(64_MiB, 3);
  ASSERT_EQ(world.put("key", kBytes), Status::ok);
  const size_t holder = written_to(world);
  ASSERT_LT(holder, 3U);
  world.close();
  const auto away = take_out(world, holder);
  world.open();
  world.run(200);
  ASSERT_EQ(world.store->stats().members_state, "whole");
  for (size_t i = 0; i < 2; ++i) world.drive(i).faults.hold = true;
  PutCall put("key", kBytes);
  other_bytes(put);
  put.store = world.store.get();
  world.store->begin_put(put);
  world.run(5);
  world.platters.push_back(away);
  ASSERT_TRUE(world.attach(2).ok());
  world.run(200);
  ASSERT_TRUE(put.ended.empty());
  for (size_t i = 0; i < 3; ++i) world.drive(i).faults.a_poll = 1;
  for (size_t i = 0; i < 2; ++i) world.drive(i).faults.hold = false;
  for (int i = 0; i < 5'000 && put.ended.empty(); ++i) world.store->poll();
  ASSERT_EQ(put.ended, std::vector{Status::ok});
  const size_t later = drive_of(world, 0).put_bytes > 0 ? 0 : 1;
  world.run(turns);
  world.crash(seed);
  (void)take_out(world, later);
  world.open();
  world.run(200);
  EXPECT_FALSE(serves_first(world, "key")) << "seed " << seed << ", " << turns << " turns after the put";
}

TEST(Elders, AreBuriedBeforeAPutThatWasOnItsWayIsAcknowledged) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    put_while_it_comes_back(seed, 0);
    put_while_it_comes_back(seed, static_cast<int>(seed));
  }
}

// What a user would have lost: all that lay on the drive. It was set aside when somebody put what it holds.
TEST(Elders, OnADriveThatIsBeingReadCostNothing) {
  for (int turns = 0; turns < 120; turns += 10) {
    StoreWorld world(64_MiB, 3, 96_MiB, 1_MiB);
    for (int i = 0; i < 300; ++i) ASSERT_EQ(world.put("block " + std::to_string(i), kBytes), Status::ok);
    world.close();
    const auto away = take_out(world, 0);
    world.open();
    world.run(200);
    world.platters.push_back(away);
    ASSERT_TRUE(world.attach(2).ok());
    world.drive(2).faults.a_poll = 1;
    for (int i = 0; i < turns; ++i) world.store->poll();
    std::vector<std::unique_ptr<PutCall>> puts;
    std::vector<std::string> names;
    for (int i = 0; i < 300; ++i) {
      if (world.exists("block " + std::to_string(i))) continue;
      names.push_back("block " + std::to_string(i));
      puts.push_back(std::make_unique<PutCall>("block " + std::to_string(i), kBytes));
      other_bytes(*puts.back());
      puts.back()->store = world.store.get();
      world.store->begin_put(*puts.back());
    }
    ASSERT_TRUE(world.run_until([&] {
      return std::all_of(puts.begin(), puts.end(), [](const auto& put) { return !put->ended.empty(); }) &&
             world.store->loaded();
    }));
    EXPECT_EQ(drive_of(world, 2).state, "serving") << turns << " turns: " << drive_of(world, 2).reason;
    int hits = 0;
    for (int i = 0; i < 300; ++i) hits += world.exists("block " + std::to_string(i)) ? 1 : 0;
    EXPECT_EQ(hits, 300) << turns;
    // Only the drive that was away is left of those that hold a version, and one without which there is no majority.
    std::vector<std::string> later;
    for (size_t i = 0; i < puts.size(); ++i) {
      if (puts[i]->ended[0] == Status::ok) later.push_back(names[i]);
    }
    world.close();
    (void)take_out(world, 0);
    world.open();
    world.run(200);
    for (const std::string& name : later) EXPECT_FALSE(serves_first(world, name)) << name << " after " << turns;
  }
}

// Keys that a quota squeezed out lie on a drive that takes no writes for a while, and are put anew meanwhile.
TEST(Elders, OnADriveThatWasFullForAWhileStayAway) {
  constexpr uint32_t kTenant = 5;
  StoreWorld world(64_MiB, 3);
  TenantOptions tenant;
  tenant.name = "tight";
  tenant.number = kTenant;
  tenant.quota_bytes = 2'000'000;
  ASSERT_TRUE(world.store->set_tenants({tenant}).ok());
  const auto as_tenant = [](PutCall& call) { call.id.tenant = kTenant; };
  for (int i = 0; i < 60; ++i) ASSERT_EQ(world.put("tight " + std::to_string(i), kBytes, as_tenant), Status::ok);
  DriveFaults& faults = world.drive(1).faults;
  faults.error = ENOSPC;
  faults.fail_write = 1;
  faults.for_ever = true;
  for (int i = 0; i < 40 && drive_of(world, 1).state != "read_only"; ++i)
    (void)world.put("filler " + std::to_string(i), kBytes);
  ASSERT_EQ(drive_of(world, 1).state, "read_only");
  std::vector<std::string> anew;
  for (int i = 0; i < 40; ++i) {
    const std::string name = "tight " + std::to_string(i);
    if (world.store->exists({key_of(name), 0, kTenant})) continue;
    const Status put = world.put(name, 900, [](PutCall& call) {
      call.id.tenant = kTenant;
      other_bytes(call);
    });
    if (put == Status::ok) anew.push_back(name);
  }
  ASSERT_GT(anew.size(), 20U);
  faults = {};
  ASSERT_TRUE(world.run_until([&] {
    (void)world.put("more " + std::to_string(world.clock.now_ms()), 10'000);
    return drive_of(world, 1).state == "serving" && world.store->loaded();
  }));
  world.run(200);
  world.close();
  (void)take_out(world, 2);
  world.open();
  world.run(200);
  ASSERT_EQ(world.store->stats().members_state, "whole");
  for (const std::string& name : anew) EXPECT_FALSE(serves_first(world, name, kTenant)) << name;
}

// Five drives leave one after another, and come back in the wrong order.
TEST(Elders, OfADriveThatIsNotBelievedCoverNothing) {
  StoreWorld world(64_MiB, 5);
  ASSERT_EQ(world.put("key", kBytes), Status::ok);
  std::vector<std::shared_ptr<Platter>> drives = world.platters;
  std::swap(drives[0], drives[written_to(world)]);
  const auto start = [&](size_t from, size_t step) {
    world.close();
    world.platters.clear();
    for (size_t i = from; i < drives.size(); i += step) world.platters.push_back(drives[i]);
    world.open();
    world.run(200);
    ASSERT_EQ(world.store->stats().members_state, "whole");
  };
  start(1, 1);
  ASSERT_EQ(world.put("key", kBytes, other_bytes), Status::ok);
  std::swap(drives[1], drives[1 + written_to(world)]);
  start(2, 1);
  start(2, 2);
  for (const size_t back : {1, 3, 0}) {
    world.platters.push_back(drives[back]);
    ASSERT_TRUE(world.attach(world.platters.size() - 1).ok());
    ASSERT_TRUE(world.run_until([&] { return world.store->loaded(); }));
    world.run(200);
    EXPECT_FALSE(serves_first(world, "key")) << "when drive " << back << " is back";
  }
}

// The operator's word that missing drives are gone for good was about those that were missing then.
TEST(Elders, AreNotBelievedOnTheWordForAnEarlierStart) {
  StoreWorld world(64_MiB, 2);
  ASSERT_EQ(world.put("key", kBytes), Status::ok);
  const size_t holder = written_to(world), other = 1 - holder;
  world.close();
  StoreOptions options;
  options.without_missing_drives = true;
  world.open(options);
  world.run(200);
  world.vanish(holder);
  (void)world.get("key");
  ASSERT_TRUE(world.run_until([&] { return world.put("key", kBytes, other_bytes) == Status::ok; }));
  ASSERT_TRUE(world.store->detach(world.uuid(holder), true).ok());
  ASSERT_TRUE(world.store->detach(world.uuid(other), true).ok());
  world.run(200);
  ASSERT_TRUE(world.attach(holder).ok());
  world.run(200);
  EXPECT_FALSE(serves_first(world, "key"));
}

// A put or a delete waited for as long as the drive hung, though the drive was taken out.
TEST(Elders, ADriveThatHangsWhileMembersChangeIsTakenOut) {
  StoreWorld world(64_MiB, 3);
  const size_t newcomer = world.add_platter(64_MiB);
  world.drive(1).faults.hold = true;
  ASSERT_TRUE(world.attach(newcomer).ok());
  world.run(200);
  std::vector<std::unique_ptr<PutCall>> puts;
  for (int i = 0; i < 12; ++i) {
    puts.push_back(std::make_unique<PutCall>("key " + std::to_string(i), kBytes));
    puts.back()->store = world.store.get();
    world.store->begin_put(*puts.back());
  }
  world.run(200);
  for (const auto& put : puts) ASSERT_TRUE(put->ended.empty());
  world.clock.advance_ms(2'000);
  EXPECT_NE(world.store->stats().members_reason.find("detach it"), std::string::npos);
  ASSERT_TRUE(world.store->begin_detach(world.uuid(1), true).ok());
  EXPECT_TRUE(world.run_until([&] {
    return std::all_of(puts.begin(), puts.end(), [](const auto& put) { return put->ended == std::vector{Status::ok}; });
  }));
  EXPECT_EQ(world.store->stats().members_reason, "");
  world.drive(1).faults.hold = false;
  EXPECT_TRUE(world.run_until([&] { return world.store->detached(world.uuid(1)); }));
}

}  // namespace
}  // namespace cairn
