#include "store/slab_shares.h"

#include <cstddef>
#include <cstdint>

#include "base/bytes.h"

namespace cairn {

namespace {

// Of the slab: the largest that is let in ahead of the rule, what stays free beyond it, and what a tenant may hold
// though others wait longer.
constexpr uint64_t kElderPart = 4;
constexpr uint64_t kSparePart = 16;
constexpr uint64_t kLittlePart = 64;
// So many times what a tenant among others holds has to be free beside it.
constexpr uint64_t kFreeTimes = 4;
static_assert(kElderPart < kSparePart && kSparePart < kLittlePart, "who is let in ahead leaves less than he takes");

uint64_t whole_pages(uint64_t bytes) {
  return round_up(bytes, kSlabPageBytes);
}

}  // namespace

bool SlabShares::may_hold(const MemoryLine& line, uint64_t bytes) const {
  const uint64_t total = slab_.total_bytes();
  CAIRN_CHECK(slab_.held_bytes() <= total, "more of the slab is held than there is");
  const uint64_t free = total - slab_.held_bytes();
  bytes = whole_pages(bytes);
  if (bytes > free) return false;
  const uint64_t left = free - bytes;
  const uint64_t own = line.account.held_bytes + bytes;
  if (elder_ == &line && line.account.held_bytes == 0 && left >= total / kSparePart) return true;
  if (elder_ != nullptr && elder_ != &line && own > total / kLittlePart) {
    const uint64_t wanted = elder_->waiting.empty() ? 0 : whole_pages(elder_->waiting.at()->bytes);
    if (left < wanted + total / kSparePart) return false;
  }
  const bool alone = slab_.held_bytes() == line.account.held_bytes;
  return left >= (alone ? own : kFreeTimes * own);
}

void SlabShares::join(MemoryLine& line, MemoryWaiter& waiter, uint64_t bytes) {
  CAIRN_CHECK(waiter.line == nullptr, "an operation waits twice for memory");
  CAIRN_CHECK((waiter.get == nullptr) != (waiter.put == nullptr), "what waits for memory is neither a get nor a put");
  waiter.line = &line;
  waiter.bytes = bytes;
  line.waiting.add(waiter);
  if (!lines_.holds(line)) lines_.add(line);
}

void SlabShares::wait(MemoryLine& line, MemoryWaiter& waiter, uint64_t bytes) {
  waiter.number = next_number_++;
  join(line, waiter, bytes);
}

void SlabShares::wait_again(MemoryLine& line, MemoryWaiter& waiter, uint64_t bytes) {
  join(line, waiter, bytes);
  // The last of a ring is the one before its first.
  while (line.waiting.at() != &waiter) line.waiting.retreat();
}

void SlabShares::leave(MemoryWaiter& waiter) {
  if (waiter.line == nullptr) return;
  MemoryLine& line = *waiter.line;
  waiter.line = nullptr;
  line.waiting.remove(waiter);
  if (!line.waiting.empty()) return;
  lines_.remove(line);
  if (elder_ == &line) elder_ = nullptr;
}

MemoryWaiter* SlabShares::next() {
  for (size_t left = lines_.size(); left > 0; --left) {
    MemoryLine& line = *lines_.at();
    MemoryWaiter& head = *line.waiting.at();
    lines_.advance();
    if (!may_hold(line, head.bytes)) continue;
    leave(head);
    return &head;
  }
  return nullptr;
}

void SlabShares::look_for_elder() {
  elder_ = nullptr;
  lines_.for_each([this](const MemoryLine& line) {
    const MemoryWaiter& head = *line.waiting.at();
    if (line.account.held_bytes > 0 || head.bytes > slab_.total_bytes() / kElderPart) return;
    if (elder_ == nullptr || head.number < elder_->waiting.at()->number) elder_ = &line;
  });
}

}  // namespace cairn
