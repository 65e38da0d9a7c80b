// The caller's side of a session: batches, credits, deadlines with their fence, reconnection.
//
// Threads: any thread may call anything. One lock guards the session; it is never held while waiting for the service.
// What an event loop asks for (submit() while its completion_fd() is in use, done(), take_completed(), info()) does not
// wait for that lock. It is held while payload is copied through memory of ours, from and to a GPU as well. There is no
// thread inside: of the threads that wait for an answer, one at a time drives the links for all of them, so a lone
// caller's bytes are received by the caller itself. Only after completion_fd() was asked for does a thread of our own
// drive.
//
// What a caller may rely on (DESIGN §3): every item of an operation gets a status; when wait() or cancel()
// says the operation is done, nothing reads or writes the caller's memory any more; done comes no later than
// the deadline plus the fence (kFenceMs). Only a copy from or to a GPU that has begun is waited for, however long it
// takes: nobody can take it back.
//
// Memory that runs out, or a thread that cannot be made, ends a call or the session, with a reason, and nothing else.
//
// Forks: a client belongs to the process that connected it. In a child it is inert: what is asked is `unreachable`,
// what was under way is `disconnected`, at once and without a look at lock, socket or device, which are the parent's.
// let_go() is how it ends there.
#pragma once

#include <poll.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/fork.h"
#include "base/patience.h"
#include "client/bounce.h"
#include "client/operation.h"
#include "client/region.h"
#include "client/ways.h"
#include "transport/transport.h"

namespace cairn {

inline constexpr uint64_t kFenceMs = 250;  // how long a service that hangs may keep a cancelled request

struct ClientOptions {
  std::string tenant = "default";
  std::string token;
  std::string name;
  uint32_t lanes = 1;
  int connect_timeout_ms = 5000;
  bool verify = true;  // checksum puts here, check gets here
};

// What a child is told that uses its parent's client.
inline constexpr const char* kInherited =
    "the client belongs to the process that this one was forked from; connect again here";

struct GpuRegionInfo {
  uint64_t address = 0, bytes = 0;
  int gpu = 0;
  std::string reason;  // why it is copied through host memory; empty: it is not
};

struct ClientInfo {
  std::string transport;  // of the session that calls go to now
  std::array<uint8_t, 16> server_id{};
  uint64_t session_id = 0;
  uint32_t lanes = 0, credits = 0;
  uint64_t window_bytes = 0, block_bytes_most = 0;
  bool connected = false;
  uint64_t reconnects = 0;
  uint64_t returns = 0;            // to a better transport while the session by another one went on
  const char* breaker = "closed";  // closed: calls go through; open: they are refused until the next attempt
  std::string last_error;
  std::vector<GpuRegionInfo> gpu_regions;
};

class Client {
 public:
  static std::variant<std::unique_ptr<Client>, ConnectFailure> connect(const std::string& url,
                                                                       const ClientOptions& options,
                                                                       Interruption* interruption = nullptr);
  ~Client();  // close(). Never in a child: let_go()
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Destroys the client; in a child of the process that connected it, leaves it as it is.
  static void let_go(std::unique_ptr<Client> client);
  // Whether this is such a child.
  bool inherited() const { return fork_generation() != generation_; }

  // Starts an operation. Never fails: what cannot be sent is settled with the reason. May take as long as one
  // attempt to reconnect (bounded by the operation's deadline and connect_timeout_ms); an interruption ends that, and
  // the operation with it, as `cancelled`. Throws std::bad_alloc before anything is begun.
  void submit(std::shared_ptr<Operation> operation, Interruption* interruption = nullptr);
  // As Operation::done(); in a child everything is.
  bool done(Operation& operation);
  // Drives the session until the operation is done or about `slice_ms` have passed; true when done.
  bool wait(Operation& operation, int slice_ms);
  // Returns when nothing touches the operation's memory any more. Nothing makes it return sooner, but the interruption
  // is asked meanwhile, here and below.
  void cancel(Operation& operation, Interruption* interruption = nullptr);

