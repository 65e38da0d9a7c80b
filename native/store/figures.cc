// What the store tells of itself.
#include <cstdint>
#include <utility>

#include "store/loader.h"
#include "store/log_store.h"
#include "store/members.h"
#include "store/scrubber.h"

namespace cairn {

DriveStats LogStore::facts_of(const Slot& slot) {
  const DriveLog& log = *slot.log;
  DriveStats drive;
  drive.path = log.drive().info().path;
  drive.fixed_buffers = log.drive().info().fixed_buffers;
  drive.uuid = uuid_text(log.superblock().drive);
  drive.state = name_of(log.shown_state());
  drive.reason = log.why_failed();
  drive.bytes = log.superblock().total_bytes;
  drive.segment_bytes = log.superblock().segment_bytes;
  drive.segments = log.segments().size();
  drive.oldest_sequence = log.evicted_sequence == 0 ? 0 : log.evicted_sequence + 1;
  drive.distrusted = !slot.trusted;
  drive.loaded_share = slot.loader == nullptr ? 1 : slot.loader->share();
  drive.read_errors = log.counters.read_errors;
  drive.write_errors = log.counters.write_errors;
  drive.checksum_errors = log.counters.checksum_errors;
  return drive;
}

TenantStats LogStore::figures_of(uint32_t number, const Tenants::Row& row) const {
  CAIRN_CHECK(row.payload_bytes >= row.blocks, "a tenant holds blocks of no bytes");
  TenantStats tenant;
  tenant.number = number;
  tenant.name = row.options.name;
  tenant.quota_bytes = row.options.quota_bytes;
  tenant.weight = row.options.weight;
  tenant.blocks = row.blocks;
  tenant.payload_bytes = row.payload_bytes;
  tenant.cache_bytes = cache_.bytes_of(number);
  tenant.leased_bytes = row.leased_bytes;
  tenant.held_bytes = row.memory.account.held_bytes;
  tenant.did = row.counters;
  return tenant;
}

StoreStats LogStore::stats_of(uint32_t tenant) const {
  StoreStats stats;
  for (const Slot& slot : slots_) {
    if (slot.log == nullptr) continue;
    stats.drives.push_back(facts_of(slot));
    stats.recovered_blocks += slot.recovered_blocks;
    stats.recovered_segments += slot.sealed;
    stats.scanned_segments += slot.scanned;
  }
  stats.recovery_seconds = recovery_seconds_;
  stats.slab_bytes = slab_.total_bytes();
  const Tenants::Row* row = tenants_.find(tenant);
  stats.tenants.push_back(figures_of(tenant, row == nullptr ? Tenants::Row() : *row));
  return stats;
}

bool LogStore::forget_tenant(uint32_t tenant) {
  if (cache_.bytes_of(tenant) > 0 || !tenants_.forget(tenant)) return false;
  cache_.forget(tenant);
  tenant_table_.release(tenant);
  return true;
}

uint32_t LogStore::next_tenant(uint32_t from) const {
  const auto found = tenants_.rows().lower_bound(from);
  return found == tenants_.rows().end() ? UINT32_MAX : found->first;
}

StoreStats LogStore::stats() const {
  StoreStats stats = counters_;
  for (const Slot& slot : slots_) {
    if (slot.log == nullptr) continue;
    const DriveLog& log = *slot.log;
    const LogCounters& counters = log.counters;
    DriveStats drive = facts_of(slot);
    for (const Segment& segment : log.segments()) {
      drive.segments_free += segment.state == SegmentState::free ? 1 : 0;
      drive.segments_sealed += segment.state == SegmentState::sealed ? 1 : 0;
      drive.blocks += segment.blocks;
      drive.payload_bytes += segment.payload_bytes;
    }
    CAIRN_CHECK(log.free_segments() <= drive.segments_free, "a segment is to be used again that is in use");
    CAIRN_CHECK(log.sealed().size() == drive.segments_sealed || slot.loader != nullptr || slot.set_aside,
                "a sealed segment would never be given up");
    drive.read_bytes = counters.read_bytes;
    drive.written_bytes = counters.written_bytes;
    drive.put_bytes = counters.put_bytes;
    drive.reads = counters.reads;
    drive.writes = counters.writes;
    drive.flushes = counters.flushes;
    drive.evicted_segments = counters.evicted_segments;
    drive.evicted_blocks = counters.evicted_blocks;
    drive.moved_blocks = counters.moved_blocks;
    drive.moved_bytes = counters.moved_bytes;
    drive.discarded_bytes = counters.discarded_bytes;
    if (slot.scrubber != nullptr) slot.scrubber->tell(drive);
    stats.recovered_blocks += slot.recovered_blocks;
    stats.recovered_segments += slot.sealed;
    stats.scanned_segments += slot.scanned;
    stats.drives.push_back(std::move(drive));
  }
  uint64_t cached_bytes = 0;
  for (const auto& [number, row] : tenants_.rows()) {
    TenantStats tenant = figures_of(number, row);
    cached_bytes += tenant.cache_bytes;
    stats.blocks += tenant.blocks;
    stats.payload_bytes += tenant.payload_bytes;
    stats.tenants.push_back(std::move(tenant));
  }
  CAIRN_CHECK(stats.blocks <= index_.size(), "tenants hold more blocks than the index");
  CAIRN_CHECK(cached_bytes == cache_.bytes(), "the cache holds other bytes than its tenants");
  CAIRN_CHECK(slab_.free_bytes() <= slab_.total_bytes(), "more of the slab is free than there is");
  stats.cache_bytes = cache_.bytes();
  stats.cache_blocks = cache_.blocks();
  stats.slab_bytes = slab_.total_bytes();
  stats.slab_free_bytes = slab_.free_bytes();
  stats.index_entries = index_.size();
  stats.index_bytes =
      index_.memory_bytes() + keyspaces_.memory_bytes() + scopes_.memory_bytes() + groups_.memory_bytes();
  stats.groups = groups_.size();
  stats.leases = leases_.blocks();
  stats.events = next_event_ - 1;
  stats.forgotten = tenants_.forgotten();
  stats.recovery_seconds = recovery_seconds_;
  members_->tell(stats);
  return stats;
}

}  // namespace cairn
