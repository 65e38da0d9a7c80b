#include "store/jobs.h"

#include <algorithm>
#include <map>

namespace cairn {

using format::kPageBytes;
using format::Page;

// --- reading ---------------------------------------------------------------------------------------------

void LogStore::ReadJob::send(Part& part, uint64_t offset) {
  part.job = this;
  part.kind = IoKind::read;
  part.offset = offset;
  part.vectors = part.memory.data();
  part.vector_count = static_cast<uint32_t>(part.memory.size());
  part.bytes = 0;
  for (const iovec& one : part.memory) part.bytes += one.iov_len;
  ++outstanding_;
  ++log.counters.reads;
  log.counters.read_bytes += part.bytes;
  log.drive().submit(part);
}

void LogStore::ReadJob::submit() {
  const uint64_t record = log.offset_of(place.segment, place.page);
  first_.memory.push_back({header_.data(), kPageBytes});
  const uint64_t bytes = format::pages_of(to - from) * kPageBytes;
  if (from == 0) {
    buffer.slice(0, bytes, first_.memory);
    return send(first_, record);
  }
  buffer.slice(0, bytes, second_.memory);
  outstanding_ = 1;  // the first part must not end the job before the second was sent
  send(first_, record);
  send(second_, record + kPageBytes + from);
  --outstanding_;
}

void LogStore::ReadJob::part_done(int error) {
  if (error != 0) {
    error_ = error;
    ++log.counters.read_errors;
  }
  if (--outstanding_ > 0) return;
  if (error_ != 0) return store_.read_done(*this, Status::io_error);
  store_.read_done(*this, verify() ? Status::ok : Status::corrupt);
}

bool LogStore::ReadJob::verify() const {
  Segment expected;
  expected.generation = generation_;
  expected.nonce = nonce_;
  if (!record_belongs(page(), place.segment, expected, place.page)) return false;
  const format::RecordHeader& found = header();
  if (found.type != format::RecordType::block || found.key != id.key || found.layout != id.layout ||
      found.tenant != id.tenant || found.length != length || found.sequence != sequence ||
      found.chunk_shift != format::chunk_shift_for(length)) {
    return false;
  }
  // Chunk by chunk over the runs of the buffer; a chunk may lie in several.
  std::vector<iovec> parts;
  for (uint64_t at = from; at < to;) {
    const uint64_t count = std::min<uint64_t>(uint64_t{1} << found.chunk_shift, to - at);
    parts.clear();
    buffer.slice(at - from, count, parts);
    uint32_t crc = 0;
    for (const iovec& part : parts) crc = crc32c({static_cast<const std::byte*>(part.iov_base), part.iov_len}, crc);
    if (crc != found.chunk_crcs[at >> found.chunk_shift]) return false;
    at += count;
  }
  return true;
}

// --- writing ---------------------------------------------------------------------------------------------

LogStore::WriteJob::WriteJob(LogStore& store, PutOp& op) : id(op.id), store_(store), page_(1) {
  AppendOp::header = new (page_.data()) Page<format::RecordHeader>{};
  payload = std::exchange(op.buffer, {});
  payload.zero_tail(op.length);
  format::RecordHeader& to = header();
  to.type = format::RecordType::block;
  to.chunk_shift = format::chunk_shift_for(op.length);
  to.key = op.id.key;
  to.layout = op.id.layout;
  to.tenant = op.id.tenant;
  to.durability = op.durability;
  to.group = op.group;
  to.length = op.length;
  to.expiry_unix_ms = op.expiry_unix_ms;
  std::vector<iovec> parts;
  for (uint64_t from = 0; from < op.length;) {
    const uint64_t count = std::min<uint64_t>(uint64_t{1} << to.chunk_shift, op.length - from);
    parts.clear();
    payload.slice(from, count, parts);
    uint32_t crc = 0;
    for (const iovec& part : parts) crc = crc32c({static_cast<const std::byte*>(part.iov_base), part.iov_len}, crc);
    to.chunk_crcs[to.chunk_count++] = crc;
    to.payload_crc = from == 0 ? crc : crc32c_combine(to.payload_crc, crc, count);
    from += count;
  }
}

void LogStore::WriteJob::placed() {
  was_placed = true;
  if (header().durability != Durability::relaxed) return;
  // From here on the block is served from its buffer, which this job holds until the drive has it.
  store_.insert(id, *log, at, header().length, header().expiry_unix_ms, header().sequence);
  store_.cache_.insert(id, payload, header().sequence, header().payload_crc);
  const auto pending = store_.pending_.find(id);
  CAIRN_CHECK(pending != store_.pending_.end(), "a write is placed that nobody waits for");
  PutOp* owner = std::exchange(pending->second.owner, nullptr);
  if (owner != nullptr) store_.answer_put(*owner, Status::ok);
}

// --- deleting --------------------------------------------------------------------------------------------

LogStore::RemoveJob::RemoveJob(LogStore& store, const std::vector<BlockId>& ids, uint64_t sequence)
    : store_(store), page_(1) {
  header = new (page_.data()) Page<format::RecordHeader>{};
  const uint64_t length = ids.size() * sizeof(format::Tombstone);
  tombstones = std::make_unique<Pages>(format::pages_of(length));
  for (const BlockId& id : ids) {
    store_bytes(tombstones->data() + dead.size() * sizeof(format::Tombstone),
                format::Tombstone{id.key, id.layout, id.tenant, 0});
    dead.push_back({id.key, id.layout, id.tenant, 0});
  }
  format::RecordHeader& to = header->body;
  to.type = format::RecordType::tombstones;
  to.chunk_shift = format::chunk_shift_for(length);
  to.length = length;
  to.sequence = sequence;
  to.stored_unix_ms = store.clock_.unix_ms();
  const ConstByteSpan payload_bytes(tombstones->data(), length);
  to.payload_crc = crc32c(payload_bytes);
  for (uint64_t at_byte = 0; at_byte < length; at_byte += uint64_t{1} << to.chunk_shift) {
    to.chunk_crcs[to.chunk_count++] =
        crc32c(payload_bytes.subspan(at_byte, std::min<uint64_t>(uint64_t{1} << to.chunk_shift, length - at_byte)));
  }
}

void LogStore::remove(DeleteOp& op) {
  CAIRN_CHECK(op.ids.size() <= kBatchItemsMost, "a delete of more ids than its caller may take");
  op.statuses.assign(op.ids.size(), Status::not_found);
  const auto removal = std::make_shared<Removal>(Removal{&op, 1});
  std::vector<size_t> now;
  for (size_t i = 0; i < op.ids.size(); ++i) {
    // A put that is committed takes effect whoever gave it up, so a delete that comes after it has to come behind it.
    const auto pending = pending_.find(op.ids[i]);
    if (pending != pending_.end() && pending->second.writing != nullptr && find(op.ids[i]) == nullptr) {
      pending->second.removals.emplace_back(removal, i);
      ++removal->left;
    } else {
      now.push_back(i);
    }
  }
  start_removal(removal, now);
}

// Takes those of the delete's ids out of the index and sends their tombstones, one record a drive: to the drive that
// holds the block, so that it outlives it. Consumes one of what is `left`.
void LogStore::start_removal(const std::shared_ptr<Removal>& removal, const std::vector<size_t>& items) {
  DeleteOp& op = *removal->op;
  std::map<uint8_t, std::vector<size_t>> by_drive;
  for (const size_t item : items) {
    const Index::Entry* entry = find(op.ids[item]);
    if (entry == nullptr) continue;
    const uint8_t drive = Index::place_of(*entry).drive;
    if (!logs_[drive]->writable()) {
      op.statuses[item] = Status::read_only;
      continue;
    }
    forget(op.ids[item]);
    by_drive[drive].push_back(item);
  }
  for (auto& [drive, on_drive] : by_drive) {
    std::vector<BlockId> ids;
    for (const size_t item : on_drive) ids.push_back(op.ids[item]);
    auto job = std::make_unique<RemoveJob>(*this, ids, next_sequence_++);
    job->removal = removal;
    job->items = std::move(on_drive);
    RemoveJob& started = *job;
    removes_.push_front(std::move(job));
    started.self = removes_.begin();
    ++removal->left;
    logs_[drive]->append(started);
  }
  if (--removal->left == 0) op.done();
}

void LogStore::remove_done(RemoveJob& job, Status status) {
  const auto keep = std::move(*job.self);
  removes_.erase(job.self);
  for (const size_t item : job.items) {
    job.removal->op->statuses[item] = status;
    counters_.deletes += status == Status::ok ? 1 : 0;
    counters_.io_errors += status == Status::io_error ? 1 : 0;
  }
  if (--job.removal->left == 0) job.removal->op->done();
}

// --- what recovery found ---------------------------------------------------------------------------------

void LogStore::adopt(DriveLog& log, uint32_t index, const FoundSegment& found,
                     std::vector<format::SummaryEntry>& tombstones) {
  log.adopt(index, found.segment);
  const uint64_t now = clock_.unix_ms();
  for (const format::SummaryEntry& entry : found.entries) {
    if (entry.type == format::RecordType::tombstones) tombstones.push_back(entry);
    if (entry.type != format::RecordType::block) continue;
    if (entry.expiry_unix_ms != 0 && entry.expiry_unix_ms <= now) continue;
    const bool sane = entry.length > 0 && entry.length <= kBlockBytesMost &&
                      entry.sequence >= found.segment.first_sequence && entry.sequence <= found.segment.last_sequence &&
                      entry.sequence - found.segment.first_sequence <= UINT32_MAX && entry.page > 0 &&
                      entry.page + format::record_pages(entry.length) <= log.superblock().segment_bytes / kPageBytes;
    if (!sane) continue;  // the summary's checksum held, so a newer or a mistaken writer: such a block is a miss
    const BlockId id{entry.key, entry.layout, entry.tenant};
    const Index::Entry* known = index_.find(id);
    if (known != nullptr && sequence_of(*known) >= entry.sequence) continue;
    insert(id, log, {index, entry.page, found.segment.generation, found.segment.first_sequence}, entry.length,
           entry.expiry_unix_ms, entry.sequence);
  }
}

void LogStore::bury(const std::vector<format::SummaryEntry>& tombstones) {
  for (const format::SummaryEntry& entry : tombstones) {
    const BlockId id{entry.key, entry.layout, entry.tenant};
    const Index::Entry* known = index_.find(id);
    if (known != nullptr && sequence_of(*known) < entry.sequence) forget(id);
  }
}

void LogStore::opened(uint64_t last_sequence, uint64_t sealed, uint64_t scanned, double seconds) {
  next_sequence_ = last_sequence + 1;
  counters_.recovered_segments = sealed;
  counters_.scanned_segments = scanned;
  counters_.recovery_seconds = seconds;
  for (const auto& log : logs_) {
    for (const Segment& segment : log->segments()) counters_.recovered_blocks += segment.blocks;
  }
}

}  // namespace cairn