  // Zeroed memory of whole pages, which the service reaches by itself where the transport has that (rdma); owned by the
  // client until free_region(). An Error when the machine, or a control group of this process, has not as much left.
  Result<MemoryRegion*> alloc_region(uint64_t bytes);
  // The caller's memory, which stays where it is until free_region(). nullptr: the transport gains nothing by it.
  // `gpu`: on which it lies, as Gpu::find() says; memory that the device does not take in is registered all the same,
  // and copied through host memory: region_transfer() says why.
  Result<MemoryRegion*> register_memory(ByteSpan memory, int gpu = kHostMemory);
  bool region_is_shared(const MemoryRegion& region);
  // Of memory on a GPU, as things are now. Empty: the service reads and writes it by itself. Else why it does not.
  std::string region_reason(const MemoryRegion& region);
  // Operations that use it, where the service reads and writes it by itself or it is a GPU's, are cancelled first; that
  // takes no longer than their fence.
  void free_region(MemoryRegion* region, Interruption* interruption = nullptr);

  // From the first call on a thread drives the session, and the descriptor (an eventfd, ours) becomes readable
  // when operations are done; take_completed() gives their ids and clears it. An Error when the system has no
  // descriptor or thread left; the client is as it was, and may be asked again.
  Result<int> completion_fd();
  std::vector<uint64_t> take_completed();

  ClientInfo info();
  // Settles everything that is open as cancelled and hangs up. Idempotent, and several threads may do it at once.
  void close(Interruption* interruption = nullptr);

 private:
  struct Request {
    std::shared_ptr<Operation> operation;  // empty: given up
    std::shared_ptr<Operation> fencing;    // given up, but its memory is not free until the service lets go (rdma)
    uint32_t first = 0, count = 0;         // which of the operation's items
    uint32_t settled = 0;
    bool sent = false;
    std::vector<MemoryRegion*> regions;  // that the service reads and writes by itself for it (rdma)
    std::vector<Buffer> bounced;         // for each item the memory in its caller's place; empty: none is needed
  };
  struct Lane final : ClientLinkHandler {
    Client* client = nullptr;
    std::unique_ptr<ClientLink> link;
    std::unordered_map<uint64_t, Request> requests;
    std::deque<uint64_t> waiting;  // for credits
    uint32_t credits = 0;
    SessionTag tag{};
    struct Arrived {
      uint32_t index, crc;
      uint64_t length;
    };
    std::vector<Arrived> arrived;  // with the results that are about to be seen
    bool leaving = false;          // a better session is there: what this one was asked is answered, and then it ends
    bool broken = false;           // … its link closed before that

    bool source(uint64_t request_id, uint32_t index, uint64_t offset, uint64_t length,
                std::vector<iovec>& out) override;
    bool destination(uint64_t request_id, uint32_t index, uint64_t length, std::vector<iovec>& out) override;
    bool checks_payload() const override { return client->options_.verify; }
    void payload_arrived(uint64_t, uint32_t index, uint64_t length, uint32_t crc) override {
      arrived.push_back({index, crc, length});
    }
    void on_frame(const FrameHeader& header, ConstByteSpan body) override;
    void on_closed(Status status, std::string_view reason) override;
    bool memory_of(uint64_t request_id, uint32_t index, uint64_t length, bool whole, std::vector<iovec>& out);
  };
  using Lock = std::unique_lock<std::mutex>;
  using Domains = std::vector<std::shared_ptr<MemoryDomain>>;

  Client(Ways ways, ClientOptions options, int wake);

  // --- connection (connection.cc) ---
  struct Dialled {
    const Address* way = nullptr;
    std::vector<Connected> lanes;
  };
  // By whatever way there is. The lock is not held while waiting. A failure tells of every way that was tried.
  std::variant<Dialled, ConnectFailure> dial(Lock& lock, int timeout_ms, Interruption* interruption);
  std::variant<Dialled, ConnectFailure> dial_way(const Address& way, int timeout_ms, Domains domains,
                                                 Interruption* interruption) const;
  // `others_leave`: what the lanes of now were asked is still answered by them.
  void install(Dialled dialled, bool others_leave = false);
  static uint64_t random_number();
  static Domains domains_of(const std::vector<Connected>& lanes);
  void keep_domains(Domains domains);
  // A better way than that of the session, tried for on a thread of its own: nobody's call waits for it, but close()
  // does, for as long as one attempt takes.
  void seek_better();
  void try_better();
  void reach_better(Lock& lock);
  void move_to_better();
  static bool owes_nothing(const Lane& lane);
  void end_left();
  static void say_goodbye(Lane& lane);
  void wait_longer();
  // `ok`; `unreachable`: the breaker is open or the attempt failed; `cancelled`: it was interrupted.
  Status ensure_connected(Lock& lock, uint64_t due_ns, Interruption* interruption);
  void lose_session(std::string_view reason);
  void forget_gone_domains();
  void reap();
  void bury(Lane& lane);
  void judge();
  void expose_everywhere(MemoryRegion& region);
  Result<MemoryRegion*> keep_region(std::unique_ptr<MemoryRegion> region);

