// Memory of ours in the place of a caller's that the transport does not reach: taken before a request is sent, filled
// (put), and emptied into the caller's when the bytes are there (get).
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/streaming_copy.h"
#include "client/client.h"

namespace cairn {

namespace {

enum class Direction : uint8_t { to_ours, to_theirs };

// Copies between the memory of a caller, which lies on `gpus` (empty: all on the host), and ours, until either ends.
// When it returns nothing is under way any more, whatever it returns.
bool copy_between(std::span<const iovec> theirs, std::span<const int> gpus, std::span<const iovec> ours,
                  Direction direction, std::string& error) {
  CAIRN_CHECK(gpus.empty() || gpus.size() == theirs.size(), "it is not known where some memory of a caller lies");
  std::map<int, std::vector<GpuPiece>> pieces;
  size_t near = 0, near_at = 0;
  for (size_t far = 0; far < theirs.size(); ++far) {
    const int gpu = gpus.empty() ? kHostMemory : gpus[far];
    auto* base = static_cast<std::byte*>(theirs[far].iov_base);
    for (size_t at = 0; at < theirs[far].iov_len && near < ours.size();) {
      const size_t step = std::min(theirs[far].iov_len - at, ours[near].iov_len - near_at);
      std::byte* here = static_cast<std::byte*>(ours[near].iov_base) + near_at;
      if (gpu != kHostMemory) {
        pieces[gpu].push_back({here, reinterpret_cast<uint64_t>(base) + at, step});
      } else if (direction == Direction::to_ours) {
        copy_streaming(here, base + at, step);
      } else {
        copy_streaming(base + at, here, step);
      }
      at += step;
      near_at += step;
      if (near_at == ours[near].iov_len) {
        ++near;
        near_at = 0;
      }
    }
  }
  bool good = true;
  for (const auto& [gpu, one] : pieces) {
    CAIRN_CHECK(Gpu::loaded() != nullptr, "there is memory of a GPU and no driver");
    good = good && (direction == Direction::to_ours ? Gpu::loaded()->copy_to_host(gpu, one, error)
                                                    : Gpu::loaded()->copy_to_device(gpu, one, error));
  }
  return good;
}

uint32_t crc_of(std::span<const iovec> parts, uint64_t bytes) {
  uint32_t crc = 0;
  for (const iovec& part : parts) {
    const auto take = std::min<uint64_t>(part.iov_len, bytes);
    crc = crc32c({static_cast<const std::byte*>(part.iov_base), take}, crc);
    bytes -= take;
  }
  CAIRN_CHECK(bytes == 0, "more bytes are checked than there is memory");
  return crc;
}

}  // namespace

// A caller may name memory by its address alone once a region of a GPU is registered over it.
void Client::find_gpus(Operation& operation) {
  if (!operation.moves_payload() || gpu_regions_.load(std::memory_order_acquire) == 0) return;
  const std::lock_guard<std::mutex> held(regions_lock_);
  const auto on_gpu = [](const MemoryRegion& region) { return region.gpu() != kHostMemory; };
  for (size_t i = 0; i < operation.parts.size(); ++i) {
    const MemoryRegion* region = region_around(static_cast<const std::byte*>(operation.parts[i].iov_base), 1, on_gpu);
    if (region == nullptr) continue;
    if (operation.gpus.empty()) operation.gpus.assign(operation.parts.size(), kHostMemory);
    operation.gpus[i] = region->gpu();
  }
}

bool Client::is_bounced(const MemoryDomain* domain, const Operation& operation, uint32_t item) {
  return domain != nullptr ? !is_exposed(*domain, operation, item) : operation.on_gpu(item);
}

// How many of the items, at least one, go into a request together.
uint32_t Client::share_of_bounce(const MemoryDomain* domain, const Operation& operation, uint32_t first,
                                 uint32_t most) {
  uint64_t bytes = 0;
  uint64_t extents = 0;
  for (uint32_t i = 0; i < most; ++i) {
    extents += std::max<uint64_t>(operation.memory(first + i).size(), kBufferRunsMost);
    if (is_bounced(domain, operation, first + i)) bytes += operation.room(first + i);
    if (i > 0 && (bytes > kBounceRequestBytes || extents > kBatchExtentsMost)) return i;
  }
  return most;
}

// False: not now. What can never be had is left out: the service refuses those items, and those on a GPU are settled.
bool Client::take_bounce(Lane& lane, Request& request) {
  const auto domain = lane.link->memory_domain();
  Operation& operation = *request.operation;
  if (!operation.moves_payload() || (domain == nullptr && operation.gpus.empty())) return true;
  std::vector<Buffer> bounced(request.count);
  bool any = false;
  for (uint32_t i = 0; i < request.count; ++i) {
    const uint32_t item = request.first + i;
    // A destination may be larger than any block.
    const bool gets = operation.type == FrameType::get;
    const uint64_t bytes = gets ? std::min(operation.room(item), kBlockBytesMost) : operation.room(item);
    if (bytes == 0 || bytes > kBlockBytesMost || !is_bounced(domain.get(), operation, item)) continue;
    std::string error;
    bounced[i] = bounce_.take(domain.get(), bytes, operation.on_gpu(item), error);
    if (!error.empty()) {
      note(error);
      if (operation.on_gpu(item)) settle(operation, item, Status::bad_region);
    } else if (!bounced[i]) {
      return false;
    }
    any = true;
  }
  if (!any) return true;
  request.bounced = std::move(bounced);
  if (operation.type == FrameType::put) fill_bounced(request);
  return true;
}

// Of a put. An item whose bytes its GPU does not give is settled; the service asks for it in vain.
void Client::fill_bounced(Request& request) {
  Operation& operation = *request.operation;
  CAIRN_CHECK(operation.type == FrameType::put, "memory is filled that bytes will be received in");
  for (uint32_t i = 0; i < request.count; ++i) {
    if (!request.bounced[i]) continue;
    const uint32_t item = request.first + i;
    const uint64_t bytes = operation.room(item);
    std::vector<iovec> parts;
    request.bounced[i].slice(0, bytes, parts);
    if (!copy_between(operation.memory(item), operation.gpus_of(item), parts, Direction::to_ours, last_error_)) {
      untold_ = true;
      request.bounced[i] = {};
      settle(operation, item, Status::bad_region);
    } else if (operation.on_gpu(item) && !operation.crcs_.empty()) {
      operation.crcs_[item] = crc_of(parts, bytes);
    }
  }
}

// What a network card reads out of a GPU passes no processor of this side.
bool Client::checksum_is_known(const Request& request, uint32_t index) {
  const Operation& operation = *request.operation;
  if (operation.crcs_.empty()) return false;
  return !operation.on_gpu(request.first + index) || (!request.bounced.empty() && request.bounced[index]);
}

// The bytes of an item have arrived: brings them to their caller, and checks those that pass a processor of this side.
Status Client::deliver(const Request& request, const ResultBody& result, const uint32_t* crc) {
  const Operation& operation = *request.operation;
  const uint32_t item = request.first + result.index;
  CAIRN_CHECK(operation.type == FrameType::get, "bytes are delivered that nobody asked for");
  CAIRN_CHECK(result.length <= operation.room(item), "bytes are delivered to memory that has no room for them");
  if (result.length > kBlockBytesMost) return Status::invalid;  // a destination may have more room than a block needs
  if (operation.on_gpu(item)) return deliver_to_gpu(request, result, crc);
  const auto memory = operation.memory(item);
  if (!request.bounced.empty() && request.bounced[result.index]) {
    std::vector<iovec> from;
    request.bounced[result.index].slice(0, result.length, from);
    const bool copied = copy_between(memory, {}, from, Direction::to_theirs, last_error_);
    CAIRN_CHECK(copied, "host memory was not copied");
  }
  if (!options_.verify) return Status::ok;
  return (crc != nullptr ? *crc : crc_of(memory, result.length)) == result.crc ? Status::ok : Status::bad_checksum;
}

Status Client::deliver_to_gpu(const Request& request, const ResultBody& result, const uint32_t* crc) {
  const Operation& operation = *request.operation;
  const uint32_t item = request.first + result.index;
  const auto gpus = operation.gpus_of(item);
  if (request.bounced.empty() || !request.bounced[result.index]) {
    for (const int gpu : gpus) {
      if (gpu == kHostMemory || Gpu::loaded()->settle_remote_writes(gpu, last_error_)) continue;
      untold_ = true;
      return Status::bad_region;
    }
    return Status::ok;
  }
  std::vector<iovec> from;
  request.bounced[result.index].slice(0, result.length, from);
  if (options_.verify && (crc != nullptr ? *crc : crc_of(from, result.length)) != result.crc)
    return Status::bad_checksum;
  if (copy_between(operation.memory(item), gpus, from, Direction::to_theirs, last_error_)) return Status::ok;
  untold_ = true;
  return Status::bad_region;
}

}  // namespace cairn
