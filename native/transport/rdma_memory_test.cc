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

TEST(RdmaMemoryDeathTest, ThatSomebodyStillUsesIsNotLetGoOf) {
  const Verbs verbs = answering([](ibv_mr*) { return EBUSY; });
  ibv_mr region{};
  EXPECT_DEATH({ RdmaMemory memory(verbs, &region); }, "memory is let go of while a window is bound to it");
}

}  // namespace
}  // namespace cairn
