// A request with memory of its own, for tests of drives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "base/pattern.h"
#include "drive/drive.h"

namespace cairn {

class Transfer final : public IoRequest {
 public:
  Transfer(IoKind what, uint64_t at, std::vector<size_t> parts) {
    kind = what;
    offset = at;
    for (const size_t length : parts) {
      memory_.emplace_back(static_cast<std::byte*>(std::aligned_alloc(4096, length)), &std::free);
      list_.push_back({memory_.back().get(), length});
      bytes += length;
    }
    vectors = list_.data();
    vector_count = static_cast<uint32_t>(list_.size());
  }
  void completed(int code) override {
    ++times;
    error = code;
    if (then) then();
  }
  void fill(uint64_t seed) {
    for (size_t i = 0; i < list_.size(); ++i)
      fill_pattern({static_cast<std::byte*>(list_[i].iov_base), list_[i].iov_len}, seed + i);
  }
  bool holds(uint64_t seed) const {
    for (size_t i = 0; i < list_.size(); ++i) {
      if (check_pattern({static_cast<const std::byte*>(list_[i].iov_base), list_[i].iov_len}, seed + i) >= 0)
        return false;
    }
    return true;
  }
  int times = 0;
  int error = -1;
  std::function<void()> then;

 private:
  std::vector<std::unique_ptr<std::byte, void (*)(void*)>> memory_;
  std::vector<iovec> list_;
};

}  // namespace cairn
