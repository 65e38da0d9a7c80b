#include "base/event.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/check.h"

namespace cairn {

namespace {

constexpr int kTries = 100;  // of a call that signals interrupt

}  // namespace

int make_event() {
  return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

bool write_event(int event) {
  CAIRN_CHECK(event >= 0, "an event is written that was not made");
  const uint64_t one = 1;
  for (int tries = 0; tries < kTries; ++tries) {
    if (::write(event, &one, sizeof(one)) > 0 || errno == EAGAIN) return true;  // EAGAIN: it counts no further
    if (errno != EINTR) return false;
  }
  return false;
}

void drain_event(int event) {
  CAIRN_CHECK(event >= 0, "an event is read that was not made");
  uint64_t ignored = 0;
  for (int tries = 0; tries < kTries; ++tries) {
    if (::read(event, &ignored, sizeof(ignored)) >= 0 || errno != EINTR) return;
  }
}

}  // namespace cairn
