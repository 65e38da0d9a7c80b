#include "base/memory_left.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

namespace cairn {
namespace {

class MemoryLeftTest : public testing::Test {
 protected:
  MemoryLeftTest() : root_(testing::TempDir() + "memory-left-" + std::to_string(getpid())) {
    std::filesystem::remove_all(root_);
    write("/proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    4000 kB\nSwapFree:  1000 kB\n");
  }
  ~MemoryLeftTest() override { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void mount(const std::string& group, const std::string& rest) {
    write("/proc/self/mountinfo",
          "22 1 0:20 / /proc rw - proc proc rw\n30 1 0:26 " + group + " /groups rw shared:4 - " + rest + "\n");
  }
  MemoryLeft left() { return memory_left(root_); }
  std::string root_;
};

TEST_F(MemoryLeftTest, OfTheMachineIsWhatIsAvailableAndItsSwap) {
  EXPECT_EQ(left().bytes, 5000U * 1024);
  EXPECT_EQ(left().whose, "the machine");
}

TEST_F(MemoryLeftTest, NothingIsKnownWhereNothingCanBeRead) {
  std::filesystem::remove_all(root_ + "/proc");
  EXPECT_EQ(left().bytes, UINT64_MAX);
}

TEST_F(MemoryLeftTest, TheNarrowestGroupAboveTheProcessCounts) {
  mount("/", "cgroup2 cgroup2 rw,nsdelegate");
  write("/proc/self/cgroup", "0::/pods/engine\n");
  write("/groups/pods/engine/memory.max", "max\n");
  write("/groups/pods/engine/memory.current", "100\n");
  write("/groups/pods/memory.max", "3000000\n");
  write("/groups/pods/memory.current", "2500000\n");
  write("/groups/pods/memory.swap.max", "0\n");
  EXPECT_EQ(left().bytes, 500'000U);
  EXPECT_EQ(left().whose, "the control group /pods of this process");
}

TEST_F(MemoryLeftTest, AGroupsCacheOfFilesIsGivenBackAndItsSwapCounts) {
  mount("/", "cgroup2 cgroup2 rw");
  write("/proc/self/cgroup", "0::/pods\n");
  write("/groups/pods/memory.max", "3000000\n");
  write("/groups/pods/memory.current", "2900000\n");
  write("/groups/pods/memory.stat", "anon 5\ninactive_file 400000\nactive_file 100000\n");
  write("/groups/pods/memory.swap.max", "9000\n");
  write("/groups/pods/memory.swap.current", "2000\n");
  EXPECT_EQ(left().bytes, 600'000U + 7'000U);
}

TEST_F(MemoryLeftTest, AContainerSeesItsGroupAtTheMountPoint) {
  mount("/docker/abc", "cgroup2 cgroup2 rw");
  write("/proc/self/cgroup", "0::/docker/abc\n");
  write("/groups/memory.max", "1000\n");
  write("/groups/memory.current", "900\n");
  write("/groups/memory.swap.max", "0\n");
  EXPECT_EQ(left().bytes, 100U);
  EXPECT_EQ(left().whose, "the control group / of this process");
}

TEST_F(MemoryLeftTest, GroupsOfTheFirstVersionCountAsWell) {
  mount("/", "cgroup cgroup rw,memory");
  write("/proc/self/cgroup", "7:cpu,cpuacct:/x\n4:memory:/jobs/one\n0::/\n");
  write("/groups/jobs/one/memory.limit_in_bytes", "2000000\n");
  write("/groups/jobs/one/memory.usage_in_bytes", "1900000\n");
  write("/groups/jobs/one/memory.stat", "cache 1\ntotal_inactive_file 300000\n");
  EXPECT_EQ(left().bytes, 400'000U);
  EXPECT_EQ(left().whose, "the control group /jobs/one of this process");
}

}  // namespace
}  // namespace cairn
