// The slab: what is asked for is given in whole pages, is shared by copies, comes back whole, and ends when there is
// no more.
#include "base/slab.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace cairn {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

std::unique_ptr<Slab> slab_of(uint64_t bytes) {
  return Slab::create(bytes).take();
}

uint64_t bytes_in(const std::vector<iovec>& parts) {
  uint64_t sum = 0;
  for (const iovec& part : parts) sum += part.iov_len;
  return sum;
}

TEST(SlabTest, ABufferIsWholePagesAndKnowsWhatWasAskedFor) {
  const auto slab = slab_of(4 * kMiB);
  const Buffer buffer = slab->allocate(5000);
  EXPECT_EQ(buffer.length(), 5000U);
  EXPECT_EQ(buffer.capacity(), 8192U);
  EXPECT_EQ(bytes_in(buffer.runs()), 8192U);
  for (const iovec& run : buffer.runs())
    EXPECT_EQ(reinterpret_cast<uintptr_t>(run.iov_base) % kSlabPageBytes, 0U) << "a drive takes no other memory";
  EXPECT_EQ(slab->free_bytes(), 4 * kMiB - 8192);
  EXPECT_EQ(slab->allocate(0).capacity(), kSlabPageBytes);
}

// The service ended with SIGBUS at its first put where huge pages could be mapped and not touched. Memory behind the
// end of a file is such memory: whoever touches it gets the same signal.
std::byte* untouchable(uint64_t bytes) {
  const int file = memfd_create("nothing", MFD_CLOEXEC);
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  return base == MAP_FAILED ? nullptr : static_cast<std::byte*>(base);
}

TEST(SlabTest, MemoryThatCannotBeTouchedIsFoundWithoutTouchingIt) {
  std::byte* const base = untouchable(4 * kMiB);
  ASSERT_NE(base, nullptr);
  for (const bool by_advice : {true, false}) {
    EXPECT_EQ(touch_pages(base, 4 * kMiB, 2 * kMiB, by_advice), EFAULT) << (by_advice ? "advice" : "reading");
  }
  munmap(base, 4 * kMiB);
  const auto good = slab_of(4 * kMiB);
  for (const bool by_advice : {true, false})
    EXPECT_EQ(touch_pages(good->memory().data(), 4 * kMiB, 2 * kMiB, by_advice), 0);
}

TEST(SlabTest, HugePagesThatCannotBeTouchedAreReplacedAndTold) {
  const auto slab = Slab::create(4 * kMiB, &untouchable).take();
  const ByteSpan memory = slab->memory();
  ASSERT_EQ(memory.size(), 4 * kMiB);
  std::memset(memory.data(), 1, memory.size());
  EXPECT_NE(slab->remark().find("ordinary pages"), std::string::npos) << slab->remark();
  EXPECT_EQ(Slab::create(4 * kMiB, [](uint64_t) -> std::byte* { return nullptr; }).value()->remark(), "")
      << "a machine that has none is nothing to tell of";
}

TEST(SlabTest, AnEmptyBufferIsNothingAndMayBeAskedAnything) {
  const Buffer none;
  const Buffer copy = none;
  EXPECT_FALSE(copy);
  EXPECT_EQ(copy.length(), 0U);
  EXPECT_EQ(copy.capacity(), 0U);
  EXPECT_FALSE(copy.unique());
  EXPECT_TRUE(copy.runs().empty());
  std::vector<iovec> parts;
  copy.slice(0, 0, parts);
  EXPECT_TRUE(parts.empty());
}

TEST(SlabTest, CopiesShareMemoryAndTheLastGivesItBack) {
  const auto slab = slab_of(2 * kMiB);
  Buffer first = slab->allocate(4096);
  EXPECT_TRUE(first.unique());
  Buffer second = first;
  EXPECT_FALSE(first.unique());
  EXPECT_EQ(second.runs()[0].iov_base, first.runs()[0].iov_base);
  first = {};
  EXPECT_TRUE(second.unique());
  EXPECT_EQ(slab->free_bytes(), 2 * kMiB - 4096);
  second = {};
  EXPECT_EQ(slab->free_bytes(), 2 * kMiB);
}

TEST(SlabTest, ASliceIsExactlyTheBytesAskedForAcrossRuns) {
  const auto slab = slab_of(4 * kMiB);
  const Buffer buffer = slab->allocate(7 * kSlabPageBytes);  // 4 + 2 + 1 pages
  ASSERT_EQ(buffer.runs().size(), 3U);
  uint64_t number = 0;
  for (const iovec& run : buffer.runs()) {
    for (uint64_t at = 0; at < run.iov_len; at += sizeof(number), ++number)
      std::memcpy(static_cast<std::byte*>(run.iov_base) + at, &number, sizeof(number));
  }
  for (const auto& [offset, count] : {std::pair<uint64_t, uint64_t>{0, 7 * kSlabPageBytes},
                                      {4 * kSlabPageBytes - 8, 16},
                                      {4 * kSlabPageBytes, 2 * kSlabPageBytes},
                                      {7 * kSlabPageBytes, 0},
                                      {6 * kSlabPageBytes + 8, 8}}) {
    std::vector<iovec> parts;
    buffer.slice(offset, count, parts);
    EXPECT_EQ(bytes_in(parts), count) << offset;
    uint64_t expected = offset / sizeof(uint64_t);
    for (const iovec& part : parts) {
      for (uint64_t at = 0; at < part.iov_len; at += sizeof(expected), ++expected)
        EXPECT_EQ(std::memcmp(static_cast<std::byte*>(part.iov_base) + at, &expected, sizeof(expected)), 0) << offset;
    }
  }
}

