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

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/slab.h"
#include "drive/drive.h"
#include "store/admission.h"
#include "store/slab_shares.h"
#include "store/tenants.h"
#include "wire/limits.h"
#include "wire/status.h"
#include "wire/types.h"

namespace cairn {

class EventSink;

struct StoreOptions {
  bool read_only = false;               // serve gets, refuse puts and deletes with read_only
  uint32_t writes_in_flight_most = 32;  // per drive
  // False: open() returns at once, and gets are answered from what was read so far while the rest is being read; puts
  // and deletes wait for it. True: open() returns when the index is whole.
  bool wait_until_loaded = true;
  // Of what is put, this share may be written again to keep blocks that were hit when their segment is given up.
  uint32_t reinsert_percent = 4;  // docs/decisions/0005-eviction.md
  uint32_t reinsert_hits_least = 2;
  AdmissionOptions admission;
  uint64_t lease_ms_most = kLeaseMsMost;
  std::array<uint8_t, 16> fleet{};      // drives of another fleet are refused; all zero: of any
  uint64_t scrub_bytes_per_second = 0;  // per drive, read in the background to find damage early; 0: none
  uint32_t absent_drives = 0;           // drives of this store that could not be opened: deletes are kept for them
  // The operator's word that the drives which are missing at the start are gone for good, and were never used without
  // those that are there. Else a start on fewer than half of a store's drives waits for more of them, and one on half
  // of them begins empty (docs/storage-faults.md).
  bool without_missing_drives = false;
  uint64_t half_waits_ms = 0;   // … how long a start on half of them waits for one more before it begins empty
  EventSink* events = nullptr;  // hears what happens from the start on, as if by add_event_sink(); outlives the store
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
  // The store's.
  MemoryWaiter waiter;
  void* reading = nullptr;  // the read that it waits for, and its place there
  size_t place = 0;

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
  uint16_t group_members = 0;  // how many blocks the group has when it is whole: it is not there before. 0: each alone
  Scope scope = 0;
  bool has_crc = false;
  uint32_t crc = 0;  // what the client says the bytes' CRC32C is; compared when has_crc
  // Out: set before ready(); the caller fills bytes [0, length) and then calls commit().
  Buffer buffer;
  uint64_t sequence = 0;  // set before done(ok) and done(exists)
  MemoryWaiter waiter;    // the store's

  // Memory is granted. May be called before begin_put() returns.
  virtual void ready() = 0;
  // ok, exists, bad_checksum, too_large, no_space, io_error, read_only, quota_exceeded, not_admitted, expired,
  // group_too_large. At most once. Only ok and bad_checksum come always after ready().
  virtual void done(Status status) = 0;

 protected:
  ~PutOp() = default;
};

// What a delete names: single blocks, or everything of a name at once.
enum class DeleteKind : uint8_t { keys = 0, group = 1, scope = 2, layout = 3, tenant = 4 };

class DeleteOp {
 public:
  DeleteKind kind = DeleteKind::keys;  // in
  std::vector<BlockId> ids;            // in: keys. Else one id: its tenant; group, layout: its layout
  GroupId group{};                     // in: group
  Scope scope = 0;                     // in: scope
  // Out, one per id: ok, not_found, leased, io_error, read_only. What names more than a block is never refused for a
  // lease, and is ok if there was nothing.
  std::vector<Status> statuses;
  virtual void done() = 0;

 protected:
  ~DeleteOp() = default;
};

// What became of blocks, for those who keep track: routers, tests. Numbers follow one another without a gap.
struct StoreEvent {
  enum class Kind : uint8_t {
    stored = 1,
    evicted = 2,
    expired = 3,
    deleted = 4,
    dropped = 5,  // it was damaged
    // Everything of a name: `id` holds tenant and layout, `group` or `scope` the rest.
    group_deleted = 16,
    scope_deleted = 17,
    layout_deleted = 18,
    tenant_deleted = 19,
    // Blocks of every tenant went or came that are not told one by one.
    drive_lost = 32,
    drive_loaded = 33,
  };
  uint64_t number = 0;
  Kind kind{};
  BlockId id;
  GroupId group{};
  Scope scope = 0;
  uint64_t sequence = 0;  // of the block
  uint64_t unix_ms = 0;
};

class EventSink {
 public:
  // On the reactor thread, from inside the store: it may not call back.
  virtual void on_event(const StoreEvent& event) = 0;

