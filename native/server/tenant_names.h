// Which number a tenant's name stands for. The number is what lies on the drives, so it never changes its owner: of two
// names that would meet in one, the later is refused. One reactor thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "store/tenants.h"
#include "wire/status.h"

namespace cairn {

class TenantNames {
 public:
  static constexpr uint32_t kNumberMost = UINT32_MAX - 1;
  static constexpr size_t kSeenMost = 65'536;  // names that are not configured and yet remembered

  struct Found {
    Status status = Status::ok;  // ok, denied, busy
    uint32_t number = 0;
    const char* reason = "";  // a sentence, when it is not ok
  };

  explicit TenantNames(bool accept_unknown) : accept_unknown_(accept_unknown) {}

  // Replaces the configured tenants. An Error (invalid), and nothing is changed: a number or a name comes twice, is out
  // of range, or the number is that of another name that was met already. The name "default" has number 0, and no other
  // has.
  Result<Unit> configure(const std::vector<TenantOptions>& tenants);
  // A configured name has its number, "default" and "" have 0, and any other has the CRC32C of its name if unknown
  // tenants are let in.
  Found find(std::string_view name);
  // "" when no name with that number was met.
  std::string name_of(uint32_t number) const;
  // Whether the number is a configured tenant's, or that of "default".
  bool configured(uint32_t number) const { return number == 0 || names_.contains(number); }
  // A name that is not configured and has nothing here any more: it, or another, may have the number again.
  void forget(uint32_t number) { seen_.erase(number); }
  // The least number of one that is not configured, from this one on; UINT32_MAX: there is none.
  uint32_t next_seen(uint32_t from) const {
    const auto found = seen_.lower_bound(from);
    return found == seen_.end() ? UINT32_MAX : found->first;
  }

 private:
  Result<Unit> check(const std::vector<TenantOptions>& tenants) const;

  bool accept_unknown_;
  std::map<std::string, uint32_t, std::less<>> configured_;
  std::map<uint32_t, std::string> names_;  // of configured numbers
  std::map<uint32_t, std::string> seen_;   // of numbers that were given out for names that are not configured
};

}  // namespace cairn
