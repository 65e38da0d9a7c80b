// Back to a better way: tried for on a thread of its own while the session by another one goes on, and taken when
// nobody is in the middle of anything.
#include <algorithm>
#include <atomic>
#include <iterator>
#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include "base/background.h"
#include "base/clock.h"
#include "client/client.h"

namespace cairn {

namespace {

constexpr int kBetterTimeoutMs = 1000;

// Who closes the client waits for the attempt to end.
class Closing final : public Interruption {
 public:
  explicit Closing(const std::atomic<bool>& closed) : closed_(closed) {}
  bool requested() override { return closed_; }

 private:
  const std::atomic<bool>& closed_;
};

}  // namespace

void Client::seek_better() {
  if (closed_ || state_ != Link::up || lost_ || better_state_ != Better::idle) return;
  CAIRN_CHECK(way_ != nullptr, "a session goes no way");
  if (ways_.prefers(*way_)) return;  // before a look at the clock: this is asked at every turn
  if (!ways_.wants_better(*way_, system_clock().now_ns())) return;
  if (better_thread_.joinable()) better_thread_.join();  // it has said that it is done
  auto started = start_thread("cairn-better", [this] { try_better(); });
  if (!started) {
    note("cannot try " + to_url(ways_.best()) + ": " + started.error().message);
    return ways_.failed(ways_.best(), Status::busy, system_clock().now_ns(), random_number());
  }
  better_thread_ = started.take();  // it waits for the lock
  better_state_ = Better::trying;
}

void Client::try_better() {
  Lock lock(lock_);
  guarded(lock, [&] { reach_better(lock); });
  if (better_state_ == Better::trying) better_state_ = Better::idle;
  publish();
}

void Client::reach_better(Lock& lock) {
  const Address& way = ways_.best();
  const Domains domains = domains_;
  lock.unlock();
  Closing closing(closed_);
  auto dialled = dial_way(way, kBetterTimeoutMs, domains, &closing);
  lock.lock();
  if (const auto* failure = std::get_if<ConnectFailure>(&dialled)) {
    ways_.failed(way, failure->status, system_clock().now_ns(), random_number());
    return note(failure->reason);
  }
  expose_regions(lock, domains_of(std::get<Dialled>(dialled).lanes));
  better_ = std::get<Dialled>(std::move(dialled));
  better_state_ = Better::found;
  if (driving_) return wake_driver();  // whoever waits for the links of now takes it
  move_to_better();
  end_left();
}

// Whatever is asked from now on goes the better way; what was asked is still answered by the other.
void Client::move_to_better() {
  if (better_state_ != Better::found) return;
  Dialled better = std::exchange(better_, {});
  better_state_ = Better::idle;
  CAIRN_CHECK(!better.lanes.empty(), "a better session was found that has no connections");
  const bool wanted = !closed_ && state_ == Link::up && !lost_ && !ways_.prefers(*way_);
  const bool same = better.lanes.front().welcome.body.server_id == welcome_.server_id;
  if (!wanted || !same) {
    for (const auto& domain : domains_of(better.lanes)) {
      if (std::find(domains_.begin(), domains_.end(), domain) == domains_.end()) forget_domain(*domain);
    }
    for (Connected& one : better.lanes) one.link->close();
    if (!wanted) return;
    ways_.failed(*better.way, Status::invalid, system_clock().now_ns(), random_number());
    return note("another service than that of " + to_url(*way_) + " answers at " + to_url(*better.way));
  }
  install(std::move(better), true);
  ++returns_;
}

// Of what was given up no answer is waited for, but where the service may still touch its memory.
bool Client::owes_nothing(const Lane& lane) {
  return std::none_of(lane.requests.begin(), lane.requests.end(),
                      [](const auto& one) { return one.second.operation != nullptr || one.second.fencing != nullptr; });
}

// The session that was left, when it has nothing to answer any more or can answer nothing.
void Client::end_left() {
  if (lost_ || lanes_.empty() || !lanes_.back()->leaving) return;  // those that leave stand behind
  const auto left = std::find_if(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->leaving; });
  const bool broken = std::any_of(left, lanes_.end(), [](const auto& lane) { return lane->broken; });
  if (!broken && !std::all_of(left, lanes_.end(), [](const auto& lane) { return owes_nothing(*lane); })) return;
  if (!broken) say_goodbye(**left);
  std::vector<std::unique_ptr<Lane>> gone(std::make_move_iterator(left), std::make_move_iterator(lanes_.end()));
  lanes_.erase(left, lanes_.end());
  untold_ = true;
  for (const auto& lane : gone) {
    lane->link->close();
    bury(*lane);
  }
}

}  // namespace cairn
