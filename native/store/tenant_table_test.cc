// Whose number is whose lies on the drives: across restarts, crashes, torn writes and drives of other stores.
#include "store/tenant_table.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/crc32c.h"
#include "base/pattern.h"
#include "testing/golden.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

// Two names with one CRC32C.
constexpr const char* kOne = "gpu-code-463113";
constexpr const char* kOther = "search-south-764882";

uint32_t crc_of(std::string_view name) {
  return crc32c(std::as_bytes(std::span(name)));
}

uint32_t number_of(StoreWorld& world, const std::string& name) {
  auto number = world.store->number_of(name);
  EXPECT_TRUE(number.ok());
  return number.ok() ? number.value() : 0;
}

Status put_as(StoreWorld& world, uint32_t tenant, const std::string& key) {
  return world.put(key, 5000, [=](PutCall& call) { call.id.tenant = tenant; });
}

FoundTenants on_platter(StoreWorld& world, size_t platter) {
  MemoryDrive drive(world.platters.at(platter));
  format::Page<format::Superblock> page;
  world.platters.at(platter)->read(0, reinterpret_cast<std::byte*>(&page), sizeof(page));
  auto found = read_tenants(drive, page.body);
  EXPECT_TRUE(found.ok());
  return found.ok() ? found.take() : FoundTenants{};
}

// As a drive of an older service: it has no table.
void wipe_tables(Platter& platter) {
  const std::vector<std::byte> zeros(format::kTenantTablePages * format::kPageBytes);
  for (const uint64_t offset : format::kTenantTableOffsets) platter.write(offset, zeros.data(), zeros.size());
}

TEST(TenantTable, HasTheGoldenBytes) {
  format::Superblock superblock;
  std::iota(superblock.drive.begin(), superblock.drive.end(), uint8_t{0});
  const Pages pages = build_tenants(superblock, 3, {{crc_of("team-a"), tenant_identity("team-a")}});
  ASSERT_EQ(pages.bytes(), format::kPageBytes);
  EXPECT_EQ(golden_in_page("on-disk-format.md", "tenants"), hex({pages.data(), 64}));
}

TEST(TenantTable, ANameIsKnownByTheWholeOfIt) {
  ASSERT_EQ(crc_of(kOne), crc_of(kOther));
  StoreWorld world;
  const uint32_t one = number_of(world, kOne), other = number_of(world, kOther);
  EXPECT_EQ(one, crc_of(kOne));
  EXPECT_NE(one, other);
  EXPECT_EQ(number_of(world, kOne), one);
  EXPECT_EQ(on_platter(world, 0).rows.size(), 0U) << "names that never put leave nothing";
}

// The fault this is for: after a restart the second of two names owned what the first had stored.
TEST(TenantTable, ANameThatCollidesNeverGetsTheOthersBlocks) {
  for (const bool first_comes_back_first : {true, false}) {
    for (const int end : {0, 1, 2}) {
      StoreWorld world(64_MiB, 2);
      const uint32_t one = number_of(world, kOne);
      ASSERT_EQ(put_as(world, one, "secret"), Status::ok);
      if (end == 0) world.close();
      if (end == 1) world.kill(7);
      if (end == 2) world.crash(7);
      world.open();
      if (first_comes_back_first) {
        EXPECT_EQ(number_of(world, kOne), one);
      }
      const uint32_t other = number_of(world, kOther);
      EXPECT_NE(other, one);
      EXPECT_EQ(world.get_as(other, "secret"), Status::not_found);
      ASSERT_EQ(put_as(world, other, "mine"), Status::ok);
      world.kill(9);
      world.open();
      EXPECT_EQ(number_of(world, kOther), other);
      EXPECT_EQ(number_of(world, kOne), one);
      EXPECT_EQ(world.get_as(one, "secret"), Status::ok);
      EXPECT_EQ(world.get_as(other, "mine"), Status::ok);
    }
  }
}

