// What goes to the drive, what its status means, and what is made of what it says of itself: without a drive.
#include "drive/nvme_commands.h"

#include <gtest/gtest.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <string>
#include <utility>
#include <vector>

#include "drive/nvme_identify.h"
#include "drive/nvme_sysfs.h"

namespace cairn {
namespace {

using Structure = std::array<std::byte, kIdentifyBytes>;

TEST(NvmeCommands, NameTheirLogicalBlocksAsTheSpecificationDoes) {
  const nvme_uring_cmd read = transfer_command(IoKind::read, {7, 0x1234'5678'9ABC, 65'536});
  EXPECT_EQ(read.opcode, 0x02);
  EXPECT_EQ(read.nsid, 7U);
  EXPECT_EQ(read.cdw10, 0x5678'9ABCU);
  EXPECT_EQ(read.cdw11, 0x1234U);
  EXPECT_EQ(read.cdw12, 65'535U);
  EXPECT_EQ(transfer_command(IoKind::write, {7, 0, 1}).opcode, 0x01);
  EXPECT_EQ(flush_command(7).opcode, 0x00);
  EXPECT_DEATH(transfer_command(IoKind::read, {7, 0, 65'537}), "more logical blocks");
}

TEST(NvmeCommands, AWriteNamesItsPlacement) {
  nvme_uring_cmd write = transfer_command(IoKind::write, {1, 0, 8});
  place(write, 0x0102);
  EXPECT_EQ(write.cdw12, (2U << 20) | 7U);
  EXPECT_EQ(write.cdw13, 0x0102'0000U);
}

TEST(NvmeCommands, ADiscardThatOneRangeCannotNameHasSeveral) {
  const auto ranges = deallocate_ranges({1, 10, 0xFFFF'FFFFULL + 5});
  ASSERT_EQ(ranges.size(), 2U);
  EXPECT_EQ(ranges[0].first, 10U);
  EXPECT_EQ(ranges[0].blocks, 0xFFFF'FFFFU);
  EXPECT_EQ(ranges[1].first, 10 + 0xFFFF'FFFFULL);
  EXPECT_EQ(ranges[1].blocks, 5U);
  const nvme_uring_cmd command = deallocate_command(1, ranges);
  EXPECT_EQ(command.opcode, 0x09);
  EXPECT_EQ(command.cdw10, 1U);
  EXPECT_EQ(command.cdw11, 4U);
  EXPECT_EQ(command.data_len, 32U);
  EXPECT_DEATH(deallocate_ranges({1, 0, 257 * 0xFFFF'FFFFULL}), "one command can name");
}

TEST(NvmeStatus, BecomesAnErrno) {
  for (const auto& [status, error] : {std::pair{0x281, EIO},  // unrecovered read error
                                      {0x4281, EIO},          // … and do not retry
                                      {0x2FF, EIO},           // any other error of the medium
                                      {0x4020, EROFS},
                                      {0x182, EROFS},
                                      {0x081, ENOSPC},
                                      {0x400B, ENODEV},
                                      {0x080, EINVAL},
                                      {0x082, EIO},
                                      {0x371, EIO},
                                      {0x7FF, EIO}}) {  // nothing that we know
    EXPECT_EQ(errno_of_nvme_status(status), error) << std::hex << status;
  }
  EXPECT_DEATH(errno_of_nvme_status(0), "a success");
}

// A reset of the controller ends everything in flight. The store would have set the drive aside.
TEST(NvmeStatus, OfAnAbortedCommandIsWorthAnotherTry) {
  EXPECT_TRUE(nvme_may_retry(0x371));
  EXPECT_TRUE(nvme_may_retry(0x007));
  EXPECT_FALSE(nvme_may_retry(0x371 | 0x4000)) << "the drive says that it will not do";
  EXPECT_FALSE(nvme_may_retry(0x281));
  EXPECT_FALSE(nvme_may_retry(0x00B));
}

struct Described {
  Described() {
    set<uint64_t>(0, 1 << 20);
    format(0, 9);
  }
  template <class T>
  void set(size_t at, T value) {
    store_bytes(&bytes[at], value);
  }
  void format(size_t index, uint32_t shift, uint32_t metadata_bytes = 0) {
    set<uint32_t>(128 + 4 * index, shift << 16 | metadata_bytes);
  }
  std::string refusal() const {
    const auto found = decode_namespace(bytes, "/dev/ng0n1");
    return found.ok() ? "" : found.error().message;
  }
  Structure bytes{};
};

TEST(NvmeIdentify, SaysSizeAndFormat) {
  Described space;
  space.set<uint8_t>(25, 1);
  space.set<uint8_t>(26, 1);
  space.format(1, 12);
  space.set<uint8_t>(99, 1);
  const auto found = decode_namespace(space.bytes, "/dev/ng0n1");
  ASSERT_TRUE(found.ok()) << found.error().message;
  EXPECT_EQ(found.value().blocks, 1U << 20);
  EXPECT_EQ(found.value().lba_bytes, 4096U);
  EXPECT_TRUE(found.value().write_protected);
}

TEST(NvmeIdentify, TheIndexOfAFormatHasSixBitsWhereThereAreThatMany) {
  Described space;
  space.set<uint8_t>(25, 15);
  space.set<uint8_t>(82, 16);    // 32 in all
  space.set<uint8_t>(26, 0x21);  // 17
  space.format(1, 9);
  space.format(17, 12);
  EXPECT_EQ(decode_namespace(space.bytes, "").value().lba_bytes, 4096U);
  space.set<uint8_t>(82, 0);  // without them the upper bits mean nothing
  EXPECT_EQ(decode_namespace(space.bytes, "").value().lba_bytes, 512U);
}

// A drive that answers nonsense would have been divided by, or written beyond.
TEST(NvmeIdentify, WhatNoDriveCanBeIsRefusedWithASentence) {
  Described fine;
  EXPECT_EQ(fine.refusal(), "");
  Described none;
  none.set<uint64_t>(0, 0);
  EXPECT_NE(none.refusal().find("has no logical blocks"), std::string::npos) << none.refusal();
  Described huge;
  huge.set<uint64_t>(0, UINT64_MAX);
  EXPECT_NE(huge.refusal().find("larger than any"), std::string::npos) << huge.refusal();
  for (const uint32_t shift : {0U, 1U, 8U, 17U, 63U, 255U}) {
    Described odd;
    odd.format(0, shift);
    EXPECT_NE(odd.refusal().find("2^" + std::to_string(shift)), std::string::npos) << odd.refusal();
  }
  Described metadata;
  metadata.format(0, 9, 8);
  EXPECT_NE(metadata.refusal().find("metadata"), std::string::npos) << metadata.refusal();
  Described missing;
  missing.set<uint8_t>(26, 5);
  EXPECT_NE(missing.refusal().find("a format that it does not have"), std::string::npos) << missing.refusal();
  Described all;
  all.bytes.fill(std::byte{0xFF});
  EXPECT_NE(all.refusal(), "");
}

TEST(NvmeIdentify, AControllerSaysWhatItCan) {
  Structure bytes{};
  NvmeController found = decode_controller(bytes);
  EXPECT_EQ(found.transfer_bytes_most, UINT64_MAX);
  EXPECT_FALSE(found.has_cache || found.deallocates || found.places);
  bytes[77] = std::byte{5};
  bytes[98] = std::byte{8};
  bytes[520] = std::byte{4};
  bytes[525] = std::byte{1};
  found = decode_controller(bytes);
  EXPECT_EQ(found.transfer_bytes_most, 131'072U);
  EXPECT_TRUE(found.has_cache && found.deallocates && found.places);
  bytes[77] = std::byte{255};
  EXPECT_EQ(decode_controller(bytes).transfer_bytes_most, UINT64_MAX);
}

TEST(NvmeIdentify, TheCommandSetIsFoundAmongDescriptors) {
  Structure bytes{};
  EXPECT_EQ(decode_command_set(bytes), 0);
  store_bytes<uint16_t>(&bytes[0], 0x1003);  // a UUID: 16 bytes
  store_bytes<uint16_t>(&bytes[20], 0x0104);
  bytes[24] = std::byte{2};
  EXPECT_EQ(decode_command_set(bytes), 2);
  bytes.fill(std::byte{0xFF});  // descriptors that lead behind the end
  EXPECT_EQ(decode_command_set(bytes), 0);
}

TEST(NvmeIdentify, PlacementIdentifiersAreNoMoreThanFit) {
  Structure bytes{};
  store_bytes<uint16_t>(&bytes[14], 2);
  store_bytes<uint16_t>(&bytes[16], 3);
  store_bytes<uint16_t>(&bytes[48], 0x0100);
  EXPECT_EQ(decode_placement_ids(bytes), (std::vector<uint16_t>{3, 0x0100}));
  store_bytes<uint16_t>(&bytes[14], 0xFFFF);
  EXPECT_EQ(decode_placement_ids(bytes).size(), (kIdentifyBytes - 16) / 32);
}

// A /sys with the namespace ng0n1 (240:0), two block devices and a controller (241:0).
struct MadeSysfs {
  MadeSysfs() {
    const auto controller = root / "devices" / "nvme0";
    make(controller / "ng0n1", "nvme-generic", "240:0");
    make(controller / "nvme0n1", "block", "");
    make(controller / "nvme0n2", "block", "");
    make(controller, "nvme", "241:0");
    write(controller / "nvme0n1" / "nsid", "1");
    write(controller / "nvme0n2" / "nsid", "9");
    std::filesystem::create_directories(controller / "nvme0n2" / "queue");
    write(controller / "nvme0n2" / "queue" / "max_hw_sectors_kb", "1020");
    write(controller / "nvme0n2" / "queue" / "max_segments", "256");
    make(root / "devices" / "null", "mem", "1:3");
  }
  ~MadeSysfs() { std::filesystem::remove_all(root); }
  void make(const std::filesystem::path& folder, const std::string& kind, const std::string& number) const {
    std::filesystem::create_directories(folder);
    std::filesystem::create_directory_symlink(root / "class" / kind, folder / "subsystem");
    if (number.empty()) return;
    std::filesystem::create_directories(root / "dev" / "char");
    std::filesystem::create_directory_symlink(folder, root / "dev" / "char" / number);
  }
  static void write(const std::filesystem::path& file, const std::string& text) { std::ofstream(file) << text << "\n"; }
  std::filesystem::path root = std::filesystem::current_path() / ("nvme_sysfs." + std::to_string(getpid()));
};

TEST(NvmeSysfs, TheBlockDeviceIsTheOneWithTheSameNamespace) {
  const MadeSysfs sys;
  auto node = find_nvme_node("/dev/ng0n1", makedev(240, 0), sys.root);
  ASSERT_TRUE(node.ok()) << node.error().message;
  NvmeNode found = node.value();
  find_block_device(found, 9);  // whatever the names say
  EXPECT_EQ(found.block_path, "/dev/nvme0n2");
  EXPECT_EQ(found.bytes_most, 1020U << 10);
  EXPECT_EQ(found.segments_most, 256U);
  found = node.value();
  find_block_device(found, 3);
  EXPECT_EQ(found.block_path, "");
}

TEST(NvmeSysfs, WhatIsNoNamespaceIsRefused) {
  const MadeSysfs sys;
  const auto message = [&](unsigned major, unsigned minor) {
    return find_nvme_node("/dev/it", makedev(major, minor), sys.root).error().message;
  };
  EXPECT_NE(message(241, 0).find("controller"), std::string::npos);
  EXPECT_NE(message(1, 3).find("no NVMe namespace"), std::string::npos);
  EXPECT_NE(message(77, 77).find("knows nothing"), std::string::npos);
}

}  // namespace
}  // namespace cairn
