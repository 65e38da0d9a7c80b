// A file descriptor that is closed with its owner.
#pragma once

#include <unistd.h>

#include <utility>

#include "base/check.h"

namespace cairn {

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }

  bool is_open() const { return number_ >= 0; }
  int get() const {
    CAIRN_CHECK(is_open(), "a file is used that is not open");
    return number_;
  }

 private:
  int number_ = -1;
};

}  // namespace cairn
