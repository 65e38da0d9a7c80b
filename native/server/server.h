// The service as the control plane sees it: one object that opens drives, listens, runs the reactor on a
// thread of its own, and stops. Methods may be called from any thread but the reactor's.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/slab.h"
#include "server/reactor.h"
#include "store/store.h"

namespace cairn {

struct ServerOptions {
  std::vector<std::string> drives;
  uint64_t slab_bytes = 512 * kMiB;
  uint32_t queue_depth = 128;
  bool read_only = false;
  ReactorOptions reactor;
};

class Server {
 public:
  // Opens the drives and rebuilds the index; blocks until that is done.
  static Result<std::unique_ptr<Server>> open(const ServerOptions& options);
  ~Server();  // stop(0) if it runs
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Before start(). Returns the URL clients use (with the port that was chosen for port 0).
  Result<std::string> listen(const std::string& url);
  void start();
  // Refuses new work, gives what is in flight up to drain_ms, hangs up, seals the drives. True when
  // everything in flight ended by itself. Once.
  bool stop(uint64_t drain_ms);
  bool running() const { return running_.load(std::memory_order_acquire); }
  // JSON, made on the reactor thread between two turns; the last snapshot once stopped.
  std::string stats();

 private:
  Server(std::unique_ptr<Slab> slab, std::unique_ptr<Store> store, const ServerOptions& options);
  void run();
  void run_errands();
  bool drain(uint64_t drain_ms);

  std::unique_ptr<Slab> slab_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Reactor> reactor_;
  std::thread thread_;
  std::atomic<bool> running_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> drain_ms_{0};
  bool drained_ = true;

  // Errands from other threads; the reactor looks at the flag once a turn and takes the lock only when set.
  std::atomic<bool> errands_waiting_{false};
  std::mutex errands_lock_;
  std::condition_variable errand_done_;
  uint64_t snapshots_wanted_ = 0, snapshots_made_ = 0;
  std::string snapshot_;
};

}  // namespace cairn
