#include "base/entropy.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <span>

#include "base/check.h"
#include "base/shortage.h"

namespace cairn {

namespace {

thread_local EntropySource* stand_in = nullptr;

constexpr int kTries = 100;  // of a call that signals interrupt

// Calls `next` for what is left until there is nothing left; false when it goes on failing.
template <class Next>
bool fill(std::span<std::byte> out, Next next) {
  for (int tries = 0; !out.empty() && tries < kTries;) {
    const ssize_t got = next(out);
    if (got > 0) {
      out = out.subspan(static_cast<size_t>(got));
    } else if (got < 0 && errno == EINTR) {
      ++tries;
    } else {
      return false;
    }
  }
  return out.empty();
}

// The way of those whom a filter of system calls denies getrandom.
bool fill_from_device(std::span<std::byte> out) {
  const int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool filled = fill(out, [fd](std::span<std::byte> rest) { return read(fd, rest.data(), rest.size()); });
  close(fd);
  return filled;
}

}  // namespace

EntropySource::EntropySource() : before_(stand_in) {
  stand_in = this;
}

EntropySource::~EntropySource() {
  CAIRN_CHECK(stand_in == this, "sources of randomness end in the order they came, the last first");
  stand_in = before_;
}

bool try_entropy(std::span<std::byte> out) {
  if (stand_in != nullptr) {
    stand_in->fill(out);
    return true;
  }
  return fill(out, [](std::span<std::byte> rest) { return getrandom(rest.data(), rest.size(), 0); }) ||
         fill_from_device(out);
}

void fill_entropy(std::span<std::byte> out) {
  if (try_entropy(out)) return;
  end_for_want(
      "no random bytes: the kernel gives none through getrandom, nor through /dev/urandom; allow the one in the "
      "container's seccomp profile, or make the other");
}

}  // namespace cairn
