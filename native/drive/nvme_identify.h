// What an NVMe namespace and its controller say of themselves. Decoding is pure and takes nothing for granted: a drive
// may answer anything. "Base" and "NVM" are the specifications named in nvme_commands.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "drive/descriptor.h"

namespace cairn {

inline constexpr size_t kIdentifyBytes = 4096;  // of every structure that identify gives

struct NvmeNamespace {
  uint64_t blocks = 0;
  uint32_t lba_bytes = 0;
  bool write_protected = false;
};

struct NvmeController {
  uint64_t transfer_bytes_most = UINT64_MAX;  // of one command, as far as the controller is concerned
  bool has_cache = true;                      // a volatile write cache is there; it may be off
  bool deallocates = false;                   // Dataset Management
  bool places = false;                        // flexible data placement
};

// NVM 4.1.5.1, Identify Namespace. An error says what of it Cairn cannot use, beginning with `path`.
Result<NvmeNamespace> decode_namespace(ConstByteSpan data, const std::string& path);
// Base 5.17.2.1, Identify Controller.
NvmeController decode_controller(ConstByteSpan data);
// Base 5.17.2.3, Namespace Identification Descriptor list: the command set of the namespace; 0, the NVM Command Set,
// where it says nothing of that.
uint8_t decode_command_set(ConstByteSpan data);
// Base 7.3, I/O Management Receive, Reclaim Unit Handle Status: the placement identifiers that the namespace has.
std::vector<uint16_t> decode_placement_ids(ConstByteSpan data);

struct NvmeFacts {
  uint32_t namespace_id = 0;
  NvmeNamespace space;
  NvmeController controller;
  bool cache_on = true;                 // what was written needs a flush to survive
  std::vector<uint16_t> placement_ids;  // empty: it places nothing
};

// Asks the namespace behind /dev/ngXnY.
Result<NvmeFacts> identify_nvme(const Descriptor& device, const std::string& path);

}  // namespace cairn
