#include "testing/memory_drive.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace cairn {

namespace {

constexpr uint64_t kSectorBytes = 512;

DriveInfo describe(const Platter& platter, bool volatile_cache, bool read_only) {
  DriveInfo info;
  info.path = "memory";
  info.kind = "memory";
  info.bytes = platter.bytes();
  info.lba_bytes = 512;
  info.memory_align = 512;
  info.volatile_write_cache = volatile_cache;
  info.can_discard = true;
  info.placement_classes = platter.placement_classes;
  info.read_only = read_only;
  return info;
}

}  // namespace

void Platter::read(uint64_t offset, std::byte* to, uint64_t count) const {
  CAIRN_CHECK(offset + count <= pages_.size() * kPageBytes, "a read beyond the platter");
  while (count > 0) {
    const uint64_t within = offset % kPageBytes;
    const uint64_t step = std::min(kPageBytes - within, count);
    const auto& page = pages_[offset / kPageBytes];
    if (page == nullptr) {
      std::memset(to, 0, step);
    } else {
      std::memcpy(to, page->data() + within, step);
    }
    offset += step;
    to += step;
    count -= step;
  }
}

void Platter::write(uint64_t offset, const std::byte* from, uint64_t count) {
  CAIRN_CHECK(offset + count <= pages_.size() * kPageBytes, "a write beyond the platter");
  while (count > 0) {
    const uint64_t within = offset % kPageBytes;
    const uint64_t step = std::min(kPageBytes - within, count);
    auto& page = pages_[offset / kPageBytes];
    if (page == nullptr) {
      page = std::make_shared<Page>();
    } else if (page.use_count() > 1) {
      page = std::make_shared<Page>(*page);
    }
    std::memcpy(page->data() + within, from, step);
    offset += step;
    from += step;
    count -= step;
  }
}

void Platter::flip(uint64_t offset, int bit) {
  std::byte byte{};
  read(offset, &byte, 1);
  byte = byte ^ static_cast<std::byte>(1 << bit);
  write(offset, &byte, 1);
}

void Platter::write_cached(uint64_t offset, const iovec* vectors, uint32_t count) {
  std::vector<std::byte> bytes;
  for (uint32_t i = 0; i < count; ++i) {
    const auto* base = static_cast<const std::byte*>(vectors[i].iov_base);
    bytes.insert(bytes.end(), base, base + vectors[i].iov_len);
  }
  cache_.push_back({offset, std::make_shared<const std::vector<std::byte>>(std::move(bytes))});
}

void Platter::read_cached(uint64_t offset, const iovec* vectors, uint32_t count) const {
  for (uint32_t i = 0; i < count; ++i) {
    auto* base = static_cast<std::byte*>(vectors[i].iov_base);
    const uint64_t length = vectors[i].iov_len;
    read(offset, base, length);
    for (const CachedWrite& write : cache_) {
      const uint64_t from = std::max(offset, write.offset);
      const uint64_t to = std::min(offset + length, write.offset + write.bytes->size());
      if (from < to) std::memcpy(base + (from - offset), write.bytes->data() + (from - write.offset), to - from);
    }
    offset += length;
  }
}

void Platter::flush() {
  for (const CachedWrite& one : cache_) write(one.offset, one.bytes->data(), one.bytes->size());
  cache_.clear();
}

void Platter::discard(uint64_t offset, uint64_t count) {
  const uint64_t first = (offset + kPageBytes - 1) / kPageBytes;
  for (uint64_t page = first; (page + 1) * kPageBytes <= offset + count; ++page) pages_[page].reset();
}

void Platter::lose_power(std::mt19937_64& random) {
  std::shuffle(cache_.begin(), cache_.end(), random);
  for (const CachedWrite& one : cache_) {
    const uint64_t fate = random() % 3;  // all of it, none of it, some sectors of it
    for (uint64_t at = 0; at < one.bytes->size(); at += kSectorBytes) {
      if (fate == 0 || (fate == 2 && random() % 2 == 0))
        write(one.offset + at, one.bytes->data() + at, std::min(kSectorBytes, one.bytes->size() - at));
    }
  }
  cache_.clear();
}

MemoryDrive::MemoryDrive(std::shared_ptr<Platter> platter, bool volatile_cache, bool read_only)
    : Drive(describe(*platter, volatile_cache, read_only)), platter_(std::move(platter)) {}

MemoryDrive::~MemoryDrive() {
  if (dead_) return;
  CAIRN_CHECK(queue_.empty(), "a drive was closed with requests in flight");
  platter_->flush();  // an orderly end is no crash
}

void MemoryDrive::start(IoRequest& request) {
  queue_.push_back(&request);
}

int MemoryDrive::fault_of(IoKind kind) {
  uint64_t& countdown = kind == IoKind::read    ? faults.fail_read
                        : kind == IoKind::write ? faults.fail_write
                        : kind == IoKind::flush ? faults.fail_flush
                                                : faults.fail_discard;
  if (countdown == 0) return 0;
  if (countdown > 1) {
    --countdown;
    return 0;
  }
  if (!faults.for_ever) countdown = 0;
  return faults.error;
}

void MemoryDrive::finish(IoRequest& request) {
  int error = fault_of(request.kind);
  for (const uint64_t bad : faults.unreadable) {
    if (request.kind == IoKind::read && bad >= request.offset && bad < request.offset + request.bytes) error = EIO;
  }
  if (request.kind == IoKind::write && request.offset >= faults.unwritable_from &&
      request.offset < faults.unwritable_to)
    error = EIO;
  if (error == 0) {
    if (request.kind == IoKind::read) platter_->read_cached(request.offset, request.vectors, request.vector_count);
    if (request.kind == IoKind::write) platter_->write_cached(request.offset, request.vectors, request.vector_count);
    if (request.kind == IoKind::discard) platter_->discard(request.offset, request.bytes);
    if (request.kind == IoKind::flush || !info().volatile_write_cache) platter_->flush();
  }
  request.completed(error);
}

void MemoryDrive::poll() {
  if (dead_) {
    for (std::deque<IoRequest*> rest = std::exchange(queue_, {}); !rest.empty(); rest.pop_front())
      rest.front()->completed(ENODEV);
    return;
  }
  if (faults.hold) return;
  // What completions submit waits for the next poll, as on a real drive.
  size_t count = queue_.size();
  if (faults.seed != 0) {
    random_.seed(faults.seed++);
    std::shuffle(queue_.begin(), queue_.end(), random_);
    count = count == 0 ? 0 : 1 + random_() % count;
  }
  if (faults.a_poll > 0) count = std::min<size_t>(count, faults.a_poll);
  for (size_t i = 0; i < count; ++i) {
    IoRequest* request = queue_.front();
    queue_.pop_front();
    finish(*request);
  }
}

void MemoryDrive::wait(int) {
  poll();
}

// What was in flight may have reached the cache.
void MemoryDrive::take_in_flight(std::mt19937_64& random) {
  for (const IoRequest* request : queue_) {
    if (request->kind == IoKind::write && random() % 2 != 0)
      platter_->write_cached(request->offset, request->vectors, request->vector_count);
  }
}

void MemoryDrive::kill(uint64_t seed) {
  std::mt19937_64 random(seed);
  take_in_flight(random);
  dead_ = true;
}

void MemoryDrive::crash(uint64_t seed) {
  std::mt19937_64 random(seed);
  take_in_flight(random);
  platter_->lose_power(random);
  dead_ = true;
}

}  // namespace cairn
