#include "base/slab.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace cairn {

namespace {

constexpr int8_t kNotFree = -1;
constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;
static_assert(kHugePageBytes % kSlabPageBytes == 0, "a slab of whole huge pages would end within a page");

constexpr uint64_t order_bytes(int order) {
  return kSlabPageBytes << order;
}

}  // namespace

struct Buffer::Body {
  Slab* slab;
  uint32_t references;
  uint64_t length;
  uint64_t capacity;
  std::vector<iovec> runs;
  SlabAccount* account = nullptr;
  bool cached = false;  // one of the references is a cache's
};

Buffer::Buffer(const Buffer& other) noexcept : body_(other.body_) {
  if (body_ == nullptr) return;
  CAIRN_CHECK(body_->references > 0, "memory is shared that was given back already");
  CAIRN_CHECK(body_->references < UINT32_MAX, "memory is shared by more than can be counted");
  if (++body_->references == 2 && body_->cached) body_->slab->count_held(*body_, true);
}

Buffer::~Buffer() {
  if (body_ == nullptr) return;
  CAIRN_CHECK(body_->references > 0, "memory is given back twice");
  if (--body_->references == 0) {
    if (!body_->cached) body_->slab->count_held(*body_, false);
    body_->slab->release(body_);
  } else if (body_->references == 1 && body_->cached) {
    body_->slab->count_held(*body_, false);
  }
}

void Buffer::set_cached(bool cached) const {
  CAIRN_CHECK(body_ != nullptr, "no memory is in a cache");
  CAIRN_CHECK(body_->cached != cached, "memory enters a cache twice, or leaves it twice");
  body_->cached = cached;
  if (body_->references == 1) body_->slab->count_held(*body_, !cached);
}

uint64_t Buffer::length() const {
  return body_ == nullptr ? 0 : body_->length;
}
uint64_t Buffer::capacity() const {
  return body_ == nullptr ? 0 : body_->capacity;
}
bool Buffer::unique() const {
  return body_ != nullptr && body_->references == 1;
}

const std::vector<iovec>& Buffer::runs() const {
  static const std::vector<iovec> none;
  return body_ == nullptr ? none : body_->runs;
}

void Buffer::slice(uint64_t offset, uint64_t count, std::vector<iovec>& out) const {
  CAIRN_CHECK(offset <= capacity(), "a slice begins beyond the buffer");
  CAIRN_CHECK(count <= capacity() - offset, "a slice ends beyond the buffer");
  for (const iovec& run : runs()) {
    if (count == 0) return;
    if (offset >= run.iov_len) {
      offset -= run.iov_len;
      continue;
    }
    const uint64_t part = std::min<uint64_t>(run.iov_len - offset, count);
    out.push_back({static_cast<std::byte*>(run.iov_base) + offset, part});
    offset = 0;
    count -= part;
  }
  CAIRN_CHECK(count == 0, "the runs of a buffer hold less than its capacity");
}

void Buffer::zero_tail(uint64_t from) {
  std::vector<iovec> parts;
  slice(from, capacity() - from, parts);
  for (const iovec& part : parts) std::memset(part.iov_base, 0, part.iov_len);
}

int touch_pages(std::byte* base, uint64_t bytes, uint64_t page_bytes, bool by_advice) {
  CAIRN_CHECK(base != nullptr, "pages of no memory are touched");
  CAIRN_CHECK(page_bytes > 0, "pages of no bytes are touched");
  if (by_advice) {
    if (madvise(base, bytes, MADV_POPULATE_WRITE) == 0) return 0;
    if (errno != EINVAL) return errno;  // a kernel before 5.14 knows no such advice
  }
  const int zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  if (zeros < 0) return errno;
  int error = 0;
  for (uint64_t at = 0; at < bytes && error == 0; at += page_bytes) {
    if (read(zeros, base + at, 1) != 1) error = errno;
  }
  close(zeros);
  return error;
}

