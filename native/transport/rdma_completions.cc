#include "transport/rdma_completions.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/check.h"
#include "transport/rdma_hold.h"
#include "transport/sockets.h"

namespace cairn {

namespace {

constexpr uint64_t kEntriesFirst = 4096;

}  // namespace

Result<std::unique_ptr<Completions>> Completions::create(const Verbs& verbs, ibv_context* context,
                                                         uint32_t entries_most) {
  CAIRN_CHECK(entries_most > 0, "a device whose completion queues hold nothing");
  std::unique_ptr<Completions> all(new Completions(verbs, context, entries_most));
  const std::string what = "cannot make completion queues";
  all->channel_ = verbs.create_comp_channel(context);
  if (all->channel_ == nullptr) return Error::from_errno(errno, what);
  if (const int code = set_nonblocking(all->channel_->fd); code != 0) return Error::from_errno(code, what);
  if (!all->add_queue(kEntriesFirst)) return Error::from_errno(errno, what);
  return all;
}

Completions::~Completions() {
  for (const Queue& queue : queues_) {
    CAIRN_CHECK(queue.work == 0, "a completion queue ends with links on it");
    const int code = verbs_.destroy_cq(queue.handle);
    CAIRN_CHECK(has_ended(code), "a completion queue does not end");
  }
  if (channel_ != nullptr) end_channel(verbs_, channel_);
}

bool Completions::add_queue(uint64_t entries) {
  const auto wanted = static_cast<int>(std::min(std::max(std::bit_ceil(entries), kEntriesFirst), entries_most_));
  ibv_cq* handle = verbs_.create_cq(context_, wanted, nullptr, channel_, 0);
  if (handle == nullptr) return false;
  queues_.push_back({handle, 0, false});
  ++unarmed_;
  return true;
}

// Made larger if need be.
bool Completions::has_room(const Queue& queue, uint64_t entries) const {
  if (entries <= static_cast<uint64_t>(queue.handle->cqe)) return true;
  const uint64_t wanted = std::min(std::bit_ceil(entries), entries_most_);
  return wanted >= entries && verbs_.resize_cq(queue.handle, static_cast<int>(wanted)) == 0;
}

bool Completions::reserve_receives(uint32_t more) {
  const auto fits = [&](const Queue& queue) { return has_room(queue, queue.work + receives_ + more); };
  if (receives_ + more > entries_most_ - work_most()) return false;
  if (!std::all_of(queues_.begin(), queues_.end(), fits)) return false;
  receives_ += more;
  CAIRN_CHECK(receives_ <= entries_most_, "more receives are reserved than a queue holds");
  return true;
}

void Completions::release_receives(uint32_t fewer) {
  CAIRN_CHECK(receives_ >= fewer, "more receives are given back than were reserved");
  receives_ -= fewer;
}

ibv_cq* Completions::reserve_work(uint32_t requests) {
  CAIRN_CHECK(requests > 0, "a link without work has no queue");
  const uint64_t needed = receives_ + requests;
  const auto fits = [&](const Queue& one) {
    return one.work + requests <= work_most() && has_room(one, one.work + needed);
  };
  auto queue = std::find_if(queues_.begin(), queues_.end(), fits);
  if (queue == queues_.end()) {
    if (needed > entries_most_ || !add_queue(needed)) return nullptr;
    queue = std::prev(queues_.end());
  }
  queue->work += requests;
  CAIRN_CHECK(queue->work + receives_ <= static_cast<uint64_t>(queue->handle->cqe), "a completion queue may overflow");
  return queue->handle;
}

void Completions::release_work(const ibv_cq* handle, uint32_t requests) {
  const auto queue =
      std::find_if(queues_.begin(), queues_.end(), [&](const Queue& one) { return one.handle == handle; });
  CAIRN_CHECK(queue != queues_.end(), "room is given back on a queue that there is not");
  CAIRN_CHECK(queue->work >= requests, "more room is given back than was reserved");
  queue->work -= requests;
}

size_t Completions::poll(std::span<ibv_wc> done, bool& broken) {
  CAIRN_CHECK(!done.empty(), "there is no room for what is complete");
  size_t count = 0;
  for (size_t i = 0; i < queues_.size() && count < done.size(); ++i) {
    const Queue& queue = queues_[next_++ % queues_.size()];
    const auto room = done.subspan(count);
    const int found = ibv_poll_cq(queue.handle, static_cast<int>(room.size()), room.data());
    if (found < 0) {
      broken = true;
      return count;
    }
    count += static_cast<size_t>(found);
  }
  return count;
}

void Completions::arm() {
  for (Queue& queue : queues_) {
    if (std::exchange(queue.armed, true)) continue;
    const int code = ibv_req_notify_cq(queue.handle, 0);
    CAIRN_CHECK(has_ended(code), "a completion queue gives no notice");
    --unarmed_;
  }
  CAIRN_CHECK(unarmed_ == 0, "a completion queue was forgotten");
}

// Of each queue one notice was asked for, so that there is one event at most.
bool Completions::clear_event() {
  CAIRN_CHECK(unarmed_ <= queues_.size(), "more queues were asked for no notice than there are");
  bool any = false;
  ibv_cq* handle = nullptr;
  void* context = nullptr;
  while (unarmed_ < queues_.size() && verbs_.get_cq_event(channel_, &handle, &context) == 0) {
    verbs_.ack_cq_events(handle, 1);
    const auto queue =
        std::find_if(queues_.begin(), queues_.end(), [&](const Queue& one) { return one.handle == handle; });
    CAIRN_CHECK(queue != queues_.end(), "an event of a completion queue that there is not");
    CAIRN_CHECK(queue->armed, "a completion queue gives notice that nobody asked for");
    queue->armed = false;
    ++unarmed_;
    any = true;
  }
  return any;
}

}  // namespace cairn
