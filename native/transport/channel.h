// A byte stream that does not block: a socket, rings in shared memory, or the in-process fake. What stream links run
// over.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/bytes.h"
#include "base/result.h"

namespace cairn {

// Sees every byte that a receive moves, in order, while it is in the cache.
class ByteWitness {
 public:
  virtual void saw(ConstByteSpan bytes) = 0;

 protected:
  ~ByteWitness() = default;
};

class ByteChannel {
 public:
  virtual ~ByteChannel() = default;
  // Bytes moved; 0 from receive: the peer closed; -errno otherwise (-EAGAIN: nothing now).
  virtual long send(std::span<const iovec> from) = 0;
  virtual long receive(std::span<const iovec> into, ByteWitness* witness) = 0;
  // Nothing more is sent: the peer sees the end behind what was.
  virtual void finish() = 0;
  virtual int event_fd() const = 0;

  // A channel may take another road once the peers know each other (rings). prepare() makes it: the Error says why
  // there is none. send_welcome() sends what tells the peer of it: all of it or -errno; what comes behind takes that
  // road.
  virtual Result<Unit> prepare() { return Unit{}; }
  virtual long send_welcome(std::span<const iovec> from) { return send(from); }

  // Whether send and receive see what came without a system call. The event of such a channel tells only what comes
  // after rest(), which whoever is about to sleep calls first; and that the peer is gone.
  virtual bool polled() const { return false; }
  // `pending`: there is more to send than there was room for. False: something came, or there is room.
  virtual bool rest(bool pending) {
    (void)pending;
    return true;
  }
  virtual void wake() {}
  // The event says that there is something.
  virtual void heed() {}
  // Nothing has moved for a while: gives memory back that is kept for speed alone.
  virtual void trim() {}
};

// Takes ownership of a connected, non-blocking socket.
std::unique_ptr<ByteChannel> socket_channel(int socket);

}  // namespace cairn
