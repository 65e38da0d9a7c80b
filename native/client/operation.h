// One batch of a caller while it is in flight.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "client/gpu.h"
#include "wire/frame.h"

namespace cairn {

struct ByteRange {
  uint64_t offset = 0;
  uint64_t length = 0;  // 0: to the end
};

// The caller fills in the first part and hands it to Client::submit(); after that only the client touches
// it until done() is true. The memory behind `parts` stays valid until then.
class Operation {
 public:
  // --- in ---
  FrameType type = FrameType::get;  // any request: put to watch
  uint64_t layout = 0;
  Durability durability = Durability::durable;
  uint64_t ttl_ms = 0;
  GroupId group{};
  uint16_t group_members = 0;         // put
  Scope scope = 0;                    // put; remove of a scope
  uint8_t delete_kind = kRemoveKeys;  // remove; for any other kind there is one key (frame.h)
  uint64_t duration_ms = 0;           // lease
  uint64_t after = kWatchFromNow;     // watch
  uint32_t events_most = 0;           // watch; 0: as many as there may be
  uint32_t deadline_ms = 0;           // 0: kDeadlineMsDefault
  std::vector<Key> keys;
  // put, get: the memory of item i is parts[part_first[i]] … parts[part_first[i + 1] - 1], joined.
  std::vector<iovec> parts;
  std::vector<uint32_t> part_first;
  // Where parts[i] lies: the number of a GPU, or kHostMemory. Empty: all of it is host memory, as far as the caller
  // knows; what lies in a registered region of a GPU is found out.
  std::vector<int> gpus;
  std::vector<ByteRange> ranges;  // get; empty: whole blocks

  // --- out, valid once done ---
  std::vector<Status> statuses;
  std::vector<uint64_t> lengths;
  std::vector<uint64_t> sequences;
  uint64_t matched = 0;
  std::string text;
  EventsView events;                    // watch
  std::array<uint8_t, 16> server_id{};  // watch: which life of the service answered
  uint64_t id = 0;                      // set by submit()

  std::span<const iovec> memory(uint32_t item) const {
    CAIRN_CHECK(item + size_t{1} < part_first.size(), "memory is asked for of an item that has none");
    CAIRN_CHECK(part_first[item] <= part_first[item + 1], "the memory of an item ends before it begins");
    CAIRN_CHECK(part_first[item + 1] <= parts.size(), "an item has memory that was not given to the operation");
    return std::span(parts).subspan(part_first[item], part_first[item + 1] - part_first[item]);
  }
  uint64_t room(uint32_t item) const {
    uint64_t sum = 0;
    for (const iovec& part : memory(item)) sum += part.iov_len;
    return sum;
  }
  // Of memory(item), part by part; empty when all of the operation's memory is the host's.
  std::span<const int> gpus_of(uint32_t item) const {
    if (gpus.empty()) return {};
    CAIRN_CHECK(gpus.size() == parts.size(), "it is known of some parts of an operation's memory only where they are");
    return std::span(gpus).subspan(part_first[item], part_first[item + 1] - part_first[item]);
  }
  bool on_gpu(uint32_t item) const {
    const auto places = gpus_of(item);
    return std::any_of(places.begin(), places.end(), [](int gpu) { return gpu != kHostMemory; });
  }
  bool moves_payload() const { return type == FrameType::put || type == FrameType::get; }

  // Nothing reads or writes the memory any more, and what is `out` stays as it is. Any thread, without a lock.
  bool done() const { return state_.load(std::memory_order_acquire) == State::done; }

 private:
  friend class Client;
  enum class State : uint8_t { open, fencing, done };
  std::atomic<State> state_ = State::open;
  std::vector<bool> settled_;
  uint32_t unsettled_ = 0;
  uint64_t due_ns_ = 0;           // deadline; while fencing, when the fence gives up waiting
  Status why_ = Status::timeout;  // what unsettled items become when the fence is done
  std::vector<uint32_t> crcs_;    // put; of items on a GPU, once they were copied
};

}  // namespace cairn