Result<std::unique_ptr<Slab>> Slab::create(uint64_t bytes, std::byte* (*map_huge)(uint64_t bytes)) {
  bytes = round_up(std::max<uint64_t>(bytes, 1), kHugePageBytes);
  void* base = map_huge(bytes);
  std::string remark;
  CAIRN_CHECK(bytes % kHugePageBytes == 0, "a slab ends within a huge page");
  if (base != nullptr) {
    if (const int error = touch_pages(static_cast<std::byte*>(base), bytes, kHugePageBytes, true); error != 0) {
      munmap(base, bytes);
      base = nullptr;
      remark = "the machine has huge pages and this process may not use them (" + std::string(std::strerror(error)) +
               "), so the slab is of ordinary pages; raise the limit of its control group (hugetlb.*.max; the "
               "hugepages-* limits of a pod), or take the huge pages back from the machine";
    }
  }
  if (base == nullptr) {
    // No reserved huge pages: take one huge page more than needed, align, ask for transparent ones.
    void* wide = mmap(nullptr, bytes + kHugePageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (wide == MAP_FAILED) {
      const int number = errno;
      return Error::from_errno(number, "cannot map a slab of " + std::to_string(bytes >> 20) + " MiB",
                               advice_on_memory());
    }
    const auto start = reinterpret_cast<uintptr_t>(wide);
    const uintptr_t aligned = round_up(start, kHugePageBytes);
    if (aligned > start) munmap(wide, aligned - start);
    const uintptr_t tail = start + kHugePageBytes - aligned;
    if (tail > 0) munmap(reinterpret_cast<void*>(aligned + bytes), tail);
    base = reinterpret_cast<void*>(aligned);
    madvise(base, bytes, MADV_HUGEPAGE);  // a hint: refusal costs speed, not correctness
    std::memset(base, 0, bytes);
  }
  std::unique_ptr<Slab> slab(new Slab(static_cast<std::byte*>(base), bytes));
  slab->remark_ = std::move(remark);
  return slab;
}

std::byte* map_huge_pages(uint64_t bytes) {
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  return base == MAP_FAILED ? nullptr : static_cast<std::byte*>(base);
}

Slab::Slab(std::byte* base, uint64_t bytes) : base_(base), total_bytes_(bytes) {
  CAIRN_CHECK(base != nullptr, "a slab without memory");
  CAIRN_CHECK(reinterpret_cast<uintptr_t>(base) % kSlabPageBytes == 0, "a slab begins within a page");
  CAIRN_CHECK(bytes % kSlabPageBytes == 0, "a slab ends within a page");
  const auto pages = static_cast<int64_t>(bytes / kSlabPageBytes);
  CAIRN_CHECK(pages <= INT32_MAX, "a slab holds at most 2^31 pages");
  free_order_.assign(static_cast<size_t>(pages), kNotFree);
  next_.assign(static_cast<size_t>(pages), -1);
  previous_.assign(static_cast<size_t>(pages), -1);
  heads_.fill(-1);
  for (int64_t page = 0; page < pages;) {
    int order = kSlabOrders - 1;
    while (page % (int64_t{1} << order) != 0 || page + (int64_t{1} << order) > pages) --order;
    give_back(page, order);
    page += int64_t{1} << order;
  }
  CAIRN_CHECK(free_bytes_ == total_bytes_, "some of a new slab's memory is in no free run");
}

Slab::~Slab() {
  CAIRN_CHECK(free_bytes_ == total_bytes_, "a slab was destroyed while buffers of it were alive");
  munmap(base_, total_bytes_);
}

int64_t Slab::take(int order) {
  CAIRN_CHECK(order >= 0, "a run of less than a page is taken");
  CAIRN_CHECK(order < kSlabOrders, "a run is taken that is larger than any");
  int found = order;
  while (found < kSlabOrders && heads_[static_cast<size_t>(found)] < 0) ++found;
  if (found == kSlabOrders) return -1;
  const int64_t page = heads_[static_cast<size_t>(found)];
  CAIRN_CHECK(free_order_[static_cast<size_t>(page)] == found, "a list of free runs holds one that is not free");
  CAIRN_CHECK(previous_[static_cast<size_t>(page)] < 0, "the first of a list of free runs has one before it");
  CAIRN_CHECK(free_bytes_ >= order_bytes(found), "a run is taken out of less free memory than it has");
  heads_[static_cast<size_t>(found)] = next_[static_cast<size_t>(page)];
  if (next_[static_cast<size_t>(page)] >= 0) previous_[static_cast<size_t>(next_[static_cast<size_t>(page)])] = -1;
  free_order_[static_cast<size_t>(page)] = kNotFree;
  free_bytes_ -= order_bytes(found);
  while (found > order) {
    --found;
    give_back(page + (int64_t{1} << found), found);
  }
  return page;
}

void Slab::give_back(int64_t page, int order) {
  const auto pages = static_cast<int64_t>(free_order_.size());
  CAIRN_CHECK(page >= 0, "a run is given back that begins before its slab");
  CAIRN_CHECK(order >= 0 && order < kSlabOrders, "a run of a size that there is not is given back");
  CAIRN_CHECK(page + (int64_t{1} << order) <= pages, "a run is given back that ends beyond its slab");
  CAIRN_CHECK(page % (int64_t{1} << order) == 0, "a run is given back that does not begin where its size says");
  CAIRN_CHECK(free_order_[static_cast<size_t>(page)] == kNotFree, "a run is given back twice");
  free_bytes_ += order_bytes(order);
  CAIRN_CHECK(free_bytes_ <= total_bytes_, "more memory is free than the slab has");
  while (order + 1 < kSlabOrders) {
    const int64_t buddy = page ^ (int64_t{1} << order);
    if (buddy >= pages || free_order_[static_cast<size_t>(buddy)] != order) break;
    const int32_t before = previous_[static_cast<size_t>(buddy)];
    const int32_t after = next_[static_cast<size_t>(buddy)];
    CAIRN_CHECK((before < 0) == (heads_[static_cast<size_t>(order)] == buddy),
                "a free run has none before it but is not the first of its list");
    if (before >= 0) {
      next_[static_cast<size_t>(before)] = after;
    } else {
      heads_[static_cast<size_t>(order)] = after;
    }
    if (after >= 0) previous_[static_cast<size_t>(after)] = before;
    free_order_[static_cast<size_t>(buddy)] = kNotFree;
    page = std::min(page, buddy);
    ++order;
  }
  const auto at = static_cast<size_t>(page);
  const auto level = static_cast<size_t>(order);
  free_order_[at] = static_cast<int8_t>(order);
  previous_[at] = -1;
  next_[at] = heads_[level];
  if (heads_[level] >= 0) previous_[static_cast<size_t>(heads_[level])] = static_cast<int32_t>(page);
  heads_[level] = static_cast<int32_t>(page);
}

void Slab::count_held(const Buffer::Body& body, bool held) {
  if (body.account == nullptr) return;
  uint64_t& own = body.account->held_bytes;
  CAIRN_CHECK(held || held_bytes_ >= body.capacity, "more of the slab is let go of than was held");
  CAIRN_CHECK(held || own >= body.capacity, "more memory of one owner is let go of than it held");
  held_bytes_ = held ? held_bytes_ + body.capacity : held_bytes_ - body.capacity;
  own = held ? own + body.capacity : own - body.capacity;
}

bool Slab::told_to_fail() {
  if (fail_in_ > 1) {
    --fail_in_;
    return false;
  }
  if (!fail_for_ever_) fail_in_ = 0;
  ++failed_;
  return true;
}

Buffer Slab::allocate(uint64_t length, SlabAccount* account) {
  uint64_t left = round_up(std::max<uint64_t>(length, 1), kSlabPageBytes);
  CAIRN_CHECK(left >= length, "more memory is asked for than can be counted");
  if (fail_in_ != 0 && told_to_fail()) [[unlikely]]
    return {};
  if (left > free_bytes_) return {};
  auto* body = new Buffer::Body{this, 1, length, left, {}, account, false};
  while (left > 0) {
    int order = std::min(static_cast<int>(std::bit_width(left / kSlabPageBytes)) - 1, kSlabOrders - 1);
    int64_t page = take(order);
    while (page < 0) {
      CAIRN_CHECK(order > 0, "free bytes of a slab that lie in no run");
      page = take(--order);
    }
    if (body->runs.size() == kBufferRunsMost) {
      give_back(page, order);
      release(body);
      return {};
    }
    body->runs.push_back({base_ + static_cast<uint64_t>(page) * kSlabPageBytes, order_bytes(order)});
    left -= order_bytes(order);
  }
  count_held(*body, true);
  return Buffer(body);
}

void Slab::release(Buffer::Body* body) {
  CAIRN_CHECK(body->slab == this, "memory goes back to another slab than it came from");
  for (const iovec& run : body->runs) {
    CAIRN_CHECK(std::has_single_bit(run.iov_len), "a run is given back that is no power of two");
    const auto offset = static_cast<std::byte*>(run.iov_base) - base_;
    give_back(offset / static_cast<int64_t>(kSlabPageBytes),
              static_cast<int>(std::bit_width(run.iov_len / kSlabPageBytes)) - 1);
  }
  delete body;
}

}  // namespace cairn
