// A delete on its way: it has to end even when the client that asked is gone.
#pragma once

#include <cstdint>

#include "server/reactor.h"

namespace cairn {

class Reactor::RemoveTask final : public DeleteOp {
 public:
  RemoveTask(Reactor& reactor, uint64_t number, ServerLink& link, Share& share, const FrameHeader& header)
      : reactor_(reactor),
        number_(number),
        link_(&link),
        share_(share),
        header_(header),
        started_ns_(reactor.clock_.now_ns()) {}
  void done() override;
  void forget(const ServerLink* link) {
    if (link_ == link) link_ = nullptr;
  }

 private:
  Reactor& reactor_;
  uint64_t number_;
  ServerLink* link_;
  Share& share_;  // its tenant's
  FrameHeader header_;
  uint64_t started_ns_;
};

}  // namespace cairn
