// What the store tells of itself.
#include "store/loader.h"
#include "store/log_store.h"
#include "store/members.h"
#include "store/scrubber.h"

namespace cairn {

StoreStats LogStore::stats() const {
  StoreStats stats = counters_;
  for (const Slot& slot : slots_) {
    if (slot.log == nullptr) continue;
    const DriveLog& log = *slot.log;
    DriveStats drive;
    const LogCounters& counters = log.counters;
    drive.path = log.drive().info().path;
    drive.fixed_buffers = log.drive().info().fixed_buffers;
    drive.uuid = uuid_text(log.superblock().drive);
    drive.state = name_of(log.state());
    drive.reason = log.why_failed();
    drive.bytes = log.superblock().total_bytes;
    drive.segment_bytes = log.superblock().segment_bytes;
    drive.segments = log.segments().size();
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
    drive.read_errors = counters.read_errors;
    drive.write_errors = counters.write_errors;
    drive.checksum_errors = counters.checksum_errors;
    drive.evicted_segments = counters.evicted_segments;
    drive.evicted_blocks = counters.evicted_blocks;
    drive.moved_blocks = counters.moved_blocks;
    drive.moved_bytes = counters.moved_bytes;
    drive.discarded_bytes = counters.discarded_bytes;
    drive.oldest_sequence = log.evicted_sequence == 0 ? 0 : log.evicted_sequence + 1;
    drive.distrusted = !slot.trusted;
    drive.loaded_share = slot.loader == nullptr ? 1 : slot.loader->share();
    if (slot.scrubber != nullptr) slot.scrubber->tell(drive);
    stats.recovered_blocks += slot.recovered_blocks;
    stats.recovered_segments += slot.sealed;
    stats.scanned_segments += slot.scanned;
    stats.drives.push_back(std::move(drive));
  }
  uint64_t cached_bytes = 0;
  for (const auto& [number, row] : tenants_.rows()) {
    CAIRN_CHECK(row.payload_bytes >= row.blocks, "a tenant holds blocks of no bytes");
    TenantStats tenant;
    tenant.number = number;
    tenant.name = row.options.name;
    tenant.quota_bytes = row.options.quota_bytes;
    tenant.weight = row.options.weight;
    tenant.blocks = row.blocks;
    tenant.payload_bytes = row.payload_bytes;
    tenant.cache_bytes = cache_.bytes_of(number);
    cached_bytes += tenant.cache_bytes;
    tenant.leased_bytes = row.leased_bytes;
    tenant.puts = row.counters.puts;
    tenant.put_bytes = row.counters.put_bytes;
    tenant.gets = row.counters.gets;
    tenant.hits = row.counters.hits;
    tenant.get_bytes = row.counters.get_bytes;
    tenant.deletes = row.counters.deletes;
    tenant.evicted_blocks = row.counters.evicted_blocks;
    tenant.evicted_bytes = row.counters.evicted_bytes;
    tenant.expired_blocks = row.counters.expired_blocks;
    tenant.refused_quota = row.counters.refused_quota;
    tenant.refused_admission = row.counters.refused_admission;
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
  stats.recovery_seconds = recovery_seconds_;
  members_->tell(stats);
  return stats;
}

}  // namespace cairn
