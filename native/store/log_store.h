// The log-structured store behind store.h: an index over one log a drive, with a read cache in the slab.
//   log_store.cc  the index, and what is asked of it     gets.cc  puts.cc  removes.cc  operations
//   turn.cc       the turn, and the end                  members.cc  which drives are the store
//   evictor.cc    making room (which: choosing.cc)     drives.cc  drives that come and go
//   quotas.cc     a tenant gives up its own oldest       bindings.cc  whose number is whose, on the drives
//   loading.cc    what a drive holds becomes known
//   scrubber.cc   reading in the background              jobs.h  I/O in flight      figures.cc  statistics
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "store/cache.h"
#include "store/graveyard.h"
#include "store/groups.h"
#include "store/index.h"
#include "store/leases.h"
#include "store/loader.h"
#include "store/log.h"
#include "store/membership.h"
#include "store/names.h"
#include "store/store.h"
#include "store/tenant_table.h"

namespace cairn {

static_assert(Index::kBirthMost == format::kNumberMost, "the index and the drives count to different numbers");
static_assert(format::kSegmentsMost <= uint64_t{1} << 24, "a segment's number does not fit a place");
static_assert(format::kSegmentBytesMost / format::kPageBytes <= uint64_t{1} << 18, "a page does not fit a place");
static_assert(format::kPartsMost <= 16, "a part does not fit an entry of the index");

// What a drive that joins may be beyond the numbers of the store, and what a start leaves out where it cannot know what
// was given out: more than a store gives out between two flushes.
inline constexpr uint64_t kSequenceLeap = uint64_t{1} << 24;

class LogStore final : public Store, private Leases::Watcher {
 public:
  LogStore(Slab& slab, const Clock& clock, const StoreOptions& options);
  ~LogStore() override;

  bool exists(const BlockId& id) override;
  bool touch(const BlockId& id) override;
  uint64_t get_bytes(const BlockId& id, uint64_t offset, uint64_t length) override;
  Status lease(const BlockId& id, uint64_t holder, uint64_t duration_ms) override;
  Status release(const BlockId& id, uint64_t holder) override;
  StoreStats stats() const override;
  StoreStats stats_of(uint32_t tenant) const override;
  bool forget_tenant(uint32_t tenant) override;
  uint32_t next_tenant(uint32_t from) const override;
  Result<Unit> set_tenants(const std::vector<TenantOptions>& tenants) override;
  Result<uint32_t> number_of(std::string_view tenant) override;
  void add_event_sink(EventSink& sink) override { sinks_.push_back(&sink); }
  void remove_event_sink(EventSink& sink) override { std::erase(sinks_, &sink); }
  void set_absent_drives(uint32_t count) override { options_.absent_drives = count; }
  Result<Unit> attach(IdentifiedDrive drive) override;
  Result<Unit> resume(const std::string& uuid) override;
  uint64_t block_bytes_most() const override;
  Result<Unit> drain(const std::string& uuid) override;
  Result<Unit> begin_detach(const std::string& uuid, bool even_if_draining) override;
  bool detached(const std::string& uuid) const override;
  Result<Unit> detach(const std::string& uuid, bool even_if_draining) override;
  bool loaded() const override;
  void get(GetOp& op) override;
  void begin_put(PutOp& op) override;
  void commit(PutOp& op) override;
  void remove(DeleteOp& op) override;
  void cancel(GetOp& op) override;
  void cancel(PutOp& op) override;
  void poll() override;
  bool hungry() const override {
    return !slab_shares_.empty() || !quota_waiting_.empty() || !write_waiting_.empty() || !bind_waiting_.empty();
  }
  bool behind() const override;
  std::vector<int> event_fds() const override;
  using Store::close;
  void close(const std::function<void(const std::string&)>& sealed) override;

  // For open(): one turn that may sleep; and what kept every drive from being loaded, empty if one was.
  void wait_for_drives();
  std::string why_no_drive() const;
  // Its drives know of each other, or nothing is written to them.
  bool settled() const;
  // For open(): its first drives, all at once, because each of them says something of the others.
  Result<Unit> start(std::vector<IdentifiedDrive> drives);

 private:
  class ReadJob;
  class WriteJob;
  class RemoveJob;
  class MoveJob;
  class Evictor;
  class Scrubber;
  class Members;
  class Squeeze;
  class TableWrite;
  using EventKind = StoreEvent::Kind;

