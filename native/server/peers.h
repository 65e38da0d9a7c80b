// What each host has of the service's sessions, so that one of them does not take all. One reactor thread.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

namespace cairn {

// A host is the address that its packets come from. One without an address (shm) is not counted, and everything is
// allowed to it.
class Peers {
 public:
  // `sessions_most`: of one host; so many connections that have not said hello, too.
  explicit Peers(uint64_t sessions_most);
  uint64_t sessions_most() const { return sessions_most_; }

  // Whether one connection more may come. A connection may be about to join a session, so a host that has all the
  // sessions it may have has room for the lanes of one.
  bool may_come(const std::string& host) const;
  bool may_open(const std::string& host) const;  // … one session more

  // Each call of the first of two is followed by one of the second.
  void came(const std::string& host);   // a connection that has not said hello
  void heard(const std::string& host);  // it has, or it is over
  void opened(const std::string& host);
  void closed(const std::string& host);

  bool empty() const { return rows_.empty(); }

 private:
  struct Row {
    uint64_t sessions = 0, half_open = 0;
  };
  Row row_of(const std::string& host) const;
  void take_from(const std::string& host, uint64_t Row::* figure);

  uint64_t sessions_most_;
  std::unordered_map<std::string, Row> rows_;  // of hosts that have something
};

}  // namespace cairn
