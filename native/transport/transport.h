// The transport seam: how commands and payload cross between a client and the service.
//
// The server moves the bytes. A client sends a command that says where its memory lies; the server pulls the
// payload of a put and pushes the payload of a get. tcp, shm and rdma implement this file; conformance_test.cc
// holds every one of them, and the in-process fake, to the same promises:
//
//  1. Frames arrive whole, once and in order, or the link closes.
//  2. send_results: the bytes of an item are in the client's memory before the client sees its result.
//  3. pull: pulled() is called exactly once unless the op is cancelled; ok means all bytes are in the buffer
//     exactly as they were in the client's memory while the request was open.
//  4. After cancel(PullOp) returned, pulled() is not called. Nothing is written into its buffer any more, or (rdma,
//  where
//     the device cannot be called back) the link keeps a share of it until that is so: nobody else gets that memory.
//  5. After forget(request) returned, a client link reads and writes no memory of that request, and no byte
//     of a put that was forgotten half-way is ever reported as pulled. Where the peer reads and writes by itself
//     (rdma), it does until the last frame of the request, or until the link is closed.
//  6. A link that closes says why, once; pulls in flight end as `disconnected`.
//  7. What one peer sends — garbage included — ends at most its own link, with a reason, and the service's end can
//  still
//     tell the peer which (leave()).
//  8. Nothing blocks: progress() moves what it can and returns.
//  9. Neither side allocates more than the limits of wire/limits.h on the word of the other.
//
// Threads: a link belongs to one thread (server: the reactor; client: whoever holds the session's lock).
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/patience.h"
#include "base/result.h"
#include "base/slab.h"
#include "wire/frame.h"

namespace cairn {

// --- addresses ---------------------------------------------------------------------------------------

struct Address {
  enum class Kind : uint8_t { tcp, shm, rdma };
  Kind kind = Kind::tcp;
  std::string host;  // tcp, rdma: a name or number; IPv6 without brackets
  uint16_t port = 0;
  std::string path;  // shm
};

// tcp://HOST:PORT or rdma://HOST:PORT (IPv6 in brackets), or shm:///PATH. The error says what is wrong and shows the
// right form.
Result<Address> parse_address(std::string_view url);
std::string to_url(const Address& address);
const char* name_of(Address::Kind kind);

// --- the server's end ----------------------------------------------------------------------------------

struct ResultItem {
  ResultBody body;
  Buffer buffer;                   // get: holds the bytes; kept by the link until they are sent
  uint64_t buffer_offset = 0;      // where the body.length bytes begin
  std::span<const ExtentBody> to;  // where in the client's memory; empty: in frames
};

// A fetch of client memory into a slab buffer. Owned by the caller until pulled() or cancel().
class PullOp {
 public:
  uint64_t request_id = 0;
  uint32_t index = 0;
  uint64_t length = 0;
  Buffer buffer;                           // at least `length` long
  std::span<const ExtentBody> from;        // empty: the client is asked to send
  virtual void pulled(Status status) = 0;  // ok, cancelled (the client gave up), bad_region, disconnected

 protected:
  ~PullOp() = default;
};

class ServerLink;

struct Due {
  bool open = false;
  uint64_t done = 0;
};
// To take in what is sent to it; to send the blocks of puts that it was asked for; to end a frame that it began.
enum class DueKind : uint8_t { reading, blocks, frame };
inline constexpr size_t kDueKinds = 3;
using Dues = std::array<Due, kDueKinds>;

class ServerLinkHandler {
 public:
  // A command frame with its body, checked for magic, version, lengths and CRC, not for meaning.
  virtual void on_frame(ServerLink& link, const FrameHeader& header, ConstByteSpan body) = 0;
  // The peer broke a rule of the format, which `reason` names. The link hears nothing any more. The owner leave()s it,
  // or close()s it, before this returns.
  virtual void on_violation(ServerLink& link, Status status, std::string_view reason) = 0;
  // `bytes` of result payload left for the client, or were dropped with the link.
  virtual void on_payload_sent(ServerLink& link, uint64_t bytes) = 0;
  // The link is dead: destroy it after this turn. Not called for close() from our side.
  virtual void on_closed(ServerLink& link, Status status, std::string_view reason) = 0;

 protected:
  ~ServerLinkHandler() = default;
};

class ServerLink {
 public:
  virtual ~ServerLink() = default;
  uint64_t number = 0;  // the owner's: what it knows the link by
  void set_handler(ServerLinkHandler* handler) {
    CAIRN_CHECK(handler != nullptr, "a link loses the one it reports to");
    handler_ = handler;
  }
  // From now on every frame in either direction carries `tag`; one that does not closes the link as denied.
  virtual void set_tag(const SessionTag& tag) = 0;

  // Whether the connection was made for this tenant, where it had to name one before the hello.
  virtual bool belongs_to(std::string_view) const { return true; }

