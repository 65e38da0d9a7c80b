// Work of other threads is done in order, once, on the owner's thread, or not at all.
#include "server/mailbox.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace cairn {
namespace {

TEST(Mailbox, RunsOnTheOwnersThreadAndWaitsForTheResult) {
  Mailbox mailbox;
  std::atomic<bool> stop{false};
  std::thread::id owner_id;
  std::thread owner([&] {
    owner_id = std::this_thread::get_id();
    while (!stop) mailbox.serve();
    mailbox.close();
  });
  std::vector<std::thread> askers;
  std::atomic<int> done{0};
  for (int i = 0; i < 8; ++i) {
    askers.emplace_back([&] {
      for (int k = 0; k < 100; ++k) {
        std::thread::id ran_on;
        EXPECT_TRUE(mailbox.run([&] { ran_on = std::this_thread::get_id(); }, [] {}));
        EXPECT_EQ(ran_on, owner_id);
        ++done;
      }
    });
  }
  for (auto& asker : askers) asker.join();
  stop = true;
  owner.join();
  EXPECT_EQ(done, 800);
  bool ran = false;
  EXPECT_FALSE(mailbox.run([&] { ran = true; }, [] {}));
  EXPECT_FALSE(ran);
}

TEST(Mailbox, WhoWaitsWhileItIsClosedIsTold) {
  Mailbox mailbox;
  std::atomic<bool> asked{false};
  bool ran = false, answer = true;
  std::thread asker([&] { answer = mailbox.run([&] { ran = true; }, [&] { asked = true; }); });
  while (!asked) std::this_thread::yield();
  mailbox.close();
  asker.join();
  EXPECT_FALSE(answer);
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace cairn
