// The drive seam: one NVMe namespace, or a file standing in for one.
//
// An implementation supplies start(), poll() and the facts of DriveInfo. Bounds and alignment are
// checked once, in submit(), so that a new kind of drive cannot forget them. The conformance suite in
// testing/drive_conformance.h runs over every implementation, the fake (testing/memory_drive.h) included.
//
// What a caller may rely on:
//  1. Every submitted request completes exactly once, from poll() or wait(), never from submit().
//  2. error 0 means the whole transfer was done; anything else is an errno and says nothing of the bytes.
//     Short transfers are carried on by the drive or reported as EIO.
//  3. A write is in no way ordered against other requests in flight. Once a flush that was submitted
//     after the write's completion has itself completed, the write survives power loss.
//  4. With volatile_write_cache false, a completed write needs no flush.
//  5. Requests in flight when the drive is destroyed: never; the owner waits for in_flight() == 0.
//  6. A discard says that nobody wants those bytes any more: what is read there until they are written again is
//  anything.
//     Only where can_discard says so.
// A Drive belongs to one reactor thread.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "base/result.h"

namespace cairn {

struct DriveInfo {
  std::string path;              // as a person gave it
  std::string kind;              // "file", "block", "nvme", "memory"
  uint64_t bytes = 0;            // usable size, a multiple of lba_bytes
  uint32_t lba_bytes = 512;      // logical block: the unit of offset and length
  uint32_t memory_align = 4096;  // what buffers must be aligned to
  bool volatile_write_cache = true;
  bool read_only = false;
  bool can_discard = false;
  bool fixed_buffers = false;      // the device knows the memory of register_memory()
  uint32_t placement_classes = 1;  // how many sorts of data it keeps apart (FDP); 1: it does not
};

enum class IoKind : uint8_t { read, write, flush, discard };

inline constexpr uint32_t kVectorsMost = 1024;  // of one request: what Linux takes in one call

// Owned by the caller, who keeps it and the memory behind `vectors` alive until completed() is called.
class IoRequest {
 public:
  IoKind kind = IoKind::read;
  uint64_t offset = 0;
  const iovec* vectors = nullptr;
  uint32_t vector_count = 0;
  uint8_t placement = 0;  // of a write: what dies together has one class, below placement_classes
  uint64_t bytes = 0;  // the sum of the vectors' lengths; 0 for a flush; of a discard, which has no vectors, its length

  // Called once, on the reactor thread. `error` is 0 or an errno. May submit further requests.
  virtual void completed(int error) = 0;

 protected:
  ~IoRequest() = default;
};

class Drive {
 public:
  virtual ~Drive() = default;

  const DriveInfo& info() const { return info_; }

  // Queues the request; the drive may hold it back while its queue is full. Offset, length and memory
  // must be aligned and inside the drive: anything else is our own mistake and stops the process.
  void submit(IoRequest& request);

  // Hands queued requests to the device and calls completed() for what is finished. Does not block.
  virtual void poll() = 0;

  // As poll(), but waits up to timeout_ms for at least one completion if any request is in flight.
  virtual void wait(int timeout_ms) = 0;

  // Signalled at every completion; -1 if the drive has none (then poll every turn). poll() does not clear it:
  // watch it edge-triggered.
  virtual int event_fd() const = 0;

  virtual uint32_t in_flight() const = 0;

  // Names memory that transfers will use, valid as long as the drive is: one that can makes it known to the device
  // once, instead of with every command. False: it cannot, or the kernel does not let it, and all goes on as before.
  // Once, and not while anything is in flight.
  virtual bool register_memory(ByteSpan /*memory*/) { return false; }

  // What poll() has to do that no event will tell of: it left completions for the next one; requests were submitted
  // since, and there is room for them in the device's queue.
  virtual bool behind() const { return false; }
  virtual bool unsent() const { return false; }

 protected:
  explicit Drive(DriveInfo info) : info_(std::move(info)) {}
  virtual void start(IoRequest& request) = 0;
  void set_fixed_buffers(bool known) { info_.fixed_buffers = known; }

 private:
  DriveInfo info_;
};

struct DriveOptions {
  uint32_t queue_depth = 128;
  bool create = false;        // a regular file is created if missing, or grown
  uint64_t create_bytes = 0;  // … to this size, with its blocks allocated
  bool read_only = false;
  bool can_discard = false;
  // A kernel that is short of memory takes no requests for a while: so long they wait, then they end with its errno.
  uint32_t refusal_ms_most = 30'000;
  // How long a lock that another process holds is waited for: one that was killed is rid of it only when the kernel has
  // taken down its ring.
  uint32_t lock_ms_most = 2000;
};

// Opens an NVMe namespace by its character device (/dev/ng0n1, pass-through), or a block device or a regular file with
// O_DIRECT, and takes an exclusive lock (flock), so that two services never share a drive. Errors name the path, the
// cause and what to do.
Result<std::unique_ptr<Drive>> open_drive(const std::string& path, const DriveOptions& options);

}  // namespace cairn
