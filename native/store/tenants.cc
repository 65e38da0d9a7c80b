#include "store/tenants.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/check.h"

namespace cairn {

void Tenants::configure(const std::vector<TenantOptions>& all) {
  for (auto& [number, row] : rows_) row.options = TenantOptions{.number = number, .name = row.options.name};
  for (const TenantOptions& options : all) {
    Row& row = at(options.number);
    row.options = options;
    row.options.weight = std::max<uint32_t>(options.weight, 1);
  }
}

Tenants::Row& Tenants::at(uint32_t tenant) {
  if (last_ != nullptr && last_->options.number == tenant) return *last_;
  const auto [found, fresh] = rows_.try_emplace(tenant);
  if (fresh) found->second.options.number = tenant;
  CAIRN_CHECK(found->second.options.number == tenant, "a tenant is counted in the row of another");
  last_ = &found->second;
  return *last_;
}

}  // namespace cairn
