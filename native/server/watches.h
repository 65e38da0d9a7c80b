// Long polls while they wait: by session, by tenant, by deadline. One reactor thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "transport/transport.h"

namespace cairn {

class Session;

struct Watch {
  uint64_t request_id = 0;
  Session* session = nullptr;
  ServerLink* link = nullptr;
  uint32_t tenant = 0;
  uint64_t after = 0;
  uint32_t events_most = 0;
  uint64_t started_ns = 0;
  uint64_t deadline_ns = 0;
  bool due = false;      // to be answered as soon as its link has room
  size_t place = 0;      // among those of its tenant
  size_t due_place = 0;  // among those that are due
  uint64_t number = 0;   // of no other watch
};

class Watches {
 public:
  // The session has no request of that number.
  void add(const Watch& watch);
  // Destroys it.
  void remove(Watch& watch);
  // nullptr when the session has none of that number.
  Watch* find(const Session& session, uint64_t request_id) const;
  size_t of_session(const Session& session) const;
  size_t size() const { return deadlines_.size() + due_.size(); }

  void make_due(Watch& watch);
  // Those of the tenant that know less than `newest`.
  void make_due(uint32_t tenant, uint64_t newest);
  void make_due_until(uint64_t now_ns);
  // Until the first deadline of those that are not due; UINT64_MAX when there is none.
  uint64_t next_deadline_ns() const;

  // Some of those that are due, the next ones the next time: so many watches on links that take nothing in cost a turn
  // no more than a few do. What is called may remove.
  std::vector<Watch*> some_due();
  std::vector<Watch*> of_link(const Session& session, const ServerLink* link) const;

 private:
  using OfSession = std::unordered_map<uint64_t, std::unique_ptr<Watch>>;
  std::unordered_map<const Session*, OfSession> sessions_;  // only looked up, so that no order depends on addresses
  std::unordered_map<uint32_t, std::vector<Watch*>> tenants_;
  std::map<std::pair<uint64_t, uint64_t>, Watch*> deadlines_;  // of those that are not due, by time and number
  uint64_t next_number_ = 1;
  std::vector<Watch*> due_;
  size_t due_at_ = 0;
};

}  // namespace cairn