  // waiting: not read yet. learning: it is read, and what it missed is written to it. joining: it is about to be a
  // member. out: it hears nothing any more.
  enum class Standing : uint8_t { waiting, learning, joining, member, out };
  // A place for a drive; its number is what index entries know it by, and stays while the store runs.
  struct Slot {
    std::unique_ptr<DriveLog> log;  // nullptr: empty
    std::unique_ptr<Loader> loader;
    std::unique_ptr<Evictor> evictor;
    std::unique_ptr<Scrubber> scrubber;
    bool writable = true;
    bool trusted = true;     // what it held was believed
    bool set_aside = false;  // failed, and its blocks are misses
    bool leaving = false;    // it goes as soon as nothing of its own is on its way
    bool says_so = false;    // … and what it held is given up on it then
    bool emptied = false;    // … of which it was drained
    uint8_t next_use = 0;    // the count of use that no index entry of this slot has
    // What members.h knows of it.
    Standing standing = Standing::out;
    Role role = Role::member;
    bool hidden = false;     // its blocks are not served yet
    bool silent = false;     // it left the members because it takes no writes
    bool void_owed = false;  // that it holds nothing is not on it yet
    bool owed_failed = false;
    bool forgot_elders = false;       // blocks of it were put anew elsewhere that it can no longer be told of
    uint32_t owed = 0;                // records of what it missed, on their way to it
    uint32_t records_out = 0;         // of the members, on their way to it
    std::shared_ptr<bool> abandoned;  // … true: nobody waits for those any more
    std::optional<format::Membership> record;
    uint64_t counter = 0, void_generation = 0;
    uint64_t own_generation = 1;  // of the first segment that was opened since it was read
    uint64_t last_sequence = 0;   // of the drive, when it was read
    uint64_t recovered_blocks = 0, sealed = 0, scanned = 0;
    FoundTenants tenants;  // what the drive says, until it is read
    // Of the tenant table on the drive: the number of its newest copy, and up to which version both copies hold it.
    uint64_t table_counter = 0, table_version = 0, table_version_before = 0;
    uint64_t table_retry_ms = 0;
    bool table_writing = false;
    uint32_t table_failures = 0;  // in a row
  };
  // One delete, and how many of its ids or tombstone records are still out.
  struct Removal {
    DeleteOp* op;
    size_t left;
    bool refused = false;  // nothing may be acknowledged any more
  };
  // A key that is being put. The owner fills and commits; whoever comes second waits for the outcome.
  struct Pending {
    PutOp* owner = nullptr;  // nullptr: cancelled, or answered (relaxed), while the write goes on
    WriteJob* writing = nullptr;
    uint64_t bytes = 0;  // counted against the tenant's quota
    std::deque<PutOp*> waiters;
    std::vector<std::pair<std::shared_ptr<Removal>, size_t>> removals;  // … and which of its ids
  };

  // --- the index (log_store.cc) ---
  enum class Gone : uint8_t { deleted, evicted, expired, dropped, replaced };
  Index::Entry* find_part(const BlockId& id, uint8_t part);
  // The entry of a block's first part if the block is whole: every part is there, and all of one put. With
  // `in_group` false also when its group is not.
  Index::Entry* find(const BlockId& id, bool in_group = true);
  bool fresh(const Index::Entry& entry) const;
  void dropped(const Index::Entry& entry);
  void tell_dropped();
  static uint32_t parts_of(const Index::Entry& entry) {
    return entry.single ? 1 : format::part_count_for(entry.length());
  }
  static uint64_t part_bytes(const Index::Entry& entry) {
    return entry.single ? entry.length() : format::part_bytes_for(entry.length(), entry.part);
  }
  BlockId id_of(const Index::Entry& entry) const;
  // What an index entry holds of a record.
  struct NewEntry {
    BlockId id;
    uint8_t part = 0;
    bool single = false;
    uint64_t block_bytes = 0;
    uint64_t sequence = 0;
    uint64_t expiry_unix_ms = 0;
    GroupId group{};
    uint16_t group_members = 0;
    Scope scope = 0;
    void check() const {
      CAIRN_CHECK(block_bytes > 0, "a block of no bytes is indexed");
      CAIRN_CHECK(block_bytes <= kBlockBytesMost, "a block longer than any is indexed");
      CAIRN_CHECK(sequence > 0, "a block that was never put is indexed");
      CAIRN_CHECK(sequence <= Index::kBirthMost, "a block's number does not fit the index");
      CAIRN_CHECK(part < (single ? format::kPartsMost : format::part_count_for(block_bytes)),
                  "a part is indexed that its block does not have");
    }
  };
  static NewEntry new_entry(const format::RecordHeader& header);
  static NewEntry new_entry(const format::SummaryEntry& entry);
  // False when there are too many layouts, or scopes, to name one more.
  bool insert(const NewEntry& what, DriveLog& log, uint32_t segment, uint32_t page);
  void account(const Index::Entry& entry, bool comes);
  void drop_entry(Index::Entry& entry);
  void move_entry(Index::Entry& entry, DriveLog& to, uint32_t segment, uint32_t page);
  void note_ghost(DriveLog& log, uint32_t segment, const BlockId& id);
  void note_leftovers(const WriteJob& job);
  void note_undead(Slot& slot, const format::Tombstone& tombstone);
  void bury_elders(WriteJob& job);
  bool has_elders(const WriteJob& job) const;
  uint32_t drives_of(const BlockId& id);
  // Whether the block may not be evicted: it is leased, or a member of its group is.
  bool leased(const BlockId& id, const Index::Entry& head) const;
  // Takes a block, all of its parts, out of the index.
  void forget(const BlockId& id, Gone why);
  void emit(EventKind kind, const BlockId& id, const GroupId& group, Scope scope, uint64_t sequence);
  void lease_changed(const BlockId& id, uint32_t group, uint64_t bytes, bool begins) override;
  // Whatever the cache can give up is given up for it. Counted for the tenant, or (nullptr) for nobody.
  Buffer take_memory(uint64_t length, SlabAccount* account = nullptr);
  Buffer take_move_memory(uint64_t length);

