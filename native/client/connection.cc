// Connecting, losing, connecting again.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iterator>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "base/advice.h"
#include "base/clock.h"
#include "base/entropy.h"
#include "base/event.h"
#include "client/client.h"

namespace cairn {

namespace {

constexpr uint64_t kBackoffLeastMs = 50;
constexpr uint64_t kBackoffMostMs = 2000;
static_assert(kBackoffLeastMs > 0, "clients that lost their service ask again without a pause");
static_assert(kBackoffLeastMs <= kBackoffMostMs, "the shortest pause is longer than the longest");
static_assert(kSessionLanesMost <= kCreditsDefault, "a lane of a session has no credit");

// A session that ends sooner than this was worth nothing: the next one waits, and longer each time.
constexpr uint64_t kLivedNs = 1'000'000'000;
// A way whose session ends sooner than this rests: where small messages pass and payload does not, a session lives
// until the first deadline.
constexpr uint64_t kHeldNs = 30'000'000'000;
static_assert(kHeldNs > kLivedNs, "a way that held for its sessions was worth nothing");

constexpr size_t kNameBytes = 8;

// Leases belong to a name. Over several transports a client without one would lose its own at every change.
std::string made_up_name() {
  constexpr char kDigits[] = "0123456789abcdef";
  std::array<std::byte, kNameBytes> bytes{};
  if (!try_entropy(bytes)) return {};  // its leases end with its session, then
  std::string name = "auto-";
  for (const std::byte one : bytes) {
    name += kDigits[static_cast<uint8_t>(one) >> 4];
    name += kDigits[static_cast<uint8_t>(one) & 15];
  }
  return name;
}

// Nobody has to be unable to guess it: clients only should not all do the same at one time.
std::minstd_rand::result_type seed() {
  std::minstd_rand::result_type value{};
  if (try_entropy(std::as_writable_bytes(std::span(&value, 1)))) return value;
  return static_cast<std::minstd_rand::result_type>(system_clock().now_ns() ^ reinterpret_cast<uintptr_t>(&value));
}

}  // namespace

uint64_t Client::random_number() {
  static thread_local std::minstd_rand random{seed()};
  return random();
}

namespace {

// One failure of all: the status of the one that says most, and every reason.
ConnectFailure together(std::vector<std::pair<const Address*, ConnectFailure>> failures) {
  CAIRN_CHECK(!failures.empty(), "a failure is told that did not happen");
  const auto vague = [](const auto& one) {
    const Status status = one.second.status;
    return status == Status::unreachable || status == Status::timeout || status == Status::unsupported;
  };
  const auto telling = std::find_if_not(failures.begin(), failures.end(), vague);
  ConnectFailure all = telling != failures.end() ? telling->second : failures.back().second;
  if (telling != failures.end()) return all;
  for (size_t i = failures.size() - 1; i-- > 0;) all.reason += "; " + failures[i].second.reason;
  return all;
}

// Clients that lost one service together should not come back together.
uint64_t jittered_ns(uint64_t ms, uint64_t random) {
  return ms * 750'000 + random % (ms * 500'000 + 1);
}

}  // namespace

std::variant<std::unique_ptr<Client>, ConnectFailure> Client::connect(const std::string& url,
                                                                      const ClientOptions& options,
                                                                      Interruption* interruption) {
  auto ways = Ways::parse(url);
  if (!ways) return ConnectFailure{Status::invalid, ways.error().message};
  if (options.lanes == 0 || options.lanes > kSessionLanesMost) {
    return ConnectFailure{Status::invalid, "lanes is a number from 1 to " + std::to_string(kSessionLanesMost)};
  }
  ClientOptions named = options;
  if (named.name.empty() && ways.value().several()) named.name = made_up_name();
  const int wake = make_event();
  if (wake < 0) return ConnectFailure{Status::busy, "cannot make an event for the client: " + cause_and_advice(errno)};
  std::unique_ptr<Client> client(new Client(ways.take(), std::move(named), wake));
  Lock lock(client->lock_);
  auto dialled = client->dial(lock, options.connect_timeout_ms, interruption);
  if (auto* failure = std::get_if<ConnectFailure>(&dialled)) {
    client->closed_ = true;
    lock.unlock();
    return std::move(*failure);
  }
  client->install(std::get<Dialled>(std::move(dialled)));
  client->publish();
  lock.unlock();
  return client;
}

