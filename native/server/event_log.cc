#include "server/event_log.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace cairn {

namespace {

EventBody body_of(const StoreEvent& event) {
  EventBody body;
  body.unix_ms = event.unix_ms;
  body.sequence = event.sequence;
  body.key = event.id.key;
  body.group = event.group;
  body.layout = event.id.layout;
  body.scope = event.scope;
  body.kind = static_cast<uint8_t>(event.kind);
  return body;
}

static_assert(sizeof(StoreEvent::Kind) == sizeof(EventBody::kind), "a kind of event is cut off on the link");
static_assert(static_cast<uint8_t>(StoreEvent::Kind::stored) == 1, "kinds of events have other numbers on the link");
static_assert(static_cast<uint8_t>(StoreEvent::Kind::dropped) == 5, "kinds of events have other numbers on the link");
static_assert(static_cast<uint8_t>(StoreEvent::Kind::group_deleted) == 16, "deletes have other numbers on the link");
static_assert(static_cast<uint8_t>(StoreEvent::Kind::tenant_deleted) == 19, "deletes have other numbers on the link");
static_assert(static_cast<uint8_t>(StoreEvent::Kind::drive_lost) == 32, "drives have other numbers on the link");

bool is_of_a_drive(StoreEvent::Kind kind) {
  return kind == StoreEvent::Kind::drive_lost || kind == StoreEvent::Kind::drive_loaded;
}

}  // namespace

// The ring holds the events behind `before`, without a gap, as far as there is room.
void EventLog::check(const Row& row) {
  CAIRN_CHECK(row.before <= row.newest, "a ring of events began in the future");
  CAIRN_CHECK(row.has_ring || row.ring.empty(), "a tenant whose ring was given up still has events in it");
  CAIRN_CHECK(!row.has_ring || row.ring.size() == std::min<uint64_t>(row.newest - row.before, kEventsMost),
              "a ring of events has a gap");
}

void EventLog::on_event(const StoreEvent& event) {
  CAIRN_CHECK(event.kind != StoreEvent::Kind{}, "an event of no kind");
  const EventBody body = body_of(event);
  if (!is_of_a_drive(event.kind)) {
    Row& row = row_of(event.id.tenant);
    if (!row.has_ring) begin_ring(row);
    return append(row, body);
  }
  for (auto& [tenant, row] : rows_) append(row, body);
}

void EventLog::know(uint32_t tenant) {
  Row& row = row_of(tenant);
  if (!row.has_ring) begin_ring(row);
}

EventsBody EventLog::range(uint32_t tenant) const {
  const auto found = rows_.find(tenant);
  if (found == rows_.end()) return {floor_ + 1, floor_, 0};
  return {oldest_of(found->second), found->second.newest, 0};
}

uint64_t EventLog::newest(uint32_t tenant) const {
  const auto found = rows_.find(tenant);
  return found == rows_.end() ? floor_ : found->second.newest;
}

bool EventLog::forget(uint32_t tenant, uint64_t floor) {
  const auto found = rows_.find(tenant);
  if (found == rows_.end()) return true;
  Row& row = found->second;
  if (row.fresh) return false;
  floor_ = std::max({floor_, floor, row.newest});
  if (row.has_ring) rings_.erase(row.place);
  rows_.erase(found);
  return true;
}

void EventLog::read(uint32_t tenant, uint64_t after, uint32_t most, std::vector<EventBody>& out) const {
  const auto found = rows_.find(tenant);
  if (found == rows_.end() || after >= found->second.newest) return;
  const Row& row = found->second;
  const uint64_t first = std::max(after + 1, oldest_of(row));
  const uint64_t count = std::min<uint64_t>(row.newest - first + 1, most);
  CAIRN_CHECK(first > row.before, "events are read from before the ring was begun");
  CAIRN_CHECK(count <= row.ring.size(), "more events are read than the ring holds");
  for (uint64_t number = first; number < first + count; ++number)
    out.push_back(row.ring[(number - row.before - 1) % kEventsMost]);
}

EventLog::Row& EventLog::row_of(uint32_t tenant) {
  const auto [found, fresh] = rows_.try_emplace(tenant);
  Row& row = found->second;
  row.tenant = tenant;
  if (fresh) row.newest = row.before = floor_;
  return row;
}

void EventLog::begin_ring(Row& row) {
  CAIRN_CHECK(!row.has_ring, "a tenant is given a second ring");
  CAIRN_CHECK(row.ring.empty(), "a tenant without a ring has events in one");
  if (rings_.size() >= rings_most_) {
    Row& oldest = *rings_.front();
    CAIRN_CHECK(oldest.has_ring, "a ring is taken from a tenant that has none");
    CAIRN_CHECK(oldest.place == rings_.begin(), "the ring that was written least recently is not where it says");
    rings_.pop_front();
    oldest.has_ring = false;
    oldest.ring = {};
  }
  row.has_ring = true;
  row.before = row.newest;
  row.place = rings_.insert(rings_.end(), &row);
  CAIRN_CHECK(rings_.size() <= rings_most_, "more rings of events are kept than there may be");
}

// A row without a ring counts the event and keeps nothing: its readers see that they missed one.
void EventLog::append(Row& row, EventBody event) {
  event.number = ++row.newest;
  if (row.has_ring) {
    CAIRN_CHECK(*row.place == &row, "an event is written to the ring of another tenant");
    rings_.splice(rings_.end(), rings_, row.place);
    if (row.ring.size() < kEventsMost) {
      row.ring.push_back(event);
    } else {
      row.ring[(event.number - row.before - 1) % kEventsMost] = event;
    }
  }
  check(row);
  if (row.fresh) return;
  row.fresh = true;
  fresh_.push_back(&row);
}

}  // namespace cairn
