// The drive over real NVMe namespaces: those in CAIRN_TESTBED_NAMESPACES, whose contents are lost. Without any there is
// nothing here to run: tools/testbed/run --nvme 2 -- build/native/drive_test --gtest_filter='*Nvme*'
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/slab.h"
#include "drive/claim.h"
#include "drive/drive.h"
#include "testing/testbed.h"
#include "testing/transfer.h"

namespace cairn {
namespace {

namespace fs = std::filesystem;

std::string name_of(const testing::TestParamInfo<std::string>& info) {
  return fs::path(info.param).filename();
}

// The folder of the namespace in sysfs; its parent is the controller.
fs::path folder_of(const std::string& path) {
  return fs::canonical("/sys/class/nvme-generic/" + fs::path(path).filename().string());
}

std::string block_path_of(const std::string& path) {
  return "/dev/nvme" + fs::path(path).filename().string().substr(2);
}

std::string first_line(const fs::path& file) {
  std::ifstream text(file);
  std::string line;
  std::getline(text, line);
  return line;
}

std::string output_of(const std::string& command) {
  std::FILE* pipe = popen(command.c_str(), "r");
  std::string all;
  for (int one = std::fgetc(pipe); one != EOF; one = std::fgetc(pipe)) all.push_back(static_cast<char>(one));
  pclose(pipe);
  return all;
}

// The nth number behind `name` in JSON.
uint64_t number_in(const std::string& json, const std::string& name, size_t nth = 0) {
  const std::regex pattern("\"" + name + "\" ?: ?([0-9]+)");
  auto found = std::sregex_iterator(json.begin(), json.end(), pattern);
  for (; nth > 0; --nth) ++found;
  return std::stoull((*found)[1]);
}

DriveOptions depth(uint32_t requests) {
  DriveOptions options;
  options.queue_depth = requests;
  return options;
}

DriveOptions reading() {
  DriveOptions options;
  options.read_only = true;
  return options;
}

class NvmeDriveTest : public testing::TestWithParam<std::string> {
 protected:
  static std::unique_ptr<Drive> open(const DriveOptions& options = {}) {
    auto drive = open_drive(GetParam(), options);
    EXPECT_TRUE(drive.ok()) << drive.error().message;
    return drive.take();
  }
  static std::string refusal(const std::string& path) {
    DriveOptions at_once;
    at_once.lock_ms_most = 0;
    const auto drive = open_drive(path, at_once);
    return drive.ok() ? "opened" : drive.error().message;
  }
  static void run(Drive& drive, Transfer& transfer) {
    drive.submit(transfer);
    while (transfer.times == 0) drive.wait(1000);
    EXPECT_EQ(transfer.error, 0);
    EXPECT_EQ(transfer.times, 1);
  }
};

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(NvmeDriveTest);
INSTANTIATE_TEST_SUITE_P(Testbed, NvmeDriveTest, testing::ValuesIn(testbed_namespaces()), name_of);

TEST_P(NvmeDriveTest, KnowsWhatTheNamespaceIs) {
  const std::string json = output_of("nvme id-ns -o json " + GetParam());
  ASSERT_NE(json.find("nsze"), std::string::npos) << "nvme-cli is missing: " << json;
  const uint64_t lba_shift = number_in(json, "ds", number_in(json, "flbas") & 0xF);
  const auto drive = open();
  const DriveInfo& info = drive->info();
  EXPECT_EQ(info.kind, "nvme");
  EXPECT_EQ(info.lba_bytes, 1U << lba_shift);
  EXPECT_EQ(info.bytes, number_in(json, "nsze") << lba_shift);
  const std::string controller = output_of("nvme id-ctrl -o json " + GetParam());
  EXPECT_EQ(info.can_discard, (number_in(controller, "oncs") & 4) != 0);
  if ((number_in(controller, "vwc") & 1) == 0) {
    EXPECT_FALSE(info.volatile_write_cache);
  }
  if ((number_in(controller, "ctratt") >> 19 & 1) == 0) {
    EXPECT_EQ(info.placement_classes, 1U);
  }
}

// Commands of 2 MiB are refused with EINVAL where the device takes 1 MiB.
TEST_P(NvmeDriveTest, ARequestOf64MiBIsAsManyCommandsAsItTakes) {
  const auto drive = open(depth(8));
  Transfer write(IoKind::write, 4096, {64 << 20});
  write.fill(1);
  run(*drive, write);
  Transfer read(IoKind::read, 4096, {64 << 20});
  run(*drive, read);
  EXPECT_TRUE(read.holds(1));
}

TEST_P(NvmeDriveTest, VectorsOfAllSizesAreOneRequest) {
  const auto drive = open();
  std::vector<size_t> parts;
  for (size_t i = 0; i < 1000; ++i) parts.push_back(i % 7 == 0 ? drive->info().lba_bytes : 4096 * (1 + i % 5));
  parts.push_back(3 << 20);
  Transfer write(IoKind::write, 8192, parts);
  write.fill(1);
  run(*drive, write);
  Transfer read(IoKind::read, 8192, parts);
  run(*drive, read);
  EXPECT_TRUE(read.holds(1));
}

TEST_P(NvmeDriveTest, ManyLargeRequestsShareAShortQueue) {
  const auto drive = open(depth(3));
  std::vector<std::unique_ptr<Transfer>> all;
  for (const IoKind kind : {IoKind::write, IoKind::read}) {
    all.clear();
    for (uint64_t i = 0; i < 16; ++i) {
      all.push_back(std::make_unique<Transfer>(kind, i << 22, std::vector<size_t>{1 << 20, 3 << 20}));
      if (kind == IoKind::write) all.back()->fill(i * 2);
      drive->submit(*all.back());
    }
    while (drive->in_flight() > 0) drive->wait(1000);
  }
  for (uint64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(all[i]->times, 1);
    EXPECT_TRUE(all[i]->holds(i * 2)) << i;
  }
}

TEST_P(NvmeDriveTest, FlushesAndDiscards) {
  const auto drive = open();
  Transfer write(IoKind::write, 0, {8 << 20});
  write.fill(1);
  run(*drive, write);
  Transfer flush(IoKind::flush, 0, {});
  run(*drive, flush);
  if (!drive->info().can_discard) GTEST_SKIP() << "this namespace does not deallocate";
  Transfer discard(IoKind::discard, 1 << 20, {});
  discard.bytes = 4 << 20;
  run(*drive, discard);
  Transfer before(IoKind::read, 0, {1 << 20}), within(IoKind::read, 1 << 20, {4 << 20});
  run(*drive, before);
  run(*drive, within);
  EXPECT_EQ(std::memcmp(before.vectors->iov_base, write.vectors->iov_base, 1 << 20), 0);
  if (first_line(folder_of(GetParam()).parent_path() / "transport") != "loop") return;
  // The testbed's memory is given back, and reads as zeroes: a discard that did nothing would be seen.
  const auto* bytes = static_cast<const char*>(within.vectors->iov_base);
  EXPECT_TRUE(std::all_of(bytes, bytes + within.bytes, [](char byte) { return byte == 0; }));
}

TEST_P(NvmeDriveTest, IsOpenedOnceByEitherName) {
  const std::string block = block_path_of(GetParam());
  auto drive = open();
  EXPECT_NE(refusal(GetParam()).find("in use by another Cairn"), std::string::npos) << refusal(GetParam());
  EXPECT_NE(refusal(block).find("used by another service"), std::string::npos) << refusal(block);
  drive.reset();
  auto other = open_drive(block, DriveOptions{});
  ASSERT_TRUE(other.ok()) << other.error().message;
  EXPECT_NE(refusal(GetParam()).find(block + " is in use by another Cairn"), std::string::npos) << refusal(GetParam());
}

// A mounted file system would have been overwritten: the character device knows nothing of mounts.
TEST_P(NvmeDriveTest, IsNotOpenedWhenTheBlockDeviceIsUsed) {
  const std::string block = block_path_of(GetParam());
  {
    const Descriptor mount(::open(block.c_str(), O_RDWR | O_EXCL | O_CLOEXEC));  // as a mount holds it
    ASSERT_TRUE(mount.is_open());
    EXPECT_NE(refusal(GetParam()).find("it is mounted"), std::string::npos) << refusal(GetParam());
  }
  EXPECT_EQ(refusal(GetParam()), "opened");
}

TEST_P(NvmeDriveTest, ManyMayLookAtOnce) {
  const auto one = open(reading());
  const auto another = open(reading());
  Transfer read(IoKind::read, 0, {4096});
  run(*another, read);
  EXPECT_NE(refusal(GetParam()).find("in use by another Cairn"), std::string::npos) << refusal(GetParam());
}

class Span final : public IoRequest {
 public:
  Span(IoKind what, uint64_t at, std::vector<iovec> parts) : parts_(std::move(parts)) {
    kind = what;
    offset = at;
    vectors = parts_.data();
    vector_count = static_cast<uint32_t>(parts_.size());
    for (const iovec& part : parts_) bytes += part.iov_len;
  }
  void completed(int code) override { error = code; }
  int error = -1;

