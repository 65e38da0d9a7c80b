// Who gets memory of the slab: no set of tenants locks another out, and nobody waits for ever.
#include "store/slab_shares.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <list>
#include <random>
#include <utility>
#include <vector>

#include "wire/limits.h"

namespace cairn {
namespace {

constexpr uint64_t kSlab = 64 * kMiB;

// A tenant that takes memory through the shares, as the store does.
struct Taker {
  MemoryLine line;
  std::deque<Buffer> holds;

  bool take(Slab& slab, const SlabShares& shares, uint64_t bytes) {
    if (!shares.may_hold(line, bytes)) return false;
    Buffer memory = slab.allocate(bytes, &line.account);
    if (!memory) return false;
    holds.push_back(std::move(memory));
    return true;
  }
};

uint64_t any_size(std::mt19937_64& random, uint64_t most) {
  return std::uniform_int_distribution<uint64_t>(1, most)(random);
}

// What a user would have lost: every put and every get from a drive, for as long as four clients of others liked.
TEST(SlabSharesTest, WhateverOthersTakeANewTenantGetsItsPartAtOnce) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    std::mt19937_64 random(seed);
    const auto slab = Slab::create(kSlab).take();
    SlabShares shares(*slab);
    const size_t others = 1 + seed % 20;
    const uint64_t largest = uint64_t{4096} << (seed % 14);  // 4 KiB to 32 MiB
    std::list<Taker> takers(others);
    for (int i = 0; i < 4000; ++i) {
      auto one = takers.begin();
      std::advance(one, static_cast<long>(any_size(random, others) - 1));
      one->take(*slab, shares, any_size(random, largest));
    }
    // Half of the slab is free behind the first, and each of the others leaves four fifths of that.
    double least = static_cast<double>(kSlab) / 2 / 5;
    for (size_t i = 1; i < others; ++i) least *= 0.8;
    const uint64_t part = static_cast<uint64_t>(least) / kSlabPageBytes * kSlabPageBytes;
    ASSERT_GT(part, 0U);
    Taker fresh;
    for (uint64_t taken = 0; taken < part;) {
      const uint64_t bytes = std::min(part - taken, std::max<uint64_t>(part / 3, kSlabPageBytes) / 4096 * 4096);
      ASSERT_TRUE(fresh.take(*slab, shares, bytes))
          << "seed " << seed << ", " << others << " others, of " << part << " bytes it has " << taken;
      taken += bytes;
    }
  }
}

TEST(SlabSharesTest, OneThatIsAloneHasHalfOfItAndNoMore) {
  const auto slab = Slab::create(kSlab).take();
  SlabShares shares(*slab);
  Taker one;
  while (one.take(*slab, shares, 64 * kKiB)) {
  }
  EXPECT_EQ(one.line.account.held_bytes, kSlab / 2);
  Taker two;
  EXPECT_TRUE(two.take(*slab, shares, kSlab / 10 / 4096 * 4096)) << "and another has a fifth of what is left";
  EXPECT_FALSE(two.take(*slab, shares, 64 * kKiB));
}

TEST(SlabSharesTest, WhatACacheWouldGiveUpIsFree) {
  const auto slab = Slab::create(kSlab).take();
  SlabShares shares(*slab);
  Taker one;
  ASSERT_TRUE(one.take(*slab, shares, kSlab / 2));
  EXPECT_FALSE(shares.may_hold(one.line, 4096));
  const Buffer cached = one.holds.front();
  cached.set_cached(true);
  EXPECT_FALSE(shares.may_hold(one.line, 4096)) << "somebody else holds it, too";
  one.holds.clear();
  EXPECT_EQ(one.line.account.held_bytes, 0U);
  EXPECT_TRUE(shares.may_hold(one.line, kSlab / 2));
  {
    const Buffer sent = cached;
    EXPECT_EQ(one.line.account.held_bytes, kSlab / 2) << "it is held again, by who is sent it";
  }
  EXPECT_EQ(slab->held_bytes(), 0U);
  cached.set_cached(false);
  EXPECT_EQ(slab->held_bytes(), kSlab / 2);
}

// Tenants that always want more, and let go of what they have in the order in which they got it.
struct Busy {
  Taker taker;
  MemoryWaiter waiter;
  uint64_t bytes = 0;
};

// What a user would have lost: a block of 8 MiB, as long as others kept the slab busy with small ones.
TEST(SlabSharesTest, ALargeBlockDoesNotWaitForEverBehindSmallOnes) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    const auto slab = Slab::create(kSlab).take();
    SlabShares shares(*slab);
    GetOp* const somebody = reinterpret_cast<GetOp*>(uintptr_t{64});  // never looked into
    std::list<Busy> crowd(2 + seed % 10);
    const auto ask = [&](Busy& one) {
      one.bytes = any_size(random, 2 * kMiB);
      one.waiter.get = somebody;
      shares.wait(one.taker.line, one.waiter, one.bytes);
    };
    for (Busy& one : crowd) ask(one);
    Busy large;
    large.bytes = kSlab / 8;
    large.waiter.get = somebody;
    int rounds = 0;
    for (; rounds < 5'000 && large.taker.holds.empty(); ++rounds) {
      if (rounds == 1'000) shares.wait(large.taker.line, large.waiter, large.bytes);
      for (Busy& one : crowd) {
        if (!one.taker.holds.empty() && random() % 3 == 0) one.taker.holds.pop_front();
      }
      shares.look_for_elder();
      while (MemoryWaiter* next = shares.next()) {
        Busy* whose = next == &large.waiter ? &large : nullptr;
        for (Busy& one : crowd) whose = next == &one.waiter ? &one : whose;
        ASSERT_NE(whose, nullptr);
        Buffer memory = slab->allocate(whose->bytes, &whose->taker.line.account);
        ASSERT_TRUE(memory) << "it was granted and is not there";
        whose->taker.holds.push_back(std::move(memory));
        if (whose != &large) ask(*whose);
      }
    }
    EXPECT_LT(rounds, 2'000) << "seed " << seed;
    EXPECT_FALSE(large.taker.holds.empty()) << "seed " << seed;
    for (Busy& one : crowd) shares.leave(one.waiter);
    EXPECT_TRUE(shares.empty());
  }
}

TEST(SlabSharesTest, ATenantsOwnAreServedInTheOrderInWhichTheyCame) {
  const auto slab = Slab::create(kSlab).take();
  SlabShares shares(*slab);
  GetOp* const somebody = reinterpret_cast<GetOp*>(uintptr_t{64});
  MemoryLine line;
  std::vector<MemoryWaiter> waiters(4);
  for (MemoryWaiter& one : waiters) {
    one.get = somebody;
    shares.wait(line, one, 4096);
  }
  shares.leave(waiters[1]);
  MemoryWaiter* const first = shares.next();
  EXPECT_EQ(first, &waiters[0]);
  shares.wait_again(line, *first, 4096);
  EXPECT_EQ(shares.next(), &waiters[0]) << "it is the first still";
  EXPECT_EQ(shares.next(), &waiters[2]);
  EXPECT_EQ(shares.next(), &waiters[3]);
  EXPECT_EQ(shares.next(), nullptr);
}

}  // namespace
}  // namespace cairn
