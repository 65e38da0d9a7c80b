// What became of blocks, kept for those who watch: per tenant a ring of its newest events, numbered from 1 without
// gaps since the service's start. A tenant's numbers say nothing about what others do. One reactor thread.
//
// Bounds: kEventsMost events in a ring, kRingsMost rings. Beyond that the ring that was written least recently is
// emptied; its tenant's numbers go on where they were, so that a reader sees how many events it missed. Of a tenant
// without a ring nothing but that number is kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <unordered_map>
#include <vector>

#include "store/store.h"
#include "wire/frame.h"

namespace cairn {

class EventLog final : public EventSink {
 public:
  static constexpr size_t kRingsMost = 1024;

  explicit EventLog(size_t rings_most = kRingsMost) : rings_most_(rings_most) {
    CAIRN_CHECK(rings_most_ > 0, "a log of events that may keep none");
  }

  // Events of one tenant go to its ring, those of drives to every tenant's that is known. Allocates nothing once a
  // ring is full.
  void on_event(const StoreEvent& event) override;

  // From now on the tenant is told of drives, whether it has had an event or not.
  void know(uint32_t tenant);
  // Lets go of a tenant that nobody asks for. If it comes back its numbers begin behind `floor`, which is no less than
  // any that it had, so that a reader who was away sees that it missed some. False: it was not told of its newest
  // events yet.
  bool forget(uint32_t tenant, uint64_t floor);
  // The oldest event that is kept and the newest there was; oldest is newest + 1 when none is kept.
  EventsBody range(uint32_t tenant) const;
  uint64_t newest(uint32_t tenant) const;
  // Appends the events behind `after`, oldest first, at most `most`.
  void read(uint32_t tenant, uint64_t after, uint32_t most, std::vector<EventBody>& out) const;
  bool any_fresh() const { return !fresh_.empty(); }
  // Calls `told(tenant)` once for every tenant that had an event since the last call. It may not add events.
  template <class Told>
  void for_each_fresh(Told told) {
    const size_t count = fresh_.size();
    for (Row* row : fresh_) {
      CAIRN_CHECK(row->fresh, "a tenant is told twice of the same events");
      row->fresh = false;
      told(row->tenant);
    }
    CAIRN_CHECK(fresh_.size() == count, "who was told of events added some");
    fresh_.clear();
  }

 private:
  struct Row {
    uint32_t tenant = 0;
    bool fresh = false;
    bool has_ring = false;
    uint64_t newest = 0;
    uint64_t before = 0;          // number of the last event before the ring was begun
    std::vector<EventBody> ring;  // event n lies at (n - before - 1) % kEventsMost
    std::list<Row*>::iterator place;
  };
  static void check(const Row& row);
  Row& row_of(uint32_t tenant);
  void begin_ring(Row& row);
  void append(Row& row, EventBody event);
  static uint64_t oldest_of(const Row& row) {
    check(row);
    return row.newest - row.ring.size() + 1;
  }

  size_t rings_most_;
  uint64_t floor_ = 0;                      // numbers of tenants that are new begin behind it
  std::unordered_map<uint32_t, Row> rows_;  // rows keep their addresses
  std::list<Row*> rings_;                   // rows with a ring, the least recently written first
  std::vector<Row*> fresh_;
};

}  // namespace cairn
