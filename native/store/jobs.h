// The store's I/O in flight: one object a read, a write, a delete, a move. They own their memory until the drive is
// done.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "store/log_store.h"

namespace cairn {

// One record, or the chunks of a range of it, on the way from its drive into a buffer. The header is read along, so
// that what comes back proves itself.
class RecordRead {
 public:
  class Owner {
   public:
    // ok, corrupt, io_error.
    virtual void record_read(RecordRead& read, Status status) = 0;

   protected:
    ~Owner() = default;
  };
  // What the record must be, besides intact and in its place.
  struct Expected {
    BlockId id;
    uint8_t part = 0;
    uint64_t sequence = 0;
    uint64_t bytes = 0;        // of the record's payload
    uint64_t block_bytes = 0;  // of the whole block
  };

  RecordRead(DriveLog& log, const Place& place, const Expected& expected, Owner& owner);
  ~RecordRead() { CAIRN_CHECK(outstanding_ == 0, "a read of a record ends before its requests"); }
  RecordRead(const RecordRead&) = delete;
  RecordRead& operator=(const RecordRead&) = delete;
  // Reads payload bytes [from, to), whole chunks, to buffer bytes [at, …).
  void start(const Buffer& buffer, uint64_t at, uint64_t from, uint64_t to);

  DriveLog& log() const { return log_; }
  const Place& place() const { return place_; }
  uint64_t generation() const { return generation_; }
  const Expected& expected() const { return expected_; }
  const format::Page<format::RecordHeader>& page() const {
    return *reinterpret_cast<const format::Page<format::RecordHeader>*>(header_.data());
  }
  const format::RecordHeader& header() const { return page().body; }
  bool done() const { return outstanding_ == 0; }

 private:
  class Transfer final : public IoRequest {
   public:
    void completed(int error) override { read->transferred(error); }
    RecordRead* read = nullptr;
    std::vector<iovec> memory;
  };
  void send(Transfer& transfer, uint64_t offset);
  void transferred(int error);
  bool verify() const;

  DriveLog& log_;
  Place place_;
  Expected expected_;
  Owner& owner_;
  uint64_t generation_, nonce_;
  Pages header_;
  Buffer buffer_;
  uint64_t at_ = 0, from_ = 0, to_ = 0;
  Transfer first_, second_;
  int outstanding_ = 0;
  int error_ = 0;
};

// A block, or a range of it: one record, or several when it is striped.
class LogStore::ReadJob final : public RecordRead::Owner {
 public:
  ReadJob(LogStore& store, const BlockId& block, Buffer memory) : id(block), buffer(std::move(memory)), store_(store) {
    CAIRN_CHECK(static_cast<bool>(buffer), "a block is read into no memory");
  }
  // Adds the part's record, of which payload bytes [first, last) are wanted; then start_all().
  void add(DriveLog& log, const Place& place, const RecordRead::Expected& expected, uint64_t first, uint64_t last);
  void start_all();
  void add_waiter(GetOp& op) {
    op.reading = this;
    op.place = waiters.size();
    waiters.push_back(&op);
  }
  uint32_t whole_crc() const;
  bool reads_from(const DriveLog& log) const {
    return std::any_of(parts_.begin(), parts_.end(), [&](const Part& part) { return &part.read->log() == &log; });
  }

  BlockId id;
  Buffer buffer;
  uint64_t length = 0;        // of the block
  uint64_t from = 0, to = 0;  // the bytes read: whole chunks
  bool whole = false;
  uint64_t sequence = 0;
  Status status = Status::ok;
  RecordRead* culprit = nullptr;  // whose record is corrupt
  std::vector<GetOp*> waiters;
  std::list<std::unique_ptr<ReadJob>>::iterator self;

 private:
  struct Part {
    std::unique_ptr<RecordRead> read;
    uint64_t first, last;
  };
  void record_read(RecordRead& read, Status status) override;

  LogStore& store_;
  std::vector<Part> parts_;
  size_t left_ = 0;
};

// A block on its way to the drives.
class LogStore::WriteJob final {
 public:
  // Takes the bytes out of the op's buffer: pads, checksums, fills in the headers.
  WriteJob(LogStore& store, PutOp& op, uint64_t sequence);
  class Part final : public AppendOp {
   public:
    explicit Part(WriteJob& to) : job(to), page_(1) {
      header = new (page_.data()) format::Page<format::RecordHeader>{};
    }
    void placed() override { job.part_placed(*this); }
    void settled(Status status) override {
      CAIRN_CHECK(was_placed || status != Status::ok, "a part of a put is on its drive and was never placed");
      job.part_settled(*this, status);
    }
    format::RecordHeader& head() { return header->body; }
    WriteJob& job;
    DriveLog* log = nullptr;
    bool was_placed = false;
    size_t refused = 0;  // by so many drives that had no room

   private:
    Pages page_;
  };
  void start();
  // One more thing to be written before the put is done.
  void await() {
    CAIRN_CHECK(!inserted, "a put waits for something after it became visible");
    ++to_settle_;
  }
  void awaited(Status ended) { one_settled(ended); }
  const format::RecordHeader& first_header() const {
    CAIRN_CHECK(!parts.empty(), "a put of no parts");
    return parts.front()->header->body;
  }

  BlockId id;
  Buffer payload;
  uint64_t length = 0;
  uint64_t sequence = 0;
  uint32_t crc = 0;  // of the whole block
  bool relaxed = false;
  bool inserted = false;
  uint32_t elders_buried = 0;  // on which drives, a bit a drive
  Status status = Status::ok;
  std::vector<std::unique_ptr<Part>> parts;
  std::list<std::unique_ptr<WriteJob>>::iterator self;

 private:
  void part_placed(Part& part);
  void part_settled(Part& part, Status status);
  void one_settled(Status status);
  bool place_elsewhere(Part& part);

  LogStore& store_;
  size_t to_place_ = 0, to_settle_ = 0;
};

// A record of tombstones.
class TombstoneAppend : public AppendOp {
 public:
  // At most kBatchItemsMost of them; `sequence` is the record's own.
  TombstoneAppend(const std::vector<format::Tombstone>& buried, uint64_t sequence, uint64_t now_unix_ms);
  void placed() override {}

 private:
  Pages pages_;
};

// Those of one delete, for one drive.
class LogStore::RemoveJob final : public TombstoneAppend {
 public:
  RemoveJob(LogStore& store, const std::vector<format::Tombstone>& buried, uint64_t sequence)
      : TombstoneAppend(buried, sequence, store.clock_.unix_ms()), store_(store) {}
  void settled(Status status) override { store_.remove_done(*this, status); }

  uint8_t drive = 0;
  std::shared_ptr<Removal> removal;  // nullptr: nobody waits, it was owed to a drive that came back
  std::vector<size_t> items;         // which of the op's ids
  std::vector<uint32_t> held_by;     // … and which drives held each, a bit a drive
  WriteJob* waits = nullptr;         // the put that is not done before what it supersedes is buried
  std::list<std::unique_ptr<RemoveJob>>::iterator self;

 private:
  LogStore& store_;
};

}  // namespace cairn