std::variant<Client::Dialled, ConnectFailure> Client::dial_way(const Address& way, int timeout_ms, Domains domains,
                                                               Interruption* interruption) const {
  ConnectOptions options;
  options.tenant = options_.tenant;
  options.token = options_.token;
  options.name = options_.name;
  options.domains = std::move(domains);
  options.interruption = interruption;
  const uint64_t until_ms = system_clock().now_ms() + static_cast<uint64_t>(timeout_ms);
  // Over shm one lane does: there is one thread at either end of it, however many there are.
  const uint32_t lanes = way.kind == Address::Kind::shm ? 1 : options_.lanes;
  CAIRN_CHECK(lanes > 0 && lanes <= kSessionLanesMost, "a number of lanes that should have been refused");
  Dialled dialled{&way, {}};
  for (; options.lane < lanes; ++options.lane) {
    const uint64_t now_ms = system_clock().now_ms();
    options.timeout_ms = static_cast<int>(until_ms > now_ms ? until_ms - now_ms : 1);
    auto one = connect_to(way, options);
    if (auto* failure = std::get_if<ConnectFailure>(&one)) return std::move(*failure);
    dialled.lanes.push_back(std::get<Connected>(std::move(one)));
    CAIRN_CHECK(dialled.lanes.back().link != nullptr, "a connection was made and there is no link");
    options.join = dialled.lanes.front().welcome.tag;
    if (auto domain = dialled.lanes.back().link->memory_domain()) options.domains.push_back(std::move(domain));
  }
  return dialled;
}

std::variant<Client::Dialled, ConnectFailure> Client::dial(Lock& lock, int timeout_ms, Interruption* interruption) {
  CAIRN_CHECK(lock.owns_lock(), "a service is dialled without the lock");
  const uint64_t until_ms = system_clock().now_ms() + static_cast<uint64_t>(timeout_ms);
  const auto order = ways_.order(system_clock().now_ns());
  std::vector<std::pair<const Address*, ConnectFailure>> failures;
  for (size_t i = 0; i < order.size(); ++i) {
    const uint64_t now_ms = system_clock().now_ms();
    // A way that does not answer leaves time for the next.
    const uint64_t left_ms = (until_ms > now_ms ? until_ms - now_ms : 1) / (i + 1 < order.size() ? 2 : 1);
    const Domains domains = domains_;
    lock.unlock();
    auto dialled = dial_way(*order[i], static_cast<int>(std::max<uint64_t>(left_ms, 1)), domains, interruption);
    lock.lock();
    if (auto* failure = std::get_if<ConnectFailure>(&dialled)) {
      failures.emplace_back(order[i], std::move(*failure));
      const Status status = failures.back().second.status;
      if (status == Status::denied || status == Status::cancelled) break;  // the service, or the caller, has spoken
      continue;
    }
    for (const auto& [way, failure] : failures) {
      ways_.failed(*way, failure.status, system_clock().now_ns(), random_number());
      note(failure.reason);
    }
    expose_regions(lock, domains_of(std::get<Dialled>(dialled).lanes));
    return dialled;
  }
  return together(std::move(failures));
}

// Each once.
Client::Domains Client::domains_of(const std::vector<Connected>& lanes) {
  Domains domains;
  for (const Connected& one : lanes) {
    auto domain = one.link->memory_domain();
    if (domain != nullptr && std::find(domains.begin(), domains.end(), domain) == domains.end())
      domains.push_back(std::move(domain));
  }
  return domains;
}

void Client::keep_domains(Domains domains) {
  if (domains.empty()) return;
  for (const auto& one : domains_) {
    if (std::find(domains.begin(), domains.end(), one) != domains.end()) continue;
    // Or memory would be pinned once more for every time that a device comes back.
    forget_domain(*one);
  }
  domains_ = std::move(domains);
}

void Client::install(Dialled dialled, bool others_leave) {
  CAIRN_CHECK(!lost_, "a session was lost before it is installed");
  CAIRN_CHECK(!dialled.lanes.empty(), "a session without connections is installed");
  CAIRN_CHECK(dialled.lanes.front().welcome.body.credits > 0, "a welcome without credits got past the handshake");
  welcome_ = dialled.lanes.front().welcome.body;
  // A service may announce more than this side can build, or nothing at all.
  welcome_.batch_items_most = std::clamp<uint32_t>(welcome_.batch_items_most, 1, kBatchItemsMost);
  Domains domains = domains_of(dialled.lanes);
  std::vector<std::unique_ptr<Lane>> lanes;
  lanes.reserve(dialled.lanes.size() + lanes_.size());
  for (Connected& one : dialled.lanes) {
    auto lane = std::make_unique<Lane>();
    lane->client = this;
    lane->link = std::move(one.link);
    lane->link->set_handler(lane.get());
    lane->tag = dialled.lanes.front().welcome.tag;
    lane->credits = std::max<uint32_t>(1, welcome_.credits / static_cast<uint32_t>(dialled.lanes.size()));
    lanes.push_back(std::move(lane));
  }
  // From here on it is the session: nothing fails until that is so.
  for (auto& lane : lanes_) {
    lane->leaving = lane->leaving || others_leave;
    lanes.push_back(std::move(lane));
  }
  lanes_.swap(lanes);
  way_ = dialled.way;
  installed_ns_ = system_clock().now_ns();
  next_lane_ = 0;
  state_ = Link::up;
  untold_ = true;
  keep_domains(std::move(domains));
  for (const auto& [base, region] : regions_) expose_everywhere(*region);
}

