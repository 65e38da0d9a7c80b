// The completion queues of a device of the service, behind one event.
//
// A queue that overflows breaks every link on it: each link is given its room before it begins. A device may cap what
// one queue holds (soft-RoCE: 32,767), and then there are several.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "transport/verbs.h"

namespace cairn {

class Completions {
 public:
  static Result<std::unique_ptr<Completions>> create(const Verbs& verbs, ibv_context* context, uint32_t entries_most);
  ~Completions();  // no queue pair is left on any of them
  Completions(const Completions&) = delete;
  Completions& operator=(const Completions&) = delete;

  int event_fd() const { return channel_->fd; }

  // Room for `more` receives to be outstanding, on whatever queue they complete. False: there is none.
  bool reserve_receives(uint32_t more);
  void release_receives(uint32_t fewer);
  // The queue of a link with so many requests in flight; nullptr: there is no room for it.
  ibv_cq* reserve_work(uint32_t requests);
  void release_work(const ibv_cq* queue, uint32_t requests);

  // What is complete, from whichever queue has something; less than `done` holds: nothing is left. `broken` becomes
  // true when the device does not even tell.
  size_t poll(std::span<ibv_wc> done, bool& broken);
  // Asks for an event of the next completion. Look again after it: what came before makes none.
  void arm();
  bool armed() const { return unarmed_ == 0; }
  // Whether there was an event.
  bool clear_event();

 private:
  struct Queue {
    ibv_cq* handle;
    uint64_t work;  // requests that may be in flight on it
    bool armed;
  };
  Completions(const Verbs& verbs, ibv_context* context, uint32_t entries_most)
      : verbs_(verbs), context_(context), entries_most_(entries_most) {}
  bool add_queue(uint64_t entries);
  // Of a queue; the rest is for receives, which may come to be more when all queues are there.
  uint64_t work_most() const { return entries_most_ / 2; }
  bool has_room(const Queue& queue, uint64_t entries) const;

  const Verbs& verbs_;
  ibv_context* context_;
  uint64_t entries_most_;  // of a queue
  ibv_comp_channel* channel_ = nullptr;
  std::vector<Queue> queues_;
  size_t unarmed_ = 0;
  size_t next_ = 0;        // to be looked at
  uint64_t receives_ = 0;  // any of the queues may get them all
};

}  // namespace cairn
