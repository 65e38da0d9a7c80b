// A request that takes several commands, without a device that would need them: the drive of this test goes to a file
// and takes 64 KiB at a time.
#include "drive/ring_drive.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "drive/descriptor.h"
#include "testing/refused_calls.h"
#include "testing/transfer.h"

namespace cairn {
namespace {

constexpr uint64_t kFileBytes = 16 << 20;
constexpr uint64_t kPieceBytes = 65'536;

class CuttingDrive final : public RingDrive {
 public:
  CuttingDrive(Descriptor file, const DriveOptions& options)
      : RingDrive(DriveInfo{.path = "cutting", .kind = "file", .bytes = kFileBytes, .lba_bytes = 4096}, options,
                  PieceLimits{.bytes_most = kPieceBytes}),
        file_(std::move(file)) {
    EXPECT_TRUE(set_up_ring(0).ok());
  }
  uint64_t pieces = 0;    // that were handed to the kernel
  uint64_t fails_at = 0;  // the piece with this number, from 1, and every one after it fails
  uint64_t again_at = 0;  // … has to be tried again

 private:
  void prepare(io_uring_sqe* sqe, uint32_t /*slot*/, Piece& piece) override {
    ++pieces;
    const auto count = static_cast<unsigned>(piece.vectors.size());
    if (piece.kind == IoKind::read) {
      io_uring_prep_readv(sqe, file_.get(), piece.vectors.data(), count, piece.offset);
    } else {
      io_uring_prep_writev(sqe, file_.get(), piece.vectors.data(), count, piece.offset);
    }
  }
  Outcome outcome(const Piece& /*piece*/, int result) override {
    ++ended_;
    if (ended_ == again_at) return {.again = true};
    if (fails_at > 0 && ended_ >= fails_at) return {.error = EIO};
    return result < 0 ? Outcome{.error = -result} : Outcome{.moved = static_cast<uint64_t>(result)};
  }
  Descriptor file_;
  uint64_t ended_ = 0;
};

std::unique_ptr<CuttingDrive> cutting_drive(uint32_t queue_depth) {
  const auto path = std::filesystem::current_path() / ("ring_drive_test." + std::to_string(getpid()));
  Descriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, S_IRUSR | S_IWUSR));
  std::filesystem::remove(path);
  EXPECT_EQ(ftruncate(file.get(), kFileBytes), 0);
  DriveOptions options;
  options.queue_depth = queue_depth;
  options.refusal_ms_most = 50;
  return std::make_unique<CuttingDrive>(std::move(file), options);
}

void run(Drive& drive, Transfer& transfer) {
  drive.submit(transfer);
  while (transfer.times == 0) drive.wait(1000);
}

TEST(RingDrive, ARequestOfManyPiecesCompletesOnceWhateverTheDepth) {
  for (const uint32_t depth : {1U, 3U, 64U}) {
    const auto drive = cutting_drive(depth);
    Transfer write(IoKind::write, 4096, {1 << 20, 4096, 1 << 20});
    write.fill(1);
    run(*drive, write);
    EXPECT_EQ(write.error, 0);
    EXPECT_EQ(drive->pieces, 33U);
    Transfer read(IoKind::read, 4096, {1 << 20, 4096, 1 << 20});
    run(*drive, read);
    EXPECT_TRUE(read.holds(1));
    EXPECT_EQ(read.times, 1);
    EXPECT_EQ(drive->in_flight(), 0U);
  }
}

TEST(RingDrive, APieceThatIsTriedAgainIsPartOfItsRequest) {
  const auto drive = cutting_drive(4);
  Transfer write(IoKind::write, 0, {1 << 20});
  write.fill(1);
  drive->again_at = 7;
  run(*drive, write);
  EXPECT_EQ(write.error, 0);
  EXPECT_EQ(drive->pieces, 17U);
  Transfer read(IoKind::read, 0, {1 << 20});
  run(*drive, read);
  EXPECT_TRUE(read.holds(1));
}

// The memory of a request that had failed would have been written by those of its pieces that were still on their way.
TEST(RingDrive, ARequestThatFailsEndsWithItsLastPieceAndTriesNoMore) {
  const auto drive = cutting_drive(4);
  Transfer write(IoKind::write, 0, {4 << 20}), other(IoKind::write, 8 << 20, {4096});
  drive->fails_at = 6;
  drive->submit(write);
  drive->submit(other);
  bool told = false;
  write.then = [&] {
    // All that were handed over have ended: a slot of four is free for each.
    EXPECT_LE(drive->pieces, 6U + 4U);
    drive->fails_at = 0;
    told = true;
  };
  while (drive->in_flight() > 0) drive->wait(1000);
  EXPECT_TRUE(told);
  EXPECT_EQ(write.error, EIO);
  EXPECT_EQ(write.times, 1);
  EXPECT_EQ(other.times, 1);
}

// In a child: the kernel refuses everything while a request is cut in part. A status that is not 0 says at which step
// it went wrong.
void refuse_in_the_middle(int error) {
  const auto drive = cutting_drive(4);
  std::vector<std::unique_ptr<Transfer>> all;
  Transfer last(IoKind::read, 0, {1 << 20});
  for (uint64_t i = 0; i < 4; ++i) {
    all.push_back(std::make_unique<Transfer>(IoKind::read, i << 20, std::vector<size_t>{1 << 20}));
    drive->submit(*all.back());
  }
  drive->poll();  // the first is on its way, in part
  if (drive->pieces == 0 || all[0]->times != 0) _exit(3);
  all[3]->then = [&] { drive->submit(last); };
  if (!refuse_call(SYS_io_uring_enter, error)) _exit(2);
  while (drive->in_flight() > 0) drive->wait(1000);
  for (const auto& one : all) {
    if (one->times != 1 || one->error != error) _exit(4);
  }
  _exit(last.times == 1 && last.error == error ? 0 : 5);
}

TEST(RingDriveDeathTest, ARequestThatIsCutInPartFailsOnceWhenTheKernelRefuses) {
  EXPECT_EXIT(refuse_in_the_middle(EIO), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(refuse_in_the_middle(EAGAIN), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace cairn
