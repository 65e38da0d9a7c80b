#include "server/tenant_names.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/crc32c.h"

namespace cairn {

namespace {

constexpr std::string_view kDefault = "default";

static_assert(TenantNames::kNumberMost < UINT32_MAX, "the largest number is kept for no tenant");
static_assert(TenantNames::kSeenMost < TenantNames::kNumberMost, "more names are remembered than there are numbers");

uint32_t number_for(std::string_view name) {
  return std::clamp<uint32_t>(crc32c(std::as_bytes(std::span(name))), 1, TenantNames::kNumberMost);
}

Error invalid(const std::string& message) {
  return Error{0, message, static_cast<uint16_t>(Status::invalid)};
}

}  // namespace

Result<Unit> TenantNames::check(const std::vector<TenantOptions>& tenants) const {
  std::set<std::string> names;
  std::set<uint32_t> numbers;
  for (const TenantOptions& one : tenants) {
    const std::string what = "the tenant '" + one.name + "'";
    if (one.name.empty()) return invalid("a tenant has no name");
    if (!names.insert(one.name).second) return invalid(what + " is configured twice");
    if ((one.name == kDefault) != (one.number == 0))
      return invalid(what + ": number 0 is that of the tenant 'default', which has no other");
    if (one.number > kNumberMost) return invalid(what + " has a number that is too large");
    if (!numbers.insert(one.number).second)
      return invalid(what + " has the number " + std::to_string(one.number) + ", which another has as well");
    const auto seen = seen_.find(one.number);
    if (seen != seen_.end() && seen->second != one.name) {
      return invalid(what + " would have the number " + std::to_string(one.number) + ", which stands for the tenant '" +
                     seen->second + "' already; choose another");
    }
  }
  return Unit{};
}

Result<Unit> TenantNames::configure(const std::vector<TenantOptions>& tenants) {
  if (auto checked = check(tenants); !checked) return checked.error();
  configured_.clear();
  names_.clear();
  for (const TenantOptions& one : tenants) {
    configured_.emplace(one.name, one.number);
    names_.emplace(one.number, one.name);
  }
  CAIRN_CHECK(configured_.size() == tenants.size(), "a tenant's name came twice and was not refused");
  CAIRN_CHECK(names_.size() == tenants.size(), "a tenant's number came twice and was not refused");
  return Unit{};
}

TenantNames::Found TenantNames::find(std::string_view name) {
  CAIRN_CHECK(configured_.size() == names_.size(), "a configured tenant has no number, or a number no tenant");
  CAIRN_CHECK(seen_.size() <= kSeenMost, "more names are remembered than there may be");
  if (name.empty()) name = kDefault;
  if (const auto known = configured_.find(name); known != configured_.end()) return {Status::ok, known->second, ""};
  if (name == kDefault) return {};
  if (!accept_unknown_) return {Status::denied, 0, "the service knows no tenant of that name"};
  const uint32_t number = number_for(name);
  if (names_.contains(number))
    return {Status::denied, 0, "the tenant's name meets the number of a configured tenant; configure it, or rename it"};
  const auto seen = seen_.find(number);
  if (seen == seen_.end()) {
    if (seen_.size() >= kSeenMost)
      return {Status::busy, 0, "the service has met as many tenants as it keeps apart; configure those that matter"};
    seen_.emplace(number, name);
  } else if (seen->second != name) {
    return {Status::denied, 0, "the tenant's name meets another tenant's in one number; configure it, or rename it"};
  }
  return {Status::ok, number, ""};
}

std::string TenantNames::name_of(uint32_t number) const {
  if (number == 0) return std::string(kDefault);
  if (const auto known = names_.find(number); known != names_.end()) return known->second;
  const auto seen = seen_.find(number);
  return seen == seen_.end() ? "" : seen->second;
}

}  // namespace cairn
