#include "transport/rdma_spares.h"

#include <pthread.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "transport/rdma_server.h"

namespace cairn {

RdmaSpares::RdmaSpares(size_t made_most, Make make, std::function<void()> told)
    : make_(std::move(make)), told_(std::move(told)), left_(made_most) {
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "cairn-domains");
}

RdmaSpares::~RdmaSpares() {
  {
    const std::scoped_lock hold(lock_);
    over_ = true;
  }
  wanted_.notify_all();
  thread_.join();
}

void RdmaSpares::run() {
  std::unique_lock hold(lock_);
  while (true) {
    wanted_.wait(hold, [this] { return over_ || (ready_.size() < kReady && left_ > 0 && failure_.empty()); });
    if (over_) return;
    --left_;
    hold.unlock();
    auto made = make_();
    hold.lock();
    if (made) {
      ready_.push_back(made.take());
    } else {
      ++left_;
      failure_ = made.error().message;
    }
    hold.unlock();
    told_();
    hold.lock();
  }
}

std::unique_ptr<RdmaDomain> RdmaSpares::take(bool& coming, std::string& reason) {
  const std::scoped_lock hold(lock_);
  std::unique_ptr<RdmaDomain> taken;
  if (!ready_.empty()) {
    taken = std::move(ready_.back());
    ready_.pop_back();
  } else if (!failure_.empty()) {
    reason = std::move(failure_);
  } else if (left_ == 0) {
    reason = "the service has as many tenants on this device as it takes";
  }
  coming = taken == nullptr && reason.empty();
  failure_.clear();  // who asks next may have more luck
  wanted_.notify_all();
  return taken;
}

void RdmaSpares::ended(size_t count) {
  const std::scoped_lock hold(lock_);
  left_ += count;
  wanted_.notify_all();
}

}  // namespace cairn
