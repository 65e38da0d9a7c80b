#include "transport/rdma_memory.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace cairn {
namespace {

Verbs answering(int (*deregister)(ibv_mr*)) {
  Verbs verbs{};
  verbs.dereg_mr = deregister;
  return verbs;
}

// A device that the system took away has ended all registrations itself, and says EIO when somebody else does. An
// engine that had registered memory with it ended for that.
TEST(RdmaMemory, OfADeviceThatWasTakenAwayEndsWithoutAWord) {
  for (auto* deregister : {+[](ibv_mr*) { return EIO; }, +[](ibv_mr*) { return ENODEV; }}) {
    const Verbs verbs = answering(deregister);
    ibv_mr region{};
    RdmaMemory memory(verbs, &region);
    memory = RdmaMemory();
  }
}

// An engine ended for what its device said, though all that had to end was the connection that might use the memory.
TEST(RdmaMemory, ThatADeviceDoesNotGiveUpIsToldAndNoAbort) {
  const Verbs verbs = answering([](ibv_mr*) { return EBUSY; });
  ibv_mr region{};
  RdmaMemory memory(verbs, &region);
  EXPECT_FALSE(memory.end());
  EXPECT_FALSE(memory);
  const RdmaMemory forgotten(verbs, &region);
}

}  // namespace
}  // namespace cairn
