// Opening a store: superblocks, recovery, and sealing what a crash left open.
#include <algorithm>
#include <map>

#include "store/log_store.h"

namespace cairn {

namespace {

// A segment that had to be scanned gets its summary now, so that the next start need not scan it again.
void seal_scanned(Drive& drive, const format::Superblock& superblock, FoundDrive& found) {
  for (uint32_t i = 0; i < found.segments.size(); ++i) {
    FoundSegment& one = found.segments[i];
    if (!one.scanned || one.segment.state != SegmentState::sealed) continue;
    const uint64_t pages = superblock.segment_bytes / format::kPageBytes;
    if (one.segment.next_page + format::summary_pages(one.entries.size()) > pages)
      continue;  // no room was kept: scanned again
    const auto summary = build_summary(superblock, i, one.segment, one.entries);
    const uint64_t base = superblock.first_segment_offset + i * superblock.segment_bytes;
    // If it fails the segment is scanned again next time: nothing is lost.
    (void)transfer_now(drive, IoKind::write, base + superblock.segment_bytes - summary->bytes(), summary->data(),
                       summary->bytes());
  }
}

}  // namespace

Result<std::unique_ptr<Store>> Store::open(std::vector<std::unique_ptr<Drive>> drives, Slab& slab, const Clock& clock,
                                           const StoreOptions& options) {
  constexpr size_t kDrivesMost = 32;  // what a place in the index can name
  const uint64_t started_ns = clock.now_ns();
  if (drives.empty() || drives.size() > kDrivesMost) return Error{0, "a store has between 1 and 32 drives"};
  std::vector<std::unique_ptr<DriveLog>> logs;
  std::vector<FoundDrive> found;
  std::map<format::Uuid, std::string> known;
  for (auto& drive : drives) {
    auto superblock = read_superblock(*drive);
    if (!superblock) return superblock.error();
    const auto [first, fresh] = known.emplace(superblock.value().drive, drive->info().path);
    if (!fresh)
      return Error{0, drive->info().path + " and " + first->second + " are the same Cairn drive (" +
                          uuid_text(first->first) + "); name it once"};
    const bool writable = !options.read_only && !drive->info().read_only;
    // A damaged copy is made good from the other.
    if (writable) {
      if (auto written = write_superblock(*drive, superblock.value()); !written) return written.error();
    }
    found.push_back(read_segments(*drive, superblock.value()));
    if (writable) seal_scanned(*drive, superblock.value(), found.back());
    logs.push_back(std::make_unique<DriveLog>(std::move(drive), superblock.value(), static_cast<uint8_t>(logs.size()),
                                              clock, options.writes_in_flight_most));
  }
  std::vector<DriveLog*> each;
  for (const auto& log : logs) each.push_back(log.get());
  auto store = std::make_unique<LogStore>(std::move(logs), slab, clock, options);
  uint64_t last_sequence = 0, sealed = 0, scanned = 0;
  for (size_t i = 0; i < each.size(); ++i) {
    store->adopt(*each[i], found[i]);
    last_sequence = std::max(last_sequence, found[i].last_sequence);
    sealed += found[i].sealed;
    scanned += found[i].scanned;
  }
  std::vector<format::SummaryEntry> tombstones;
  for (const FoundDrive& one : found) {
    for (const FoundSegment& segment : one.segments) {
      for (const format::SummaryEntry& entry : segment.entries) {
        if (entry.type == format::RecordType::tombstones) tombstones.push_back(entry);
      }
    }
  }
  store->bury(tombstones);
  store->opened(last_sequence, sealed, scanned, static_cast<double>(clock.now_ns() - started_ns) / 1e9);
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace cairn