Status Client::ensure_connected(Lock& lock, uint64_t due_ns, Interruption* interruption) {
  CAIRN_CHECK(lock.owns_lock(), "the session is looked at without its lock");
  if (state_ == Link::up) return Status::ok;
  const uint64_t now = system_clock().now_ns();
  if (state_ == Link::connecting || now < next_attempt_ns_ || due_ns <= now) return Status::unreachable;
  forget_gone_domains();
  state_ = Link::connecting;
  const uint64_t left_ms = (due_ns - now) / 1'000'000;
  const int timeout_ms =
      static_cast<int>(std::clamp<uint64_t>(left_ms, 1, static_cast<uint64_t>(options_.connect_timeout_ms)));
  std::variant<Dialled, ConnectFailure> dialled;
  try {
    dialled = dial(lock, timeout_ms, interruption);
  } catch (const std::exception&) {
    if (!lock.owns_lock()) lock.lock();
    dialled = ConnectFailure{Status::unreachable, "no memory to connect"};
  }
  CAIRN_CHECK(state_ == Link::connecting, "somebody else connected meanwhile");
  CAIRN_CHECK(lanes_.empty(), "somebody else installed a session meanwhile");
  state_ = Link::down;
  untold_ = true;
  if (closed_) return Status::unreachable;
  if (auto* failure = std::get_if<ConnectFailure>(&dialled)) {
    note(failure->reason);
    if (failure->status == Status::cancelled) return Status::cancelled;
    wait_longer();
    return Status::unreachable;
  }
  install(std::get<Dialled>(std::move(dialled)));
  ++reconnects_;
  return Status::ok;
}

// Before the next attempt to connect.
void Client::wait_longer() {
  untold_ = true;
  backoff_ms_ = std::clamp(backoff_ms_ * 2, kBackoffLeastMs, kBackoffMostMs);
  next_attempt_ns_ = system_clock().now_ns() + jittered_ns(backoff_ms_, random_number());
}

// What a lane whose link is closed was asked and has not answered.
void Client::bury(Lane& lane) {
  lane.credits = 0;
  lane.waiting.clear();
  while (!lane.requests.empty()) finish_request(lane, lane.requests.begin()->first, Status::disconnected);
}

void Client::say_goodbye(Lane& lane) {
  FrameBuilder frame(FrameType::goodbye);
  frame.header().tag = lane.tag;
  lane.link->send(frame.finish());
}

void Client::lose_session(std::string_view reason) {
  if (lost_ || state_ != Link::up) return;
  lost_ = true;
  note(reason);
}

void Client::reap() {
  if (!lost_) return;
  check_session();
  lost_ = false;
  state_ = Link::down;
  untold_ = true;
  judge();
  std::vector<std::unique_ptr<Lane>> lanes;
  lanes.swap(lanes_);
  for (const auto& lane : lanes) {
    lane->link->close();
    bury(*lane);
  }
  lanes.clear();
  forget_gone_domains();
}

// What was exposed to a device that was taken away is worth nothing, and a long life would gather more and more of it.
void Client::forget_gone_domains() {
  std::erase_if(domains_, [&](const std::shared_ptr<MemoryDomain>& domain) {
    if (!domain->gone()) return false;
    CAIRN_CHECK(lanes_.empty(), "memory is let go of that a session uses");
    for (const auto& [base, region] : regions_) region->exposed.erase(domain.get());
    bounce_.forget(*domain);
    return true;
  });
}

// What a session that is over says of its way, and of the next.
void Client::judge() {
  const uint64_t now = system_clock().now_ns();
  CAIRN_CHECK(now >= installed_ns_, "a session ended before it began");
  if (now - installed_ns_ >= kHeldNs) {
    ways_.held(*way_);
  } else {
    ways_.failed(*way_, Status::disconnected, now, random_number());
  }
  if (now - installed_ns_ < kLivedNs) return wait_longer();
  backoff_ms_ = 0;
  next_attempt_ns_ = 0;
}

// A session by another device than the last one. What cannot be exposed goes by way of memory that is.
void Client::expose_everywhere(MemoryRegion& region) {
  for (const auto& domain : domains_) {
    if (!region.exposed.contains(domain.get())) (void)expose_region(*domain, region);
    untold_ = true;
  }
}

}  // namespace cairn
