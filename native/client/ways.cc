#include "client/ways.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cairn {

namespace {

constexpr uint64_t kRestLeastMs = 1000;
constexpr uint64_t kRestMostMs = 30'000;
constexpr std::string_view kAuto = "auto://";
static_assert(kRestLeastMs > 0 && kRestLeastMs <= kRestMostMs, "a way rests for less than nothing");
constexpr std::string_view kExpected = "expected ";

void replace(std::string& text, std::string_view what, std::string_view with) {
  if (const size_t at = text.find(what); at != std::string::npos) text.replace(at, what.size(), with);
}

}  // namespace

Result<Ways> Ways::parse(std::string_view url) {
  Ways ways;
  std::vector<std::string> urls = {std::string(url)};
  if (url.starts_with(kAuto)) {
    const std::string place(url.substr(kAuto.size()));
    urls = {"rdma://" + place, "tcp://" + place};
  }
  for (const std::string& one : urls) {
    auto address = parse_address(one);
    if (!address) {
      Error error = address.error();
      replace(error.message, one, url);
      replace(error.message, kExpected, "expected auto://HOST:PORT, ");  // a service does not listen at these
      return error;
    }
    ways.all_.push_back(address.take());
  }
  return ways;
}

std::vector<const Address*> Ways::order(uint64_t now_ns) const {
  CAIRN_CHECK(!all_.empty(), "a client has no way to its service");
  std::vector<const Address*> order;
  for (const Address& way : all_) order.push_back(&way);
  if (hopeless_ || now_ns < rest_until_ns_) std::rotate(order.begin(), order.begin() + 1, order.end());
  return order;
}

bool Ways::any(Address::Kind kind) const {
  return std::any_of(all_.begin(), all_.end(), [&](const Address& way) { return way.kind == kind; });
}

void Ways::failed(const Address& way, Status status, uint64_t now_ns, uint64_t jitter) {
  CAIRN_CHECK(status != Status::ok, "a way failed and all is well");
  if (!prefers(way) || all_.size() == 1) return;
  hopeless_ = status == Status::unsupported;
  rest_ms_ = std::clamp(rest_ms_ * 2, kRestLeastMs, kRestMostMs);
  rest_until_ns_ = now_ns + rest_ms_ * 750'000 + jitter % (rest_ms_ * 500'000 + 1);
}

void Ways::held(const Address& way) {
  if (prefers(way)) rest_ms_ = 0;
}

}  // namespace cairn
