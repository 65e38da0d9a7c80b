#include "server/server.h"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace cairn {

namespace {

constexpr int kTurnMs = 100;                // how long a turn may sleep when nothing is due
constexpr uint64_t kDefaultWindowPart = 2;  // of the slab: what one tenant may take of it unless told otherwise
static_assert(kTurnMs / 10 > 0, "a service that drains does not sleep between its turns");
static_assert(kDefaultWindowPart > 0, "a tenant may take more than the whole slab");

Error with_status(Status status, const std::string& message) {
  CAIRN_CHECK(status != Status::ok, "an error with the status of a success");
  return Error{0, message, static_cast<uint16_t>(status)};
}

// The drive is told of the slab: what it reads and writes lies there, but for the memory of clients on this machine.
Result<IdentifiedDrive> open_and_identify(const std::string& path, const ServerOptions& options, const Slab& slab) {
  DriveOptions drive_options;
  drive_options.queue_depth = options.queue_depth;
  drive_options.read_only = options.store.read_only;
  auto drive = open_drive(path, drive_options);
  if (!drive) return drive.error();
  (void)drive.value()->register_memory(slab.memory());
  return Store::identify(drive.take(), options.store.fleet);
}

// Opens what can be opened. Of the rest `absent` tells why not, and `first` is the first reason.
std::vector<std::unique_ptr<Drive>> open_drives(const ServerOptions& options, const Slab& slab,
                                                std::vector<AbsentDrive>& absent, Error& first) {
  const size_t absent_before = absent.size();
  std::vector<std::unique_ptr<Drive>> drives;
  std::vector<std::array<uint8_t, 16>> identities;
  const auto leave_out = [&](const std::string& path, const Error& error) {
    if (first.message.empty()) first = error;
    absent.push_back({path, error.message, error.status});
  };
  for (const std::string& path : options.drives) {
    auto identified = open_and_identify(path, options, slab);
    if (!identified) {
      leave_out(path, identified.error());
      continue;
    }
    IdentifiedDrive one = identified.take();
    CAIRN_CHECK(one.drive != nullptr, "a drive was looked at and lost");
    if (std::find(identities.begin(), identities.end(), one.uuid) != identities.end()) {
      leave_out(path, with_status(Status::drive_in_use, path + " is a drive that was named before, or a copy of one; "
                                                               "name it once"));
      continue;
    }
    identities.push_back(one.uuid);
    drives.push_back(std::move(one.drive));
  }
  CAIRN_CHECK(drives.size() + absent.size() - absent_before == options.drives.size(),
              "a drive that was named is neither open nor absent");
  return drives;
}

}  // namespace

Result<std::unique_ptr<Server>> Server::open(const ServerOptions& options) {
  if (options.drives.empty()) return Error{0, "no drive was named: a service needs at least one", 0};
  if (auto named = TenantNames(true).configure(options.tenants); !named) return named.error();
  auto slab = Slab::create(options.slab_bytes);
  if (!slab) return slab.error();
  std::vector<AbsentDrive> absent = options.absent;
  Error first;
  auto drives = open_drives(options, *slab.value(), absent, first);
  if (drives.empty() || (options.require_all_drives && !absent.empty())) {
    CAIRN_CHECK(!absent.empty(), "no drive could be opened and none is absent");
    return first.message.empty() ? Error{0, absent.front().reason, absent.front().status} : first;
  }
  StoreOptions store_options = options.store;
  store_options.absent_drives = static_cast<uint32_t>(absent.size());
  auto clock = std::make_unique<TurnClock>(system_clock());
  auto store = Store::open(std::move(drives), *slab.value(), *clock, store_options);
  if (!store) return store.error();
  // The drives may know other tenants under these numbers.
  if (auto bound = store.value()->set_tenants(options.tenants); !bound) return bound.error();
  return std::unique_ptr<Server>(new Server(std::move(clock), slab.take(), store.take(), options, std::move(absent)));
}