  // --- gets ---
  // `waited`: it was granted the memory that it waits for, ahead of those that came later.
  // False: it waits for memory again; else `op` may be gone.
  bool start_get(GetOp& op, bool waited);
  bool wait_for_memory(GetOp& op, uint64_t bytes, bool waited);  // false
  struct Range {
    uint64_t from, to;
  };
  // The whole chunks of a block that a get of `length` bytes of it reads.
  static Range range_of(const Index::Entry& head, uint64_t offset, uint64_t length);
  bool serve(GetOp& op, const Buffer& buffer, uint64_t buffer_start, uint64_t block_length, uint64_t sequence,
             uint32_t whole_crc, bool from_memory);  // true
  bool start_read(GetOp& op, const Index::Entry& entry);
  void read_done(ReadJob& job);
  bool get_failed(GetOp& op, Status status);  // true

  // --- puts ---
  Status refuse_put(const PutOp& op);
  bool writes_open() const;
  void start_put(PutOp& op);
  bool over_quota(const PutOp& op);
  void feed_quota();
  void turn_quotas();
  // Has the tenant give up blocks; false when it has none to give, now or soon.
  bool squeeze(const PutOp& op);
  bool grant(PutOp& op);
  void written(WriteJob& job);
  bool insert_all(WriteJob& job);
  bool all_there(const WriteJob& job) const;
  void release_held();
  void settle_pending(const BlockId& id);
  void restart_waiters();
  void answer_put(PutOp& op, Status status);
  DriveLog* choose_log(uint64_t length, const DriveLog* not_this = nullptr);
  void feed_hungry();

  // --- tenants (bindings.cc) ---
  // Whether the tenant's number is on all drives that take writes; if not, it soon will be.
  bool bound(uint32_t tenant);
  void turn_bindings();
  void table_written(DriveLog& log, uint64_t version, int error);
  uint32_t free_number(const TenantIdentity& identity, std::string_view name);

  // --- deletes ---
  void start_removal(const std::shared_ptr<Removal>& removal, const std::vector<size_t>& items);
  void start_wide_removal(const std::shared_ptr<Removal>& removal);
  void send_tombstones(const std::shared_ptr<Removal>& removal, std::vector<format::Tombstone> tombstones,
                       const std::vector<size_t>& items, const std::vector<uint32_t>& drives);
  void remove_done(RemoveJob& job, Status status);
  void finish_removal(const std::shared_ptr<Removal>& removal);
  bool must_wait(const DeleteOp& op) const;
  void bury(const format::Tombstone& tombstone, uint32_t drives);
  bool any_away() const;
  bool any_hidden() const;

  TenantStats figures_of(uint32_t number, const Tenants::Row& row) const;
  static DriveStats facts_of(const Slot& slot);

