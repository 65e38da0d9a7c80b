// The log-structured store behind store.h: an index over one log a drive, with a read cache in the slab.
#pragma once

#include <deque>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "store/cache.h"
#include "store/index.h"
#include "store/log.h"
#include "store/recovery.h"
#include "store/store.h"

namespace cairn {

class LogStore final : public Store {
 public:
  LogStore(std::vector<std::unique_ptr<DriveLog>> logs, Slab& slab, const Clock& clock, const StoreOptions& options);
  ~LogStore() override;

  // Takes what recovery found in one segment; its tombstones go to the list. All segments of all drives first, then
  // bury() for the tombstones.
  void adopt(DriveLog& log, uint32_t index, const FoundSegment& found, std::vector<format::SummaryEntry>& tombstones);
  void bury(const std::vector<format::SummaryEntry>& tombstones);
  void opened(uint64_t last_sequence, uint64_t sealed, uint64_t scanned, double seconds);

  bool exists(const BlockId& id) override;
  bool touch(const BlockId& id) override;
  StoreStats stats() const override;
  void get(GetOp& op) override;
  void begin_put(PutOp& op) override;
  void commit(PutOp& op) override;
  void remove(DeleteOp& op) override;
  void cancel(GetOp& op) override;
  void cancel(PutOp& op) override;
  void poll() override;
  bool hungry() const override { return !hungry_.empty(); }
  std::vector<int> event_fds() const override;
  void close() override;

 private:
  class ReadJob;
  class WriteJob;
  class RemoveJob;

  // One delete, and how many of its ids or tombstone records are still out.
  struct Removal {
    DeleteOp* op;
    size_t left;
  };
  // A key that is being put. The owner fills and commits; whoever comes second waits for the outcome.
  struct Pending {
    PutOp* owner = nullptr;  // nullptr: cancelled, or answered (relaxed), while the write goes on
    WriteJob* writing = nullptr;
    std::deque<PutOp*> waiters;
    std::vector<std::pair<std::shared_ptr<Removal>, size_t>> removals;  // … and which of its ids
  };
  // An operation that waits for slab memory.
  struct Hungry {
    GetOp* get = nullptr;
    PutOp* put = nullptr;
  };

  Index::Entry* find(const BlockId& id);
  bool fresh(const Place& place) const;
  uint64_t sequence_of(const Index::Entry& entry) const;
  void insert(const BlockId& id, DriveLog& log, const Appended& at, uint64_t length, uint64_t expiry_unix_ms,
              uint64_t sequence);
  bool forget(const BlockId& id);
  Buffer take_memory(uint64_t length);

  void start_get(GetOp& op, bool queue);
  void serve(GetOp& op, const Buffer& buffer, uint64_t buffer_start, uint64_t block_length, uint64_t sequence,
             uint32_t whole_crc, bool from_memory);
  bool start_read(GetOp& op, const Index::Entry& entry);
  void read_done(ReadJob& job, Status status);
  void get_failed(GetOp& op, Status status);

  bool grant(PutOp& op);
  void written(WriteJob& job, Status status);
  void settle_pending(const BlockId& id);
  void restart_waiters();
  void answer_put(PutOp& op, Status status);
  DriveLog* choose_log(uint64_t length);
  void start_removal(const std::shared_ptr<Removal>& removal, const std::vector<size_t>& items);
  void remove_done(RemoveJob& job, Status status);
  void feed_hungry();
  bool idle() const;

  std::vector<std::unique_ptr<DriveLog>> logs_;
  Slab& slab_;
  const Clock& clock_;
  StoreOptions options_;
  Index index_;
  Cache cache_;
  uint64_t next_sequence_ = 1;
  size_t next_log_ = 0;
  std::unordered_map<BlockId, Pending, BlockIdHash> pending_;
  std::unordered_map<BlockId, ReadJob*, BlockIdHash> whole_reads_;
  std::list<std::unique_ptr<ReadJob>> reads_;
  std::list<std::unique_ptr<WriteJob>> writes_;
  std::list<std::unique_ptr<RemoveJob>> removes_;
  std::deque<Hungry> hungry_;
  std::deque<PutOp*> restart_;  // waited for a key that is free now; here so that cancel() finds them
  bool restarting_ = false;
  std::vector<uint64_t> evicted_seen_;  // per drive: how many evictions the sweep has answered
  uint64_t sweep_left_ = 0;             // slots to look at, a few a turn
  StoreStats counters_;
};

}  // namespace cairn
