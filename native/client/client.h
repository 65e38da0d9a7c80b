// The caller's side of a session: batches, credits, deadlines with their fence, reconnection.
//
// Threads: any thread may call anything. One lock guards the session; it is never held while waiting.
// There is no thread inside: of the threads that wait for an answer, one at a time drives the links for all
// of them, so a lone caller's bytes are received by the caller itself. Only after completion_fd() was asked
// for does a thread of our own drive.
//
// What a caller may rely on (DESIGN §3): every item of an operation gets a status; when wait() or cancel()
// says the operation is done, nothing reads or writes the caller's memory any more; done comes no later than
// the deadline plus the fence (kFenceMs).
#pragma once

#include <poll.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "client/bounce.h"
#include "client/operation.h"
#include "client/region.h"
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

struct ClientInfo {
  std::string transport;
  std::array<uint8_t, 16> server_id{};
  uint64_t session_id = 0;
  uint32_t lanes = 0, credits = 0;
  uint64_t window_bytes = 0, block_bytes_most = 0;
  bool connected = false;
  uint64_t reconnects = 0;
  const char* breaker = "closed";  // closed: calls go through; open: they are refused until the next attempt
  std::string last_error;
};

class Client {
 public:
  static std::variant<std::unique_ptr<Client>, ConnectFailure> connect(const std::string& url,
                                                                       const ClientOptions& options);
  ~Client();  // close()
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Starts an operation. Never fails: what cannot be sent is settled with the reason. May take as long as one
  // attempt to reconnect (bounded by the operation's deadline and connect_timeout_ms).
  void submit(std::shared_ptr<Operation> operation);
  bool done(const Operation& operation);
  // Drives the session until the operation is done or about `slice_ms` have passed; true when done.
  bool wait(const Operation& operation, int slice_ms);
  // Returns when nothing touches the operation's memory any more.
  void cancel(Operation& operation);

  // Memory the service can reach, where the transport has that; owned by the client until free_region().
  Result<MemoryRegion*> alloc_region(uint64_t bytes);
  // The caller's memory, which stays where it is until free_region(). nullptr: the transport gains nothing by it.
  Result<MemoryRegion*> register_memory(ByteSpan memory);
  bool region_is_shared(const MemoryRegion& region);
  // Operations that use it, where the service reads and writes it by itself, are cancelled first; that takes no longer
  // than their fence.
  void free_region(MemoryRegion* region);

  // From the first call on a thread drives the session, and the descriptor (an eventfd, ours) becomes readable
  // when operations are done; take_completed() gives their ids and clears it. An Error when the system has no
  // descriptor or thread left; the client is as it was, and may be asked again.
  Result<int> completion_fd();
  std::vector<uint64_t> take_completed();

  ClientInfo info();
  // Settles everything that is open as cancelled and hangs up. Idempotent.
  void close();

 private:
  struct Request {
    std::shared_ptr<Operation> operation;  // empty: given up
    std::shared_ptr<Operation> fencing;    // given up, but its shared memory is not free until the service lets go
    uint32_t first = 0, count = 0;         // which of the operation's items
    uint32_t settled = 0;
    bool sent = false;
    std::vector<MemoryRegion*> regions;  // shared memory the service may touch for it
    MemoryRegion* adding = nullptr;      // region_add: whose
    std::vector<Buffer> bounced;         // rdma: for each item the memory in its caller's place; empty: none is needed
  };
  struct Lane final : ClientLinkHandler {
    Client* client = nullptr;
    std::unique_ptr<ClientLink> link;
    std::unordered_map<uint64_t, Request> requests;
    std::deque<uint64_t> waiting;  // for credits
    uint32_t credits = 0;

    bool source(uint64_t request_id, uint32_t index, uint64_t offset, uint64_t length,
                std::vector<iovec>& out) override;
    bool destination(uint64_t request_id, uint32_t index, uint64_t length, std::vector<iovec>& out) override;
    void on_frame(const FrameHeader& header, ConstByteSpan body) override;
    void on_closed(Status status, std::string_view reason) override;
    bool memory_of(uint64_t request_id, uint32_t index, uint64_t length, bool whole, std::vector<iovec>& out);
  };
  using Lock = std::unique_lock<std::mutex>;

  Client(Address address, ClientOptions options, int wake);

