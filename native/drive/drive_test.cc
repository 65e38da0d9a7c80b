// The conformance suite over the real drive and the fake, and what open_drive() tells a person.
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "drive/uring_drive.h"
#include "testing/drive_conformance.h"
#include "testing/memory_drive.h"

namespace cairn {
namespace {

// Beside the test's binary: a temporary folder may be a file system without direct I/O.
std::string scratch(const std::string& name) {
  const auto path = std::filesystem::current_path() / ("drive_test." + std::to_string(getpid()) + "." + name);
  return path.string();
}

struct Scratch {
  explicit Scratch(const std::string& name) : path(scratch(name)) {}
  ~Scratch() { std::filesystem::remove(path); }
  std::string path;
};

std::unique_ptr<Drive> file_drive() {
  const Scratch file("conformance");
  DriveOptions options;
  options.create = true;
  options.create_bytes = 16 << 20;
  options.queue_depth = 16;
  return open_drive(file.path, options).take();  // the name goes, the open file stays
}

std::unique_ptr<Drive> memory_drive() {
  return std::make_unique<MemoryDrive>(std::make_shared<Platter>(16 << 20));
}

std::unique_ptr<Drive> shuffling_drive() {
  auto drive = std::make_unique<MemoryDrive>(std::make_shared<Platter>(16 << 20), false);
  drive->faults.seed = 11;
  return drive;
}

INSTANTIATE_TEST_SUITE_P(Uring, DriveConformance, testing::Values(&file_drive));
INSTANTIATE_TEST_SUITE_P(Memory, DriveConformance, testing::Values(&memory_drive, &shuffling_drive));

// A flush that was asked for late in a turn lay there until something else happened: ten milliseconds of every other
// put.
TEST(UringDrive, SaysThatARequestWasNotHandedOn) {
  const auto drive = file_drive();
  EXPECT_FALSE(drive->unsent());
  Transfer flush(IoKind::flush, 0, {}), again(IoKind::flush, 0, {});
  flush.then = [&] { drive->submit(again); };
  drive->submit(flush);
  EXPECT_TRUE(drive->unsent());
  while (again.times == 0) {
    drive->poll();
    EXPECT_FALSE(drive->unsent());
    drive->wait(1000);
  }
}

// A drive that told of everything at once would have stood still while all of it was checked and sent: a third of what
// it could read was lost.
TEST(UringDrive, HandsOverLargeReadsOneAtATime) {
  const auto drive = file_drive();
  Transfer write(IoKind::write, 0, {8 << 20});
  write.fill(1);
  drive->submit(write);
  while (write.times == 0) drive->wait(1000);
  std::vector<std::unique_ptr<Transfer>> reads;
  int done = 0;
  for (uint64_t i = 0; i < 8; ++i) {
    reads.push_back(std::make_unique<Transfer>(IoKind::read, i << 20, std::vector<size_t>{1 << 20}));
    reads.back()->then = [&done] { ++done; };
    drive->submit(*reads.back());
  }
  while (done < 8) {
    pollfd event{drive->event_fd(), POLLIN, 0};
    if (!drive->behind()) ::poll(&event, 1, 100);
    const bool behind = drive->behind();
    const int before = done;
    drive->poll();
    EXPECT_LE(done - before, 1);
    EXPECT_GE(done - before, behind ? 1 : 0) << "what it was behind with did not come";
  }
  EXPECT_FALSE(drive->behind());
}

TEST(OpenDrive, SaysWhatIsWrongAndWhatToDo) {
  const auto message = [](const std::string& path, const DriveOptions& options = {}) {
    const auto drive = open_drive(path, options);
    return drive.ok() ? std::string("opened") : drive.error().message;
  };
  const Scratch file("messages");
  EXPECT_NE(message(file.path).find("name its size"), std::string::npos) << message(file.path);
  EXPECT_NE(message(std::filesystem::current_path().string()).find("irectory"), std::string::npos);
  EXPECT_NE(message("/dev/null").find("/dev/null"), std::string::npos);
  DriveOptions create;
  create.create = true;
  create.create_bytes = 8 << 20;
  const auto first = open_drive(file.path, create);
  ASSERT_TRUE(first.ok());
  EXPECT_NE(message(file.path).find("in use by another"), std::string::npos) << message(file.path);
}

TEST(OpenDrive, AFileGrowsToTheSizeThatWasAskedForAndNeverShrinks) {
  const Scratch file("grow");
  DriveOptions create;
  create.create = true;
  create.create_bytes = 8 << 20;
  EXPECT_EQ(open_drive(file.path, create).value()->info().bytes, 8U << 20);
  create.create_bytes = 4 << 20;
  EXPECT_EQ(open_drive(file.path, create).value()->info().bytes, 8U << 20);
}

TEST(MemoryDriveCrash, KeepsWhatWasFlushedAndTearsTheRest) {
  int kept = 0, lost = 0, torn = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const auto platter = std::make_shared<Platter>(1 << 20);
    MemoryDrive drive(platter);
    Transfer safe(IoKind::write, 0, {4096}), flush(IoKind::flush, 0, {}), unsafe(IoKind::write, 8192, {4096});
    safe.fill(1);
    unsafe.fill(2);
    for (Transfer* one : {&safe, &flush, &unsafe}) {
      drive.submit(*one);
      drive.poll();
    }
    drive.crash(seed);
    std::vector<std::byte> page(4096);
    platter->read(0, page.data(), page.size());
    EXPECT_EQ(check_pattern(page, 1), -1);
    platter->read(8192, page.data(), page.size());
    const bool none = std::all_of(page.begin(), page.end(), [](std::byte byte) { return byte == std::byte{0}; });
    ++(check_pattern(page, 2) == -1 ? kept : none ? lost : torn);
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(lost, 0);
  EXPECT_GT(torn, 0);
}

}  // namespace
}  // namespace cairn
