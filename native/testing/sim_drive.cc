#include "testing/sim_drive.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace cairn {

namespace {

constexpr uint64_t kSectorBytes = 512;

DriveInfo describe(const Platter& platter, const std::string& path) {
  DriveInfo info;
  info.path = path;
  info.kind = "simulated";
  info.bytes = platter.bytes();
  info.lba_bytes = 512;
  info.memory_align = 512;
  info.volatile_write_cache = true;
  info.can_discard = true;
  return info;
}

}  // namespace

SimDrive::SimDrive(std::shared_ptr<Platter> platter, VirtualClock& clock, const SimFaults& faults, uint64_t seed,
                   const std::string& path)
    : Drive(describe(*platter, path)), platter_(std::move(platter)), clock_(clock), faults_(faults), random_(seed) {}

SimDrive::~SimDrive() {
  CAIRN_CHECK(due_.empty(), "a drive was closed with requests in flight");
}

void SimDrive::start(IoRequest& request) {
  uint64_t after_ns = 1'000 + random_() % (faults_.latency_us_most * 1'000);
  if (happens(faults_.stall)) {
    ++counters_.stalls;
    after_ns += random_() % (faults_.stall_ms_most * 1'000'000);
  }
  ++counters_.requests;
  due_.emplace(clock_.now_ns() + after_ns, &request);
}

uint64_t SimDrive::elsewhere(const IoRequest& request) {
  const uint64_t places = (info().bytes - request.bytes) / kSectorBytes;
  return places == 0 ? 0 : random_() % places * kSectorBytes;
}

int SimDrive::serve(IoRequest& request) {
  if (gone_) return ENODEV;
  if (request.kind == IoKind::read) {
    if (happens(faults_.read_error)) return EIO;
    if (happens(faults_.bit_rot)) {
      ++counters_.lies;
      platter_->flip(request.offset + random_() % request.bytes, static_cast<int>(random_() % 8));
    }
    const bool astray = happens(faults_.misdirected_read);
    counters_.lies += astray ? 1 : 0;
    platter_->read_cached(astray ? elsewhere(request) : request.offset, request.vectors, request.vector_count);
  } else if (request.kind == IoKind::write) {
    if (happens(faults_.write_error)) {
      // Part of it may be there all the same.
      if (random_() % 2 == 0) platter_->write_cached(request.offset, request.vectors, request.vector_count);
      return EIO;
    }
    const bool astray = happens(faults_.misdirected_write);
    counters_.lies += astray ? 1 : 0;
    platter_->write_cached(astray ? elsewhere(request) : request.offset, request.vectors, request.vector_count);
  } else if (request.kind == IoKind::discard) {
    if (happens(faults_.write_error)) return EIO;
    // A hint: how much of it is followed is the drive's affair.
    if (random_() % 2 == 0) platter_->discard(request.offset, random_() % (request.bytes + 1));
  } else {
    if (happens(faults_.flush_error)) return EIO;
    if (happens(faults_.lying_flush)) {
      ++counters_.lies;
    } else {
      platter_->flush();
    }
  }
  return 0;
}

void SimDrive::poll() {
  // What completions submit is due later, so this ends.
  while (!due_.empty() && (gone_ || due_.begin()->first <= clock_.now_ns())) {
    IoRequest* request = due_.begin()->second;
    due_.erase(due_.begin());
    const int error = serve(*request);
    counters_.errors += error != 0 ? 1 : 0;
    request->completed(error);
  }
}

void SimDrive::wait(int timeout_ms) {
  const uint64_t until = clock_.now_ns() + static_cast<uint64_t>(timeout_ms) * 1'000'000;
  clock_.advance_to(std::min(next_due_ns(), until));
  poll();
}

void SimDrive::take_in_flight() {
  for (const auto& [due, request] : due_) {
    if (request->kind == IoKind::write && random_() % 2 != 0)
      platter_->write_cached(request->offset, request->vectors, request->vector_count);
  }
}

void SimDrive::kill() {
  if (gone_) return;
  take_in_flight();
  gone_ = true;
}

void SimDrive::lose_power() {
  if (!gone_) take_in_flight();
  platter_->lose_power(random_);
  gone_ = true;
}

}  // namespace cairn