  virtual const std::string& peer() const = 0;
  // The address that its packets come from, without a port; IPv4 is IPv4, whatever the socket. Empty: none (shm).
  virtual const std::string& host() const = 0;
  virtual uint32_t features() const = 0;
  // -1: the link has none. Then its listener drives it, where driven() says so, or it is looked at every turn.
  virtual int event_fd() const = 0;
  virtual bool driven() const { return false; }
  // Whether poll() finds whatever came, without a look at the event and without a system call (shm, from the welcome
  // on). The event of such a link tells only what comes after rest(), and that the peer is gone.
  virtual bool polled() const { return false; }
  virtual bool poll() { return false; }  // true if anything moved, or the link closed
  virtual bool rest() { return true; }   // false: there is something to do
  // Nothing has moved for a while: gives memory back that is kept for speed alone.
  virtual void trim() {}
  virtual bool wants_write() const = 0;
  // Moves what can be moved (readable, writable: what the wait set said). Calls the handler.
  virtual void progress(bool readable, bool writable) = 0;

  // Before a session is begun by this link: makes what it takes. The Error says why there can be none.
  virtual Result<Unit> prepare() { return Unit{}; }
  // The first frame of a session.
  virtual void send_welcome(std::vector<std::byte> frame) { send(std::move(frame)); }
  virtual void send(std::vector<std::byte> frame) = 0;
  // One results frame for `items` of a request. Items whose extents are not inside the client's memory are
  // reported as bad_region instead. `flags`: kFrameLast or 0.
  virtual void send_results(uint64_t request_id, std::span<ResultItem> items, uint16_t flags) = 0;
  virtual void pull(PullOp& op) = 0;
  virtual void cancel(PullOp& op) = 0;
  // Asks a frame's worth of work to be sent before the reactor sleeps: called once a turn.
  virtual void flush() = 0;

  // The last word: `frame` goes behind what is queued, nothing that comes is heard any more, and pulls that are not
  // cancelled end as disconnected. The owner drives the link on until on_closed() says that the frame has left and the
  // peer is gone too, where that can be seen, and close()s it when he has waited for long enough: a peer may take its
  // time for ever. Until then what comes is thrown away, for a stream is reset that is closed with bytes unread, and
  // the peer would lose the reason.
  virtual void leave(std::vector<std::byte> frame) = 0;
  // Sends what is queued as far as the peer takes it at once, then closes. Of the handler only
  // on_payload_sent() is called, for what was still queued. The caller has cancelled its pulls.
  virtual void close() = 0;
  // All bytes that moved, either way.
  virtual uint64_t moved_bytes() const = 0;
  // What its peer still has to do, by kind: each tells whether there is any of it, and a number that grows whenever the
  // peer does some. A peer that leaves one of them as it is for too long is stuck, whatever else it does meanwhile.
  virtual Dues dues() const = 0;

  // What frames that wait to be sent take of memory; payload, which lies in the slab, is not counted.
  virtual uint64_t queued_bytes() const = 0;
  // While it is held it hands on no frame and takes in nothing: what its peer says waits with the peer. What is queued
  // goes out all the same. It may be held from inside on_frame(), and then hands on no other; frames that it has taken
  // in already come when it is driven again (progress, readable).
  virtual void hold(bool held) = 0;
  virtual bool held() const = 0;

 protected:
  ServerLinkHandler* handler_ = nullptr;
};

// Who may connect, asked where a connection can be rejected before anything is spent on it (rdma).
class AcceptFilter {
 public:
  // Empty: it may. Else a sentence of 136 bytes at most, with which it is rejected as busy. What peer() and host() of
  // its link would be.
  virtual std::string why_not(const std::string& peer, const std::string& host) = 0;

 protected:
  ~AcceptFilter() = default;
};

class Listener {
 public:
  virtual ~Listener() = default;
  virtual int event_fd() const = 0;
  virtual const std::string& url() const = 0;  // as clients use it, with the real port
  // The next waiting connection, or nullptr. Never blocks. Drives the links that it drives.
  virtual std::unique_ptr<ServerLink> accept() = 0;
  // Its links live no longer than it does. Nobody new is let in from now on.
  virtual bool drives_links() const { return false; }
  virtual void set_filter(AcceptFilter&) {}  // outlives the listener
  virtual void stop_accepting() {}
  // Drives its links without a look at the event. True if anything moved.
  virtual bool poll() { return false; }
  // Before the reactor sleeps: from now on the event says when something moves. False when something did already.
  virtual bool rest() { return true; }
};

// How packets of a connection are marked. What is not set, the path decides.
struct RdmaPath {
  int dscp = -1;           // 0 to 63: the upper six bits of the traffic class
  int service_level = -1;  // 0 to 15
  uint32_t mtu_bytes = 0;  // 256 to 4096, a power of two; no more than the path has
};

struct ListenOptions {
  const Slab* slab = nullptr;  // rdma: registered with the devices; outlives the listener
  RdmaPath path;
};

Result<std::unique_ptr<Listener>> listen_at(const Address& address, const ListenOptions& options);

// --- the client's end ------------------------------------------------------------------------------------

class ClientLinkHandler {
 public:
  // The memory of an item, appended to `out`; false when the item is settled or was never asked for: payload
  // is then drained, or filler is sent.
  virtual bool source(uint64_t request_id, uint32_t index, uint64_t offset, uint64_t length,
                      std::vector<iovec>& out) = 0;
  virtual bool destination(uint64_t request_id, uint32_t index, uint64_t length, std::vector<iovec>& out) = 0;
  // Whether payload_arrived() is wanted. It comes before the results whose bytes are in frames, for each in its order:
  // the bytes are in place, and this is their CRC32C, taken on the way.
  virtual bool checks_payload() const { return false; }
  virtual void payload_arrived(uint64_t, uint32_t, uint64_t, uint32_t) {}
  // Every frame but pull; results come after their payload is in place.
  virtual void on_frame(const FrameHeader& header, ConstByteSpan body) = 0;
  virtual void on_closed(Status status, std::string_view reason) = 0;

