// Connecting, losing, connecting again.
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <random>

#include "base/advice.h"
#include "base/clock.h"
#include "base/entropy.h"
#include "client/client.h"

namespace cairn {

namespace {

constexpr uint64_t kBackoffLeastMs = 50;
constexpr uint64_t kBackoffMostMs = 2000;
static_assert(kBackoffLeastMs > 0, "clients that lost their service ask again without a pause");
static_assert(kBackoffLeastMs <= kBackoffMostMs, "the shortest pause is longer than the longest");
static_assert(kSessionLanesMost <= kCreditsDefault, "a lane of a session has no credit");

// Clients that lost one service together should not come back together.
uint64_t jittered_ns(uint64_t ms) {
  static thread_local std::minstd_rand random{entropy<std::minstd_rand::result_type>()};
  return ms * 750'000 + random() % (ms * 500'000 + 1);
}

}  // namespace

std::variant<std::unique_ptr<Client>, ConnectFailure> Client::connect(const std::string& url,
                                                                      const ClientOptions& options) {
  auto address = parse_address(url);
  if (!address) return ConnectFailure{Status::invalid, address.error().message};
  if (options.lanes == 0 || options.lanes > kSessionLanesMost) {
    return ConnectFailure{Status::invalid, "lanes is a number from 1 to " + std::to_string(kSessionLanesMost)};
  }
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) return ConnectFailure{Status::busy, "cannot make an event for the client: " + cause_and_advice(errno)};
  std::unique_ptr<Client> client(new Client(address.take(), options, wake));
  auto dialled = client->dial(options.connect_timeout_ms);
  if (auto* failure = std::get_if<ConnectFailure>(&dialled)) {
    client->closed_ = true;
    return std::move(*failure);
  }
  const Lock lock(client->lock_);
  client->install(std::get<std::vector<Connected>>(std::move(dialled)));
  return client;
}

std::variant<std::vector<Connected>, ConnectFailure> Client::dial(int timeout_ms) {
  ConnectOptions options;
  options.tenant = options_.tenant;
  options.token = options_.token;
  options.name = options_.name;
  const uint64_t until_ms = system_clock().now_ms() + static_cast<uint64_t>(timeout_ms);
  // Over shm one lane does: commands are small, and payload does not pass through it.
  const uint32_t lanes = address_.kind == Address::Kind::shm ? 1 : options_.lanes;
  CAIRN_CHECK(lanes > 0 && lanes <= kSessionLanesMost, "a number of lanes that should have been refused");
  options.domain = domain_;
  std::vector<Connected> connected;
  while (connected.size() < lanes) {
    const uint64_t now_ms = system_clock().now_ms();
    options.timeout_ms = static_cast<int>(until_ms > now_ms ? until_ms - now_ms : 1);
    auto one = connect_to(address_, options);
    if (auto* failure = std::get_if<ConnectFailure>(&one)) return std::move(*failure);
    connected.push_back(std::get<Connected>(std::move(one)));
    CAIRN_CHECK(connected.back().link != nullptr, "a connection was made and there is no link");
    options.join = connected.front().welcome.tag;
    if (auto domain = connected.back().link->memory_domain()) options.domain = std::move(domain);
  }
  return connected;
}

void Client::install(std::vector<Connected> connected) {
  CAIRN_CHECK(lanes_.empty(), "a session is installed over another");
  CAIRN_CHECK(state_ != Link::up, "a session is up before it is installed");
  CAIRN_CHECK(!lost_, "a session was lost before it is installed");
  CAIRN_CHECK(!connected.empty(), "a session without connections is installed");
  CAIRN_CHECK(connected.front().welcome.body.credits > 0, "a welcome without credits got past the handshake");
  welcome_ = connected.front().welcome.body;
  tag_ = connected.front().welcome.tag;
  // A service may announce more than this side can build, or nothing at all.
  welcome_.batch_items_most = std::clamp<uint32_t>(welcome_.batch_items_most, 1, kBatchItemsMost);
  for (Connected& one : connected) {
    auto lane = std::make_unique<Lane>();
    lane->client = this;
    lane->link = std::move(one.link);
    lane->link->set_handler(lane.get());
    lane->credits = std::max<uint32_t>(1, welcome_.credits / static_cast<uint32_t>(connected.size()));
    lanes_.push_back(std::move(lane));
  }
  domain_ = lanes_.front()->link->memory_domain();
  state_ = Link::up;
  backoff_ms_ = 0;
  for (const auto& [base, region] : regions_) add_region(*region);
}