// What is acknowledged before the binding is on a drive could be another's after the power came back.
TEST(TenantTable, APutWaitsUntilAllDrivesKnowTheTenant) {
  StoreWorld world(64_MiB, 2);
  const uint32_t number = number_of(world, "team-a");
  world.drive(1).faults.hold = true;
  PutCall call("a", 5000);
  call.store = world.store.get();
  call.id.tenant = number;
  world.store->begin_put(call);
  EXPECT_TRUE(world.store->hungry());
  EXPECT_FALSE(world.run_until([&] { return call.granted; }, 200));
  world.drive(1).faults.hold = false;
  ASSERT_TRUE(world.run_until([&] { return !call.ended.empty(); }));
  EXPECT_EQ(call.ended[0], Status::ok);
  for (const size_t platter : {0, 1}) EXPECT_TRUE(on_platter(world, platter).rows.contains(number)) << platter;
}

TEST(TenantTable, APutThatIsGivenUpWhileItWaitsLeavesNothingBehind) {
  StoreWorld world;
  const uint32_t number = number_of(world, "team-a");
  world.drive().faults.hold = true;
  PutCall call("a", 5000);
  call.store = world.store.get();
  call.id.tenant = number;
  world.store->begin_put(call);
  world.run();
  world.store->cancel(call);
  world.drive().faults.hold = false;
  world.run();
  EXPECT_FALSE(call.granted);
  EXPECT_EQ(put_as(world, number, "a"), Status::ok);
}

// Whatever part of a write reaches the drive, what was acknowledged before is there.
TEST(TenantTable, AWriteThatIsTornLosesNobody) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    StoreWorld world;
    std::map<std::string, uint32_t> numbers;
    for (int i = 0; i < 3; ++i) {
      const std::string name = "team-" + std::to_string(i);
      numbers[name] = number_of(world, name);
      ASSERT_EQ(put_as(world, numbers[name], name), Status::ok);
    }
    PutCall late("late", 5000);
    late.store = world.store.get();
    late.id.tenant = number_of(world, "late");
    world.store->begin_put(late);
    world.run(static_cast<int>(seed % 4));
    const bool acknowledged = !late.ended.empty();
    world.crash(seed);
    world.open();
    const FoundTenants found = on_platter(world, 0);
    for (const auto& [name, number] : numbers) {
      ASSERT_TRUE(found.rows.contains(number)) << seed;
      EXPECT_EQ(found.rows.at(number), tenant_identity(name)) << seed;
      EXPECT_EQ(world.get_as(number_of(world, name), name), Status::ok) << seed;
    }
    if (acknowledged) {
      EXPECT_TRUE(found.rows.contains(late.id.tenant)) << seed;
    }
  }
}

TEST(TenantTable, EitherCopyIsEnough) {
  for (const uint64_t offset : format::kTenantTableOffsets) {
    StoreWorld world;
    const uint32_t number = number_of(world, kOne);
    ASSERT_EQ(put_as(world, number, "a"), Status::ok);
    world.run();
    world.close();
    world.platters[0]->flip(offset + 100, 3);
    world.open();
    EXPECT_NE(number_of(world, kOther), number) << offset;
    EXPECT_EQ(number_of(world, kOne), number) << offset;
  }
}

// Whatever bit goes bad in both copies, the drive is refused: who owns what on it cannot be known, so nobody gets it.
TEST(TenantTable, ADriveOfWhichBothCopiesAreDamagedIsRefused) {
  for (const uint64_t at : {0, 9, 20, 33, 35, 37, 41, 45, 50, 60, 4000, 4091}) {
    StoreWorld world;
    ASSERT_EQ(put_as(world, number_of(world, kOne), "a"), Status::ok);
    world.run();
    world.close();
    for (const uint64_t offset : format::kTenantTableOffsets) world.platters[0]->flip(offset + at, 3);
    const auto opened = world.try_open();
    ASSERT_FALSE(opened.ok()) << at;
    EXPECT_EQ(opened.error().status, static_cast<uint16_t>(Status::drive_damaged));
    EXPECT_NE(opened.error().message.find("tenant table"), std::string::npos);
    for (const uint64_t offset : format::kTenantTableOffsets) world.platters[0]->flip(offset + at, 3);
    world.open();
  }
}