  // What holds whenever the lock is free.
  void check_session() const;

  // --- the end of things (ending.cc) ---
  // Runs `step`, which may find no memory: then the session is over, and everything that is open is settled.
  template <class Step>
  void guarded(Lock& lock, Step&& step) noexcept;
  void break_down() noexcept;
  // In a child.
  static void abandon(Operation& operation, Status status);
  // Until somebody else's driving has gone on a bit, or by driving. Asks the interruption without the lock.
  void go_on(Lock& lock, Interruption* interruption);

  // --- what is told of the session (info.cc) ---
  void note(std::string_view error);
  void publish() noexcept;

  // --- requests (client.cc) ---
  static void prepare(Operation& operation);
  // False: it was interrupted.
  bool compute_checksums(Operation& operation, Interruption* interruption) const;
  void enter(const std::shared_ptr<Operation>& operation);
  void start(Lock& lock, const std::shared_ptr<Operation>& operation, Interruption* interruption);
  // False: whoever drives cannot be woken.
  bool post(std::shared_ptr<Operation> operation);
  void take_inbox(Lock& lock);
  static void check_asked(const Operation& op);
  void split(const std::shared_ptr<Operation>& operation);
  void enqueue(Lane& lane, const std::shared_ptr<Operation>& operation, uint32_t first, uint32_t count);
  void send_waiting(Lane& lane);
  static uint32_t deadline_ms_of(const Operation& operation);
  std::vector<std::byte> build_request(Lane& lane, uint64_t id, Request& request);
  // One that holds all of the memory and is `wanted`; regions may lie in others. With either of the two locks.
  template <class Wanted>
  MemoryRegion* region_around(const std::byte* base, uint64_t length, Wanted&& wanted) const;
  void measure_reach();

  // --- memory that the peer reads and writes by itself, rdma (reached.cc) ---
  // Makes the memory that is registered known to the devices of a session before that is installed. Pinning takes its
  // time: the lock is not held meanwhile, and nobody else's call waits for it.
  void expose_regions(Lock& lock, const Domains& domains);
  void forget_domain(const MemoryDomain& domain);
  MemoryRegion* exposed_at(const MemoryDomain& domain, const std::byte* base, uint64_t length);
  bool is_exposed(const MemoryDomain& domain, const Operation& operation, uint32_t item);
  void reach(Lane& lane, uint64_t id, Request& request, std::vector<ItemBody>& items, std::vector<ExtentBody>& extents);
  void refuse_item_of(const Request& request, uint32_t extent, std::vector<ItemBody>& items);
  void end_requests_in(Lock& lock, const MemoryRegion& region, Interruption* interruption);

  // --- memory in the caller's place: that the device does not know, or a GPU's (bounced.cc) ---
  void find_gpus(Operation& operation);
  bool is_bounced(const MemoryDomain* domain, const Operation& operation, uint32_t item);
  uint32_t share_of_bounce(const MemoryDomain* domain, const Operation& operation, uint32_t first, uint32_t most);
  bool take_bounce(Lane& lane, Request& request);
  void fill_bounced(Request& request);
  static bool checksum_is_known(const Request& request, uint32_t index);
  // `crc`: of the bytes, where it was taken on the way; nullptr: they are read once more.
  Status deliver(const Request& request, const ResultBody& result, const uint32_t* crc);
  Status deliver_to_gpu(const Request& request, const ResultBody& result, const uint32_t* crc);

  // --- regions of GPUs (gpu_regions.cc) ---
  static Result<Unit> expose_region(MemoryDomain& domain, MemoryRegion& region);
  void end_operations_in(Lock& lock, const MemoryRegion& region, Interruption* interruption);
  std::string reason_of(const MemoryRegion& region) const;
  std::vector<GpuRegionInfo> gpu_regions() const;

  void settle(Operation& operation, uint32_t item, Status status);
  void settle_rest(Operation& operation, Status status);
  void finish_if_settled(Operation& operation);
  void tell_completion(const Operation& operation) noexcept;
  void finish_request(Lane& lane, uint64_t request_id, Status rest);