bool Client::ensure_connected(Lock& lock, uint64_t due_ns) {
  CAIRN_CHECK(lock.owns_lock(), "the session is looked at without its lock");
  if (state_ == Link::up) return true;
  const uint64_t now = system_clock().now_ns();
  if (state_ == Link::connecting || now < next_attempt_ns_ || due_ns <= now) return false;
  forget_gone_domain();
  state_ = Link::connecting;
  const uint64_t left_ms = (due_ns - now) / 1'000'000;
  const int timeout_ms =
      static_cast<int>(std::clamp<uint64_t>(left_ms, 1, static_cast<uint64_t>(options_.connect_timeout_ms)));
  lock.unlock();
  auto dialled = dial(timeout_ms);
  lock.lock();
  CAIRN_CHECK(state_ == Link::connecting, "somebody else connected meanwhile");
  CAIRN_CHECK(lanes_.empty(), "somebody else installed a session meanwhile");
  state_ = Link::down;
  if (closed_) return false;
  if (auto* failure = std::get_if<ConnectFailure>(&dialled)) {
    last_error_ = failure->reason;
    backoff_ms_ = std::clamp(backoff_ms_ * 2, kBackoffLeastMs, kBackoffMostMs);
    next_attempt_ns_ = system_clock().now_ns() + jittered_ns(backoff_ms_);
    return false;
  }
  install(std::get<std::vector<Connected>>(std::move(dialled)));
  ++reconnects_;
  return true;
}

void Client::lose_session(std::string_view reason, bool by_us) {
  if (lost_ || state_ != Link::up) return;
  lost_ = true;
  hung_up_ = by_us;
  last_error_ = reason;
}

// When we end a session the service may be in the middle of writing to shared memory and not know yet. When it
// ended, its process closed the socket after it had stopped writing.
bool Client::detach_regions() {
  for (const auto& lane : lanes_) {
    for (const auto& [id, request] : lane->requests) {
      for (MemoryRegion* region : request.regions) {
        CAIRN_CHECK(region != nullptr, "a request holds a region that is none");
        if (region->usable && !region->detach()) return false;
      }
    }
  }
  return true;
}

void Client::reap() {
  if (!lost_) return;
  if (hung_up_ && !detach_regions()) return;  // no memory: tried again at the next turn, callers wait meanwhile
  check_session();
  lost_ = false;
  state_ = Link::down;
  next_attempt_ns_ = 0;
  std::vector<std::unique_ptr<Lane>> lanes;
  lanes.swap(lanes_);
  for (const auto& [base, region] : regions_) region->usable = false;
  for (const auto& lane : lanes) {
    lane->link->close();
    lane->credits = 0;
    lane->waiting.clear();
    while (!lane->requests.empty()) finish_request(*lane, lane->requests.begin()->first, Status::disconnected);
  }
  lanes.clear();
  forget_gone_domain();
}

// What was exposed to a device that was taken away is worth nothing, and a long life would gather more and more of it.
void Client::forget_gone_domain() {
  if (domain_ == nullptr || !domain_->gone()) return;
  CAIRN_CHECK(lanes_.empty(), "memory is let go of that a session uses");
  for (const auto& [base, region] : regions_) region->exposed.erase(domain_.get());
  bounce_.forget(*domain_);
  domain_.reset();
}

void Client::add_region(MemoryRegion& region) {
  // A session by another device than the last one. What cannot be exposed goes by way of memory that is.
  if (domain_ != nullptr && !region.exposed.contains(domain_.get())) {
    auto exposed = domain_->expose({region.base(), region.bytes()});
    if (exposed.ok()) region.exposed.emplace(domain_.get(), exposed.take());
  }
  if (region.descriptor() < 0 || (welcome_.features & kFeatureRegions) == 0) return;
  CAIRN_CHECK(!region.usable, "a region is announced that the service knows");
  CAIRN_CHECK(!lanes_.empty(), "a region is announced to nobody");
  region.id = next_region_++;
  const uint64_t id = next_id_++;
  lanes_.front()->requests[id].adding = &region;
  FrameBuilder frame(FrameType::region_add, id, sizeof(RegionBody));
  frame.header().tag = tag_;
  frame.append(RegionBody{region.id, 0, region.bytes()});
  lanes_.front()->link->send_with_descriptor(frame.finish(), region.descriptor());
}

ClientInfo Client::info() {
  const Lock lock(lock_);
  ClientInfo info;
  info.transport = name_of(address_.kind);
  info.server_id = welcome_.server_id;
  info.session_id = welcome_.session_id;
  info.lanes = static_cast<uint32_t>(lanes_.size());
  info.credits = welcome_.credits;
  info.window_bytes = welcome_.window_bytes;
  info.block_bytes_most = welcome_.block_bytes_most;
  info.connected = state_ == Link::up && !lost_;
  info.reconnects = reconnects_;
  info.breaker = system_clock().now_ns() < next_attempt_ns_ ? "open" : "closed";
  info.last_error = last_error_;
  return info;
}

}  // namespace cairn
