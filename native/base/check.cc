#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace cairn {

void check_failed(const char* file, int line, const char* expression, const char* sentence) noexcept {
  std::fprintf(stderr, "%s:%d: check failed: %s: %s\n", file, line, expression, sentence);
  std::fflush(stderr);
  std::abort();
}

}  // namespace cairn
