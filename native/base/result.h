// Result<T>: a value, or an Error a person can read. For control paths (open, format, listen,
// connect); the data path reports wire::Status per item instead and never builds a string.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <variant>

#include "base/advice.h"
#include "base/check.h"

namespace cairn {

struct Error {
  int system_errno = 0;  // 0 when the system had no part in it
  std::string message;   // a whole sentence: what failed, on what, and what to do
  uint16_t status = 0;   // the code of wire/status.h that names the kind of failure; 0: none of them

  // `what` names the action and its object, as in "cannot open /dev/ng0n1". `advice` says what to do, behind "; ".
  static Error from_errno(int number, const std::string& what, const std::string& advice) {
    return Error{number, what + ": " + std::strerror(number) + advice, 0};
  }
  static Error from_errno(int number, const std::string& what) { return from_errno(number, what, advice_for(number)); }
};

struct Unit {};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit on purpose
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit on purpose

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & {
    CAIRN_CHECK(ok(), "value() asked of an error");
    return std::get<0>(state_);
  }
  const T& value() const& {
    CAIRN_CHECK(ok(), "value() asked of an error");
    return std::get<0>(state_);
  }
  T&& take() {
    CAIRN_CHECK(ok(), "take() asked of an error");
    return std::get<0>(std::move(state_));
  }
  const Error& error() const {
    CAIRN_CHECK(!ok(), "error() asked of a value");
    return std::get<1>(state_);
  }

 private:
  std::variant<T, Error> state_;
};

}  // namespace cairn