  // --- answers (answers.cc) ---
  void answered(Lane& lane, const FrameHeader& header, ConstByteSpan body);
  const char* take_results(const Lane& lane, Request& request, const FrameHeader& header, ConstByteSpan body);
  const char* take_statuses(Request& request, const FrameHeader& header, ConstByteSpan body);
  void settle_result(const Request& request, const ResultBody& result, const uint32_t* crc);

  // --- driving and deadlines (driving.cc) ---
  void drive(Lock& lock, int timeout_ms) noexcept;
  void turn(Lock& lock, int timeout_ms);
  bool poll_links(Lock& lock, int timeout_ms);
  void wait_for_links(Lock& lock, int timeout_ms);
  void give_up(Operation& operation, Status why);
  void begin_fence(Operation& operation);
  void expire();
  void fence_failed(Operation& operation);
  void end_fence(const std::shared_ptr<Operation>& operation);
  int until_next_due_ms(int most_ms) const { return until_next_due_ms(most_ms, system_clock().now_ns()); }
  int until_next_due_ms(int most_ms, uint64_t now) const;
  void pump();
  void wake_driver();
  bool wake();

  Ways ways_;
  const ClientOptions options_;

  std::mutex lock_;
  std::condition_variable changed_;
  bool driving_ = false;
  std::atomic<bool> closed_{false};
  const int wake_;
  std::atomic<bool> wakes_{true};  // false: the system refused, so nobody sleeps for long
  const uint64_t generation_ = fork_generation();

  enum class Link : uint8_t { down, connecting, up };
  Link state_ = Link::down;
  std::vector<std::unique_ptr<Lane>> lanes_;
  size_t next_lane_ = 0;
  const Address* way_ = nullptr;  // of the session, or of the last one
  uint64_t installed_ns_ = 0;
  WelcomeBody welcome_{};
  bool lost_ = false;  // the session is over; reap() buries it
  std::string last_error_;
  uint64_t reconnects_ = 0;
  uint64_t next_attempt_ns_ = 0;
  uint64_t backoff_ms_ = 0;

  uint64_t next_id_ = 1;                     // of requests
  std::atomic<uint64_t> next_operation_{1};  // … and of operations
  std::unordered_map<const Operation*, std::shared_ptr<Operation>> open_;
  std::set<std::pair<uint64_t, Operation*>> due_;

  Domains domains_;  // of the last session over devices: the next one over the same devices goes on with them
  Bounce bounce_;
  std::mutex regions_lock_;  // as completed_lock_; to change the list takes both
  std::map<const std::byte*, std::unique_ptr<MemoryRegion>> regions_;
  std::atomic<uint32_t> gpu_regions_{0};  // how many of them lie on a GPU

  enum class Better : uint8_t { idle, trying, found };
  Better better_state_ = Better::idle;
  Dialled better_;  // found, and not taken yet
  std::thread better_thread_;
  uint64_t returns_ = 0;

  std::mutex completed_lock_;  // of these three; may be taken under lock_, and is held for no time
  std::atomic<int> completion_{-1};
  std::vector<uint64_t> completed_;
  std::thread pump_;

  std::mutex inbox_lock_;                          // as completed_lock_
  std::vector<std::shared_ptr<Operation>> inbox_;  // submitted by an event loop while the lock was taken
  std::atomic<bool> inbox_full_{false};            // … there are some

  std::mutex told_lock_;  // as completed_lock_
  ClientInfo told_;
  uint64_t told_next_attempt_ns_ = 0;
  bool untold_ = true;  // told_ is not what it was any more
  std::atomic<bool> connected_{false};
};

template <class Wanted>
MemoryRegion* Client::region_around(const std::byte* base, uint64_t length, Wanted&& wanted) const {
  for (auto at = regions_.upper_bound(base); at != regions_.begin();) {
    MemoryRegion* region = (--at)->second.get();
    if (region->reach < base + length) return nullptr;  // nor does any that begins before it
    if (base + length <= region->base() + region->bytes() && wanted(*region)) return region;
  }
  return nullptr;
}

template <class Step>
void Client::guarded(Lock& lock, Step&& step) noexcept {
  try {
    step();
  } catch (const std::exception&) {
    if (!lock.owns_lock()) lock.lock();
    break_down();
  }
}

}  // namespace cairn
