// The conformance suite over the real drive and the fake, and what open_drive() tells a person.
#include "drive/drive.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "testing/drive_conformance.h"
#include "testing/memory_drive.h"
#include "testing/refused_calls.h"
#include "testing/testbed.h"

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

// Every NVMe namespace that the testbed has; none elsewhere.
std::vector<DriveMaker> nvme_drives() {
  std::vector<DriveMaker> all;
  for (const std::string& path : testbed_namespaces()) {
    all.emplace_back([path] {
      DriveOptions options;
      options.queue_depth = 16;
      return open_drive(path, options).take();
    });
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Uring, DriveConformance, testing::Values(&file_drive));
INSTANTIATE_TEST_SUITE_P(Nvme, DriveConformance, testing::ValuesIn(nvme_drives()));
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
  DriveOptions at_once;
  at_once.lock_ms_most = 0;
  EXPECT_NE(message(file.path, at_once).find("in use by another"), std::string::npos) << message(file.path, at_once);
}

// A service that was killed would not have come back: its successor found the drive locked by the dead, whose ring the
// kernel had not taken down yet.
TEST(OpenDrive, WaitsForALockThatIsAboutToGo) {
  const Scratch file("lock");
  DriveOptions create;
  create.create = true;
  create.create_bytes = 8 << 20;
  ASSERT_TRUE(open_drive(file.path, create).ok());
  const int held = ::open(file.path.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(flock(held, LOCK_EX | LOCK_NB), 0);
  std::thread dying([held] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ::close(held);
  });
  const auto drive = open_drive(file.path, DriveOptions{});
  EXPECT_TRUE(drive.ok()) << drive.error().message;
  dying.join();
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

// In a child, whose kernel refuses the call: what open_drive() says of the file then.
void open_refused(long call, int error, uint32_t fourth_argument, const std::string& path) {
  DriveOptions create;
  create.create = true;
  create.create_bytes = 1 << 20;
  if (!refuse_call(call, error, fourth_argument)) _exit(2);
  const auto drive = open_drive(path, create);
  std::fputs(drive.ok() ? "opened" : drive.error().message.c_str(), stderr);
  _exit(0);
}

// A block device that is mounted would have been opened as if it were a file, and its file system overwritten: it was
// not asked what it is.
TEST(OpenDriveDeathTest, WhatCannotBeLookedAtIsNotTakenForAFile) {
  const Scratch file("unseen");
  constexpr uint32_t kByName = 0;
  EXPECT_EXIT(open_refused(SYS_newfstatat, EIO, kByName, file.path), testing::ExitedWithCode(0),
              "^cannot open .*unseen: Input/output error; ");
}

// On a file system that cannot allocate a user would have read "Invalid argument", and not known of what.
TEST(OpenDriveDeathTest, SaysThatAFileSystemCannotAllocate) {
  const Scratch file("unallocated");
  constexpr uint32_t kAllOfIt = 1 << 20;
  EXPECT_EXIT(open_refused(SYS_fallocate, EOPNOTSUPP, kAllOfIt, file.path), testing::ExitedWithCode(0),
              "does not allocate ahead: use ext4");
}

// In a child: the kernel takes what it is given, and then nothing any more. Requests of all sorts end with the errno,
// each once, those that their completion asks for as well. A status that is not 0 says at which step it went wrong.
void refuse_requests(int error) {
  DriveOptions options;
  options.create = true;
  options.create_bytes = 16 << 20;
  options.queue_depth = 4;
  options.refusal_ms_most = 50;
  const auto drive = open_drive(Scratch("refused").path, options).take();  // the name goes, the open file stays
  Transfer before(IoKind::write, 0, {4096});
  drive->submit(before);
  while (before.times == 0) drive->wait(1000);
  if (before.error != 0) _exit(3);
  if (!refuse_call(SYS_io_uring_enter, error)) _exit(2);
  std::vector<std::unique_ptr<Transfer>> all;
  Transfer last(IoKind::read, 0, {4096});
  for (uint64_t i = 0; i < 12; ++i) {
    all.push_back(
        std::make_unique<Transfer>(i % 2 == 0 ? IoKind::write : IoKind::read, i * 4096, std::vector<size_t>{4096}));
    drive->submit(*all.back());
  }
  all[0]->then = [&] { drive->submit(last); };
  while (drive->in_flight() > 0) drive->wait(1000);
  for (const auto& one : all) {
    if (one->times != 1 || one->error != error) _exit(4);
  }
  pollfd event{drive->event_fd(), POLLIN, 0};
  if (::poll(&event, 1, 0) != 1) _exit(5);
  _exit(last.times == 1 && last.error == error ? 0 : 6);
}

// The service would have ended, for every tenant and drive, with a core dump.
TEST(UringDriveDeathTest, WhatTheKernelDoesNotTakeFails) {
  EXPECT_EXIT(refuse_requests(EIO), testing::ExitedWithCode(0), "");
}

// A start would have hung for ever, without a word.
TEST(UringDriveDeathTest, WhatTheKernelPutsOffForTooLongFails) {
  EXPECT_EXIT(refuse_requests(EAGAIN), testing::ExitedWithCode(0), "");
}

// A caller whose get had failed would have found its memory written afterwards: the kernel took later what it had
// refused.
TEST(UringDrive, WhatWasRefusedIsNeverTaken) {
  const auto drive = file_drive();
  const auto until = [&](Transfer& transfer) {
    drive->submit(transfer);
    while (transfer.times == 0) drive->wait(1000);
  };
  Transfer write(IoKind::write, 0, {4096});
  write.fill(1);
  until(write);
  Transfer failed(IoKind::read, 0, {4096}), later(IoKind::read, 0, {4096});
  failed.fill(2);
  bool refused = false;
  std::thread([&] {  // the refusal ends with its thread
    refused = refuse_call(SYS_io_uring_enter, EIO);
    if (refused) until(failed);
  })
      .join();
  ASSERT_TRUE(refused);
  EXPECT_EQ(failed.error, EIO);
  until(later);
  EXPECT_TRUE(later.holds(1));
  EXPECT_TRUE(failed.holds(2));
  EXPECT_EQ(failed.times, 1);
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
