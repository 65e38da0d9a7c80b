// What the service knows of one client. Reactor thread only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/ring.h"
#include "server/request.h"
#include "transport/transport.h"

namespace cairn {

struct Share;

// A batch of keys of which some are answered and the rest wait for their link's next turn; or a delete that waits for
// those before it.
struct Unfinished {
  FrameHeader header;
  BatchView batch;
  std::vector<Status> statuses;
  size_t next = 0;
  uint64_t started_ns = 0;
};

// How far a peer had got with what it owes, and since when.
struct DueState {
  uint64_t done = 0;
  uint64_t since_ns = 0;
};

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
  uint64_t request_bytes = 0;  // of memory that its open requests take, apart from payload
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
  std::array<DueState, kDueKinds> dues;  // at the last look
  uint64_t queued_bytes = 0;             // … at that output
  // Of work.h.
  RingLink<LinkState> asking_link;
  int64_t work_left_ns = 0;
  uint64_t work_turn = 0;
  std::unique_ptr<Unfinished> unfinished;
  RingLink<LinkState> delete_link;  // of its tenant's links whose delete waits for others
  bool paused = false;              // its peer takes in too little of what it asked for: it is not heard until it does
  bool writable_wanted = false, readable_wanted = true;
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
