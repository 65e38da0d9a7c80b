// What becomes of a process to which the machine does not give what it needs.
#include "base/shortage.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>

#include "base/advice.h"
#include "base/entropy.h"
#include "testing/refused_calls.h"

namespace cairn {
namespace {

#if defined(__has_feature)  // clang's way of saying it
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

constexpr size_t kTooMuchBytes = size_t{1} << 52;

// An operator would have had a core dump and "terminate called after throwing an instance of std::bad_alloc".
TEST(ShortageDeathTest, AnExhaustedHeapEndsTheProcessWithASentence) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's allocator has last words of its own";
  const auto exhaust = [] {
    end_when_out_of_memory(3);
    ::operator delete(::operator new(kTooMuchBytes));
  };
  EXPECT_EXIT(exhaust(), testing::ExitedWithCode(3), "^cairn: out of memory: .*; give it more .*\n$");
}

// … and, where the memory was to be aligned, a core dump that told of a fault of ours.
TEST(ShortageDeathTest, SoDoesOneThatHasNoAlignedMemory) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's allocator has last words of its own";
  const auto exhaust = [] {
    end_when_out_of_memory(3);
    ::operator delete(::operator new(kTooMuchBytes, std::align_val_t{4096}), std::align_val_t{4096});
  };
  EXPECT_EXIT(exhaust(), testing::ExitedWithCode(3), "out of memory");
}

TEST(ShortageDeathTest, ASentenceEndsAProcessThatWasToldNothing) {
  EXPECT_EXIT(end_for_want("no patience: it ran out"), testing::ExitedWithCode(1),
              "^cairn: no patience: it ran out\n$");
}

// In a container whose seccomp profile is older than getrandom no service would have started, nor a client: abort.
TEST(ShortageDeathTest, WithoutGetrandomThereIsStillADevice) {
  const auto draw = [] {
    if (!refuse_call(SYS_getrandom, EPERM)) _exit(2);
    std::array<std::byte, 64> first{}, second{};
    fill_entropy(first);
    fill_entropy(second);
    _exit(first != second && first != std::array<std::byte, 64>{} ? 0 : 1);
  };
  EXPECT_EXIT(draw(), testing::ExitedWithCode(0), "");
}

TEST(ShortageDeathTest, WithoutEitherItEndsWithASentence) {
  const auto draw = [] {
    if (!refuse_call(SYS_getrandom, EPERM) || !refuse_call(SYS_openat, EMFILE)) _exit(2);
    (void)entropy<uint64_t>();
    _exit(0);
  };
  EXPECT_EXIT(draw(), testing::ExitedWithCode(1), "^cairn: no random bytes: .*seccomp");
}

TEST(Advice, IsTheEndOfASentenceOrNothing) {
  for (const int number : {EIO, ENOSPC, ENOMEM, EMFILE, EPERM, ENODEV, ETIMEDOUT, EINTR, EAGAIN})
    EXPECT_EQ(std::string(advice_for(number)).substr(0, 2), "; ") << number;
  EXPECT_STREQ(advice_for(EDOM), "");
  EXPECT_EQ(cause_and_advice(ENOSPC), "No space left on device; free some space, or ask for less");
}

}  // namespace
}  // namespace cairn
