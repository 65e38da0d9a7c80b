#include "base/streaming_copy.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace cairn {

namespace {

std::atomic<uint64_t> copied{0};

}  // namespace

uint64_t copied_bytes() {
  return copied.load(std::memory_order_relaxed);
}

#ifdef __SSE2__

namespace {

constexpr size_t kLineBytes = 64;
constexpr size_t kAheadBytes = 8 * kLineBytes;  // far enough that the line is there when its turn comes

void stream_line(std::byte* to, const std::byte* from) {
  const auto* source = reinterpret_cast<const __m128i*>(from);
  auto* target = reinterpret_cast<__m128i*>(to);
  const __m128i first = _mm_loadu_si128(source), second = _mm_loadu_si128(source + 1);
  const __m128i third = _mm_loadu_si128(source + 2), fourth = _mm_loadu_si128(source + 3);
  _mm_stream_si128(target, first);
  _mm_stream_si128(target + 1, second);
  _mm_stream_si128(target + 2, third);
  _mm_stream_si128(target + 3, fourth);
}

}  // namespace

void copy_streaming(std::byte* to, const std::byte* from, size_t bytes) {
  if (bytes >= kStreamedBytesLeast) return copy_past_cache(to, from, bytes);
  copied.fetch_add(bytes, std::memory_order_relaxed);
  std::memcpy(to, from, bytes);
}

void copy_past_cache(std::byte* to, const std::byte* from, size_t bytes) {
  copied.fetch_add(bytes, std::memory_order_relaxed);
  const size_t head = std::min(bytes, (kLineBytes - reinterpret_cast<uintptr_t>(to) % kLineBytes) % kLineBytes);
  std::memcpy(to, from, head);
  size_t at = head;
  for (; bytes - at >= kLineBytes + kAheadBytes; at += kLineBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(from + at + kAheadBytes), _MM_HINT_T0);
    stream_line(to + at, from + at);
  }
  std::memcpy(to + at, from + at, bytes - at);
  // Such stores are ordered against nothing; what is sent next must not overtake them.
  _mm_sfence();
}

#else

// Cores of other kinds see for themselves that whole lines are written.
void copy_streaming(std::byte* to, const std::byte* from, size_t bytes) {
  copied.fetch_add(bytes, std::memory_order_relaxed);
  std::memcpy(to, from, bytes);
}

void copy_past_cache(std::byte* to, const std::byte* from, size_t bytes) {
  copy_streaming(to, from, bytes);
}

#endif

}  // namespace cairn
