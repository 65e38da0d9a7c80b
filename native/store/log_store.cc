#include "store/log_store.h"

#include <algorithm>
#include <cstring>

#include "store/jobs.h"

namespace cairn {

using format::kPageBytes;

namespace {

constexpr uint64_t kSweepSlots = 4096;  // a turn: some 20 µs

}  // namespace

LogStore::LogStore(std::vector<std::unique_ptr<DriveLog>> logs, Slab& slab, const Clock& clock,
                   const StoreOptions& options)
    : logs_(std::move(logs)),
      slab_(slab),
      clock_(clock),
      options_(options),
      index_([this](const Place& place) { return fresh(place); }),
      evicted_seen_(logs_.size(), 0) {}

LogStore::~LogStore() {
  // Requests on the drives point into our jobs.
  while (!idle()) {
    for (const auto& log : logs_) {
      log->poll(next_sequence_);
      log->drive().wait(100);
    }
  }
}

// --- the index -------------------------------------------------------------------------------------------

bool LogStore::fresh(const Place& place) const {
  const Segment& segment = logs_[place.drive]->segments()[place.segment];
  return segment.state != SegmentState::free && segment.use == place.use;
}

Index::Entry* LogStore::find(const BlockId& id) {
  Index::Entry* entry = index_.find(id);
  if (entry == nullptr || !Index::expired(*entry, clock_.unix_ms())) return entry;
  forget(id);
  return nullptr;
}

uint64_t LogStore::sequence_of(const Index::Entry& entry) const {
  const Place place = Index::place_of(entry);
  return logs_[place.drive]->segments()[place.segment].first_sequence + entry.sequence_rest;
}

void LogStore::insert(const BlockId& id, DriveLog& log, const Appended& at, uint64_t length, uint64_t expiry_unix_ms,
                      uint64_t sequence) {
  Segment& segment = log.segment(at.segment);
  CAIRN_CHECK(segment.generation == at.generation && segment.state != SegmentState::free,
              "a block is indexed in a segment that is gone");
  CAIRN_CHECK(sequence >= at.first_sequence && sequence - at.first_sequence <= UINT32_MAX,
              "a block's number does not fit the index");
  Place place;
  place.drive = log.number();
  place.segment = at.segment;
  place.page = at.page;
  place.use = segment.use;
  forget(id);
  index_.insert(id, place, static_cast<uint32_t>(length), expiry_unix_ms,
                static_cast<uint32_t>(sequence - at.first_sequence));
  ++segment.blocks;
  segment.payload_bytes += length;
}

bool LogStore::forget(const BlockId& id) {
  Index::Entry* entry = index_.find(id);
  if (entry == nullptr) return false;
  const Place place = Index::place_of(*entry);
  Segment& segment = logs_[place.drive]->segment(place.segment);
  const uint64_t length = entry->length & Index::kLengthMask;
  CAIRN_CHECK(segment.blocks > 0 && segment.payload_bytes >= length, "a segment counts fewer blocks than it has");
  --segment.blocks;
  segment.payload_bytes -= length;
  index_.erase(id);
  cache_.erase(id);
  return true;
}

bool LogStore::exists(const BlockId& id) {
  return find(id) != nullptr;
}

bool LogStore::touch(const BlockId& id) {
  Index::Entry* entry = find(id);
  if (entry == nullptr) return false;
  entry->length |= Index::kTouched;
  (void)cache_.find(id);  // as used as a get would make it
  return true;
}

// --- memory ----------------------------------------------------------------------------------------------

Buffer LogStore::take_memory(uint64_t length) {
  while (true) {
    Buffer buffer = slab_.allocate(length);
    if (buffer || !cache_.evict_one()) return buffer;
  }
}

void LogStore::feed_hungry() {
  // In order; the first that still finds no memory ends it, so a large one is not starved by small ones.
  while (!hungry_.empty()) {
    const Hungry next = hungry_.front();
    if (next.put != nullptr) {
      if (!grant(*next.put)) return;
      hungry_.pop_front();
      next.put->ready();
      continue;
    }
    hungry_.pop_front();
    const size_t before = hungry_.size();
    start_get(*next.get, false);
    if (hungry_.size() > before && hungry_.front().get == next.get) return;
  }
}

// --- get -------------------------------------------------------------------------------------------------

void LogStore::get(GetOp& op) {
  ++counters_.gets;
  start_get(op, true);
}

void LogStore::get_failed(GetOp& op, Status status) {
  if (status == Status::not_found || status == Status::corrupt || status == Status::io_error) ++counters_.misses;
  op.done(status);
}

void LogStore::start_get(GetOp& op, bool queue) {
  Index::Entry* entry = find(op.id);
  if (entry == nullptr) return get_failed(op, Status::not_found);
  const uint64_t length = entry->length & Index::kLengthMask;
  if (op.offset >= length || op.length > length - op.offset) return get_failed(op, Status::bad_range);
  entry->length |= Index::kTouched;
  const Cache::Entry* cached = cache_.find(op.id);
  if (cached != nullptr && cached->sequence == sequence_of(*entry)) {
    return serve(op, cached->buffer, 0, length, cached->sequence, cached->crc, true);
  }
  if (queue && !hungry_.empty()) {
    hungry_.push_back({&op, nullptr});
  } else if (!start_read(op, *entry)) {
    if (queue) {
      hungry_.push_back({&op, nullptr});
    } else {
      hungry_.push_front({&op, nullptr});
    }
  }
}

// `buffer` holds the block from byte `buffer_start` on, or all of it.
void LogStore::serve(GetOp& op, const Buffer& buffer, uint64_t buffer_start, uint64_t block_length, uint64_t sequence,
                     uint32_t whole_crc, bool from_memory) {
  const bool whole = op.offset == 0 && (op.length == 0 || op.length == block_length);
  if (op.length == 0) op.length = block_length - op.offset;
  op.buffer = buffer;
  op.buffer_offset = op.offset - buffer_start;
  op.block_length = block_length;
  op.sequence = sequence;
  op.from_memory = from_memory;
  op.crc = whole_crc;
  if (!whole) {
    std::vector<iovec> parts;
    buffer.slice(op.buffer_offset, op.length, parts);
    op.crc = 0;
    for (const iovec& part : parts)
      op.crc = crc32c({static_cast<const std::byte*>(part.iov_base), part.iov_len}, op.crc);
  }
  ++counters_.hits;
  counters_.hits_memory += from_memory ? 1 : 0;
  counters_.get_bytes += op.length;
  op.done(Status::ok);
}

bool LogStore::start_read(GetOp& op, const Index::Entry& entry) {
  const uint64_t length = entry.length & Index::kLengthMask;
  const bool whole = op.offset == 0 && (op.length == 0 || op.length == length);
  if (const auto found = whole_reads_.find(op.id);
      found != whole_reads_.end() && found->second->sequence == sequence_of(entry)) {
    found->second->waiters.push_back(&op);
    return true;
  }
  const uint8_t shift = format::chunk_shift_for(length);
  const uint64_t end = op.length == 0 ? length : op.offset + op.length;
  const uint64_t first_chunk = op.offset >> shift;
  const uint64_t from = first_chunk << shift;
  const uint64_t to = std::min(length, (((end - 1) >> shift) + 1) << shift);
  Buffer buffer = take_memory(to - from);
  if (!buffer) return false;
  const Place place = Index::place_of(entry);
  DriveLog& log = *logs_[place.drive];
  auto job = std::make_unique<ReadJob>(*this, log, op.id, place, std::move(buffer));
  job->length = length;
  job->from = from;
  job->to = to;
  job->whole = whole;
  job->sequence = sequence_of(entry);
  job->waiters.push_back(&op);
  if (whole) whole_reads_[op.id] = job.get();
  ReadJob& started = *job;
  reads_.push_front(std::move(job));
  started.self = reads_.begin();
  started.submit();
  return true;
}

void LogStore::read_done(ReadJob& job, Status status) {
  if (job.whole) {
    const auto found = whole_reads_.find(job.id);
    if (found != whole_reads_.end() && found->second == &job) whole_reads_.erase(found);
  }
  Index::Entry* entry = index_.find(job.id);
  const bool current = entry != nullptr && sequence_of(*entry) == job.sequence;
  if (status == Status::corrupt) {
    // If the segment was used again meanwhile, what was read is somebody else's: an ordinary miss.
    if (!fresh(job.place)) {
      status = Status::not_found;
    } else {
      ++job.log.counters.checksum_errors;
      ++counters_.corrupt;
      if (current) forget(job.id);
    }
  } else if (status == Status::io_error) {
    ++counters_.io_errors;
  } else if (job.whole && current) {
    cache_.insert(job.id, job.buffer, job.sequence, job.header().payload_crc);
  }
  // The job stays listed meanwhile: a callback may cancel() an operation that has not had its turn.
  for (size_t i = 0; i < job.waiters.size(); ++i) {
    GetOp* op = std::exchange(job.waiters[i], nullptr);
    if (op == nullptr) continue;
    if (status != Status::ok) {
      get_failed(*op, status);
    } else {
      serve(*op, job.buffer, job.from, job.length, job.sequence, job.header().payload_crc, false);
    }
  }
  reads_.erase(job.self);
}

void LogStore::cancel(GetOp& op) {
  std::erase_if(hungry_, [&](const Hungry& one) { return one.get == &op; });
  // A gap is as good as a removal, and read_done() may be walking the list.
  for (const auto& job : reads_)
    std::replace(job->waiters.begin(), job->waiters.end(), &op, static_cast<GetOp*>(nullptr));
}

// --- put -------------------------------------------------------------------------------------------------

void LogStore::answer_put(PutOp& op, Status status) {
  if (status == Status::ok) {
    ++counters_.puts;
    counters_.put_bytes += op.length;
  } else if (status == Status::exists) {
    ++counters_.put_exists;
  } else if (status == Status::no_space) {
    ++counters_.no_space;
  } else if (status == Status::io_error) {
    ++counters_.io_errors;
  }
  op.done(status);
}

DriveLog* LogStore::choose_log(uint64_t length) {
  // Round robin, but past drives that take no writes and towards those that are less behind.
  DriveLog* best = nullptr;
  for (size_t i = 0; i < logs_.size(); ++i) {
    DriveLog& log = *logs_[(next_log_ + i) % logs_.size()];
    if (!log.writable() || length > format::block_bytes_most(log.superblock().segment_bytes)) continue;
    if (best == nullptr || log.waiting() < best->waiting()) best = &log;
  }
  ++next_log_;
  return best;
}

void LogStore::begin_put(PutOp& op) {
  CAIRN_CHECK(op.length > 0 && op.length <= kBlockBytesMost, "a put of a length the caller should have refused");
  const auto pending = pending_.find(op.id);
  if (pending != pending_.end()) {
    pending->second.waiters.push_back(&op);
    return;
  }
  if (const Index::Entry* entry = find(op.id)) {
    op.sequence = sequence_of(*entry);
    return answer_put(op, Status::exists);
  }
  const auto takes = [&](const auto& log) {
    return log->writable() && op.length <= format::block_bytes_most(log->superblock().segment_bytes);
  };
  if (std::none_of(logs_.begin(), logs_.end(), [](const auto& log) { return log->writable(); }))
    return answer_put(op, Status::read_only);
  if (op.length > slab_.total_bytes() / 2 || std::none_of(logs_.begin(), logs_.end(), takes))
    return answer_put(op, Status::too_large);
  pending_[op.id].owner = &op;
  if (!hungry_.empty() || !grant(op)) {
    hungry_.push_back({nullptr, &op});
    return;
  }
  op.ready();
}

bool LogStore::grant(PutOp& op) {
  op.buffer = take_memory(op.length);
  return static_cast<bool>(op.buffer);
}

void LogStore::commit(PutOp& op) {
  const auto found = pending_.find(op.id);
  CAIRN_CHECK(found != pending_.end() && found->second.owner == &op && found->second.writing == nullptr && op.buffer,
              "a put is committed that was not granted");
  Pending& pending = found->second;
  DriveLog* log = choose_log(op.length);
  auto job = std::make_unique<WriteJob>(*this, op);
  const bool damaged = op.has_crc && job->header().payload_crc != op.crc;
  if (damaged || log == nullptr) {
    const BlockId id = op.id;
    pending.owner = nullptr;
    answer_put(op, damaged ? Status::bad_checksum : Status::read_only);
    return settle_pending(id);
  }
  job->log = log;
  job->header().sequence = op.sequence = next_sequence_++;
  job->header().stored_unix_ms = clock_.unix_ms();
  pending.writing = job.get();
  WriteJob& started = *job;
  writes_.push_front(std::move(job));
  started.self = writes_.begin();
  log->append(started);
  // A relaxed put is answered when its record has its place: WriteJob::placed().
}

void LogStore::written(WriteJob& job, Status status) {
  const auto keep = std::move(*job.self);
  writes_.erase(job.self);
  const BlockId id = job.id;
  const auto found = pending_.find(id);
  CAIRN_CHECK(found != pending_.end() && found->second.writing == &job, "a write ends that nobody waits for");
  Pending& pending = found->second;
  PutOp* owner = std::exchange(pending.owner, nullptr);
  pending.writing = nullptr;
  const format::RecordHeader& header = job.header();
  const bool relaxed = header.durability == Durability::relaxed;
  if (relaxed && job.was_placed) {
    // It was visible already. If it did not reach the drive it goes, unless it went before.
    const Index::Entry* entry = index_.find(id);
    if (status != Status::ok && entry != nullptr && sequence_of(*entry) == header.sequence) forget(id);
    if (status != Status::ok) ++counters_.io_errors;
  } else if (status == Status::ok) {
    insert(id, *job.log, job.at, header.length, header.expiry_unix_ms, header.sequence);
    cache_.insert(id, job.payload, header.sequence, header.payload_crc);
  }
  if (owner != nullptr) answer_put(*owner, status);
  settle_pending(id);
}

// The key is free again. Deletes that came after the put take its block away; then whoever waited starts over, and
// most often learns that it exists.
void LogStore::settle_pending(const BlockId& id) {
  auto node = pending_.extract(id);
  CAIRN_CHECK(!node.empty(), "a put is settled twice");
  for (const auto& [removal, item] : node.mapped().removals) start_removal(removal, {item});
  restart_.insert(restart_.end(), node.mapped().waiters.begin(), node.mapped().waiters.end());
  restart_waiters();
}

// Callbacks may settle further keys and cancel operations that wait here, so the list is walked once, from outside.
void LogStore::restart_waiters() {
  if (std::exchange(restarting_, true)) return;
  while (!restart_.empty()) {
    PutOp* waiter = restart_.front();
    restart_.pop_front();
    begin_put(*waiter);
  }
  restarting_ = false;
}

void LogStore::cancel(PutOp& op) {
  std::erase_if(hungry_, [&](const Hungry& one) { return one.put == &op; });
  std::erase(restart_, &op);
  const auto found = pending_.find(op.id);
  if (found == pending_.end()) return;
  Pending& pending = found->second;
  std::erase(pending.waiters, &op);
  if (pending.owner != &op) return;
  pending.owner = nullptr;
  if (pending.writing == nullptr) settle_pending(BlockId(op.id));
}

// --- the turn --------------------------------------------------------------------------------------------

void LogStore::poll() {
  for (const auto& log : logs_) log->poll(next_sequence_);
  feed_hungry();
  for (const auto& log : logs_) {
    // What the callbacks asked for goes out in this turn.
    log->poll(next_sequence_);
    uint64_t& seen = evicted_seen_[log->number()];
    if (seen == log->counters.evicted_segments) continue;
    // Twice round the table while the drive goes round once.
    const uint64_t evicted = log->counters.evicted_segments - seen;
    seen = log->counters.evicted_segments;
    sweep_left_ += evicted * (2 * index_.slots() / log->superblock().segment_count + 1);
  }
  const uint64_t now = std::min(sweep_left_, kSweepSlots);
  index_.sweep(now);
  sweep_left_ -= now;
}

std::vector<int> LogStore::event_fds() const {
  std::vector<int> fds;
  for (const auto& log : logs_) {
    if (log->drive().event_fd() >= 0) fds.push_back(log->drive().event_fd());
  }
  return fds;
}

bool LogStore::idle() const {
  return reads_.empty() && writes_.empty() && removes_.empty() &&
         std::all_of(logs_.begin(), logs_.end(), [](const auto& log) { return log->idle(); });
}

void LogStore::close() {
  while (!idle()) {
    for (const auto& log : logs_) {
      log->poll(next_sequence_);
      log->drive().wait(10);
    }
  }
  for (const auto& log : logs_) log->close(next_sequence_);
}

// --- figures ---------------------------------------------------------------------------------------------

StoreStats LogStore::stats() const {
  StoreStats stats = counters_;
  for (const auto& log : logs_) {
    DriveStats drive;
    const LogCounters& counters = log->counters;
    drive.path = log->drive().info().path;
    drive.uuid = uuid_text(log->superblock().drive);
    drive.state = log->state();
    drive.bytes = log->superblock().total_bytes;
    drive.segment_bytes = log->superblock().segment_bytes;
    drive.segments = log->segments().size();
    for (const Segment& segment : log->segments()) {
      drive.segments_free += segment.state == SegmentState::free ? 1 : 0;
      drive.segments_sealed += segment.state == SegmentState::sealed ? 1 : 0;
      drive.blocks += segment.blocks;
      drive.payload_bytes += segment.payload_bytes;
    }
    drive.read_bytes = counters.read_bytes;
    drive.written_bytes = counters.written_bytes;
    drive.reads = counters.reads;
    drive.writes = counters.writes;
    drive.flushes = counters.flushes;
    drive.read_errors = counters.read_errors;
    drive.write_errors = counters.write_errors;
    drive.checksum_errors = counters.checksum_errors;
    drive.evicted_segments = counters.evicted_segments;
    drive.evicted_blocks = counters.evicted_blocks;
    drive.oldest_sequence = log->oldest_sequence();
    stats.blocks += drive.blocks;
    stats.payload_bytes += drive.payload_bytes;
    stats.drives.push_back(std::move(drive));
  }
  stats.cache_bytes = cache_.bytes();
  stats.cache_blocks = cache_.blocks();
  stats.slab_bytes = slab_.total_bytes();
  stats.slab_free_bytes = slab_.free_bytes();
  stats.index_bytes = index_.memory_bytes();
  return stats;
}

}  // namespace cairn
