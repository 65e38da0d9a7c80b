// A byte stream that does not block: a socket, or the in-process fake. What stream links run over.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>

namespace cairn {

class ByteChannel {
 public:
  virtual ~ByteChannel() = default;
  // Bytes moved; 0 from receive: the peer closed; -errno otherwise (-EAGAIN: nothing now).
  virtual long send(std::span<const iovec> from) = 0;
  virtual long receive(std::span<const iovec> into) = 0;
  // Nothing more is sent: the peer sees the end behind what was.
  virtual void finish() = 0;
  virtual int event_fd() const = 0;
};

// Takes ownership of a connected, non-blocking socket.
std::unique_ptr<ByteChannel> socket_channel(int socket);

}  // namespace cairn