Server::Server(std::unique_ptr<TurnClock> clock, std::unique_ptr<Slab> slab, std::unique_ptr<Store> store,
               const ServerOptions& options, std::vector<AbsentDrive> absent)
    : options_(options),
      clock_(std::move(clock)),
      slab_(std::move(slab)),
      store_(std::move(store)),
      absent_(std::move(absent)) {
  CAIRN_CHECK(slab_ != nullptr, "a service without memory");
  CAIRN_CHECK(store_ != nullptr, "a service without a store");
  if (options_.reactor.tenant_window_bytes == 0)
    options_.reactor.tenant_window_bytes = options_.slab_bytes / kDefaultWindowPart;
  reactor_ = std::make_unique<Reactor>(*store_, *clock_, options_.reactor);
  reactor_->set_drives_absent(absent_.size());
  const auto named = reactor_->set_tenants(options_.tenants);
  CAIRN_CHECK(named.ok(), "tenants that were looked at do not go together");
}

Server::~Server() {
  stop(0);
  CAIRN_CHECK(!thread_.joinable(), "a service ends while its reactor runs");
  CAIRN_CHECK(!running(), "a service ends that believes it runs");
  reactor_.reset();
}

Result<std::string> Server::listen(const std::string& url) {
  CAIRN_CHECK(!running(), "listen() after start()");
  auto address = parse_address(url);
  if (!address) return address.error();
  auto listener = listen_at(address.value(), {slab_.get(), options_.rdma_path});
  if (!listener) return listener.error();
  std::string real = listener.value()->url();
  reactor_->add_listener(listener.take());
  return real;
}

void Server::start() {
  CAIRN_CHECK(!thread_.joinable(), "a server is started once");
  running_ = true;
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error&) {
    running_ = false;
    throw;
  }
  pthread_setname_np(thread_.native_handle(), "cairn-reactor");
}

bool Server::stop(uint64_t drain_ms) {
  if (stopping_.exchange(true)) return drained_;
  drain_ms_ = drain_ms;
  reactor_->wake();
  if (thread_.joinable()) {
    thread_.join();
  } else {
    snapshot_ = reactor_->stats_json();
    mailbox_.close();
    close_store();
  }
  return drained_;
}

void Server::step(int timeout_ms) {
  reactor_->turn(timeout_ms);
  mailbox_.serve();
}

void Server::run() {
  CAIRN_CHECK(running(), "the reactor runs in a service that was not started");
  while (!stopping_.load(std::memory_order_acquire)) step(kTurnMs);
  drained_ = drain(drain_ms_);
  snapshot_ = reactor_->stats_json();
  mailbox_.close();
  running_.store(false, std::memory_order_release);
  CAIRN_CHECK(reactor_->quiet(), "the store is closed under requests that are open");
  close_store();
}

std::vector<std::string> Server::unsealed() {
  const std::scoped_lock hold(unsealed_lock_);
  return unsealed_;
}

void Server::close_store() {
  store_->close([this](const std::string& path) {
    const std::scoped_lock hold(unsealed_lock_);
    std::erase(unsealed_, path);
  });
}

bool Server::drain(uint64_t drain_ms) {
  {
    const std::scoped_lock hold(unsealed_lock_);
    for (const DriveStats& one : store_->stats().drives) unsealed_.push_back(one.path);
  }
  reactor_->drain();
  const uint64_t until_ms = system_clock().now_ms() + drain_ms;
  while (!reactor_->quiet() && system_clock().now_ms() < until_ms) step(kTurnMs / 10);
  const bool quiet = reactor_->quiet();
  reactor_->close_sessions();
  // Deletes that were begun cannot be called back: they end with their drive.
  while (!reactor_->quiet()) step(kTurnMs / 10);
  return quiet;
}

// --- what other threads ask ------------------------------------------------------------------------------

bool Server::errand(const std::function<void()>& errand) {
  if (!running() && !stopping_) {
    errand();
    return true;
  }
  return mailbox_.run(errand, [this] { reactor_->wake(); });
}

template <class T>
Result<T> Server::ask(const std::function<Result<T>()>& question) {
  Result<T> answer = with_status(Status::draining, "the service has stopped, or is about to");
  (void)errand([&] { answer = question(); });
  return answer;
}

std::string Server::stats() {
  std::string text;
  if (!errand([&] { text = reactor_->stats_json(); })) text = snapshot_;
  return text;
}

std::vector<Complaint> Server::complaints() {
  std::vector<Complaint> complaints;
  if (reactor_->complaints().any()) (void)errand([&] { complaints = reactor_->complaints().take(); });
  return complaints;
}

