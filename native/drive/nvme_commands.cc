#include "drive/nvme_commands.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <iterator>
#include <vector>

#include "base/check.h"

namespace cairn {

namespace {

// NVM 3.2, figure "Opcodes for NVM Commands"; flush is Base 7.1.
constexpr uint8_t kFlush = 0x00;
constexpr uint8_t kWrite = 0x01;
constexpr uint8_t kRead = 0x02;
constexpr uint8_t kDatasetManagement = 0x09;
constexpr uint32_t kDeallocate = 1U << 2;      // command dword 11
constexpr uint32_t kDataPlacement = 2U << 20;  // directive type, command dword 12
constexpr uint32_t kPlacementIdShift = 16;     // directive specific, command dword 13
constexpr uint32_t kLowHalf = 0xFFFF'FFFF;
constexpr uint32_t kHighHalfShift = 32;
constexpr int kTypeAndCode = 0x7FF;
constexpr int kDoNotRetry = 0x4000;
constexpr int kMediaErrors = 0x200;  // status code type 2: all of them
constexpr int kTypeMask = 0x700;

struct Meaning {
  int status;  // type and code
  int error;
  bool passes;  // another try may succeed, unless the drive says that it will not
};

// Base 3.3.3.2.1, figures "Generic Command Status", "… NVM Command Set", "Command Specific", "Path Related Status".
// The store sets a drive aside at ENODEV, and counts the others.
constexpr Meaning kMeanings[] = {
    {0x001, EOPNOTSUPP, false},  // invalid command opcode
    {0x002, EINVAL, false},      // invalid field in command
    {0x004, EIO, true},          // data transfer error
    {0x007, EIO, true},          // abort requested
    {0x008, EIO, true},          // aborted: its submission queue was deleted
    {0x00B, ENODEV, false},      // invalid namespace or format
    {0x020, EROFS, false},       // namespace is write protected
    {0x080, EINVAL, false},      // LBA out of range
    {0x081, ENOSPC, false},      // capacity exceeded
    {0x082, EIO, true},          // namespace not ready
    {0x083, EBUSY, false},       // reservation conflict: another host has it
    {0x084, EBUSY, false},       // format in progress
    {0x180, EINVAL, false},      // conflicting attributes
    {0x182, EROFS, false},       // attempted write to read only range
    {0x301, ENODEV, false},      // asymmetric access persistent loss
    {0x303, EIO, true},          // asymmetric access transition
    {0x370, EIO, true},          // host pathing error
    {0x371, EIO, true},          // command aborted by host
};

const Meaning* find_meaning(int status) {
  const auto* found = std::find_if(std::begin(kMeanings), std::end(kMeanings),
                                   [&](const Meaning& one) { return one.status == (status & kTypeAndCode); });
  return found == std::end(kMeanings) ? nullptr : found;
}

}  // namespace

nvme_uring_cmd transfer_command(IoKind kind, const NvmeExtent& extent) {
  CAIRN_CHECK(kind == IoKind::read || kind == IoKind::write, "a transfer that is neither a read nor a write");
  CAIRN_CHECK(extent.blocks > 0, "a transfer of no logical block");
  CAIRN_CHECK(extent.blocks <= kNvmeBlocksMost, "a transfer of more logical blocks than one command can name");
  nvme_uring_cmd command{};
  command.opcode = kind == IoKind::read ? kRead : kWrite;
  command.nsid = extent.namespace_id;
  command.cdw10 = static_cast<uint32_t>(extent.first & kLowHalf);
  command.cdw11 = static_cast<uint32_t>(extent.first >> kHighHalfShift);
  command.cdw12 = static_cast<uint32_t>(extent.blocks - 1);
  return command;
}

void place(nvme_uring_cmd& write, uint16_t placement_id) {
  CAIRN_CHECK(write.opcode == kWrite, "only writes are placed");
  write.cdw12 |= kDataPlacement;
  write.cdw13 = uint32_t{placement_id} << kPlacementIdShift;
}

nvme_uring_cmd flush_command(uint32_t namespace_id) {
  nvme_uring_cmd command{};
  command.opcode = kFlush;
  command.nsid = namespace_id;
  return command;
}

std::vector<DeallocateRange> deallocate_ranges(const NvmeExtent& extent) {
  CAIRN_CHECK(extent.blocks > 0, "nothing is deallocated");
  std::vector<DeallocateRange> ranges((extent.blocks + kDeallocateBlocksMost - 1) / kDeallocateBlocksMost);
  CAIRN_CHECK(ranges.size() <= kDeallocateRangesMost, "more is deallocated than one command can name");
  uint64_t done = 0;
  for (DeallocateRange& range : ranges) {
    range.first = extent.first + done;
    range.blocks = static_cast<uint32_t>(std::min(extent.blocks - done, kDeallocateBlocksMost));
    done += range.blocks;
  }
  return ranges;
}

nvme_uring_cmd deallocate_command(uint32_t namespace_id, const std::vector<DeallocateRange>& ranges) {
  CAIRN_CHECK(!ranges.empty(), "nothing is deallocated");
  nvme_uring_cmd command{};
  command.opcode = kDatasetManagement;
  command.nsid = namespace_id;
  command.addr = reinterpret_cast<uint64_t>(ranges.data());
  command.data_len = static_cast<uint32_t>(ranges.size() * sizeof(DeallocateRange));
  command.cdw10 = static_cast<uint32_t>(ranges.size() - 1);
  command.cdw11 = kDeallocate;
  return command;
}

int errno_of_nvme_status(int status) {
  CAIRN_CHECK(status > 0, "a success, or an error of the system, is read as a status of the drive");
  if ((status & kTypeMask) == kMediaErrors) return EIO;
  const Meaning* meaning = find_meaning(status);
  return meaning == nullptr ? EIO : meaning->error;
}

bool nvme_may_retry(int status) {
  const Meaning* meaning = find_meaning(status);
  return meaning != nullptr && meaning->passes && (status & kDoNotRetry) == 0;
}

}  // namespace cairn