 private:
  std::vector<iovec> parts_;
};

TEST_P(NvmeDriveTest, MemoryThatIsKnownToTheDeviceIsReadAndWrittenAnywhere) {
  const auto drive = open();
  const auto slab = Slab::create(32 << 20).take();
  EXPECT_FALSE(drive->info().fixed_buffers);
  ASSERT_TRUE(drive->register_memory(slab->memory()));
  EXPECT_TRUE(drive->info().fixed_buffers);
  std::byte* const base = slab->memory().data();
  const auto run_span = [&](Span&& span) {
    drive->submit(span);
    while (drive->in_flight() > 0) drive->wait(1000);
    EXPECT_EQ(span.error, 0);
  };
  // From its begin, across the edges of what the kernel was told in one piece, and at its end.
  for (const uint64_t at : {0, 4096, (1 << 19) - 4096, (16 << 20) - 8192, (32 << 20) - (2 << 20)}) {
    fill_pattern({base + at, 2 << 20}, at);
    run_span(Span(IoKind::write, 1 << 20, {{base + at, 2 << 20}}));
    std::memset(base + at, 0, 2 << 20);
    run_span(Span(IoKind::read, 1 << 20, {{base + at, 2 << 20}}));
    EXPECT_EQ(check_pattern({base + at, 2 << 20}, at), -1) << at;
  }
  // Beside other memory, and several vectors of it.
  Transfer foreign(IoKind::read, 1 << 20, {2 << 20});
  run(*drive, foreign);
  EXPECT_TRUE(foreign.holds((32 << 20) - (2 << 20)));
  run_span(Span(IoKind::read, 1 << 20, {{base, 4096}, {base + (9 << 20), (2 << 20) - 4096}}));
  EXPECT_EQ(std::memcmp(base, foreign.vectors->iov_base, 4096), 0);
  EXPECT_TRUE(drive->info().fixed_buffers) << "the kernel refused it";
}

class Again final : public IoRequest {
 public:
  Again(Drive& drive, uint64_t at, std::byte* memory, uint64_t length) : drive_(drive), part_{memory, length} {
    offset = at;
    vectors = &part_;
    vector_count = 1;
    bytes = length;
  }
  void completed(int code) override {
    ++times;
    error = code;
    if (code == 0) drive_.submit(*this);
  }
  uint64_t times = 0;
  int error = 0;

