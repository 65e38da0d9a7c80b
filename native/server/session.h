// What the service knows of one client. Reactor thread only.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/request.h"
#include "server/ring.h"
#include "transport/transport.h"

namespace cairn {

struct Share;

class Session {
 public:
  uint64_t id = 0;
  uint64_t holder = 0;  // whose its leases are: of all sessions of its name, or its own if it has none
  SessionTag tag{};
  std::string tenant;
  std::string name;
  std::string host;  // of its first lane: whose limit it counts for
  uint32_t tenant_id = 0;
  std::vector<ServerLink*> lanes;
  std::unordered_map<uint64_t, std::unique_ptr<Request>> requests;
  std::deque<Request*> queue;  // requests with items that were not started
  uint64_t window_used = 0;    // payload bytes in flight
  uint64_t items_open = 0;
  // Of shares.h.
  Share* share = nullptr;  // its tenant
  RingLink<Session> ready_link;
  int64_t deficit_bytes = 0;
  bool parked = false;  // its window is full
};

// What the reactor keeps beside each link.
struct LinkState {
  std::unique_ptr<ServerLink> link;
  Session* session = nullptr;  // nullptr until the hello
  uint64_t opened_ns = 0;
  uint64_t last_frame_ns = 0;
  uint64_t moved_bytes = 0;  // at the last look
  uint64_t moved_ns = 0;     // when it last grew
  bool writable_wanted = false;
  bool touched = false;
  bool awake = false;      // of a polled link: it is looked at every turn
  uint64_t active_ns = 0;  // … and since then nothing moved
  bool trimmed = true;     // … for so long that it gave memory back
  bool half_open = false;  // it counts for its host's limit as a connection without a session
  bool leaving = false;    // it was refused: what goes to it still goes, what comes is not heard
  uint64_t left_ns = 0;    // … since then
  bool dead = false;
};

}  // namespace cairn