 protected:
  ~EventSink() = default;
};

// A drive that was looked at and found to be ours. Made on any thread, given to the store's.
struct IdentifiedDrive {
  std::unique_ptr<Drive> drive;
  std::array<uint8_t, 16> uuid{};
  std::shared_ptr<void> identity;  // what its first pages say
};

struct DriveStats {
  std::string path;
  bool fixed_buffers = false;  // as DriveInfo has it
  std::string uuid;
  std::string state;   // "loading", "serving", "read_only", "draining", "drained", "failed"
  std::string reason;  // why it is read_only or failed
  uint64_t bytes = 0, segment_bytes = 0;
  uint64_t segments = 0, segments_free = 0, segments_sealed = 0;
  uint64_t blocks = 0;                         // live in the index
  uint64_t payload_bytes = 0;                  // of those
  uint64_t read_bytes = 0, written_bytes = 0;  // moved to and from the device since start
  uint64_t reads = 0, writes = 0, flushes = 0;
  uint64_t read_errors = 0, write_errors = 0, checksum_errors = 0;
  uint64_t put_bytes = 0;  // payload of blocks put since start: written_bytes / put_bytes is the write amplification
  uint64_t evicted_segments = 0, evicted_blocks = 0, moved_blocks = 0, moved_bytes = 0, discarded_bytes = 0;
  // No block with this sequence or a larger one was evicted from this drive, in this life or an earlier one. 0: none
  // was.
  uint64_t oldest_sequence = 0;
  double loaded_share = 1;  // of its segments
  bool distrusted = false;  // it missed what nobody remembers: what it held was given up
  uint64_t scrubbed_bytes = 0, scrub_passes = 0, scrub_errors = 0, scrub_started_unix_ms = 0;
  double scrub_share = 0;                                       // of the present pass
  uint64_t lifetime_written_bytes = 0, lifetime_put_bytes = 0;  // since it was formatted
};

struct TenantStats {
  uint32_t number = 0;
  std::string name;
  uint64_t quota_bytes = 0, weight = 1;
  uint64_t blocks = 0, payload_bytes = 0, cache_bytes = 0, leased_bytes = 0;
  uint64_t held_bytes = 0;  // of the slab, on its way to or from clients and drives
  TenantCounters did{};     // since the start
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
  uint64_t groups = 0, leases = 0, events = 0, index_entries = 0, refused_quota = 0, refused_admission = 0;
  // Of the drives as one store: "new", "whole", "begun_empty" (what its drives held was given up), "waiting" (nothing
  // is written, or served, before more of them are there); and a sentence on the last two: why, and what to do.
  std::string members_state, members_reason;
  std::vector<DriveStats> drives;
  std::vector<TenantStats> tenants;
  TenantCounters forgotten;  // what tenants did that are known no more
};

class Store {
 public:
  // Opens the store on formatted drives and rebuilds the index.
  // `slab` and `clock` outlive the store. A foreign, unformatted, newer or damaged drive is an Error that
  // names the path, the cause and what to do; nothing is written to it.
  static Result<std::unique_ptr<Store>> open(std::vector<std::unique_ptr<Drive>> drives, Slab& slab, const Clock& clock,
                                             const StoreOptions& options);
  virtual ~Store() = default;

  // --- answered at once, from the index ---
  virtual bool exists(const BlockId& id) = 0;  // expired blocks do not exist, nor members of a group that is not whole
  virtual bool touch(const BlockId& id) = 0;   // marks as used; false if absent
  // How many bytes a get of this would move from memory or from its drive; 0: it would be a miss.
  virtual uint64_t get_bytes(const BlockId& id, uint64_t offset, uint64_t length) = 0;
  // Keeps the block from eviction for that long, or as long as an earlier lease of the same holder runs: ok, not_found,
  // lease_too_long, quota_exceeded (the tenant may lease no more). Leases end with the process.
  virtual Status lease(const BlockId& id, uint64_t holder, uint64_t duration_ms) = 0;
  virtual Status release(const BlockId& id, uint64_t holder) = 0;  // ok, not_found: the holder has none
  virtual StoreStats stats() const = 0;
  // What one tenant may know: its own row, what was found at the start, and of each drive what it is, not what was done
  // with it. Costs nothing that grows with the other tenants, or with what the drives hold.
  virtual StoreStats stats_of(uint32_t tenant) const = 0;

