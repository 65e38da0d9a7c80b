// Reading: what a get finds in memory, what it reads from drives.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "store/jobs.h"

namespace cairn {

using format::kPageBytes;

namespace {

uint32_t crc_of(const Buffer& buffer, uint64_t offset, uint64_t count) {
  std::vector<iovec> parts;
  buffer.slice(offset, count, parts);
  uint32_t crc = 0;
  for (const iovec& part : parts) crc = crc32c({static_cast<const std::byte*>(part.iov_base), part.iov_len}, crc);
  return crc;
}

}  // namespace

// --- one record ------------------------------------------------------------------------------------------

RecordRead::RecordRead(DriveLog& log, const Place& place, const Expected& expected, Owner& owner)
    : log_(log),
      place_(place),
      expected_(expected),
      owner_(owner),
      generation_(log.segment(place.segment).generation),
      nonce_(log.segment(place.segment).nonce),
      header_(1) {
  CAIRN_CHECK(place.drive == log.number(), "a record is read from another drive than it lies on");
  CAIRN_CHECK(place.page > 0, "a record is read where its segment's header lies");
  CAIRN_CHECK(place.page + format::record_pages(expected.bytes) <= log.segment_pages(),
              "a record is read that ends beyond its segment");
  CAIRN_CHECK(expected.sequence > 0, "a record is read that was never put");
}

void RecordRead::send(Transfer& transfer, uint64_t offset) {
  CAIRN_CHECK(!transfer.memory.empty(), "a part of a record is read into no memory");
  CAIRN_CHECK(outstanding_ <= 2, "a record is read in more pieces than two");
  transfer.read = this;
  transfer.kind = IoKind::read;
  transfer.offset = offset;
  transfer.vectors = transfer.memory.data();
  transfer.vector_count = static_cast<uint32_t>(transfer.memory.size());
  transfer.bytes = 0;
  for (const iovec& one : transfer.memory) transfer.bytes += one.iov_len;
  ++outstanding_;
  ++log_.counters.reads;
  log_.counters.read_bytes += transfer.bytes;
  log_.drive().submit(transfer);
}

void RecordRead::start(const Buffer& buffer, uint64_t at, uint64_t from, uint64_t to) {
  CAIRN_CHECK(outstanding_ == 0, "a record is read twice at a time");
  CAIRN_CHECK(from < to, "nothing of a record is read");
  CAIRN_CHECK(to <= expected_.bytes, "a record is read beyond its end");
  CAIRN_CHECK(from % kPageBytes == 0, "a record is read from the middle of a page");
  CAIRN_CHECK(at % kPageBytes == 0, "a record is read into the middle of a page");
  buffer_ = buffer;
  at_ = at;
  from_ = from;
  to_ = to;
  const uint64_t record = log_.offset_of(place_.segment, place_.page);
  const uint64_t bytes = format::pages_of(to - from) * kPageBytes;
  first_.memory.push_back({header_.data(), kPageBytes});
  if (from == 0) {
    buffer_.slice(at, bytes, first_.memory);
    return send(first_, record);
  }
  buffer_.slice(at, bytes, second_.memory);
  outstanding_ = 1;  // the first part must not end the read before the second was sent
  send(first_, record);
  send(second_, record + kPageBytes + from);
  --outstanding_;
}

void RecordRead::transferred(int error) {
  CAIRN_CHECK(outstanding_ > 0, "a piece of a record comes that was not asked for");
  log_.note_read(error);
  if (error != 0) error_ = error;
  if (--outstanding_ > 0) return;
  const Status status = error_ != 0 ? Status::io_error : verify() ? Status::ok : Status::corrupt;
  buffer_ = {};
  owner_.record_read(*this, status);
}

bool RecordRead::verify() const {
  Segment segment;
  segment.generation = generation_;
  segment.nonce = nonce_;
  if (!record_belongs(page(), place_.segment, segment, place_.page)) return false;
  const format::RecordHeader& found = header();
  const uint64_t block_bytes = found.block_bytes == 0 ? found.length : found.block_bytes;
  if (found.type != format::RecordType::block || found.key != expected_.id.key || found.layout != expected_.id.layout ||
      found.tenant != expected_.id.tenant || found.length != expected_.bytes || found.sequence != expected_.sequence ||
      found.part != expected_.part || block_bytes != expected_.block_bytes ||
      found.chunk_shift != format::chunk_shift_for(found.length)) {
    return false;
  }
  CAIRN_CHECK(from_ % (uint64_t{1} << found.chunk_shift) == 0, "a record is read from the middle of a chunk");
  for (uint64_t at = from_; at < to_;) {
    CAIRN_CHECK(at >> found.chunk_shift < found.chunk_count, "a chunk is verified that the record does not have");
    const uint64_t count = std::min<uint64_t>(uint64_t{1} << found.chunk_shift, to_ - at);
    if (crc_of(buffer_, at_ + at - from_, count) != found.chunk_crcs[at >> found.chunk_shift]) return false;
    at += count;
  }
  return true;
}

// --- one block -------------------------------------------------------------------------------------------

void LogStore::ReadJob::add(DriveLog& log, const Place& place, const RecordRead::Expected& expected, uint64_t first,
                            uint64_t last) {
  CAIRN_CHECK(left_ == 0, "a part is added to a read that was begun");
  CAIRN_CHECK(expected.block_bytes == length, "a part of another block is added to a read");
  CAIRN_CHECK(expected.sequence == sequence, "a part of another put is added to a read");
  const SegmentState state = log.segment(place.segment).state;
  CAIRN_CHECK(state != SegmentState::free, "a block lies in a segment that is free");
  CAIRN_CHECK(state != SegmentState::wiping, "a block lies in a segment that is being wiped");
  parts_.push_back({std::make_unique<RecordRead>(log, place, expected, *this), first, last});
}

void LogStore::ReadJob::start_all() {
  CAIRN_CHECK(!parts_.empty(), "a read of no parts");
  left_ = parts_.size();
  uint64_t at = 0;
  for (const Part& part : parts_) {
    part.read->start(buffer, at, part.first, part.last);
    at += part.last - part.first;
  }
  CAIRN_CHECK(at == to - from, "the parts of a read do not make up the whole");
}

void LogStore::ReadJob::record_read(RecordRead& read, Status ended) {
  CAIRN_CHECK(left_ > 0, "more parts of a read end than it has");
  if (ended != Status::ok && status != Status::corrupt) status = ended;
  if (ended == Status::corrupt) culprit = &read;
  if (--left_ == 0) store_.read_done(*this);
}

uint32_t LogStore::ReadJob::whole_crc() const {
  CAIRN_CHECK(whole, "the checksum of a block is told of which only a range was read");
  CAIRN_CHECK(left_ == 0, "the checksum of a block is told before it was read");
  uint32_t crc = 0;
  for (const Part& part : parts_) {
    const format::RecordHeader& header = part.read->header();
    crc =
        part.read == parts_.front().read ? header.payload_crc : crc32c_combine(crc, header.payload_crc, header.length);
  }
  return crc;
}

// --- gets ------------------------------------------------------------------------------------------------

void LogStore::get(GetOp& op) {
  ++counters_.gets;
  ++tenants_.at(op.id.tenant).counters.gets;
  start_get(op, false);
}

bool LogStore::get_failed(GetOp& op, Status status) {
  CAIRN_CHECK(status != Status::ok, "a get that succeeds is counted as a miss");
  if (status == Status::not_found || status == Status::corrupt || status == Status::io_error) ++counters_.misses;
  op.done(status);
  return true;
}

bool LogStore::wait_for_memory(GetOp& op, uint64_t bytes, bool waited) {
  MemoryLine& line = tenants_.at(op.id.tenant).memory;
  op.waiter.get = &op;
  if (waited) {
    slab_shares_.wait_again(line, op.waiter, bytes);
  } else {
    slab_shares_.wait(line, op.waiter, bytes);
  }
  return false;
}

bool LogStore::start_get(GetOp& op, bool waited) {
  Index::Entry* entry = find(op.id);
  if (entry == nullptr) return get_failed(op, Status::not_found);
  const uint64_t length = entry->length();
  if (op.offset >= length || op.length > length - op.offset) return get_failed(op, Status::bad_range);
  entry->hit();
  const MemoryLine& line = tenants_.at(op.id.tenant).memory;
  const Cache::Entry* cached = cache_.find(op.id);
  if (cached != nullptr && cached->birth == entry->birth) {
    // What a client takes in cannot be given up meanwhile: it is held like anything else.
    const bool room = !cached->buffer.unique() || slab_shares_.may_hold(line, length);
    if (!room) return wait_for_memory(op, length, waited);
    return serve(op, cached->buffer, 0, length, cached->birth, cached->crc, true);
  }
  if (!waited && !line.waiting.empty()) return wait_for_memory(op, get_bytes(op.id, op.offset, op.length), waited);
  return start_read(op, *entry) || wait_for_memory(op, get_bytes(op.id, op.offset, op.length), waited);
}

LogStore::Range LogStore::range_of(const Index::Entry& head, uint64_t offset, uint64_t length) {
  const uint64_t whole = head.length();
  const uint8_t shift = format::chunk_shift_for(std::min(whole, head.single ? whole : format::kPartBytes));
  const uint64_t end = length == 0 ? whole : offset + length;
  return {offset >> shift << shift, std::min(whole, (((end - 1) >> shift) + 1) << shift)};
}

// `buffer` holds the block from byte `buffer_start` on, or all of it.
bool LogStore::serve(GetOp& op, const Buffer& buffer, uint64_t buffer_start, uint64_t block_length, uint64_t sequence,
                     uint32_t whole_crc, bool from_memory) {
  const bool whole = op.offset == 0 && (op.length == 0 || op.length == block_length);
  if (op.length == 0) op.length = block_length - op.offset;
  CAIRN_CHECK(op.length > 0, "a get is served with no byte");
  CAIRN_CHECK(op.offset >= buffer_start, "a get is served from memory that begins behind its range");
  CAIRN_CHECK(op.offset + op.length <= block_length, "a get is served beyond the end of its block");
  CAIRN_CHECK(op.offset - buffer_start + op.length <= buffer.length(),
              "a get is served beyond the memory it was read to");
  CAIRN_CHECK(!from_memory || buffer.length() == block_length,
              "a block in the cache is of another length than its own");
  CAIRN_CHECK(sequence > 0, "a get is served with a block that was never put");
  op.buffer = buffer;
  op.buffer_offset = op.offset - buffer_start;
  op.block_length = block_length;
  op.sequence = sequence;
  op.from_memory = from_memory;
  op.crc = whole ? whole_crc : crc_of(buffer, op.buffer_offset, op.length);
  ++counters_.hits;
  counters_.hits_memory += from_memory ? 1 : 0;
  counters_.get_bytes += op.length;
  TenantCounters& tenant = tenants_.at(op.id.tenant).counters;
  ++tenant.hits;
  tenant.hits_memory += from_memory ? 1 : 0;
  tenant.get_bytes += op.length;
  op.done(Status::ok);
  return true;
}

bool LogStore::start_read(GetOp& op, const Index::Entry& head) {
  CAIRN_CHECK(head.part == 0, "a block is read by a part that is not its first");
  const uint64_t length = head.length();
  const uint64_t birth = head.birth;
  const uint32_t part_count = parts_of(head);
  const uint64_t part_most = head.single ? length : format::kPartBytes;
  const bool whole = op.offset == 0 && (op.length == 0 || op.length == length);
  if (const auto found = whole_reads_.find(op.id); found != whole_reads_.end() && found->second->sequence == birth) {
    found->second->add_waiter(op);
    return true;
  }
  const auto [from, to] = range_of(head, op.offset, op.length);
  MemoryLine& line = tenants_.at(op.id.tenant).memory;
  if (!slab_shares_.may_hold(line, to - from)) return false;
  // Giving memory back may not touch the index, so `head` stays what it is.
  Buffer buffer = take_memory(to - from, &line.account);
  if (!buffer) return false;
  auto job = std::make_unique<ReadJob>(*this, op.id, std::move(buffer));
  job->length = length;
  job->from = from;
  job->to = to;
  job->whole = whole;
  job->sequence = birth;
  job->add_waiter(op);
  for (uint32_t part = 0; part < part_count; ++part) {
    const uint64_t begins = part * part_most;
    const uint64_t bytes = std::min(part_most, length - begins);
    if (begins + bytes <= from || begins >= to) continue;
    const Index::Entry* entry = find_part(op.id, static_cast<uint8_t>(part));
    CAIRN_CHECK(entry != nullptr, "a part of a block that was found is not there");
    CAIRN_CHECK(entry->birth == birth, "a part of a block that was found is of another put");
    job->add(*slots_[entry->drive].log, entry->place(), {op.id, static_cast<uint8_t>(part), birth, bytes, length},
             std::max(from, begins) - begins, std::min(to, begins + bytes) - begins);
  }
  if (whole) whole_reads_[op.id] = job.get();
  ReadJob& started = *job;
  reads_.push_front(std::move(job));
  started.self = reads_.begin();
  started.start_all();
  return true;
}

void LogStore::read_done(ReadJob& job) {
  CAIRN_CHECK(job.self->get() == &job, "a read ends that is listed in the place of another");
  CAIRN_CHECK((job.status == Status::corrupt) == (job.culprit != nullptr), "a read is corrupt and no record of it is");
  if (job.whole) {
    const auto found = whole_reads_.find(job.id);
    if (found != whole_reads_.end() && found->second == &job) whole_reads_.erase(found);
  }
  Index::Entry* entry = find(job.id);
  const bool current = entry != nullptr && entry->birth == job.sequence;
  Status status = job.status;
  bool again = false;
  if (status == Status::corrupt) {
    const Index::Entry* part = current ? find_part(job.id, job.culprit->expected().part) : nullptr;
    if (part == nullptr) {
      status = Status::not_found;  // it was given up while it was read: what came back is somebody else's
    } else if (!(part->place() == job.culprit->place())) {
      again = true;  // it was moved meanwhile
    } else {
      ++job.culprit->log().counters.checksum_errors;
      ++counters_.corrupt;
      forget(job.id, Gone::dropped);
    }
  } else if (status == Status::io_error) {
    ++counters_.io_errors;
  } else if (job.whole && current) {
    cache_.insert(job.id, job.buffer, job.sequence, job.whole_crc());
  }
  // The job stays listed meanwhile: a callback may cancel() an operation that has not had its turn.
  for (size_t i = 0; i < job.waiters.size(); ++i) {
    GetOp* op = std::exchange(job.waiters[i], nullptr);
    if (op == nullptr) continue;
    op->reading = nullptr;
    if (again) {
      start_get(*op, false);
    } else if (status != Status::ok) {
      get_failed(*op, status);
    } else {
      serve(*op, job.buffer, job.from, job.length, job.sequence, job.whole ? job.whole_crc() : 0, false);
    }
  }
  reads_.erase(job.self);
}

void LogStore::cancel(GetOp& op) {
  slab_shares_.leave(op.waiter);
  if (op.reading == nullptr) return;
  // A gap is as good as a removal, and read_done() may be walking the list.
  auto& job = *static_cast<ReadJob*>(std::exchange(op.reading, nullptr));
  CAIRN_CHECK(job.waiters[op.place] == &op, "a get does not wait where it says");
  job.waiters[op.place] = nullptr;
}

}  // namespace cairn
