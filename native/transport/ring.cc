#include "transport/ring.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "base/streaming_copy.h"

namespace cairn {

namespace {

// Taken page by page at first: an idle client costs a page or two. Then in larger steps.
constexpr uint64_t kPageByPageBytes = 64 * 1024;
constexpr uint64_t kPagesAtOnceBytes = 64 * 1024;

// From <linux/mman.h> of 5.14; older kernels answer EINVAL.
constexpr int kPopulateWrite = 23;

// A store and then a load of what the other side stores, in an order that both sides agree on: of two that go to sleep
// on each other, one sees the other. That is what sequential consistency costs here, and it is needed.
template <class T>
T shared_load(T& field) {
  return std::atomic_ref<T>(field).load(std::memory_order_seq_cst);
}
template <class T>
void shared_store(T& field, T value) {
  std::atomic_ref<T>(field).store(value, std::memory_order_seq_cst);
}

// Takes the flag back, so that the bell rings once for each sleep.
bool take_flag(uint32_t& flag) {
  if (std::atomic_ref<uint32_t>(flag).load(std::memory_order_seq_cst) == 0) return false;
  return std::atomic_ref<uint32_t>(flag).exchange(0, std::memory_order_seq_cst) != 0;
}

}  // namespace

// --- memory ----------------------------------------------------------------------------------------------

RingPages::RingPages(std::byte* base, uint64_t bytes) : base_(base), bytes_(bytes) {}

bool RingPages::have(uint64_t end) {
  CAIRN_CHECK(end <= bytes_, "memory is wanted behind the end of a ring");
  static const auto page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  while (had_ < end) {
    const uint64_t step = std::min(bytes_ - had_, had_ < kPageByPageBytes ? page_bytes : kPagesAtOnceBytes);
    if (madvise(base_ + had_, step, kPopulateWrite) != 0) {
      if (errno == EINTR) continue;
      if (errno != EINVAL) return false;
      had_ = bytes_;  // an old kernel, or memory that no two processes share (tests): pages are had by touching them
      return true;
    }
    had_ += step;
  }
  return true;
}

void RingPages::give_back() {
  if (had_ <= kPageByPageBytes || madvise(base_ + kPageByPageBytes, had_ - kPageByPageBytes, MADV_REMOVE) != 0) return;
  had_ = kPageByPageBytes;
}

// --- writing ---------------------------------------------------------------------------------------------

RingProducer::RingProducer(RingControl& control, std::byte* base, uint64_t bytes, RingBell& bell)
    : control_(control),
      base_(base),
      bytes_(bytes),
      bell_(bell),
      pages_(base, bytes),
      window_(std::min(bytes, kRingWindowLeast)) {
  CAIRN_CHECK(std::has_single_bit(bytes), "the bytes of a ring are no power of two");
}

bool RingProducer::look() {
  const uint64_t consumed = shared_load(control_.consumed);
  if (consumed < consumed_ || consumed > published_) return false;
  if (full_ && consumed != consumed_) {
    full_ = false;
    window_ = std::min(2 * window_, bytes_);
  }
  consumed_ = consumed;
  if (consumed_ == produced_ && origin_ != produced_) {
    // All was read: begin again where memory is warm. Told before the index that makes the other side look.
    origin_ = produced_;
    shared_store(control_.origin, origin_);
  }
  return true;
}

void RingProducer::publish() {
  if (published_ == produced_) return;
  published_ = produced_;
  shared_store(control_.produced, produced_);
  if (take_flag(control_.consumer_asleep)) bell_.ring();
}

long RingProducer::push(std::span<const iovec> from) {
  long pushed = 0;
  for (const iovec& part : from) {
    const auto* at = static_cast<const std::byte*>(part.iov_base);
    for (size_t left = part.iov_len; left > 0;) {
      if (!look()) return -EPROTO;
      if (room() == 0) {
        full_ = true;
        publish();
        return pushed;
      }
      const uint64_t place = (produced_ - origin_) & (bytes_ - 1);
      const uint64_t step =
          std::min({static_cast<uint64_t>(left), room(), bytes_ - place, kRingPieceBytes - (produced_ - published_)});
      if (!pages_.have(place + step)) return -ENOMEM;
      copy_streaming(base_ + place, at, step);
      at += step;
      left -= step;
      pushed += static_cast<long>(step);
      produced_ += step;
      if (produced_ - published_ >= kRingPieceBytes) publish();
    }
  }
  publish();
  return pushed;
}

void RingProducer::trim() {
  if (look() && consumed_ == produced_) pages_.give_back();
}

bool RingProducer::sleep() {
  asleep_ = true;
  shared_store<uint32_t>(control_.producer_asleep, 1);
  return look() && room() == 0;
}

void RingProducer::wake() {
  if (!asleep_) return;
  asleep_ = false;
  shared_store<uint32_t>(control_.producer_asleep, 0);
}

// --- reading ---------------------------------------------------------------------------------------------

RingConsumer::RingConsumer(RingControl& control, std::byte* base, uint64_t bytes, RingBell& bell)
    : control_(control), base_(base), bytes_(bytes), bell_(bell), pages_(base, bytes) {
  CAIRN_CHECK(std::has_single_bit(bytes), "the bytes of a ring are no power of two");
}

bool RingConsumer::look() {
  const uint64_t produced = shared_load(control_.produced);
  if (produced < produced_ || produced - consumed_ > bytes_) return false;
  if (produced == produced_) return true;
  produced_ = produced;
  origin_ = shared_load(control_.origin);
  return origin_ <= consumed_;
}

void RingConsumer::publish() {
  if (published_ == consumed_) return;
  published_ = consumed_;
  shared_store(control_.consumed, consumed_);
  // Half a ring at a time: a bell for each piece would cost more than the piece. As long as this side reads on, it
  // comes to that.
  if (produced_ - consumed_ <= bytes_ / 2 && take_flag(control_.producer_asleep)) bell_.ring();
}

long RingConsumer::pull(std::span<const iovec> into, ByteWitness* witness) {
  long pulled = 0;
  for (const iovec& part : into) {
    auto* at = static_cast<std::byte*>(part.iov_base);
    // What goes to a large piece of memory is not read again soon.
    const bool large = part.iov_len >= kStreamedBytesLeast;
    for (size_t left = part.iov_len; left > 0;) {
      if (produced_ == consumed_ && !look()) return -EPROTO;
      if (produced_ == consumed_) {
        publish();
        return pulled;
      }
      const uint64_t place = (consumed_ - origin_) & (bytes_ - 1);
      const uint64_t step = std::min({static_cast<uint64_t>(left), produced_ - consumed_, bytes_ - place,
                                      kRingPieceBytes - (consumed_ - published_)});
      if (!pages_.have(place + step)) return -ENOMEM;
      if (witness != nullptr) witness->saw({base_ + place, step});
      if (large) {
        copy_past_cache(at, base_ + place, step);
      } else {
        copy_streaming(at, base_ + place, step);
      }
      at += step;
      left -= step;
      pulled += static_cast<long>(step);
      consumed_ += step;
      if (consumed_ - published_ >= kRingPieceBytes) publish();
    }
  }
  publish();
  return pulled;
}

bool RingConsumer::sleep() {
  asleep_ = true;
  shared_store<uint32_t>(control_.consumer_asleep, 1);
  return look() && produced_ == consumed_;
}

void RingConsumer::wake() {
  if (!asleep_) return;
  asleep_ = false;
  shared_store<uint32_t>(control_.consumer_asleep, 0);
}

}  // namespace cairn