  // --- drives ---
  std::string read_tenants_of(Slot& slot);
  Result<Slot*> place(IdentifiedDrive drive);
  bool all_read() const;
  void load(Slot& slot);
  void take_segment(Slot& slot, FoundSegment& found);
  void take_entry(Slot& slot, const FoundSegment& found, const format::SummaryEntry& entry);
  void loading_done(Slot& slot);
  void all_loaded();
  void count_from(uint64_t sequence);
  uint64_t next_word() { return last_word_ = next_sequence_++; }
  bool numbers_spent() const;
  void check_missed_deletes();
  void set_aside(Slot& slot);
  Slot* slot_of(const std::string& uuid);
  void pay_tombstones(Slot& slot);
  void pay_what_a_start_owes();
  bool pay(Slot& slot, const std::vector<format::Tombstone>& owed, WriteJob* waits = nullptr);
  void found_elder(const BlockId& id, uint8_t drive, uint64_t sequence);
  void pay_elders();
  bool pay_elder(Slot& slot, const BlockId& id, uint64_t sequence, WriteJob* waits = nullptr);
  void owe_elder(Slot& slot, const BlockId& id, uint64_t sequence);
  void bury_group_members();
  bool idle() const;
  bool in_use(const DriveLog& log) const;
  // Whether something of the slot's own is still on its way: to its drive, or from it to another.
  bool busy(const Slot& slot) const;
  void retire(Slot& slot);
  void let_leave(Slot& slot);
  void turn_drives();
  void write_what_waits();
  void settle_down();
  void let_members_settle();

  Slab& slab_;
  // For blocks that have to be moved to make room, when puts that wait for it hold all of the other. Made when needed.
  std::unique_ptr<Slab> move_slab_;
  const Clock& clock_;
  StoreOptions options_;
  // In this order: whoever is destroyed first may not be needed by those behind it.
  SlabShares slab_shares_;
  Tenants tenants_;
  TenantTable tenant_table_;
  Names keyspaces_, scopes_;
  Groups groups_;
  Graveyard graveyard_;
  Index index_;
  Cache cache_;
  Leases leases_;
  uint64_t leased_taken_bytes_ = 0;  // by the records of all tenants on the drives
  Admission admission_;
  std::vector<EventSink*> sinks_;
  uint64_t next_event_ = 1;
  // Entries that were found stale: told of once the index may be touched again.
  struct Dropped {
    Index::Entry entry;
    GroupId group;
    bool evicted;  // with its segment, or as a member of a group that lost another
  };
  std::vector<Dropped> dropped_;

  std::vector<Slot> slots_;
  // Logs of drives that are gone, which blocks striped over several drives still refer to while another answers.
  std::vector<std::unique_ptr<DriveLog>> departed_;
  bool loaded_once_ = false;
  bool visible_ = false;  // blocks may be served: no tombstone is still to be read that could delete them
  bool group_tombstones_ = false;
  uint64_t opened_ns_ = 0;
  double recovery_seconds_ = 0;
  uint64_t next_sequence_ = 1;
  uint64_t last_word_ = 0;  // the largest number that a put or a delete has; numbers that are left out have none
  // Blocks of which an earlier put was found as well, on which drive, and the number of the later.
  struct Elder {
    BlockId id;
    uint8_t drive;
    uint64_t sequence;
  };
  static constexpr size_t kEldersMost = 65'536;
  std::vector<Elder> elders_;
  bool elders_due_ = false;  // some were found that may be paid by now
  bool owes_ = false;
  uint64_t paying_ = 0;  // records of tombstones on their way to a drive that missed them, or that could not be written
  size_t next_log_ = 0;
  uint64_t sweep_left_ = 0;  // slots to look at, a few a turn

  std::unordered_map<BlockId, Pending, BlockIdHash> pending_;
  std::unordered_map<BlockId, ReadJob*, BlockIdHash> whole_reads_;
  std::unordered_map<BlockId, uint32_t, BlockIdHash> moving_;  // blocks of which parts are being moved
  std::list<std::unique_ptr<ReadJob>> reads_;
  std::list<std::unique_ptr<WriteJob>> writes_;
  std::list<std::unique_ptr<RemoveJob>> removes_;
  std::deque<PutOp*> restart_;        // waited for a key that is free now; here so that cancel() finds them
  std::deque<PutOp*> write_waiting_;  // until a drive takes writes
  std::deque<PutOp*> bind_waiting_;   // until their tenant's number is on the drives
  std::deque<PutOp*> quota_waiting_;  // until their tenant's own blocks made room
  // Done, and not to be acknowledged before every drive of the store knows which they are.
  std::vector<WriteJob*> held_writes_;
  std::vector<std::shared_ptr<Removal>> held_removals_;
  std::deque<DeleteOp*> remove_waiting_;
  std::set<uint32_t> quota_waits_;  // whose puts are among them
  std::map<uint32_t, std::unique_ptr<Squeeze>> squeezes_;
  bool restarting_ = false, feeding_quota_ = false, closing_ = false;
  StoreStats counters_;
  std::unique_ptr<Members> members_;
};

}  // namespace cairn
