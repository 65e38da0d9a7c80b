// The read cache: who gives up a block, and how much work it is to tell.
#include "store/cache.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace cairn {
namespace {

BlockId block(uint32_t tenant, uint8_t number) {
  BlockId id;
  id.tenant = tenant;
  id.key.bytes[0] = number;
  return id;
}

TenantOptions weighing(uint32_t number, uint32_t weight) {
  TenantOptions options;
  options.number = number;
  options.weight = weight;
  return options;
}

TEST(Cache, WhoIsFurthestBeyondItsShareGivesItsLeastRecentlyUsed) {
  const auto slab = Slab::create(2 << 20).take();
  Tenants tenants;
  tenants.configure({weighing(1, 1), weighing(2, 3)});
  Cache cache(tenants);
  for (uint8_t i = 0; i < 4; ++i) cache.insert(block(1, i), slab->allocate(4096), 1, 0);
  for (uint8_t i = 0; i < 9; ++i) cache.insert(block(2, i), slab->allocate(4096), 1, 0);
  (void)cache.find(block(1, 0));
  ASSERT_TRUE(cache.evict_one());  // 4 of weight 1 are more than 9 of weight 3
  EXPECT_EQ(cache.find(block(1, 1)), nullptr);
  EXPECT_NE(cache.find(block(1, 0)), nullptr);
  tenants.configure({weighing(1, 10), weighing(2, 1)});
  cache.weights_changed();
  ASSERT_TRUE(cache.evict_one());
  EXPECT_EQ(cache.bytes_of(2), 8 * 4096U);
  EXPECT_EQ(cache.bytes_of(1), 3 * 4096U);
}

TEST(Cache, WhatIsInUseIsPassedOver) {
  const auto slab = Slab::create(2 << 20).take();
  Tenants tenants;
  Cache cache(tenants);
  const Buffer used = slab->allocate(2 * 4096);
  cache.insert(block(1, 0), used, 1, 0);
  EXPECT_FALSE(cache.evict_one());
  cache.insert(block(2, 0), slab->allocate(4096), 1, 0);
  EXPECT_TRUE(cache.evict_one());
  EXPECT_NE(cache.find(block(1, 0)), nullptr);
  EXPECT_EQ(cache.blocks(), 1U);
}

// Every block that is put when memory is short gives one up: what that costs may not grow with the tenants.
TEST(Cache, GivingOneUpIsNoMoreWorkWithTenThousandTenants) {
  const auto slab = Slab::create(64 << 20).take();
  Tenants tenants;
  Cache cache(tenants);
  constexpr uint32_t kTenants = 10'000;
  for (uint32_t tenant = 1; tenant <= kTenants; ++tenant) cache.insert(block(tenant, 0), slab->allocate(4096), 1, 0);
  for (uint32_t i = 0; i < kTenants; ++i) ASSERT_TRUE(cache.evict_one());
  EXPECT_LE(cache.looked_at(), 2 * kTenants);
  EXPECT_EQ(cache.bytes(), 0U);
  EXPECT_FALSE(cache.evict_one());
}

}  // namespace
}  // namespace cairn
