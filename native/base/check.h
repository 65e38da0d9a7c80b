// Assertions that stay on in production. CHECK states what only our own code can break; when it is
// broken the process stops with a sentence, because going on could hand out wrong bytes. What a
// client, a drive or a person can cause is never CHECKed: that is a Status or an Error.
#pragma once

namespace cairn {

// Prints `file:line: check failed: expression: sentence` on stderr and aborts. Any thread.
[[noreturn]] void check_failed(const char* file, int line, const char* expression, const char* sentence) noexcept;

}  // namespace cairn

// A condition only looks: it calls nothing that changes anything, because a build without checks does not evaluate it.
#ifndef CAIRN_WITHOUT_CHECKS
#define CAIRN_CHECK(condition, sentence)                               \
  do {                                                                 \
    if (!(condition)) [[unlikely]] {                                   \
      ::cairn::check_failed(__FILE__, __LINE__, #condition, sentence); \
    }                                                                  \
  } while (0)
#else  // for measuring what they cost, never to be shipped: compiled, so that it stays right, and never run
#define CAIRN_CHECK(condition, sentence) \
  do {                                   \
    if (false) {                         \
      static_cast<void>(condition);      \
      static_cast<void>(sentence);       \
    }                                    \
  } while (0)
#endif
