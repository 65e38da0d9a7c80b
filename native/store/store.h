// The store: blocks on drives, an index in DRAM, a read cache in the slab. This is the seam that the
// server (and one day another back end, NVMe Key-Value) meets; nothing outside store/ includes more.
//
// Threads: a Store belongs to one reactor; every call and every callback is on that thread, and there is
// no lock inside. Operations are objects owned by the caller; the store keeps a pointer from the call
// until done() or cancel(). Callbacks may call back into the store.
//
// What the store promises (DESIGN §3):
//  1. A get gives exactly the bytes of the put, verified by CRC32C after every read from a drive, or a
//     status that is a miss.
//  4. A durable put whose done(ok) was called survives kill -9 and power loss.
//  5. open() rebuilds the index from the drives alone.
//  6. First writer wins. A second put of a key waits for the first to be settled, then reports exists
//     (only once the block is as durable as that put asked for).
//  8. A delete whose done() was called survives a crash as well.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/slab.h"
#include "drive/drive.h"
#include "wire/status.h"
#include "wire/types.h"

namespace cairn {

struct StoreOptions {
  bool read_only = false;               // serve gets, refuse puts and deletes with read_only
  uint32_t writes_in_flight_most = 32;  // per drive
};

class GetOp {
 public:
  // In.
  BlockId id;
  uint64_t offset = 0;
  uint64_t length = 0;  // 0: to the end of the block
  // Out, set before done(Status::ok): bytes [buffer_offset, buffer_offset + length) of `buffer` are the
  // bytes asked for, `length` now being their number. The caller keeps `buffer` while it moves them.
  Buffer buffer;
  uint64_t buffer_offset = 0;
  uint64_t block_length = 0;
  uint64_t sequence = 0;
  uint32_t crc = 0;  // CRC32C of the bytes asked for
  bool from_memory = false;

  // ok, not_found, bad_range, corrupt, io_error. May be called before get() returns.
  virtual void done(Status status) = 0;

 protected:
  ~GetOp() = default;
};

class PutOp {
 public:
  // In.
  BlockId id;
  uint64_t length = 0;  // 1 B to kBlockBytesMost, checked by the caller
  Durability durability = Durability::durable;
  uint64_t expiry_unix_ms = 0;  // 0: never
  GroupId group{};
  bool has_crc = false;
  uint32_t crc = 0;  // what the client says the bytes' CRC32C is; compared when has_crc
  // Out: set before ready(); the caller fills bytes [0, length) and then calls commit().
  Buffer buffer;
  uint64_t sequence = 0;  // set before done(ok) and done(exists)

  // Memory is granted. May be called before begin_put() returns.
  virtual void ready() = 0;
  // ok, exists, bad_checksum, too_large, no_space, io_error, read_only. At most once. done(exists) may come without
  // ready().
  virtual void done(Status status) = 0;

 protected:
  ~PutOp() = default;
};

class DeleteOp {
 public:
  std::vector<BlockId> ids;      // in
  std::vector<Status> statuses;  // out, one per id: ok, not_found, io_error, read_only
  virtual void done() = 0;

