// The service as the control plane sees it: one object that opens drives, listens, runs the reactor on a
// thread of its own, and stops. Methods may be called from any thread but the reactor's.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/slab.h"
#include "server/mailbox.h"
#include "server/reactor.h"
#include "store/store.h"

namespace cairn {

// A drive that the service was told of and does without.
struct AbsentDrive {
  std::string path;
  std::string reason;   // a whole sentence
  uint16_t status = 0;  // as in Error
};

struct ServerOptions {
  std::vector<std::string> drives;
  std::vector<AbsentDrive> absent;  // drives that the caller knows to be absent
  bool require_all_drives = false;  // an absent drive is an error, not only when there is no other
  uint64_t slab_bytes = 512 * kMiB;
  uint32_t queue_depth = 128;
  StoreOptions store;  // absent_drives is counted by open()
  std::vector<TenantOptions> tenants;
  ReactorOptions reactor;
  RdmaPath rdma_path;
};

class Server {
 public:
  // Opens the drives and begins to read them; with store.wait_until_loaded it returns when the index is whole.
  static Result<std::unique_ptr<Server>> open(const ServerOptions& options);
  ~Server();  // stop(0) if it runs
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Before start(). Returns the URL clients use (with the port that was chosen for port 0).
  Result<std::string> listen(const std::string& url);
  void start();  // std::system_error: no thread could be had, and nothing was begun
  // Refuses new work, gives what is in flight up to drain_ms, hangs up, seals the drives. True when
  // everything in flight ended by itself. Once.
  bool stop(uint64_t drain_ms);
  // Paths of the drives that stop() has not sealed yet. Any thread.
  std::vector<std::string> unsealed();
  bool running() const { return running_.load(std::memory_order_acquire); }

  // A sentence when the memory is not what it could be; else empty.
  const std::string& slab_remark() const { return slab_->remark(); }

  // JSON, made on the reactor thread between two turns; the last snapshot once stopped.
  std::string stats();
  std::vector<AbsentDrive> absent_drives();
  // Links that ended since the last call because of what their peers did. Asks the reactor only if there are any.
  std::vector<Complaint> complaints();

  // All of these wait for the reactor; once it has stopped they are an Error (draining).
  // Opens the drive and looks at it on the calling thread. Returns its UUID; it is read in the background then. An
  // Error with a status: drive_foreign, drive_newer, drive_damaged, drive_smaller, drive_in_use, busy, too_large; or
  // with an errno and none when it cannot be opened. A drive that failed and comes back under its old path is detached
  // first.
  Result<std::string> attach_drive(const std::string& path);
  // Tries at once to write again to a drive that takes no more blocks because writes failed. drive_unknown, busy.
  Result<Unit> resume_drive(const std::string& uuid);
  // Begins to move what the drive holds to the others. drive_unknown, busy, no_space.
  Result<Unit> drain_drive(const std::string& uuid);
  // A drive that is absent is no longer counted, and no delete is kept for it. False: none of that path is absent.
  bool forget_absent_drive(const std::string& path);
  // Lets the drive go. What it holds is lost with it: without `lose_what_is_left` only a drive that is drained, failed
  // or empty goes, and any other is drive_draining. drive_unknown; timeout: it does not answer, and goes when it does.
  Result<Unit> detach_drive(const std::string& uuid, bool lose_what_is_left);
  // invalid.
  Result<Unit> set_tenants(const std::vector<TenantOptions>& tenants);

 private:
  Server(std::unique_ptr<TurnClock> clock, std::unique_ptr<Slab> slab, std::unique_ptr<Store> store,
         const ServerOptions& options, std::vector<AbsentDrive> absent);
  void run();
  void step(int timeout_ms);
  bool drain(uint64_t drain_ms);
  Result<Unit> begin_detach(const std::string& uuid, bool lose_what_is_left);
  void close_store();
  // Runs the errand on the reactor's thread, or here while there is none yet. False once that has ended.
  bool errand(const std::function<void()>& errand);
  template <class T>
  Result<T> ask(const std::function<Result<T>()>& errand);

  ServerOptions options_;
  std::unique_ptr<TurnClock> clock_;  // the store's and the reactor's
  std::unique_ptr<Slab> slab_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Reactor> reactor_;
  std::thread thread_;
  Mailbox mailbox_;
  std::atomic<bool> running_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> drain_ms_{0};
  bool drained_ = true;
  std::mutex unsealed_lock_;
  std::vector<std::string> unsealed_;
  std::string snapshot_;             // written by the reactor's thread before the mailbox is closed
  std::vector<AbsentDrive> absent_;  // reactor thread
};

}  // namespace cairn
