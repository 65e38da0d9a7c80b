// The store's I/O in flight: one object a read, a write, a delete. They own their memory until the drive is done.
#pragma once

#include <list>
#include <memory>
#include <vector>

#include "store/log_store.h"

namespace cairn {

// A block, or the chunks of a range, on their way from the drive. The record's header is read along, so that what
// comes back proves itself.
class LogStore::ReadJob final {
 public:
  ReadJob(LogStore& store, DriveLog& on, const BlockId& block, const Place& where, Buffer memory)
      : log(on),
        id(block),
        place(where),
        buffer(std::move(memory)),
        store_(store),
        header_(1),
        generation_(on.segment(where.segment).generation),
        nonce_(on.segment(where.segment).nonce) {}
  void submit();
  const format::RecordHeader& header() const { return page().body; }

  DriveLog& log;
  BlockId id;
  Place place;
  Buffer buffer;
  uint64_t length = 0;        // of the block
  uint64_t from = 0, to = 0;  // the bytes read: whole chunks
  bool whole = false;
  uint64_t sequence = 0;
  std::vector<GetOp*> waiters;
  std::list<std::unique_ptr<ReadJob>>::iterator self;

 private:
  class Part final : public IoRequest {
   public:
    void completed(int error) override { job->part_done(error); }
    ReadJob* job = nullptr;
    std::vector<iovec> memory;
  };
  const format::Page<format::RecordHeader>& page() const {
    return *reinterpret_cast<const format::Page<format::RecordHeader>*>(header_.data());
  }
  void send(Part& part, uint64_t offset);
  void part_done(int error);
  bool verify() const;

  LogStore& store_;
  Pages header_;
  uint64_t generation_, nonce_;
  Part first_, second_;
  int outstanding_ = 0;
  int error_ = 0;
};

class LogStore::WriteJob final : public AppendOp {
 public:
  // Takes the bytes out of the op's buffer: pads, checksums, fills in the header.
  WriteJob(LogStore& store, PutOp& op);
  void placed() override;
  void settled(Status status) override { store_.written(*this, status); }
  format::RecordHeader& header() { return AppendOp::header->body; }

  BlockId id;
  DriveLog* log = nullptr;
  bool was_placed = false;
  std::list<std::unique_ptr<WriteJob>>::iterator self;

 private:
  LogStore& store_;
  Pages page_;
};

// The tombstones of one delete on one drive.
class LogStore::RemoveJob final : public AppendOp {
 public:
  RemoveJob(LogStore& store, const std::vector<BlockId>& ids, uint64_t sequence);
  void placed() override {}
  void settled(Status status) override { store_.remove_done(*this, status); }

  std::shared_ptr<Removal> removal;
  std::vector<size_t> items;  // which of the op's ids
  std::list<std::unique_ptr<RemoveJob>>::iterator self;

 private:
  LogStore& store_;
  Pages page_;
};

}  // namespace cairn
