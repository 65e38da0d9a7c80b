#include "base/entropy.h"

#include <sys/random.h>

#include <cerrno>

#include "base/check.h"

namespace cairn {

namespace {

thread_local EntropySource* stand_in = nullptr;

}  // namespace

EntropySource::EntropySource() : before_(stand_in) {
  stand_in = this;
}

EntropySource::~EntropySource() {
  CAIRN_CHECK(stand_in == this, "sources of randomness end in the order they came, the last first");
  stand_in = before_;
}

void fill_entropy(std::span<std::byte> out) {
  if (stand_in != nullptr) return stand_in->fill(out);
  while (!out.empty()) {
    const ssize_t got = getrandom(out.data(), out.size(), 0);
    CAIRN_CHECK(got > 0 || errno == EINTR, "the system gave no random bytes");
    if (got > 0) out = out.subspan(static_cast<size_t>(got));
  }
}

}  // namespace cairn
