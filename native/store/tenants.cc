#include "store/tenants.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/check.h"

namespace cairn {

void TenantCounters::add(const TenantCounters& other) {
  puts += other.puts;
  put_exists += other.put_exists;
  put_bytes += other.put_bytes;
  gets += other.gets;
  hits += other.hits;
  hits_memory += other.hits_memory;
  get_bytes += other.get_bytes;
  deletes += other.deletes;
  evicted_blocks += other.evicted_blocks;
  evicted_bytes += other.evicted_bytes;
  expired_blocks += other.expired_blocks;
  refused_quota += other.refused_quota;
  refused_admission += other.refused_admission;
}

const Tenants::Row* Tenants::find(uint32_t tenant) const {
  const auto found = rows_.find(tenant);
  return found == rows_.end() ? nullptr : &found->second;
}

bool Tenants::forget(uint32_t tenant) {
  const auto found = rows_.find(tenant);
  if (found == rows_.end()) return true;
  const Row& row = found->second;
  if (row.configured || row.blocks > 0 || row.payload_bytes > 0 || row.pending_bytes > 0 || row.leased_bytes > 0 ||
      row.memory.account.held_bytes > 0 || !row.memory.waiting.empty())
    return false;
  forgotten_.add(row.counters);
  last_ = nullptr;
  rows_.erase(found);
  return true;
}

void Tenants::configure(const std::vector<TenantOptions>& all) {
  for (auto& [number, row] : rows_) {
    row.options = TenantOptions{.number = number, .name = row.options.name};
    row.configured = false;
  }
  for (const TenantOptions& options : all) {
    Row& row = at(options.number);
    row.options = options;
    row.configured = true;
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
