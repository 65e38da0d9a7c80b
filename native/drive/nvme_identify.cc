#include "drive/nvme_identify.h"

#include <linux/nvme_ioctl.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "drive/nvme_commands.h"
#include "drive/persist.h"

namespace cairn {

namespace {

// Identify Namespace
constexpr size_t kSizeAt = 0;
constexpr size_t kFormatsAt = 25;
constexpr size_t kFormatAt = 26;
constexpr size_t kMoreFormatsAt = 82;
constexpr size_t kAttributesAt = 99;
constexpr size_t kFormatTableAt = 128;
constexpr size_t kFormatBytes = 4;
constexpr size_t kFormatsMost = 64;
constexpr uint32_t kLbaShiftLeast = 9;
constexpr uint32_t kLbaShiftMost = 16;
static_assert(kFormatTableAt + kFormatsMost * kFormatBytes <= kIdentifyBytes, "formats lie behind the structure");

// Identify Controller
constexpr size_t kTransferAt = 77;
constexpr size_t kControllerAttributesAt = 96;
constexpr size_t kOptionalCommandsAt = 520;
constexpr size_t kCacheAt = 525;
constexpr uint32_t kPlacementBit = 1U << 19;
constexpr uint16_t kDatasetManagementBit = 1U << 2;
// MDTS counts the controller's smallest pages, whose size stands in a register that only the kernel reads: no
// controller has smaller ones than these.
constexpr uint64_t kPageBytesLeast = 4096;
constexpr uint32_t kTransferShiftMost = 40;  // more than that is no limit

constexpr uint8_t kDescriptorOfCommandSet = 4;
constexpr size_t kDescriptorHeaderBytes = 4;
constexpr uint8_t kZonedCommandSet = 2;

constexpr size_t kHandlesAt = 14;
constexpr size_t kHandleTableAt = 16;
constexpr size_t kHandleBytes = 32;
constexpr size_t kPlacementIdsMost = 256;  // a request names its class in a byte

constexpr uint8_t kIdentify = 0x06;
constexpr uint8_t kGetFeatures = 0x0A;
constexpr uint8_t kIoManagementReceive = 0x12;
constexpr uint32_t kOfNamespace = 0x00;
constexpr uint32_t kOfController = 0x01;
constexpr uint32_t kOfDescriptors = 0x03;
constexpr uint32_t kVolatileWriteCache = 0x06;
constexpr uint32_t kHandleStatus = 0x01;

uint8_t byte_at(ConstByteSpan data, size_t at) {
  CAIRN_CHECK(at < data.size(), "a structure is read behind its end");
  return std::to_integer<uint8_t>(data[at]);
}

struct alignas(kIdentifyBytes) Page {
  std::array<std::byte, kIdentifyBytes> bytes{};
};

// 0, a negative errno, or a status of the drive.
int ask(const Descriptor& device, unsigned long request, nvme_passthru_cmd& command) {
  const int result = persist([&] { return ioctl(device.get(), request, &command); });
  return result < 0 ? -errno : result;
}

int identify(const Descriptor& device, uint32_t namespace_id, uint32_t what, Page& page) {
  nvme_passthru_cmd command{};
  command.opcode = kIdentify;
  command.nsid = namespace_id;
  command.addr = reinterpret_cast<uint64_t>(page.bytes.data());
  command.data_len = kIdentifyBytes;
  command.cdw10 = what;
  return ask(device, NVME_IOCTL_ADMIN_CMD, command);
}

Error identify_error(int code, const std::string& path) {
  const std::string what = "cannot ask " + path + " what it is";
  if (code == -EACCES || code == -EPERM) {
    return Error::from_errno(-code, what,
                             "; pass-through needs CAP_SYS_ADMIN before Linux 6.2: give it to the service, or name the "
                             "block device instead");
  }
  if (code < 0) return Error::from_errno(-code, what);
  return Error::from_errno(errno_of_nvme_status(code), what,
                           "; the drive answered with status " + std::to_string(code) + " of NVM Express");
}

// True as well where it cannot be asked: a flush too many costs time, one too few blocks.
bool cache_is_on(const Descriptor& device, const NvmeController& controller) {
  if (!controller.has_cache) return false;
  nvme_passthru_cmd command{};
  command.opcode = kGetFeatures;
  command.cdw10 = kVolatileWriteCache;
  return ask(device, NVME_IOCTL_ADMIN_CMD, command) != 0 || (command.result & 1U) != 0;
}

// None where placement is switched off.
std::vector<uint16_t> ask_placement_ids(const Descriptor& device, uint32_t namespace_id) {
  Page page;
  nvme_passthru_cmd command{};
  command.opcode = kIoManagementReceive;
  command.nsid = namespace_id;
  command.addr = reinterpret_cast<uint64_t>(page.bytes.data());
  command.data_len = kIdentifyBytes;
  command.cdw10 = kHandleStatus;
  command.cdw11 = kIdentifyBytes / sizeof(uint32_t) - 1;
  if (ask(device, NVME_IOCTL_IO_CMD, command) != 0) return {};
  return decode_placement_ids(page.bytes);
}

}  // namespace

Result<NvmeNamespace> decode_namespace(ConstByteSpan data, const std::string& path) {
  CAIRN_CHECK(data.size() == kIdentifyBytes, "a namespace is described by what is no such structure");
  const auto refuse = [&](const std::string& why) { return Error{0, path + " " + why}; };
  // Bits 3:0 of the format's index, and two more where there are more than 16 formats.
  const uint8_t format = byte_at(data, kFormatAt);
  const uint32_t formats = byte_at(data, kFormatsAt) + 1U + byte_at(data, kMoreFormatsAt);
  const uint32_t index = (format & 0xFU) | (formats > 16 ? (format >> 5U & 3U) << 4U : 0U);
  if (index >= formats || index >= kFormatsMost)
    return refuse("names a format that it does not have; format it: nvme format " + path);
  const auto entry = load<uint32_t>(&data[kFormatTableAt + index * kFormatBytes]);
  if ((entry & 0xFFFFU) != 0) {
    return refuse(
        "keeps metadata beside every logical block, which Cairn does not use; format it without: nvme format " + path +
        " --lbaf=N, where nvme id-ns shows a format N with ms:0");
  }
  const uint32_t shift = entry >> 16U & 0xFFU;
  if (shift < kLbaShiftLeast || shift > kLbaShiftMost) {
    return refuse("says that its logical blocks have 2^" + std::to_string(shift) +
                  " bytes; Cairn uses 512 to 65536. Format it: nvme format " + path);
  }
  NvmeNamespace found;
  found.lba_bytes = 1U << shift;
  found.blocks = load<uint64_t>(&data[kSizeAt]);
  if (found.blocks == 0) return refuse("has no logical blocks: the namespace is not attached, or not ready");
  if (found.blocks > UINT64_MAX >> shift) return refuse("says that it is larger than any drive can be");
  found.write_protected = (byte_at(data, kAttributesAt) & 1U) != 0;
  return found;
}

NvmeController decode_controller(ConstByteSpan data) {
  CAIRN_CHECK(data.size() == kIdentifyBytes, "a controller is described by what is no such structure");
  NvmeController found;
  const uint32_t shift = byte_at(data, kTransferAt);
  if (shift != 0 && shift <= kTransferShiftMost) found.transfer_bytes_most = kPageBytesLeast << shift;
  found.has_cache = (byte_at(data, kCacheAt) & 1U) != 0;
  found.deallocates = (load<uint16_t>(&data[kOptionalCommandsAt]) & kDatasetManagementBit) != 0;
  found.places = (load<uint32_t>(&data[kControllerAttributesAt]) & kPlacementBit) != 0;
  return found;
}

uint8_t decode_command_set(ConstByteSpan data) {
  for (size_t at = 0; at + kDescriptorHeaderBytes < data.size();) {
    const uint8_t type = byte_at(data, at);
    const uint8_t bytes = byte_at(data, at + 1);
    if (type == 0 || bytes == 0) break;
    if (type == kDescriptorOfCommandSet) return byte_at(data, at + kDescriptorHeaderBytes);
    at += kDescriptorHeaderBytes + bytes;
  }
  return 0;
}

std::vector<uint16_t> decode_placement_ids(ConstByteSpan data) {
  CAIRN_CHECK(data.size() >= kHandleTableAt, "a list of handles without its head");
  const size_t room = (data.size() - kHandleTableAt) / kHandleBytes;
  const size_t count = std::min<size_t>({load<uint16_t>(&data[kHandlesAt]), room, kPlacementIdsMost});
  std::vector<uint16_t> ids;
  for (size_t i = 0; i < count; ++i) ids.push_back(load<uint16_t>(&data[kHandleTableAt + i * kHandleBytes]));
  return ids;
}

Result<NvmeFacts> identify_nvme(const Descriptor& device, const std::string& path) {
  NvmeFacts facts;
  const int id = persist([&] { return ioctl(device.get(), NVME_IOCTL_ID); });
  if (id <= 0) return Error::from_errno(id < 0 ? errno : ENODEV, "cannot ask " + path + " for its namespace");
  facts.namespace_id = static_cast<uint32_t>(id);
  Page page;
  if (const int code = identify(device, facts.namespace_id, kOfNamespace, page); code != 0)
    return identify_error(code, path);
  auto space = decode_namespace(page.bytes, path);
  if (!space) return space.error();
  facts.space = space.value();
  // Older drives do not have the list, and no other command set either.
  page = Page{};
  if (identify(device, facts.namespace_id, kOfDescriptors, page) == 0) {
    const uint8_t set = decode_command_set(page.bytes);
    if (set != 0) {
      return Error{0, path +
                          (set == kZonedCommandSet ? " is a zoned namespace" : " is no namespace of logical blocks") +
                          ", which Cairn does not use"};
    }
  }
  page = Page{};
  if (const int code = identify(device, 0, kOfController, page); code != 0) return identify_error(code, path);
  facts.controller = decode_controller(page.bytes);
  facts.cache_on = cache_is_on(device, facts.controller);
  if (facts.controller.places) facts.placement_ids = ask_placement_ids(device, facts.namespace_id);
  return facts;
}

}  // namespace cairn