 private:
  Drive& drive_;
  iovec part_;
};

// The service would have waited for ever for a drive that was pulled.
TEST_P(NvmeDriveTest, RequestsEndWhenItIsTakenAway) {
  const fs::path controller = folder_of(GetParam()).parent_path();
  if (first_line(controller / "transport") != "loop") GTEST_SKIP() << "only the testbed's own can be taken away";
  const std::string subsystem = first_line(controller / "subsysnqn");
  auto drive = open(depth(8));
  constexpr uint64_t kBytes = 4 << 20;
  std::vector<std::unique_ptr<std::byte, void (*)(void*)>> memory;
  std::vector<std::unique_ptr<Again>> reads;
  for (uint64_t i = 0; i < 12; ++i) {
    memory.emplace_back(static_cast<std::byte*>(std::aligned_alloc(4096, kBytes)), &std::free);
    reads.push_back(std::make_unique<Again>(*drive, i * kBytes, memory.back().get(), kBytes));
    drive->submit(*reads.back());
  }
  while (reads.front()->times < 3 && reads.front()->error == 0) drive->wait(1000);
  std::thread pull([&] { std::ofstream(controller / "delete_controller") << "1"; });
  while (drive->in_flight() > 0) drive->wait(1000);
  pull.join();
  for (const auto& read : reads) EXPECT_TRUE(read->error == ENODEV || read->error == EIO) << read->error;
  Transfer late(IoKind::flush, 0, {});
  drive->submit(late);
  while (late.times == 0) drive->wait(1000);
  EXPECT_EQ(late.error, ENODEV);
  drive.reset();
  std::ofstream("/dev/nvme-fabrics") << "transport=loop,nqn=" << subsystem;
  // The kernel looks for the namespace in the background, and says nothing that could be waited for.
  while (!fs::exists(GetParam()) || refusal(GetParam()) != "opened") std::this_thread::yield();
}

TEST(NvmeDrive, ACharacterDeviceThatIsNoNamespaceIsRefused) {
  const auto drive = open_drive("/dev/null", DriveOptions{});
  ASSERT_FALSE(drive.ok());
  EXPECT_NE(drive.error().message.find("/dev/null is a character device, and no NVMe namespace"), std::string::npos)
      << drive.error().message;
}

}  // namespace
}  // namespace cairn