 protected:
  ~ClientLinkHandler() = default;
};

// Memory of ours that a device knows, so that a peer can be let in to it for the time of a request. Nobody is let in by
// this alone where the device has memory windows. Ends before the memory does.
class ExposedMemory {
 public:
  virtual ~ExposedMemory() = default;
  // Its key lets the peer in as long as this lives, though the device has windows; extents say so (kExtentStaysOpen).
  virtual bool stays_open() const { return false; }
};

// Where a link's device keeps what it knows of this process's memory; links to the same device may share one.
class MemoryDomain {
 public:
  virtual ~MemoryDomain() = default;
  // Takes as long as the system needs to pin the memory. Any thread.
  virtual Result<std::unique_ptr<ExposedMemory>> expose(ByteSpan memory) = 0;
  // Memory of another device that is at `memory` for that device alone: nothing here looks into it. It is reached
  // through the dma-buf `descriptor`, in which it begins at `offset`; that stays the caller's. The Error says why it
  // cannot be. Any thread.
  virtual Result<std::unique_ptr<ExposedMemory>> expose_dma_buf(ByteSpan memory, int descriptor, uint64_t offset) = 0;
  // The system took the device away: nothing here works any more, and what is exposed is to be let go of.
  virtual bool gone() { return false; }
  // The device did not give up memory that it was told to: a peer with its key may still be let in, until its link
  // ends.
  virtual bool holds_on() const { return false; }
};

class ClientLink {
 public:
  virtual ~ClientLink() = default;
  void set_handler(ClientLinkHandler* handler) {
    CAIRN_CHECK(handler != nullptr, "a link loses the one it reports to");
    handler_ = handler;
  }
  virtual int event_fd() const = 0;
  virtual bool wants_write() const = 0;
  virtual void progress(bool readable, bool writable) = 0;
  // Whether poll() finds whatever came, without a look at the event and without a system call (rdma, shm). The event of
  // such a link tells only what comes after rest(), which whoever is about to sleep calls first.
  virtual bool polled() const { return false; }
  virtual bool poll() { return false; }  // true if anything came
  virtual bool rest() { return true; }   // false: something came before, and was taken in
  virtual void send(std::vector<std::byte> frame) = 0;
  // The fence for payload in frames; see promise 5.
  virtual void forget(uint64_t request_id) = 0;
  // Closes at once. The handler is not called again, and the peer reaches no memory of ours through this link any more.
  virtual void close() = 0;

  // Links whose peer reads and writes our memory by itself (rdma). nullptr: this one's does not.
  virtual std::shared_ptr<MemoryDomain> memory_domain() { return nullptr; }
  // Lets the peer in to `range` of the memory, to write (get) or to read (put) it. That ends with the last frame of the
  // request: when the handler sees it, the peer is out. The key that the request's extents name; none when the device
  // gives none, which concerns this memory and this request alone.
  virtual std::optional<uint32_t> let_in(uint64_t, const ExposedMemory&, ByteSpan, bool) { return std::nullopt; }

 protected:
  ClientLinkHandler* handler_ = nullptr;
};

struct Welcome {
  WelcomeBody body;
  SessionTag tag{};
};

struct ConnectOptions {
  std::string tenant = "default";
  std::string token;
  std::string name;
  SessionTag join{};
  int timeout_ms = 5000;
  // The one of the connection's device is taken, if it is among them; else the link makes its own.
  std::vector<std::shared_ptr<MemoryDomain>> domains;
  // Asked while the connection is waited for; outlives the call. nullptr: nobody interrupts it.
  Interruption* interruption = nullptr;
  uint32_t lane = 0;  // lanes are spread over the addresses that the host's name has (rdma): a NIC for each
};

struct Connected {
  std::unique_ptr<ClientLink> link;
  Welcome welcome;
};

struct ConnectFailure {
  Status status = Status::unreachable;
  std::string reason;
};

// Connects and shakes hands; blocks for at most timeout_ms, whatever the name, its addresses and the service do. A
// failure by an interruption is `cancelled`.
std::variant<Connected, ConnectFailure> connect_to(const Address& address, const ConnectOptions& options);

}  // namespace cairn