 protected:
  ~DeleteOp() = default;
};

struct DriveStats {
  std::string path;
  std::string uuid;
  std::string state;  // "serving", "read_only", "failed"
  uint64_t bytes = 0, segment_bytes = 0;
  uint64_t segments = 0, segments_free = 0, segments_sealed = 0;
  uint64_t blocks = 0;                         // live in the index
  uint64_t payload_bytes = 0;                  // of those
  uint64_t read_bytes = 0, written_bytes = 0;  // moved to and from the device since start
  uint64_t reads = 0, writes = 0, flushes = 0;
  uint64_t read_errors = 0, write_errors = 0, checksum_errors = 0;
  uint64_t evicted_segments = 0, evicted_blocks = 0;
  // The smallest sequence of a block this drive may still hold: all with smaller ones were evicted (FIFO), none
  // with this or a larger one was. 0: nothing was evicted yet.
  uint64_t oldest_sequence = 0;
};

struct StoreStats {
  uint64_t blocks = 0, payload_bytes = 0;
  uint64_t puts = 0, put_exists = 0, put_bytes = 0;  // done(ok), done(exists), payload of done(ok)
  uint64_t gets = 0, hits = 0, hits_memory = 0, misses = 0, get_bytes = 0;
  uint64_t deletes = 0, corrupt = 0, io_errors = 0, no_space = 0;
  uint64_t cache_bytes = 0, cache_blocks = 0, slab_bytes = 0, slab_free_bytes = 0;
  uint64_t index_bytes = 0;
  uint64_t recovered_blocks = 0, recovered_segments = 0, scanned_segments = 0;
  double recovery_seconds = 0;
  std::vector<DriveStats> drives;
};

class Store {
 public:
  // Opens the store on formatted drives and rebuilds the index; blocks until the index is complete.
  // `slab` and `clock` outlive the store. A foreign, unformatted, newer or damaged drive is an Error that
  // names the path, the cause and what to do; nothing is written to it.
  static Result<std::unique_ptr<Store>> open(std::vector<std::unique_ptr<Drive>> drives, Slab& slab, const Clock& clock,
                                             const StoreOptions& options);
  virtual ~Store() = default;

  // --- answered at once, from the index ---
  virtual bool exists(const BlockId& id) = 0;  // expired blocks do not exist
  virtual bool touch(const BlockId& id) = 0;   // marks as used; false if absent
  virtual StoreStats stats() const = 0;

  // --- answered through the operation ---
  virtual void get(GetOp& op) = 0;
  virtual void begin_put(PutOp& op) = 0;
  virtual void commit(PutOp& op) = 0;
  virtual void remove(DeleteOp& op) = 0;
  // After cancel the store holds no pointer to the op and will not call it. A committed put that is
  // cancelled may still take effect. Cancelling an op the store does not hold does nothing.
  virtual void cancel(GetOp& op) = 0;
  virtual void cancel(PutOp& op) = 0;

  // One turn of the reactor: completes what the drives finished, starts what waits, evicts, seals.
  virtual void poll() = 0;
  // True while operations wait for memory: poll again soon, nothing else will say when there is some.
  virtual bool hungry() const = 0;
  // Readable when poll() has work; the reactor adds them to its wait set. -1s are left out.
  virtual std::vector<int> event_fds() const = 0;
  // Seals open segments so that the next open() scans nothing. Blocks until the drives are idle.
  // No operation may be outstanding. Nothing may be called afterwards but the destructor.
  virtual void close() = 0;
};

struct FormatOptions {
  uint64_t segment_bytes = 0;  // 0: chosen from the drive's size
  bool overwrite = false;      // also when the drive holds a Cairn store or anything else
};

// Writes an empty store. Refuses a drive that holds anything (a Cairn superblock, or any non-zero byte in
// its first MiB) unless told to overwrite. A fleet of drives is not known yet: each gets its own UUID.
Result<Unit> format_drive(Drive& drive, const FormatOptions& options, const Clock& clock);

// Whether `path` holds a Cairn store, damaged and newer ones included. False: there is no such file, or its
// first MiB is all zero. An Error: it cannot be read, or it holds something else. Opens and closes the drive.
Result<bool> is_formatted(const std::string& path);

// A JSON object that tells what lies on the drive: superblock, segments, counts. Reads only.
Result<std::string> inspect_drive(Drive& drive);

struct CheckReport {
  uint64_t segments = 0, records = 0, payload_bytes = 0;
  uint64_t bad_records = 0, bad_segments = 0;
  std::vector<std::string> findings;  // at most 100, each a sentence with segment and offset
};

// Reads every record of every segment and verifies every checksum. Reads only. `progress` is called with
// (bytes done, bytes in all) and may return false to stop.
class CheckProgress {
 public:
  virtual bool advance(uint64_t done_bytes, uint64_t total_bytes) = 0;

 protected:
  ~CheckProgress() = default;
};
Result<CheckReport> check_drive(Drive& drive, CheckProgress* progress);

}  // namespace cairn
