#include "drive/nvme_describe.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdint>
#include <string>

#include "base/json.h"
#include "drive/claim.h"
#include "drive/drive.h"
#include "drive/nvme_identify.h"
#include "drive/nvme_sysfs.h"

namespace cairn {

namespace {

std::string describe(const std::string& path, const NvmeFacts& facts, const NvmeNode& node) {
  CAIRN_CHECK(facts.namespace_id > 0, "no namespace is described");
  CAIRN_CHECK(facts.space.lba_bytes > 0, "a namespace is described that has no logical blocks");
  JsonWriter json;
  json.begin_object().text("path", path).text("block_path", node.block_path).number("namespace", facts.namespace_id);
  json.number("bytes", facts.space.blocks * facts.space.lba_bytes).number("lba_bytes", facts.space.lba_bytes);
  json.boolean("write_protected", facts.space.write_protected);
  // 0: no limit that the controller, or the kernel, tells of.
  const uint64_t most = facts.controller.transfer_bytes_most;
  json.number("transfer_bytes_most", most == UINT64_MAX ? 0 : most).number("kernel_bytes_most", node.bytes_most);
  json.number("kernel_segments_most", node.segments_most);
  json.boolean("write_cache", facts.controller.has_cache).boolean("write_cache_on", facts.cache_on);
  json.boolean("deallocates", facts.controller.deallocates).boolean("places", facts.controller.places);
  json.number("placement_ids", facts.placement_ids.size());
  return json.end_object().take();
}

}  // namespace

Result<std::string> describe_nvme(const std::string& path) {
  DriveOptions options;
  options.read_only = true;
  auto device = open_path(path, 0, options);
  if (!device) return device.error();
  struct stat status{};
  if (fstat(device.value().get(), &status) != 0) return Error::from_errno(errno, "cannot ask what " + path + " is");
  if (!S_ISCHR(status.st_mode))
    return Error{0, path + " is no character device; name a namespace such as /dev/ng0n1, not its block device"};
  auto node = find_nvme_node(path, status.st_rdev);
  if (!node) return node.error();
  auto facts = identify_nvme(device.value(), path);
  if (!facts) return facts.error();
  find_block_device(node.value(), facts.value().namespace_id);
  return describe(path, facts.value(), node.value());
}

}  // namespace cairn
