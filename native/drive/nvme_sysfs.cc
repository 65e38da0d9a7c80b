#include "drive/nvme_sysfs.h"

#include <sys/sysmacros.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

namespace cairn {

namespace {

namespace fs = std::filesystem;

// The first word of a file, as a number; 0 without.
uint64_t number_in(const fs::path& file) {
  std::ifstream text(file);
  uint64_t number = 0;
  text >> number;
  return text ? number : 0;
}

std::string subsystem_of(const fs::path& folder) {
  std::error_code failed;
  return fs::read_symlink(folder / "subsystem", failed).filename();
}

}  // namespace

Result<NvmeNode> find_nvme_node(const std::string& path, dev_t number, const std::string& sys_root) {
  const std::string name = std::to_string(major(number)) + ":" + std::to_string(minor(number));
  std::error_code failed;
  const fs::path folder = fs::canonical(fs::path(sys_root) / "dev" / "char" / name, failed);
  if (failed)
    return Error{failed.value(), path + " is a character device of which " + sys_root + " knows nothing; name a drive"};
  const std::string kind = subsystem_of(folder);
  if (kind == "nvme")
    return Error{0, path + " is an NVMe controller; name one of its namespaces, such as /dev/ng0n1 or /dev/nvme0n1"};
  if (kind != "nvme-generic") {
    return Error{0, path +
                        " is a character device, and no NVMe namespace; name a namespace such as /dev/ng0n1, a block "
                        "device or a file"};
  }
  NvmeNode node;
  node.folder = folder.string();
  return node;
}

void find_block_device(NvmeNode& node, uint32_t namespace_id) {
  CAIRN_CHECK(!node.folder.empty(), "a block device is looked for beside nothing");
  // Where two namespaces of one controller's subsystem have the same number, the names tell: ng1n2 is nvme1n2.
  const std::string same = "nvme" + fs::path(node.folder).filename().string().substr(2);
  fs::path found;
  std::error_code failed;
  for (const auto& beside : fs::directory_iterator(fs::path(node.folder).parent_path(), failed)) {
    const fs::path& folder = beside.path();
    if (subsystem_of(folder) != "block" || number_in(folder / "nsid") != namespace_id) continue;
    if (found.empty() || folder.filename() == same) found = folder;
  }
  if (found.empty()) return;
  node.block_path = "/dev/" + found.filename().string();
  constexpr uint64_t kKibibyte = 1024;
  node.bytes_most = number_in(found / "queue" / "max_hw_sectors_kb") * kKibibyte;
  node.segments_most = number_in(found / "queue" / "max_segments");
}

}  // namespace cairn