TEST(TenantTable, WhatAnOlderServiceStoredBelongsToTheFirstThatMeetsIt) {
  StoreWorld world;
  ASSERT_EQ(put_as(world, crc_of(kOne), "old"), Status::ok);
  world.close();
  wipe_tables(*world.platters[0]);
  world.open();
  const uint32_t other = number_of(world, kOther);
  EXPECT_EQ(world.get_as(other, "old"), Status::ok) << "nobody can tell whose it was";
  EXPECT_TRUE(world.run_until([&] { return on_platter(world, 0).rows.contains(other); })) << "and so it stays";
  world.kill(3);
  world.open();
  const uint32_t one = number_of(world, kOne);
  EXPECT_EQ(world.get_as(one, "old"), Status::not_found);
  EXPECT_EQ(number_of(world, kOther), other);
}

TEST(TenantTable, ADriveThatCameLaterIsTold) {
  StoreWorld world;
  const uint32_t number = number_of(world, kOne);
  ASSERT_EQ(put_as(world, number, "a"), Status::ok);
  ASSERT_TRUE(world.attach(world.add_platter(64_MiB)).ok());
  EXPECT_TRUE(world.run_until([&] { return on_platter(world, 1).rows.contains(number); }));
}

// What a user would have lost: a drive that held something else before, formatted and refused ever after.
TEST(TenantTable, AFormatLeavesNothingOfWhatWasThere) {
  StoreWorld world;
  world.close();
  std::vector<std::byte> noise(64_MiB);
  fill_pattern(noise, 7);
  world.platters[0]->write(0, noise.data(), noise.size());
  MemoryDrive drive(world.platters[0]);
  FormatOptions options;
  options.overwrite = true;
  ASSERT_TRUE(format_drive(drive, options, world.clock).ok());
  world.open();
  ASSERT_EQ(put_as(world, number_of(world, kOne), "a"), Status::ok);
  world.close();
  world.open();
  EXPECT_EQ(world.get_as(number_of(world, kOne), "a"), Status::ok);
}

std::string state_of(StoreWorld& world, size_t platter) {
  for (const DriveStats& one : world.store->stats().drives) {
    if (one.uuid == world.uuid(platter)) return one.state;
  }
  return "";
}

