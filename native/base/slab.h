// The slab: one page-aligned range of memory, huge pages where the machine has them, registered once
// with whatever device moves bytes. It serves as bounce buffers and as read cache.
//
// Allocation is by buddies (powers of two from one page up to 64 MiB), so any page-aligned length is
// given as a short list of runs: 34 MiB may come as 32 + 2. Nothing here locks: a Slab and its Buffers
// belong to one reactor thread.
#pragma once

#include <sys/uio.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace cairn {

inline constexpr size_t kSlabPageBytes = 4096;
inline constexpr int kSlabOrders = 15;  // 4 KiB << 14 = 64 MiB
inline constexpr size_t kBufferRunsMost = 64;
static_assert(std::has_single_bit(kSlabPageBytes), "pages of the slab are not aligned to their own size");
static_assert(kSlabPageBytes << (kSlabOrders - 1) == size_t{64} << 20, "the largest run is not the largest block");
static_assert(kSlabOrders <= INT8_MAX, "an order does not fit the byte that notes it");

class Slab;

// Huge pages, not touched yet; nullptr when there are too few.
std::byte* map_huge_pages(uint64_t bytes);

// Makes every page of the memory real; 0, or the errno where one cannot be had. Touching such a page would end the
// process with SIGBUS. by_advice: with one call, where the kernel has it.
int touch_pages(std::byte* base, uint64_t bytes, uint64_t page_bytes, bool by_advice);

// Whose memory it is: what of the slab its owner keeps from others. Outlives every buffer that is counted in it.
struct SlabAccount {
  uint64_t held_bytes = 0;
};

// A counted reference to slab memory. Copies share the memory; the last one gives it back, so whoever
// moves the bytes holds a Buffer until the completion. Reactor thread only.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer& other) noexcept;
  Buffer(Buffer&& other) noexcept : body_(std::exchange(other.body_, nullptr)) {}
  Buffer& operator=(Buffer other) noexcept {
    std::swap(body_, other.body_);
    return *this;
  }
  ~Buffer();

  explicit operator bool() const { return body_ != nullptr; }
  // Bytes asked for at allocation; the runs hold this rounded up to whole pages.
  uint64_t length() const;
  uint64_t capacity() const;
  // The runs in order; every one starts on a page and is a whole number of pages long.
  const std::vector<iovec>& runs() const;
  // True when no other Buffer shares this memory.
  bool unique() const;
  // Whether one of the references is that of a cache, which gives the memory up whenever it is wanted: it is held, and
  // counted in its owner's account, only as long as there is another.
  void set_cached(bool cached) const;
  // Appends the parts of the runs that hold bytes [offset, offset + count) to `out`.
  void slice(uint64_t offset, uint64_t count, std::vector<iovec>& out) const;
  // Zeroes bytes [from, capacity): nothing of an earlier owner may reach a drive or a client.
  void zero_tail(uint64_t from);

 private:
  friend class Slab;
  struct Body;
  explicit Buffer(Body* body) : body_(body) {}
  Body* body_ = nullptr;
};

class Slab {
 public:
  // Maps `bytes` (rounded up to 2 MiB) and touches every page, so that no request meets a page fault.
  // Huge pages that can be mapped and not touched (a limit of the control group) are given back, and ordinary ones
  // taken. `map_huge` is for tests: memory of so many bytes, or nullptr.
  static Result<std::unique_ptr<Slab>> create(uint64_t bytes, std::byte* (*map_huge)(uint64_t bytes) = &map_huge_pages);
  ~Slab();
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  // A buffer of `length` bytes (at least one page is taken), or an empty one when free memory is short. What is held of
  // it is counted in `account`; nullptr: in nobody's.
  Buffer allocate(uint64_t length, SlabAccount* account = nullptr);
  // For tests: the nth allocation from now on (1: the next) finds no memory, and all after it if `for_ever`; 0: none.
  void fail_allocation(uint64_t nth, bool for_ever) {
    fail_in_ = nth;
    fail_for_ever_ = for_ever;
    failed_ = 0;
  }
  uint64_t allocations_failed() const { return failed_; }  // of those, since then

  uint64_t total_bytes() const { return total_bytes_; }
  uint64_t free_bytes() const { return free_bytes_; }
  // What is counted in accounts, all together.
  uint64_t held_bytes() const { return held_bytes_; }
  ByteSpan memory() const { return {base_, total_bytes_}; }
  // A sentence for the log when it is not of the memory that it could be; else empty.
  const std::string& remark() const { return remark_; }

 private:
  friend class Buffer;
  Slab(std::byte* base, uint64_t bytes);
  // Takes one block of exactly `order`, splitting a larger one; -1 when there is none.
  int64_t take(int order);
  void give_back(int64_t page, int order);
  void release(Buffer::Body* body);
  void count_held(const Buffer::Body& body, bool held);
  bool told_to_fail();

  std::byte* base_;
  uint64_t total_bytes_;
  std::string remark_;
  uint64_t free_bytes_ = 0;
  uint64_t held_bytes_ = 0;
  uint64_t fail_in_ = 0;  // 0: no allocation is made to fail
  bool fail_for_ever_ = false;
  uint64_t failed_ = 0;
  // Per page: the order of the free block that starts here, or kNotFree.
  std::vector<int8_t> free_order_;
  // Free blocks of each order as doubly linked lists through page numbers.
  std::vector<int32_t> next_, previous_;
  std::array<int32_t, kSlabOrders> heads_{};
};

}  // namespace cairn
