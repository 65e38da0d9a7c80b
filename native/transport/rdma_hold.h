// Keeps an RDMA device open, and knows when the system has taken it away.
//
// librdmacm opens a device for the first id on it. One that was taken away it closes with the last, as soon as it
// knows, and frees what everything of ours on it points to: queues, domains and registrations that end later would
// reach there.
#pragma once

#include <cerrno>
#include <memory>

#include "transport/verbs.h"

namespace cairn {

// Whether something of a device has ended. A device that was taken away has ended everything on it, and says EIO.
inline bool has_ended(int code) {
  return code == 0 || code == EIO || code == ENODEV;
}

class RdmaHold {
 public:
  // Of the device that the connection of `id` uses.
  static Result<std::unique_ptr<RdmaHold>> create(const Verbs& verbs, rdma_cm_id* id);
  ~RdmaHold();
  RdmaHold(const RdmaHold&) = delete;
  RdmaHold& operator=(const RdmaHold&) = delete;

  ibv_context* context() const { return id_->verbs; }
  // The system took it away: nothing on it works any more, or ever will.
  bool gone();

 private:
  explicit RdmaHold(const Verbs& verbs) : verbs_(verbs) {}
  const Verbs& verbs_;
  rdma_event_channel* events_ = nullptr;
  rdma_cm_id* id_ = nullptr;
  bool gone_ = false;
};

// Also when what it told of was not ended, because its device was taken away: a program does not run out of
// descriptors.
void end_channel(const Verbs& verbs, ibv_comp_channel* channel);

}  // namespace cairn