std::vector<AbsentDrive> Server::absent_drives() {
  std::vector<AbsentDrive> absent;
  (void)errand([&] { absent = absent_; });
  return absent;
}

Result<std::string> Server::attach_drive(const std::string& path) {
  // Its own lock would make a stranger of it.
  const auto known = ask<Unit>([&]() -> Result<Unit> {
    for (const DriveStats& one : store_->stats().drives) {
      if (one.path != path) continue;
      return with_status(Status::drive_in_use,
                         path + " is attached already, and " + one.state +
                             (one.reason.empty() ? "" : " (" + one.reason + ")") +
                             "; a drive that failed, or was refused, is let go before it is attached again");
    }
    return Unit{};
  });
  if (!known) return known.error();
  auto identified = open_and_identify(path, options_, *slab_);
  if (!identified) return identified.error();
  IdentifiedDrive drive = identified.take();
  CAIRN_CHECK(drive.drive != nullptr, "a drive was looked at and lost");
  return ask<std::string>([&]() -> Result<std::string> {
    if (auto attached = store_->attach(std::move(drive)); !attached) return attached.error();
    reactor_->watch_drives();
    std::erase_if(absent_, [&](const AbsentDrive& one) { return one.path == path; });
    reactor_->set_drives_absent(absent_.size());
    store_->set_absent_drives(static_cast<uint32_t>(absent_.size()));
    for (const DriveStats& one : store_->stats().drives) {
      if (one.path == path) return one.uuid;
    }
    CAIRN_CHECK(false, "a drive that was taken in is not there");
    return std::string();
  });
}

Result<Unit> Server::resume_drive(const std::string& uuid) {
  return ask<Unit>([&] { return store_->resume(uuid); });
}

bool Server::forget_absent_drive(const std::string& path) {
  const auto forgotten = ask<bool>([&]() -> Result<bool> {
    const size_t before = absent_.size();
    std::erase_if(absent_, [&](const AbsentDrive& one) { return one.path == path; });
    reactor_->set_drives_absent(absent_.size());
    store_->set_absent_drives(static_cast<uint32_t>(absent_.size()));
    return absent_.size() < before;
  });
  return forgotten.ok() && forgotten.value();
}

Result<Unit> Server::drain_drive(const std::string& uuid) {
  return ask<Unit>([&] { return store_->drain(uuid); });
}

Result<Unit> Server::detach_drive(const std::string& uuid, bool lose_what_is_left) {
  const auto begun = ask<Unit>([&] { return begin_detach(uuid, lose_what_is_left); });
  if (!begun) return begun;
  // The reactor goes on meanwhile: whatever is under way on the drive may take as long as the drive likes. Whoever gave
  // the order is told, for others wait behind it.
  constexpr auto kLookEvery = std::chrono::milliseconds(5);
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (true) {
    const auto gone = ask<bool>([&]() -> Result<bool> { return store_->detached(uuid); });
    if (!gone) return gone.error();
    if (gone.value()) return Unit{};
    if (std::chrono::steady_clock::now() > until) {
      return with_status(
          Status::timeout,
          "the drive " + uuid +
              " does not answer what it was asked before, and stays open until it does. "
              "Nothing new goes to it, its blocks are misses, and it leaves by itself as soon as it answers");
    }
    std::this_thread::sleep_for(kLookEvery);
  }
}

Result<Unit> Server::begin_detach(const std::string& uuid, bool lose_what_is_left) {
  for (const DriveStats& drive : store_->stats().drives) {
    if (drive.uuid != uuid || lose_what_is_left) continue;
    const bool may_go = drive.state == "drained" || drive.state == "failed" ||
                        (drive.blocks == 0 && drive.state != "loading" && drive.state != "draining");
    if (may_go) continue;
    return with_status(Status::drive_draining, drive.path + " is " + drive.state + " and holds " +
                                                   std::to_string(drive.blocks) +
                                                   " blocks; drain it and wait, or say that what is left may be lost");
  }
  return store_->begin_detach(uuid, lose_what_is_left);
}

Result<Unit> Server::set_tenants(const std::vector<TenantOptions>& tenants) {
  return ask<Unit>([&] { return reactor_->set_tenants(tenants); });
}

}  // namespace cairn
