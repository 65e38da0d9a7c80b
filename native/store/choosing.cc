// Which segment a drive gives up next.
#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "store/evictor.h"

namespace cairn {

bool LogStore::Evictor::may_choose(uint32_t index, uint32_t pressure) const {
  const Segment& one = log_.segments()[index];
  if (one.generation == 0 || one.pins > 0) return false;
  const auto passed = passed_over_.find(index);
  return passed == passed_over_.end() || passed->second.generation != one.generation ||
         passed->second.pressure < pressure || passed->second.until_ms <= store_.clock_.now_ms();
}

bool LogStore::Evictor::choose_of(uint32_t owner, uint32_t& segment) const {
  for (const uint32_t index : log_.sealed()) {
    if (log_.segments()[index].owner != owner || !may_choose(index, kPressureMost)) continue;
    segment = index;
    return true;
  }
  return false;
}

// The oldest that gives at least a quarter of a segment. Where none does, those within their shares are protected less,
// in the end not at all: what is moved stays within bounds, and there is always something to give.
bool LogStore::Evictor::choose_shared(uint32_t& segment) {
  const uint64_t most = log_.superblock().segment_bytes / kYieldPart * (kYieldPart - 1);
  for (pressure_ = 0; pressure_ <= kPressureMost; ++pressure_) {
    note_shares(pressure_);
    for (const uint32_t index : log_.sealed()) {
      const Segment& one = log_.segments()[index];
      if (one.owner != format::kSharedOwner || !may_choose(index, pressure_)) continue;
      uint64_t stays = 0;
      for (const auto& [tenant, bytes] : one.tenant_bytes) stays += bytes - std::min(bytes, spare_of(tenant));
      if (stays > most) continue;
      segment = index;
      return true;
    }
  }
  return false;
}

// Who holds less than three quarters of its share of the drive keeps what it has in shared segments: others that share
// them fill them up, and are to make room for it. Between that and the whole share nothing is moved: tenants that put
// alike would move each other's blocks for ever.
void LogStore::Evictor::note_shares(uint32_t pressure) {
  spare_.clear();
  protects_ = pressure < kPressureMost;
  if (!protects_) return;
  std::map<uint32_t, uint64_t> held;
  for (const Segment& one : log_.segments()) {
    for (const auto& [tenant, bytes] : one.tenant_bytes) held[tenant] += bytes;
    if (one.owner != format::kSharedOwner && one.blocks > 0) held[one.owner] += one.bytes_of(one.owner);
  }
  // Of the room, and not of what is live: who puts and gives up again would else take it from those who keep.
  const uint64_t all = (log_.segments().size() - kInUse) * log_.superblock().segment_bytes;
  uint64_t weights = 0;
  for (const auto& [tenant, bytes] : held) weights += store_.tenants_.at(tenant).options.weight;
  for (const auto& [tenant, bytes] : held) {
    const double share =
        static_cast<double>(all) * store_.tenants_.at(tenant).options.weight / static_cast<double>(weights);
    const auto kept = static_cast<uint64_t>(share * 3 / 4) >> pressure;
    spare_[tenant] = bytes - std::min(bytes, kept);
  }
}

uint64_t LogStore::Evictor::spare_of(uint32_t tenant) const {
  const auto found = spare_.find(tenant);
  return !protects_ ? UINT64_MAX : found == spare_.end() ? 0 : found->second;
}

bool LogStore::Evictor::choose_for_room(uint32_t& segment) {
  const uint64_t now = store_.clock_.unix_ms();
  for (const uint32_t index : log_.sealed()) {
    const Segment& one = log_.segments()[index];
    const bool expired = one.latest_expiry_ticks != UINT32_MAX && Index::expired(one.latest_expiry_ticks, now);
    if ((one.blocks > 0 && !expired) || !may_choose(index, kPressureMost)) continue;
    segment = index;  // nothing is lost with it
    note_shares(pressure_ = kPressureMost);
    return true;
  }
  // Who is furthest beyond its share of the drive gives its oldest; of those who share segments, all together.
  std::map<uint32_t, uint64_t> held;
  std::set<uint32_t> sharing;
  for (const Segment& one : log_.segments()) {
    if (one.state != SegmentState::free && one.generation > 0) ++held[one.owner];
    for (const auto& [tenant, bytes] : one.tenant_bytes) sharing.insert(tenant);
  }
  uint64_t weights = 0, segments = 0, shared_weight = 0;
  for (const uint32_t tenant : sharing) {
    // Who has segments of its own as well has its weight there.
    if (!held.contains(tenant)) shared_weight += store_.tenants_.at(tenant).options.weight;
  }
  const auto weight = [&](uint32_t owner) -> uint64_t {
    return owner == format::kSharedOwner ? std::max<uint64_t>(shared_weight, 1)
                                         : store_.tenants_.at(owner).options.weight;
  };
  for (const auto& [owner, count] : held) {
    CAIRN_CHECK(weight(owner) > 0, "a tenant's share of a drive is measured by no weight");
    weights += weight(owner);
    segments += count;
  }
  bool found = false;
  double most = 0;
  for (const auto& [owner, count] : held) {
    const double excess =
        static_cast<double>(count) - static_cast<double>(segments * weight(owner)) / static_cast<double>(weights);
    uint32_t oldest = 0;
    if (found && excess <= most) continue;
    if (owner == format::kSharedOwner) {
      if (!choose_shared(oldest)) continue;
    } else if (!choose_of(owner, oldest)) {
      continue;
    }
    found = true;
    most = excess;
    segment = oldest;
  }
  if (found) return true;
  // Segments that could not be read go last: they may be readable at the next start.
  for (const uint32_t index : log_.sealed()) {
    if (log_.segments()[index].generation > 0) continue;
    segment = index;
    return true;
  }
  // All that is left has to stay, but for what is in the segments that are being filled. If nothing was placed since
  // those were given up, whoever waits for room is told that there is none.
  if (std::exchange(put_bytes_before_, log_.counters.put_bytes) != log_.counters.put_bytes) {
    log_.seal_all();
    return false;
  }
  const bool pinned = std::any_of(log_.sealed().begin(), log_.sealed().end(),
                                  [this](uint32_t index) { return log_.segments()[index].pins > 0; });
  jammed_ = !log_.sealed().empty() && !pinned;
  if (jammed_) log_.refuse_waiting(Status::no_space);
  return false;
}

bool LogStore::Evictor::choose_any(uint32_t& segment) const {
  for (const uint32_t index : log_.sealed()) {
    if (log_.segments()[index].pins > 0) continue;
    segment = index;
    return true;
  }
  return false;
}

bool LogStore::Evictor::choose(uint32_t& segment) {
  draining_ = log_.state() == DriveState::draining;
  if (draining_) return choose_to_drain(segment);
  jammed_ = jammed_ && log_.wants_room();
  if (!log_.wants_room() || !choose_for_room(segment)) return false;
  jammed_ = false;
  return true;
}

bool LogStore::Evictor::choose_to_drain(uint32_t& segment) {
  if (choose_any(segment)) return true;
  uint64_t blocks = 0;
  for (const Segment& one : log_.segments()) blocks += one.blocks + one.writes + one.pins;
  if (blocks > 0) {
    log_.seal_all();
  } else if (log_.waiting_bytes() == 0) {
    log_.set_state(DriveState::drained);
  }
  return false;
}

}  // namespace cairn
