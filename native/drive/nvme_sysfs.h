// What the kernel knows of an NVMe namespace, from sysfs.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "base/result.h"

namespace cairn {

struct NvmeNode {
  std::string folder;          // of the generic character device, such as …/nvme0/ng0n1
  std::string block_path;      // the same namespace as a block device, such as /dev/nvme0n1; empty: there is none
  uint64_t bytes_most = 0;     // that the kernel takes in one command; 0: unknown
  uint64_t segments_most = 0;  // … of pieces of memory
};

// What the character device with this number is. An error, with `path` and what to do, unless it is a namespace.
Result<NvmeNode> find_nvme_node(const std::string& path, dev_t number, const std::string& sys_root = "/sys");
// The namespace's block device, and its limits, are those beside the character device that have its `namespace_id`.
void find_block_device(NvmeNode& node, uint32_t namespace_id);

}  // namespace cairn