  // --- connection (connection.cc) ---
  std::variant<std::vector<Connected>, ConnectFailure> dial(int timeout_ms);
  void install(std::vector<Connected> connected);
  bool ensure_connected(Lock& lock, uint64_t due_ns);  // false: the breaker is open or the attempt failed
  void lose_session(std::string_view reason, bool by_us);
  void forget_gone_domain();
  bool detach_regions();
  void reap();
  void add_region(MemoryRegion& region);
  Result<MemoryRegion*> keep_region(std::unique_ptr<MemoryRegion> region);

  // What holds whenever the lock is free.
  void check_session() const;

  // --- requests (client.cc) ---
  static void check_asked(const Operation& op);
  void split(const std::shared_ptr<Operation>& operation);
  void enqueue(Lane& lane, const std::shared_ptr<Operation>& operation, uint32_t first, uint32_t count);
  void send_waiting(Lane& lane);
  static uint32_t deadline_ms_of(const Operation& operation);
  std::vector<std::byte> build_request(Lane& lane, uint64_t id, Request& request);
  bool extents_of(const Operation& operation, uint32_t item, Request& request, std::vector<ExtentBody>& extents);
  MemoryRegion* region_at(const std::byte* base, uint64_t length);

  // --- memory that the peer reads and writes by itself, rdma (reached.cc) ---
  MemoryRegion* exposed_at(const MemoryDomain& domain, const std::byte* base, uint64_t length);
  bool is_exposed(const MemoryDomain& domain, const Operation& operation, uint32_t item);
  uint32_t share_of_bounce(const MemoryDomain& domain, const Operation& operation, uint32_t first, uint32_t most);
  bool take_bounce(Lane& lane, Request& request);
  void reach(Lane& lane, uint64_t id, Request& request, std::vector<ItemBody>& items, std::vector<ExtentBody>& extents);
  void end_requests_in(Lock& lock, const MemoryRegion& region);
  void fetch_bounced(const Request& request, uint32_t index, uint64_t bytes);
  void settle(Operation& operation, uint32_t item, Status status);
  void settle_rest(Operation& operation, Status status);
  void finish_if_settled(Operation& operation);
  void finish_request(Lane& lane, uint64_t request_id, Status rest);

  // --- answers (answers.cc) ---
  void answered(Lane& lane, const FrameHeader& header, ConstByteSpan body);
  const char* take_results(Request& request, const FrameHeader& header, ConstByteSpan body);
  const char* take_statuses(Request& request, const FrameHeader& header, ConstByteSpan body);
  void settle_result(const Request& request, const ResultBody& result);

  // --- driving and deadlines (driving.cc) ---
  void drive(Lock& lock, int timeout_ms);
  void give_up(Operation& operation, Status why);
  void expire();
  void fence_failed(Operation& operation);
  void end_fence(const std::shared_ptr<Operation>& operation);
  int until_next_due_ms(int most_ms) const;
  void pump();
  void wake_driver();

  const Address address_;
  const ClientOptions options_;

  std::mutex lock_;
  std::condition_variable changed_;
  bool driving_ = false;
  bool closed_ = false;
  int wake_ = -1;

  enum class Link : uint8_t { down, connecting, up };
  Link state_ = Link::down;
  std::vector<std::unique_ptr<Lane>> lanes_;
  size_t next_lane_ = 0;
  SessionTag tag_{};
  WelcomeBody welcome_{};
  bool lost_ = false;     // the session is over; reap() buries it
  bool hung_up_ = false;  // … because we ended it: the service may not know yet
  std::string last_error_;
  uint64_t reconnects_ = 0;
  uint64_t next_attempt_ns_ = 0;
  uint64_t backoff_ms_ = 0;

  uint64_t next_id_ = 1;
  std::unordered_map<const Operation*, std::shared_ptr<Operation>> open_;
  std::set<std::pair<uint64_t, Operation*>> due_;

  std::shared_ptr<MemoryDomain> domain_;  // of the last session: the next one to the same device goes on with it
  Bounce bounce_;
  std::map<const std::byte*, std::unique_ptr<MemoryRegion>> regions_;
  uint32_t next_region_ = 1;

  int completion_ = -1;
  std::vector<uint64_t> completed_;
  std::thread pump_;
};

}  // namespace cairn