TEST(SlabTest, TheTailOfABufferIsZeroedAndTheRestIsNot) {
  const auto slab = slab_of(2 * kMiB);
  Buffer buffer = slab->allocate(3 * kSlabPageBytes);
  for (const iovec& run : buffer.runs()) std::memset(run.iov_base, 0xAB, run.iov_len);
  buffer.zero_tail(5000);
  std::vector<iovec> parts;
  buffer.slice(0, buffer.capacity(), parts);
  uint64_t at = 0;
  for (const iovec& part : parts) {
    for (uint64_t i = 0; i < part.iov_len; ++i, ++at)
      ASSERT_EQ(static_cast<uint8_t*>(part.iov_base)[i], at < 5000 ? 0xAB : 0) << at;
  }
}

TEST(SlabTest, WhateverWasTakenInWhateverOrderComesBackAsOne) {
  const auto slab = slab_of(66 * kMiB);
  std::mt19937_64 random(7);
  for (int round = 0; round < 20; ++round) {
    std::vector<Buffer> taken;
    for (Buffer buffer = slab->allocate(1 + random() % 900'000); buffer;
         buffer = slab->allocate(1 + random() % 900'000))
      taken.push_back(std::move(buffer));
    std::shuffle(taken.begin(), taken.end(), random);
    while (taken.size() > static_cast<size_t>(round)) taken.pop_back();
    taken.clear();
    ASSERT_EQ(slab->free_bytes(), 66 * kMiB);
    const Buffer whole = slab->allocate(66 * kMiB);
    ASSERT_TRUE(whole);
    EXPECT_EQ(whole.runs().size(), 2U) << "64 MiB and 2 MiB: nothing stays in pieces";
  }
}

TEST(SlabTest, MoreThanIsFreeIsRefusedAndNothingIsTaken) {
  const auto slab = slab_of(2 * kMiB);
  const Buffer half = slab->allocate(kMiB);
  EXPECT_FALSE(slab->allocate(kMiB + 1));
  EXPECT_EQ(slab->free_bytes(), kMiB);
  EXPECT_TRUE(slab->allocate(kMiB));
}

// A drive takes so many pieces of memory at once and no more: what is there only in smaller ones is refused, whole.
TEST(SlabTest, MemoryInTooManyPiecesIsRefusedAndNothingIsLost) {
  const auto slab = slab_of(2 * kMiB);
  std::vector<Buffer> pages;
  for (Buffer page = slab->allocate(1); page; page = slab->allocate(1)) pages.push_back(std::move(page));
  ASSERT_EQ(pages.size(), 2 * kMiB / kSlabPageBytes);
  std::sort(pages.begin(), pages.end(),
            [](const Buffer& a, const Buffer& b) { return a.runs()[0].iov_base < b.runs()[0].iov_base; });
  for (size_t i = 0; i < pages.size(); i += 2) pages[i] = {};
  const uint64_t free = slab->free_bytes();
  const Buffer most = slab->allocate(kBufferRunsMost * kSlabPageBytes);
  EXPECT_EQ(most.runs().size(), kBufferRunsMost);
  EXPECT_FALSE(slab->allocate((kBufferRunsMost + 1) * kSlabPageBytes));
  EXPECT_EQ(slab->free_bytes(), free - most.capacity());
}

TEST(SlabTest, AnAllocationFailsWhenItIsToldTo) {
  const auto slab = slab_of(2 * kMiB);
  slab->fail_allocation(2, false);
  EXPECT_TRUE(slab->allocate(1));
  EXPECT_FALSE(slab->allocate(1));
  EXPECT_TRUE(slab->allocate(1));
  EXPECT_EQ(slab->allocations_failed(), 1U);
  slab->fail_allocation(1, true);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(slab->allocate(1));
  EXPECT_EQ(slab->allocations_failed(), 3U);
  slab->fail_allocation(0, false);
  EXPECT_TRUE(slab->allocate(1));
}

TEST(SlabTest, MoreThanTheMachineHasIsAnErrorWithASentence) {
  const auto slab = Slab::create(uint64_t{1} << 55);
  ASSERT_FALSE(slab.ok());
  EXPECT_NE(slab.error().message.find("cannot map a slab of 34359738368 MiB"), std::string::npos)
      << slab.error().message;
}

TEST(SlabDeathTest, WhatOnlyWeCanBreakStopsTheProcess) {
  const auto slab = slab_of(2 * kMiB);
  const Buffer buffer = slab->allocate(4096);
  std::vector<iovec> parts;
  EXPECT_DEATH(buffer.slice(1, 4096, parts), "a slice ends beyond the buffer");
  EXPECT_DEATH(buffer.slice(UINT64_MAX, 2, parts), "a slice begins beyond the buffer");
  EXPECT_DEATH(
      {
        auto other = slab_of(2 * kMiB);
        const Buffer kept = other->allocate(1);
        other.reset();
      },
      "while buffers of it were alive");
}

}  // namespace
}  // namespace cairn
