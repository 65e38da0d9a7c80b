// Memory of requests over links whose peer reads and writes it by itself: what is registered, in place; what is not, in
// memory of ours that stands in its place (bounced.cc).
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <vector>

#include "client/client.h"

namespace cairn {

namespace {

// The part of a piece of memory that one request uses.
struct Reached {
  const ExposedMemory* memory;
  std::byte* first;
  std::byte* end;
  std::vector<uint32_t> extents;  // whose key it becomes
};

void add_extent(std::vector<Reached>& all, const ExposedMemory& memory, const iovec& part,
                std::vector<ExtentBody>& extents) {
  auto* base = static_cast<std::byte*>(part.iov_base);
  auto found = std::find_if(all.begin(), all.end(), [&](const Reached& one) { return one.memory == &memory; });
  if (found == all.end()) found = all.insert(all.end(), {&memory, base, base, {}});
  found->first = std::min(found->first, base);
  found->end = std::max(found->end, base + part.iov_len);
  found->extents.push_back(static_cast<uint32_t>(extents.size()));
  extents.push_back({reinterpret_cast<uint64_t>(base), part.iov_len, 0, 0});
}

}  // namespace

void Client::expose_regions(Lock& lock, const Domains& domains) {
  CAIRN_CHECK(lock.owns_lock(), "memory is made known without the lock");
  struct Known {
    std::byte* base;
    uint64_t bytes, serial;
  };
  std::vector<Known> all;
  for (const auto& [base, region] : regions_) {
    // Memory of a GPU is not pinned by this: install() does it, in no time.
    if (region->gpu() == kHostMemory) all.push_back({region->base(), region->bytes(), region->serial});
  }
  for (const auto& domain : domains) {
    for (const Known& one : all) {
      // It may be freed at any time, and other memory may be registered at its address.
      const auto still = [&]() -> MemoryRegion* {
        const auto found = regions_.find(one.base);
        const bool same = found != regions_.end() && found->second->serial == one.serial;
        return same && !found->second->exposed.contains(domain.get()) ? found->second.get() : nullptr;
      };
      if (still() == nullptr) continue;
      lock.unlock();
      auto exposed = domain->expose({one.base, one.bytes});
      lock.lock();
      MemoryRegion* region = still();
      if (exposed.ok() && region != nullptr) region->exposed.emplace(domain.get(), exposed.take());
    }
  }
}

void Client::forget_domain(const MemoryDomain& domain) {
  for (const auto& [base, region] : regions_) region->exposed.erase(&domain);
  bounce_.forget(domain);
}

MemoryRegion* Client::exposed_at(const MemoryDomain& domain, const std::byte* base, uint64_t length) {
  return region_around(base, length, [&](const MemoryRegion& region) { return region.exposed.contains(&domain); });
}

bool Client::is_exposed(const MemoryDomain& domain, const Operation& operation, uint32_t item) {
  const auto parts = operation.memory(item);
  if (parts.size() > kItemExtentsMost) return false;
  return std::all_of(parts.begin(), parts.end(), [&](const iovec& part) {
    return part.iov_len == 0 || exposed_at(domain, static_cast<const std::byte*>(part.iov_base), part.iov_len);
  });
}

void Client::reach(Lane& lane, uint64_t id, Request& request, std::vector<ItemBody>& items,
                   std::vector<ExtentBody>& extents) {
  const auto domain = lane.link->memory_domain();
  const Operation& operation = *request.operation;
  std::vector<Reached> all;
  std::vector<iovec> parts;
  for (uint32_t i = 0; i < request.count; ++i) {
    ItemBody& body = items[i];
    body.extent_first = static_cast<uint32_t>(extents.size());
    const auto memory = operation.memory(request.first + i);
    if (!request.bounced.empty() && request.bounced[i]) {
      parts.clear();
      request.bounced[i].slice(0, std::min(body.length, request.bounced[i].length()), parts);
      for (const iovec& part : parts) add_extent(all, bounce_.exposed(*domain), part, extents);
    } else if (is_exposed(*domain, operation, request.first + i)) {
      for (const iovec& part : memory) {
        if (part.iov_len == 0) continue;
        MemoryRegion* region = exposed_at(*domain, static_cast<const std::byte*>(part.iov_base), part.iov_len);
        add_extent(all, *region->exposed.at(domain.get()), part, extents);
        if (std::find(request.regions.begin(), request.regions.end(), region) == request.regions.end())
          request.regions.push_back(region);
      }
    }
    body.extent_count = static_cast<uint16_t>(extents.size() - body.extent_first);
  }
  for (const Reached& one : all) {
    const ByteSpan range(one.first, static_cast<size_t>(one.end - one.first));
    const auto key = lane.link->let_in(id, *one.memory, range, operation.type == FrameType::get);
    for (const uint32_t extent : one.extents) {
      extents[extent].region = key.value_or(0);
      extents[extent].flags = one.memory->stays_open() ? kExtentStaysOpen : 0;
      if (!key) refuse_item_of(request, extent, items);
    }
  }
}

// The device lets nobody in to a part of its memory: no key that leads nowhere is sent, which would end the connection
// when the service uses it.
void Client::refuse_item_of(const Request& request, uint32_t extent, std::vector<ItemBody>& items) {
  note("the RDMA device opens no more memory for requests");
  for (uint32_t i = 0; i < items.size(); ++i) {
    ItemBody& body = items[i];
    if (extent < body.extent_first || extent >= body.extent_first + body.extent_count) continue;
    body.extent_count = 0;
    settle(*request.operation, request.first + i, Status::bad_region);
  }
}

void Client::end_requests_in(Lock& lock, const MemoryRegion& region, Interruption* interruption) {
  const auto uses = [&](const Request& request) {
    return std::find(request.regions.begin(), request.regions.end(), &region) != request.regions.end();
  };
  const auto any = [&](auto&& wanted) -> std::shared_ptr<Operation> {
    for (const auto& lane : lanes_) {
      for (const auto& [id, request] : lane->requests) {
        if (uses(request) && wanted(request)) return request.operation ? request.operation : request.fencing;
      }
    }
    return nullptr;
  };
  guarded(lock, [&] {
    while (const auto operation = any([](const Request& request) { return request.operation != nullptr; }))
      give_up(*operation, Status::cancelled);
  });
  while (any([](const Request&) { return true; }) != nullptr) go_on(lock, interruption);
}

}  // namespace cairn
