#include "store/quotas.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>

namespace cairn {

namespace {

constexpr size_t kEntriesATurn = 512;  // some 50 µs
// What is given up beyond what is wanted, as a part of the quota: so a walk is not needed for every put.
constexpr uint64_t kBeyondPart = 16;

}  // namespace

// --- one walk --------------------------------------------------------------------------------------------

bool LogStore::Squeeze::satisfied() const {
  const Tenants::Row& tenant = store_.tenants_.at(tenant_);
  const uint64_t quota = tenant.options.quota_bytes;
  const uint64_t wanted = std::max(wanted_bytes_, walking_ ? quota / kBeyondPart : 0);
  return quota == 0 || tenant.payload_bytes + tenant.pending_bytes + wanted <= quota;
}

bool LogStore::Squeeze::ask(uint64_t bytes) {
  wanted_bytes_ = bytes;
  if (walking_ || satisfied()) return true;
  const Tenants::Row& tenant = store_.tenants_.at(tenant_);
  if (spent_ && !again_ && tenant.changes == seen_) {
    // Puts on their way can be given up once they are settled; what a group or a name took along leaves the index
    // little by little.
    return tenant.pending_bytes > 0 || store_.sweep_left_ > 0;
  }
  plan();
  return true;
}

void LogStore::Squeeze::plan() {
  CAIRN_CHECK(read_ == nullptr, "a tenant is walked for while a segment is read for it");
  walking_ = true;
  seen_ = store_.tenants_.at(tenant_).changes;
  spent_ = again_ = loaded_ = false;
  stops_.clear();
  stop_ = 0;
  for (const Slot& slot : store_.slots_) {
    if (slot.log == nullptr || !slot.log->readable()) continue;
    const auto& segments = slot.log->segments();
    for (uint32_t i = 0; i < segments.size(); ++i) {
      const Segment& one = segments[i];
      if (one.bytes_of(tenant_) > 0) stops_.push_back({slot.log->number(), i, one.generation, one.first_sequence});
    }
  }
  std::stable_sort(stops_.begin(), stops_.end(),
                   [](const Stop& a, const Stop& b) { return a.first_sequence < b.first_sequence; });
}

DriveLog& LogStore::Squeeze::stop_log() const {
  return *store_.slots_[stops_[stop_].drive].log;
}

// The drive may have gone since the walk began, and the segment may have been given up.
bool LogStore::Squeeze::still_there() const {
  const Stop& at = stops_[stop_];
  const DriveLog* log = store_.slots_[at.drive].log.get();
  return log != nullptr && log->readable() && at.segment < log->segments().size() &&
         log->segment(at.segment).generation == at.generation && log->segment(at.segment).bytes_of(tenant_) > 0;
}

bool LogStore::Squeeze::load() {
  const Stop& at = stops_[stop_];
  if (read_ != nullptr) {
    read_->poll();
    if (!read_->done()) return false;
    entries_ = std::move(read_->found().entries);
    read_.reset();
  } else {
    entries_.clear();
    if (still_there()) {
      const Segment& one = stop_log().segment(at.segment);
      if (!one.entries.empty()) {
        entries_ = one.entries;  // it fills, or has no summary: they are all in memory
      } else if (one.generation > 0 && !stopped_) {
        FoundSegment known;
        known.index = at.segment;
        known.segment = one;
        read_ = std::make_unique<SegmentRead>(stop_log().drive(), stop_log().superblock(), std::move(known));
        return false;
      }
    }
  }
  loaded_ = true;
  entry_ = 0;
  return true;
}

void LogStore::Squeeze::poll() {
  if (!walking_) return;
  for (size_t left = kEntriesATurn; left > 0; --left) {
    if (read_ == nullptr && (satisfied() || stopped_)) {
      walking_ = false;
      return;
    }
    if (stop_ == stops_.size()) {
      walking_ = false;
      spent_ = true;
      return;
    }
    if (!loaded_ && !load()) return;
    if (entry_ < entries_.size()) {
      judge(entries_[entry_++]);
      continue;
    }
    // What was moved out of it, or placed there after the walk began, is met next time.
    again_ |= store_.slots_[stops_[stop_].drive].log != nullptr && !still_there();
    loaded_ = false;
    entries_ = {};
    ++stop_;
  }
}

void LogStore::Squeeze::judge(const format::SummaryEntry& entry) {
  if (entry.type != format::RecordType::block || entry.tenant != tenant_ || !still_there()) return;
  const BlockId id{entry.key, entry.layout, entry.tenant};
  const Stop& at = stops_[stop_];
  const Place here{at.drive, at.segment, entry.page, stop_log().segment(at.segment).use};
  const Index::Entry* live = store_.find_part(id, entry.part);
  if (live == nullptr || !(live->place() == here)) return;
  const uint64_t birth = live->birth;
  const Index::Entry* head = store_.find_part(id, 0);
  if (head == nullptr || head->birth != birth) {
    // Part of a block of which the first is gone: nobody will ask for it.
    Index::Entry* orphan = store_.find_part(id, entry.part);
    if (orphan == nullptr || !(orphan->place() == here)) return;
    store_.note_ghost(stop_log(), at.segment, id);
    return store_.drop_entry(*orphan);
  }
  if (store_.leased(id, *head)) return;
  if (store_.moving_.contains(id) || store_.pending_.contains(id)) {
    again_ = true;
    return;
  }
  store_.forget(id, Gone::evicted);
}

// --- who waits -------------------------------------------------------------------------------------------

bool LogStore::over_quota(const PutOp& op) {
  const Tenants::Row& tenant = tenants_.at(op.id.tenant);
  return tenant.options.quota_bytes != 0 &&
         tenant.payload_bytes + tenant.pending_bytes + op.length > tenant.options.quota_bytes;
}

bool LogStore::squeeze(const PutOp& op) {
  std::unique_ptr<Squeeze>& walk = squeezes_[op.id.tenant];
  if (walk == nullptr) walk = std::make_unique<Squeeze>(*this, op.id.tenant);
  return walk->ask(op.length);
}

void LogStore::turn_quotas() {
  for (auto& [tenant, walk] : squeezes_) walk->poll();
  if (!quota_waiting_.empty()) feed_quota();
  std::erase_if(squeezes_,
                [this](const auto& one) { return !one.second->reading() && !quota_waits_.contains(one.first); });
}

// Whose tenant is within its quota again goes on; whose tenant has nothing to give up is refused. Of one tenant's, in
// the order in which they came.
void LogStore::feed_quota() {
  if (std::exchange(feeding_quota_, true)) return;
  quota_waits_.clear();
  for (size_t i = 0; i < quota_waiting_.size();) {
    PutOp& op = *quota_waiting_[i];
    const uint32_t tenant = op.id.tenant;
    const bool over = over_quota(op);
    if (quota_waits_.contains(tenant) || (over && squeeze(op))) {
      quota_waits_.insert(tenant);
      ++i;
      continue;
    }
    // Callbacks may add and cancel others: from the beginning again.
    quota_waiting_.erase(quota_waiting_.begin() + static_cast<long>(i));
    quota_waits_.clear();
    i = 0;
    if (over) {
      answer_put(op, Status::quota_exceeded);
    } else {
      start_put(op);
    }
  }
  feeding_quota_ = false;
}

}  // namespace cairn
