#include "base/fork.h"

#include <pthread.h>

#include <atomic>
#include <cstdint>

namespace cairn {

namespace {

std::atomic<uint64_t> generation{0};

void count() {
  generation.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

uint64_t fork_generation() {
  // Without memory for the handler it is not called, and a child is not told from its parent.
  static const int registered = pthread_atfork(nullptr, nullptr, &count);
  static_cast<void>(registered);
  return generation.load(std::memory_order_relaxed);
}

}  // namespace cairn
