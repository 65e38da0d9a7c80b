#include "testing/fault_drive.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace cairn {

namespace {

constexpr uint64_t kTimeOutNs = 30'000'000'000;

DriveInfo describe(const Platter& platter, const std::string& path) {
  DriveInfo info;
  info.path = path;
  info.kind = "memory";
  info.bytes = platter.bytes();
  info.lba_bytes = 512;
  info.memory_align = 512;
  info.volatile_write_cache = true;
  info.placement_classes = platter.placement_classes;
  return info;
}

int errno_of(DriveFault fault) {
  switch (fault) {
    case DriveFault::none:
      return 0;
    case DriveFault::io_error:
    case DriveFault::short_transfer:
      return EIO;
    case DriveFault::no_space:
      return ENOSPC;
    case DriveFault::no_memory:
      return ENOMEM;
    case DriveFault::time_out:
      return ETIMEDOUT;
    case DriveFault::gone:
      return ENODEV;
  }
  return EIO;
}

// The first `bytes` of what the vectors name.
std::vector<iovec> prefix(const IoRequest& request, uint64_t bytes) {
  std::vector<iovec> parts;
  for (uint32_t i = 0; i < request.vector_count && bytes > 0; ++i) {
    const uint64_t part = std::min<uint64_t>(request.vectors[i].iov_len, bytes);
    parts.push_back({request.vectors[i].iov_base, part});
    bytes -= part;
  }
  return parts;
}

}  // namespace

const char* name_of(DriveFault fault) {
  constexpr const char* kNames[] = {"none", "io_error", "no_space", "no_memory", "short_transfer", "time_out", "gone"};
  return kNames[static_cast<size_t>(fault)];
}

FaultDrive::FaultDrive(std::shared_ptr<Platter> platter, VirtualClock& clock, DriveWatcher* watcher,
                       const std::string& path)
    : Drive(describe(*platter, path)), platter_(std::move(platter)), clock_(clock), watcher_(watcher) {}

FaultDrive::~FaultDrive() {
  CAIRN_CHECK(queue_.empty() && late_.empty(), "a drive was closed with requests in flight");
}

void FaultDrive::start(IoRequest& request) {
  writes_begun_ += request.kind == IoKind::write ? 1 : 0;
  queue_.push_back(&request);
}

std::vector<Platter::CachedWrite> FaultDrive::unflushed() const {
  std::vector<Platter::CachedWrite> all = platter_->cached();
  for (const IoRequest* request : queue_) {
    if (request->kind != IoKind::write) continue;
    std::vector<std::byte> bytes;
    for (uint32_t i = 0; i < request->vector_count; ++i) {
      const auto* base = static_cast<const std::byte*>(request->vectors[i].iov_base);
      bytes.insert(bytes.end(), base, base + request->vectors[i].iov_len);
    }
    all.push_back({request->offset, std::make_shared<const std::vector<std::byte>>(std::move(bytes))});
  }
  return all;
}

void FaultDrive::serve(const IoRequest& request, uint64_t bytes) {
  if (request.kind == IoKind::flush) {
    platter_->flush();
    ++flushes_served_;
    return;
  }
  const std::vector<iovec> parts = prefix(request, bytes);
  const auto count = static_cast<uint32_t>(parts.size());
  if (request.kind == IoKind::read) platter_->read_cached(request.offset, parts.data(), count);
  if (request.kind == IoKind::write) platter_->write_cached(request.offset, parts.data(), count);
}

void FaultDrive::finish(IoRequest& request, DriveFault fault) {
  if (fault == DriveFault::none) serve(request, request.bytes);
  if (fault == DriveFault::short_transfer && request.kind != IoKind::flush)
    serve(request, request.bytes / 2 / info().lba_bytes * info().lba_bytes);
  gone_ |= fault == DriveFault::gone;
  if (watcher_ != nullptr) watcher_->served(*this);
  request.completed(errno_of(fault));
  if (watcher_ != nullptr) watcher_->told(*this);
}

void FaultDrive::finish_late() {
  while (!late_.empty() && late_.front().due_ns <= clock_.now_ns()) {
    IoRequest* request = late_.front().request;
    late_.pop_front();
    serve(*request, request->bytes);
    request->completed(ETIMEDOUT);
  }
}

void FaultDrive::poll() {
  if (stopped_) {
    for (const Late& one : std::exchange(late_, {})) queue_.push_back(one.request);
    for (std::deque<IoRequest*> rest = std::exchange(queue_, {}); !rest.empty(); rest.pop_front())
      rest.front()->completed(ENODEV);
    return;
  }
  finish_late();
  // What completions submit waits for the next poll, as on a real drive.
  size_t count = queue_.size();
  if (shuffle_seed != 0 && count > 0) {
    random_.seed(shuffle_seed++);
    std::shuffle(queue_.begin(), queue_.end(), random_);
    count = 1 + random_() % count;
  }
  for (size_t i = 0; i < count && !stopped_; ++i) {
    IoRequest* request = queue_.front();
    DriveFault fault = gone_ ? DriveFault::gone : DriveFault::none;
    if (watcher_ != nullptr && !gone_) fault = watcher_->before(*this, *request);
    queue_.pop_front();
    if (fault == DriveFault::time_out) {
      late_.push_back({clock_.now_ns() + kTimeOutNs, request});
    } else {
      finish(*request, fault);
    }
  }
}

void FaultDrive::wait(int timeout_ms) {
  if (queue_.empty() && !late_.empty() && !stopped_) clock_.advance_ms(static_cast<uint64_t>(std::max(timeout_ms, 1)));
  poll();
}

}  // namespace cairn
