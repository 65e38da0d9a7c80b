#include "base/shortage.h"

#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <new>

namespace cairn {

namespace {

std::atomic<int> status{1};

[[noreturn]] void out_of_memory() {
  end_for_want(
      "out of memory: the process can get no more for its heap; give it more (the limits of its unit, container and "
      "shell), or a smaller slab");
}

iovec part(const char* text) {
  return {const_cast<char*>(text), std::strlen(text)};
}

}  // namespace

void end_for_want(const char* sentence) noexcept {
  const iovec line[] = {part("cairn: "), part(sentence), part("\n")};
  [[maybe_unused]] const ssize_t said = writev(STDERR_FILENO, line, 3);  // nobody is left to be told of a failure
  _exit(status);
}

void end_when_out_of_memory(int exit_status) {
  status = exit_status;
  std::set_new_handler(&out_of_memory);
}

}  // namespace cairn
