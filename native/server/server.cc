#include "server/server.h"

#include <pthread.h>

namespace cairn {

namespace {

constexpr int kTurnMs = 100;  // how long a turn may sleep when nothing is due

}  // namespace

Result<std::unique_ptr<Server>> Server::open(const ServerOptions& options) {
  if (options.drives.empty()) return Error{0, "no drive was named: a service needs at least one"};
  auto slab = Slab::create(options.slab_bytes);
  if (!slab) return slab.error();
  std::vector<std::unique_ptr<Drive>> drives;
  for (const std::string& path : options.drives) {
    DriveOptions drive_options;
    drive_options.queue_depth = options.queue_depth;
    drive_options.read_only = options.read_only;
    auto drive = open_drive(path, drive_options);
    if (!drive) return drive.error();
    drives.push_back(drive.take());
  }
  StoreOptions store_options;
  store_options.read_only = options.read_only;
  auto store = Store::open(std::move(drives), *slab.value(), system_clock(), store_options);
  if (!store) return store.error();
  return std::unique_ptr<Server>(new Server(slab.take(), store.take(), options));
}

Server::Server(std::unique_ptr<Slab> slab, std::unique_ptr<Store> store, const ServerOptions& options)
    : slab_(std::move(slab)),
      store_(std::move(store)),
      reactor_(std::make_unique<Reactor>(*store_, system_clock(), options.reactor)) {
  snapshot_ = reactor_->stats_json();
}

Server::~Server() {
  stop(0);
  reactor_.reset();
}

Result<std::string> Server::listen(const std::string& url) {
  CAIRN_CHECK(!running(), "listen() after start()");
  auto address = parse_address(url);
  if (!address) return address.error();
  auto listener = listen_at(address.value());
  if (!listener) return listener.error();
  std::string real = listener.value()->url();
  reactor_->add_listener(listener.take());
  return real;
}

void Server::start() {
  CAIRN_CHECK(!thread_.joinable(), "a server is started once");
  running_ = true;
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "cairn-reactor");
}

bool Server::stop(uint64_t drain_ms) {
  if (stopping_.exchange(true)) return drained_;
  drain_ms_ = drain_ms;
  reactor_->wake();
  if (thread_.joinable()) {
    thread_.join();
  } else {
    store_->close();
  }
  return drained_;
}

void Server::run() {
  while (!stopping_.load(std::memory_order_acquire)) {
    reactor_->turn(kTurnMs);
    if (errands_waiting_.load(std::memory_order_acquire)) run_errands();
  }
  drained_ = drain(drain_ms_);
  run_errands();
  // Whoever asks for a snapshot after this gets the one just made.
  {
    const std::scoped_lock hold(errands_lock_);
    running_.store(false, std::memory_order_release);
  }
  errand_done_.notify_all();
  store_->close();
}

bool Server::drain(uint64_t drain_ms) {
  reactor_->drain();
  const uint64_t until_ms = system_clock().now_ms() + drain_ms;
  while (!reactor_->quiet() && system_clock().now_ms() < until_ms) reactor_->turn(kTurnMs / 10);
  const bool quiet = reactor_->quiet();
  reactor_->close_sessions();
  // Deletes that were begun cannot be called back: they end with their drive.
  while (!reactor_->quiet()) reactor_->turn(kTurnMs / 10);
  return quiet;
}

void Server::run_errands() {
  const std::scoped_lock hold(errands_lock_);
  errands_waiting_.store(false, std::memory_order_relaxed);
  snapshot_ = reactor_->stats_json();
  snapshots_made_ = snapshots_wanted_;
  errand_done_.notify_all();
}

std::string Server::stats() {
  std::unique_lock hold(errands_lock_);
  const uint64_t ticket = ++snapshots_wanted_;
  errands_waiting_.store(true, std::memory_order_release);
  reactor_->wake();
  errand_done_.wait(hold, [&] { return snapshots_made_ >= ticket || !running(); });
  return snapshot_;
}

}  // namespace cairn