  // Replaces what is known of the tenants' limits, and gives those that have a name their numbers for good. An Error
  // (invalid), and nothing is changed: a number is that of another name on the drives, or the name has another there.
  virtual Result<Unit> set_tenants(const std::vector<TenantOptions>& tenants) = 0;
  // The number that stands for a tenant's name on the drives: what it was before, its CRC32C, or where that is
  // another's a free one. It is on all drives that take writes before the first put of that tenant is acknowledged. An
  // Error (busy): there are as many tenants as the drives can tell apart.
  virtual Result<uint32_t> number_of(std::string_view tenant) = 0;
  // Lets go of all that is known of a tenant that has nothing here any more. False: it has, or is one of those limits.
  // Its number stays its own once it has put something; else any name may get it.
  virtual bool forget_tenant(uint32_t tenant) = 0;
  // The tenant with the least number that is no less than this one, of those that anything is known of; UINT32_MAX:
  // none.
  virtual uint32_t next_tenant(uint32_t from) const = 0;
  // Tells a sink of all that happens from now on. It is taken away before it or the store ends.
  virtual void add_event_sink(EventSink& sink) = 0;
  virtual void remove_event_sink(EventSink& sink) = 0;

  // --- drives, while the store runs; named by their UUID ---
  // Looks at a drive: its superblock is read, nothing is written. Any thread; waits for the drive.
  static Result<IdentifiedDrive> identify(std::unique_ptr<Drive> drive, const std::array<uint8_t, 16>& fleet = {});
  // How many drives of this store are not there: deletes are kept for them, those of unknown keys as well.
  virtual void set_absent_drives(uint32_t count) = 0;
  // Takes a drive in: it is read in the background, learns what it missed, then it serves. A drive that was set aside
  // comes back this way, too. What it holds is given up where it missed what nobody remembers. A drive of another store
  // is an Error, drive_foreign.
  virtual Result<Unit> attach(IdentifiedDrive drive) = 0;
  // Writes again, at once, to a drive that takes no more blocks because writes failed: its state says what came of it.
  // Nothing that it holds is touched.
  virtual Result<Unit> resume(const std::string& uuid) = 0;
  // Moves what the drive holds to the others; its state says when it is drained.
  virtual Result<Unit> drain(const std::string& uuid) = 0;
  // Lets a drive go: what it still holds is a miss from now on. It is gone when its requests are done, which poll()
  // sees to: detached() says when.
  virtual Result<Unit> begin_detach(const std::string& uuid, bool even_if_draining = false) = 0;
  virtual bool detached(const std::string& uuid) const = 0;
  // What it still holds is given up, and it says so: that is written after the drive was let go, and until then it
  // cannot be attached again (busy).
  // Both, for who has nothing else to do: waits for the drive.
  virtual Result<Unit> detach(const std::string& uuid, bool even_if_draining = false) = 0;
  // Whether every drive was read.
  virtual bool loaded() const = 0;
  // The longest block that its drives and its memory take.
  virtual uint64_t block_bytes_most() const = 0;

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
  // True while poll() has left some of its work for the next turn: poll again at once.
  virtual bool behind() const = 0;
  // Readable when poll() has work; the reactor adds them to its wait set. -1s are left out.
  virtual std::vector<int> event_fds() const = 0;
  // Seals open segments so that the next open() scans nothing. Blocks until the drives are idle; one that does not
  // answer keeps the others from nothing. `sealed` is told of each by its path. No operation may be outstanding.
  // Nothing may be called afterwards but the destructor.
  virtual void close(const std::function<void(const std::string&)>& sealed) = 0;
  void close() {
    close([](const std::string&) {});
  }
};

struct FormatOptions {
  uint64_t segment_bytes = 0;       // 0: chosen from the drive's size
  bool overwrite = false;           // also when the drive holds a Cairn store or anything else
  std::array<uint8_t, 16> fleet{};  // that the drive belongs to; zeros: to none, any fleet takes it
};

// Writes an empty store. Refuses a drive that holds anything (a Cairn superblock, or any non-zero byte in
// its first MiB) unless told to overwrite. Each gets a UUID of its own.
Result<Unit> format_drive(Drive& drive, const FormatOptions& options, const Clock& clock);

// Whether `path` holds a Cairn store, damaged and newer ones included. False: there is no such file, or its
// first MiB is all zero. An Error: it cannot be read, or it holds something else. Opens (read-only) and closes the
// drive.
Result<bool> is_formatted(const std::string& path, DriveOptions options = {});

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
