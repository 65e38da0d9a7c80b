// The promises of drive.h, by number, for any drive. A suite instantiates it with a maker:
//   INSTANTIATE_TEST_SUITE_P(Name, DriveConformance, testing::Values(maker));
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "drive/drive.h"
#include "testing/transfer.h"

namespace cairn {

using DriveMaker = std::function<std::unique_ptr<Drive>()>;  // at least 16 MiB, writable

class DriveConformance : public testing::TestWithParam<DriveMaker> {
 protected:
  DriveConformance() : drive(GetParam()()) {}
  void run(Transfer& transfer) {
    drive->submit(transfer);
    EXPECT_EQ(transfer.times, 0) << "completed from inside submit()";
    while (transfer.times == 0) drive->wait(1000);
  }
  std::unique_ptr<Drive> drive;
};

TEST_P(DriveConformance, Promise1EveryRequestCompletesOnce) {
  std::vector<std::unique_ptr<Transfer>> all;
  for (uint64_t i = 0; i < 300; ++i) {
    all.push_back(std::make_unique<Transfer>(IoKind::write, i * 8192, std::vector<size_t>{4096, 4096}));
    all.back()->fill(i);
    drive->submit(*all.back());
  }
  while (drive->in_flight() > 0) drive->wait(1000);
  for (const auto& one : all) EXPECT_EQ(one->times, 1);
  drive->poll();
  for (const auto& one : all) EXPECT_EQ(one->times, 1);
}

TEST_P(DriveConformance, Promise2WhatWasWrittenIsReadInWholeAndInParts) {
  Transfer write(IoKind::write, 1 << 20, {4096, 65'536, 1 << 20});
  write.fill(3);
  run(write);
  EXPECT_EQ(write.error, 0);
  Transfer read(IoKind::read, 1 << 20, {4096, 65'536, 1 << 20});
  run(read);
  EXPECT_TRUE(read.holds(3));
  Transfer part(IoKind::read, (1 << 20) + 4096, {65'536});
  run(part);
  EXPECT_TRUE(part.holds(4));
}

TEST_P(DriveConformance, Promise3AFlushCompletesAndRequestsMayComeFromCompletions) {
  Transfer write(IoKind::write, 0, {4096});
  Transfer flush(IoKind::flush, 0, {});
  write.fill(1);
  write.then = [&] { drive->submit(flush); };
  drive->submit(write);
  while (flush.times == 0) drive->wait(1000);
  EXPECT_EQ(flush.error, 0);
  EXPECT_EQ(drive->in_flight(), 0U);
}

TEST_P(DriveConformance, Promise6ADiscardEndsAndLeavesItsNeighboursAlone) {
  if (!drive->info().can_discard) {
    Transfer wish(IoKind::discard, 8192, {});
    wish.bytes = 4096;
    EXPECT_DEATH(drive->submit(wish), "cannot do");
    return;
  }
  Transfer write(IoKind::write, 0, {1 << 16});
  write.fill(1);
  run(write);
  Transfer flush(IoKind::flush, 0, {});
  run(flush);
  Transfer discard(IoKind::discard, 8192, {});
  discard.bytes = 16'384;
  run(discard);
  EXPECT_TRUE(discard.error == 0 || discard.error == EOPNOTSUPP) << discard.error;
  Transfer before(IoKind::read, 0, {8192});
  run(before);
  EXPECT_TRUE(before.holds(1));
}

TEST_P(DriveConformance, WhatLiesBesideATransferIsOurOwnMistake) {
  Transfer beyond(IoKind::read, drive->info().bytes, {4096});
  EXPECT_DEATH(drive->submit(beyond), "beyond the drive");
  Transfer crooked(IoKind::read, 100, {4096});
  EXPECT_DEATH(drive->submit(crooked), "unaligned");
}

}  // namespace cairn
