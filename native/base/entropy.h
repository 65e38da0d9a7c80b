// Random bytes for what nobody may guess (tags, nonces, hash seeds, identities), and the seam that lets a simulation
// draw them from its seed: with it a whole run replays byte for byte.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "base/bytes.h"

namespace cairn {

// From the kernel, unless an EntropySource stands in. A kernel that gives none ends the process (base/shortage.h). Any
// thread.
void fill_entropy(std::span<std::byte> out);

// The same, for a process that is somebody else's: false, and nothing happens, where the kernel gives none.
bool try_entropy(std::span<std::byte> out);

template <class T>
T entropy() {
  static_assert(std::has_unique_object_representations_v<T>, "not every random bytes make a value of this type");
  T value{};
  fill_entropy(std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

// Stands in for the kernel on the thread that made it, until it is destroyed; the youngest counts. For simulations.
class EntropySource {
 public:
  EntropySource();
  EntropySource(const EntropySource&) = delete;
  EntropySource& operator=(const EntropySource&) = delete;
  virtual void fill(std::span<std::byte> out) = 0;

 protected:
  ~EntropySource();

 private:
  EntropySource* before_;
};

}  // namespace cairn
