// A system call that a signal interrupts is made again.
#pragma once

#include <cerrno>

namespace cairn {

inline constexpr int kTriesOfACall = 100;

// The call's result, once no signal interrupts it. `interrupted` looks at a result.
template <class Call, class Interrupted>
auto persist(Call call, Interrupted interrupted) {
  static_assert(kTriesOfACall > 1, "a call that was interrupted is never made again");
  auto result = call();
  for (int tries = 1; tries < kTriesOfACall && interrupted(result); ++tries) result = call();
  return result;
}
template <class Call>
auto persist(Call call) {
  return persist(call, [](auto result) { return result < 0 && errno == EINTR; });
}

}  // namespace cairn
