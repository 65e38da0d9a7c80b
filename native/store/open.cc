// Opening a store: superblocks, recovery, and sealing what a crash left open.
#include <algorithm>
#include <map>

#include "store/log_store.h"

namespace cairn {

namespace {

// A segment that had to be scanned gets its summary now, so that the next start need not scan it again.
void seal_scanned(DriveLog& log, uint32_t index, const FoundSegment& one) {
  // What could not be read may be readable next time: then it has to be looked for again.
  if (!one.scanned || one.segment.state != SegmentState::sealed || one.unreadable) return;
  const format::Superblock& superblock = log.superblock();
  const uint64_t pages = superblock.segment_bytes / format::kPageBytes;
  if (one.segment.next_page + format::summary_pages(one.entries.size()) > pages)
    return;  // no room was kept: scanned again
  const auto summary = build_summary(superblock, index, one.segment, one.entries);
  const auto page = static_cast<uint32_t>(pages - summary->bytes() / format::kPageBytes);
  ++log.counters.writes;
  log.counters.written_bytes += summary->bytes();
  // If it fails the segment is scanned again next time: nothing is lost.
  if (transfer_now(log.drive(), IoKind::write, log.offset_of(index, page), summary->data(), summary->bytes()) != 0)
    ++log.counters.write_errors;
}

// The drives with their superblocks, checked before anything is written to any of them.
Result<std::vector<std::unique_ptr<DriveLog>>> identify(std::vector<std::unique_ptr<Drive>> drives, const Clock& clock,
                                                        const StoreOptions& options) {
  std::vector<std::unique_ptr<DriveLog>> logs;
  std::map<format::Uuid, std::string> known;
  for (auto& drive : drives) {
    auto superblock = read_superblock(*drive);
    if (!superblock) return superblock.error();
    const auto [first, fresh] = known.emplace(superblock.value().drive, drive->info().path);
    if (!fresh)
      return Error{0, drive->info().path + " and " + first->second + " are the same Cairn drive (" +
                          uuid_text(first->first) + "); name it once"};
    logs.push_back(std::make_unique<DriveLog>(std::move(drive), superblock.value(), static_cast<uint8_t>(logs.size()),
                                              clock, options.writes_in_flight_most));
  }
  return logs;
}

// Before a drive is read: a damaged superblock is made good from the other, and what an earlier process wrote without
// living to flush it is flushed. Else recovery would find a block in the drive's cache, a durable put of the same key
// would be told that it exists, and the power could still take it.
Result<Unit> settle(DriveLog& log) {
  if (!repair_superblock(log.drive(), log.superblock())) ++log.counters.write_errors;  // the other copy is good
  if (!log.drive().info().volatile_write_cache) return Unit{};
  ++log.counters.flushes;
  const int code = transfer_now(log.drive(), IoKind::flush, 0, nullptr, 0);
  if (code != 0) return Error::from_errno(code, "cannot flush " + log.drive().info().path);
  return Unit{};
}

}  // namespace

Result<std::unique_ptr<Store>> Store::open(std::vector<std::unique_ptr<Drive>> drives, Slab& slab, const Clock& clock,
                                           const StoreOptions& options) {
  constexpr size_t kDrivesMost = 32;  // what a place in the index can name
  const uint64_t started_ns = clock.now_ns();
  if (drives.empty() || drives.size() > kDrivesMost) return Error{0, "a store has between 1 and 32 drives"};
  auto identified = identify(std::move(drives), clock, options);
  if (!identified) return identified.error();
  std::vector<DriveLog*> logs;
  for (const auto& log : identified.value()) logs.push_back(log.get());
  auto store = std::make_unique<LogStore>(identified.take(), slab, clock, options);
  FoundDrive all;
  std::vector<format::SummaryEntry> tombstones;
  for (DriveLog* log : logs) {
    const bool writable = !options.read_only && !log->drive().info().read_only;
    if (writable) {
      if (auto settled = settle(*log); !settled) return settled.error();
    }
    const FoundDrive found = read_segments(log->drive(), log->superblock(), [&](uint32_t index, FoundSegment& one) {
      if (writable) seal_scanned(*log, index, one);  // after a crash in here the segment is scanned again
      store->adopt(*log, index, one, tombstones);
    });
    log->begin(found.next_generation, !writable);
    all.last_sequence = std::max(all.last_sequence, found.last_sequence);
    all.sealed += found.sealed;
    all.scanned += found.scanned;
  }
  store->bury(tombstones);
  store->opened(all.last_sequence, all.sealed, all.scanned, static_cast<double>(clock.now_ns() - started_ns) / 1e9);
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace cairn
