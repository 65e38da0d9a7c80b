// Regions over the memory of GPUs: made known to the device by dma-buf where all three of them can (GPU, kernel,
// network card); where not, the blocks in them are copied through host memory.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "client/client.h"

namespace cairn {

namespace {

Result<std::unique_ptr<ExposedMemory>> expose_gpu(MemoryDomain& domain, const MemoryRegion& region) {
  Gpu* driver = Gpu::loaded();
  CAIRN_CHECK(driver != nullptr, "there is a region on a GPU and no driver");
  if (auto settled = driver->can_settle_remote_writes(region.gpu()); !settled) return settled.error();
  auto exported = driver->export_dma_buf(region.gpu(), reinterpret_cast<uint64_t>(region.base()), region.bytes());
  if (!exported) return exported.error();
  const DmaBuf buffer = exported.take();
  return domain.expose_dma_buf({region.base(), region.bytes()}, buffer.descriptor(), buffer.offset());
}

}  // namespace

// Takes as long as the system needs to pin the memory; needs no lock while nobody else knows the region.
Result<Unit> Client::expose_region(MemoryDomain& domain, MemoryRegion& region) {
  CAIRN_CHECK(!region.exposed.contains(&domain), "a region is made known to a device that knows it");
  const bool on_gpu = region.gpu() != kHostMemory;
  auto exposed = on_gpu ? expose_gpu(domain, region) : domain.expose({region.base(), region.bytes()});
  if (!exposed) {
    if (on_gpu) region.bounced_because = exposed.error().message;
    return exposed.error();
  }
  region.exposed.emplace(&domain, exposed.take());
  return Unit{};
}

// Where payload is copied from and to the region by this side, at some moment between now and the end of the operation.
void Client::end_operations_in(Lock& lock, const MemoryRegion& region, Interruption* interruption) {
  CAIRN_CHECK(lock.owns_lock(), "operations are looked at without the lock");
  const auto uses = [&region](const Operation& operation) {
    for (size_t i = 0; i < operation.gpus.size(); ++i) {
      const auto* base = static_cast<const std::byte*>(operation.parts[i].iov_base);
      const bool apart = base + operation.parts[i].iov_len <= region.base() || region.base() + region.bytes() <= base;
      if (operation.gpus[i] != kHostMemory && !apart) return true;
    }
    return false;
  };
  guarded(lock, [&] {
    std::vector<std::shared_ptr<Operation>> ended;
    for (const auto& [key, operation] : open_) {
      if (uses(*operation) && operation->state_ == Operation::State::open) ended.push_back(operation);
    }
    for (const auto& operation : ended) give_up(*operation, Status::cancelled);
    reap();
  });
  const auto used = [&] {
    return std::any_of(open_.begin(), open_.end(), [&](const auto& one) { return uses(*one.second); });
  };
  while (used()) go_on(lock, interruption);
}

std::string Client::reason_of(const MemoryRegion& region) const {
  const Address& way = way_ != nullptr ? *way_ : ways_.best();
  if (way.kind != Address::Kind::rdma)
    return std::string("the service reaches no such memory over ") + name_of(way.kind);
  const auto knows = [&region](const auto& domain) { return region.exposed.contains(domain.get()); };
  if (!domains_.empty() && std::all_of(domains_.begin(), domains_.end(), knows)) return {};
  return region.bounced_because.empty() ? "it is not yet known to the device" : region.bounced_because;
}

std::string Client::region_reason(const MemoryRegion& region) {
  if (inherited()) return kInherited;
  const Lock lock(lock_);
  return reason_of(region);
}

std::vector<GpuRegionInfo> Client::gpu_regions() const {
  std::vector<GpuRegionInfo> found;
  for (const auto& [base, region] : regions_) {
    if (region->gpu() == kHostMemory) continue;
    CAIRN_CHECK(gpu_regions_.load(std::memory_order_relaxed) > 0, "regions on GPUs were miscounted");
    found.push_back({reinterpret_cast<uint64_t>(base), region->bytes(), region->gpu(), reason_of(*region)});
  }
  return found;
}

}  // namespace cairn