// A new tenant's first put waited for ever.
TEST(TenantTable, ThatCannotBeWrittenHoldsUpNobody) {
  StoreWorld world(64_MiB, 2);
  ASSERT_EQ(world.put("a", 1'000), Status::ok);
  world.drive(1).faults.unwritable_from = format::kTenantTableOffsets[0];
  world.drive(1).faults.unwritable_to = format::kFirstSegmentOffset;
  PutCall put("b", 1'000);
  put.id.tenant = number_of(world, kOne);
  put.store = world.store.get();
  world.store->begin_put(put);
  // What goes elsewhere on the drive is well.
  for (int i = 0; i < 400 && put.ended.empty(); ++i) {
    (void)world.put("other " + std::to_string(i), 1'000);
    world.clock.advance_ms(50);
    world.run(20);
  }
  EXPECT_EQ(put.ended.size(), 1U) << "it waits for ever";
  EXPECT_EQ(state_of(world, 1), "failed");
}

// What a user would have lost: all that lies on a drive that is full for an hour.
TEST(TenantTable, ThatWaitsForADriveWithoutRoomTakesNothingFromIt) {
  StoreWorld world(64_MiB, 1);
  ASSERT_EQ(world.put("a", 1'000), Status::ok);
  DriveFaults& faults = world.drive().faults;
  faults.error = ENOSPC;
  faults.fail_write = 1;
  faults.for_ever = true;
  PutCall put("b", 1'000);
  put.id.tenant = number_of(world, kOne);
  put.store = world.store.get();
  world.store->begin_put(put);
  for (int i = 0; i < 400; ++i) {
    world.clock.advance_ms(61'000);
    world.run(20);
    ASSERT_NE(state_of(world, 0), "failed") << "after " << i << " minutes";
  }
  EXPECT_EQ(world.get("a"), Status::ok);
  world.store->cancel(put);
}

// Under a good seal, what no store has written: it ends no service.
TEST(TenantTable, ATableThatContradictsItselfIsNotBelieved) {
  using format::TenantPage;
  const auto edits = std::vector<std::function<void(TenantPage&)>>{
      [](TenantPage& page) { page.all[page.rows++] = {777, page.all[0].identity}; },
      [](TenantPage& page) { page.all[page.rows++] = {page.all[0].number, {1, 2, 3}}; },
      [](TenantPage& page) { page.all[page.rows++] = {format::kSharedOwner, {1, 2, 3}}; },
      [](TenantPage& page) { page.counter = UINT64_MAX; },
  };
  for (size_t i = 0; i < edits.size(); ++i) {
    StoreWorld world;
    ASSERT_EQ(put_as(world, number_of(world, kOne), "a"), Status::ok);
    world.run();
    world.close();
    for (const uint64_t offset : format::kTenantTableOffsets)
      edit_page<TenantPage>(*world.platters[0], offset, edits[i]);
    const auto opened = world.try_open();
    ASSERT_FALSE(opened.ok()) << i;
    EXPECT_EQ(opened.error().status, static_cast<uint16_t>(Status::drive_damaged)) << i;
    ASSERT_NE(opened.error().message.find("tenant table"), std::string::npos) << opened.error().message;
    world.platters.clear();
    world.add_platter(64_MiB);
    world.open();
  }
}

TEST(TenantTable, ADriveOfAnotherStoreGivesNoTenantsBlocksToAnother) {
  StoreWorld here, there;
  const uint32_t number = number_of(here, kOne);
  ASSERT_EQ(put_as(here, number, "a"), Status::ok);
  ASSERT_EQ(put_as(there, number_of(there, kOther), "b"), Status::ok);
  there.run();
  there.close();
  here.platters.push_back(there.platters[0]);
  const auto attached = here.attach(1);
  ASSERT_FALSE(attached.ok());
  EXPECT_EQ(attached.error().status, static_cast<uint16_t>(Status::drive_foreign));
  EXPECT_EQ(here.get_as(number, "a"), Status::ok);
  EXPECT_EQ(here.get_as(number, "b"), Status::not_found);
  there.open();
}

TEST(TenantTable, AConfiguredIdThatIsAnothersIsRefused) {
  StoreWorld world;
  TenantOptions tenant;
  tenant.name = "configured";
  tenant.number = 9;
  ASSERT_TRUE(world.store->set_tenants({tenant}).ok());
  ASSERT_EQ(put_as(world, 9, "a"), Status::ok);
  const uint32_t number = number_of(world, kOne);
  ASSERT_EQ(put_as(world, number, "a"), Status::ok);
  world.close();
  world.open();
  TenantOptions thief = tenant;
  thief.name = "thief";
  EXPECT_FALSE(world.store->set_tenants({thief}).ok());
  TenantOptions moved;
  moved.name = kOne;
  moved.number = 10;
  const auto refused = world.store->set_tenants({moved});
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find(std::to_string(number)), std::string::npos) << "the sentence says which id";
  EXPECT_TRUE(world.store->set_tenants({tenant}).ok());
}

// A forgotten name gives its number away only if nothing was ever put under it: what was evicted or deleted may still
// lie on a drive, here or away, and would come back as another's.
TEST(TenantTable, AForgottenTenantKeepsItsNumberOnceItPutSomething) {
  for (const bool put : {false, true}) {
    StoreWorld world(64_MiB, 2);
    const uint32_t one = number_of(world, kOne);
    if (put) {
      ASSERT_EQ(put_as(world, one, "secret"), Status::ok);
      DeleteCall call;
      call.ids = {{key_of("secret"), 0, one}};
      world.store->remove(call);
      ASSERT_TRUE(world.run_until([&] { return call.ended; }));
      ASSERT_EQ(world.get_as(one, "secret"), Status::not_found);
    }
    ASSERT_TRUE(world.run_until([&] { return world.store->forget_tenant(one); })) << "nothing is left in the index";
    EXPECT_EQ(number_of(world, kOther) == one, !put);
    world.kill(5);
    world.open();
    if (put) {
      EXPECT_NE(number_of(world, kOther), one) << "over a restart, too";
      EXPECT_EQ(number_of(world, kOne), one);
    }
  }
}

TEST(TenantTable, ATenantWhoseBlocksAreThereIsNotForgotten) {
  StoreWorld world;
  const uint32_t one = number_of(world, kOne);
  ASSERT_EQ(put_as(world, one, "a"), Status::ok);
  EXPECT_FALSE(world.store->forget_tenant(one));
  EXPECT_EQ(number_of(world, kOne), one);
  EXPECT_NE(number_of(world, kOther), one);
}

// With the drive that knew a tenant away, another may be given its number. The drive is refused then: nothing of the
// first is ever handed to the second.
TEST(TenantTable, ADriveThatWasAwayWhileItsTenantsNumberWasGivenAwayIsRefused) {
  StoreWorld world(64_MiB, 2);
  const auto away = world.platters[1];
  world.close();
  world.platters = {away};
  world.open();
  const uint32_t one = number_of(world, kOne);
  ASSERT_EQ(put_as(world, one, "secret"), Status::ok);
  world.close();
  world.platters = {std::make_shared<Platter>(64_MiB)};
  MemoryDrive fresh(world.platters[0]);
  ASSERT_TRUE(format_drive(fresh, {}, world.clock).ok());
  world.open();
  const uint32_t other = number_of(world, kOther);
  ASSERT_EQ(other, one);
  ASSERT_EQ(put_as(world, other, "mine"), Status::ok);
  world.platters.push_back(away);
  const auto attached = world.attach(1);
  ASSERT_FALSE(attached.ok());
  EXPECT_EQ(attached.error().status, static_cast<uint16_t>(Status::drive_foreign));
  EXPECT_EQ(world.get_as(other, "secret"), Status::not_found);
}

TEST(TenantTable, HasRoomForSixteenThousandAndThenSaysSo) {
  StoreWorld world;
  std::set<uint32_t> numbers;
  for (int i = 0; i < 16'000; ++i) {
    auto number = world.store->number_of("tenant " + std::to_string(i));
    ASSERT_TRUE(number.ok());
    EXPECT_TRUE(numbers.insert(number.value()).second) << i;
  }
  for (int i = 0; i < 1000; ++i) (void)world.store->number_of("more " + std::to_string(i)).ok();
  const auto refused = world.store->number_of("one more");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().status, static_cast<uint16_t>(Status::busy));
  world.store->forget_tenant(*numbers.begin());
  EXPECT_TRUE(world.store->number_of("one more").ok()) << "a name that never put gives its place";
}

TEST(TenantTable, AFullTableComesBackWhole) {
  format::Superblock superblock;
  superblock.drive[0] = 1;
  std::map<uint32_t, TenantIdentity> rows;
  for (uint32_t i = 1; i <= format::kTenantsMost; ++i) rows[i] = tenant_identity(std::to_string(i));
  const Pages pages = build_tenants(superblock, 2, rows);
  ASSERT_EQ(pages.bytes(), format::kTenantTablePages * format::kPageBytes);
  const auto platter = std::make_shared<Platter>(8_MiB);
  platter->write(format::kTenantTableOffsets[0], pages.data(), pages.bytes());
  MemoryDrive drive(platter);
  auto found = read_tenants(drive, superblock);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found.value().rows, rows);
  EXPECT_EQ(found.value().counter, 2U);
}

}  // namespace
}  // namespace cairn
