#include "store/recovery.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>

namespace cairn {

using format::kPageBytes;
using format::Page;

namespace {

constexpr uint32_t kReadsMost = 64;         // segments looked at side by side
constexpr uint64_t kTailBytes = 64 * kKiB;  // usually holds the footer and the whole summary
constexpr uint64_t kScanBytes = 4 * kMiB;

// Reads the header page and the tail of one segment.
class SegmentProbe {
 public:
  SegmentProbe(Drive& drive, const format::Superblock& superblock, uint32_t index)
      : index_(index),
        tail_bytes_(std::min(kTailBytes, superblock.segment_bytes / 2)),
        header_(1),
        tail_(tail_bytes_ / kPageBytes) {
    const uint64_t base = superblock.first_segment_offset + index * superblock.segment_bytes;
    first_.aim(base, header_.data(), kPageBytes);
    last_.aim(base + superblock.segment_bytes - tail_bytes_, tail_.data(), tail_bytes_);
    drive.submit(first_);
    drive.submit(last_);
  }

  bool done() const { return first_.done && last_.done; }
  uint32_t index() const { return index_; }
  bool header_failed() const { return first_.error != 0; }
  const Page<format::SegmentHeader>& header() const {
    return *reinterpret_cast<const Page<format::SegmentHeader>*>(header_.data());
  }
  const Page<format::Footer>* footer() const {
    if (last_.error != 0) return nullptr;
    return reinterpret_cast<const Page<format::Footer>*>(tail_.data() + tail_bytes_ - kPageBytes);
  }
  // The last bytes of the segment, the footer's page included.
  ConstByteSpan tail() const { return {tail_.data(), tail_bytes_}; }

 private:
  class Read final : public IoRequest {
   public:
    void aim(uint64_t at, std::byte* memory, uint64_t length) {
      vector_ = {memory, length};
      offset = at;
      vectors = &vector_;
      vector_count = 1;
      bytes = length;
    }
    void completed(int code) override {
      done = true;
      error = code;
    }
    bool done = false;
    int error = 0;

   private:
    iovec vector_{};
  };

  uint32_t index_;
  uint64_t tail_bytes_;
  Pages header_, tail_;
  Read first_, last_;
};

// The entries of a sealed segment; false when footer or summary are not good.
bool load_summary(Drive& drive, const format::Superblock& superblock, const SegmentProbe& probe, const Segment& segment,
                  FoundSegment& found) {
  const auto* page = probe.footer();
  if (page == nullptr || !page->intact(format::kFooterMagic)) return false;
  const format::Footer& footer = page->body;
  const uint64_t pages = superblock.segment_bytes / kPageBytes;
  if (footer.drive != superblock.drive || footer.index != probe.index() || footer.generation != segment.generation ||
      footer.nonce != segment.nonce) {
    return false;
  }
  if (footer.first_sequence > footer.last_sequence || footer.last_sequence > format::kNumberMost) return false;
  if (footer.entry_count > superblock.segment_bytes / sizeof(format::SummaryEntry)) return false;
  if (footer.summary_page != pages - format::summary_pages(footer.entry_count) || footer.summary_page == 0)
    return false;
  const uint64_t bytes = footer.entry_count * sizeof(format::SummaryEntry);
  const uint64_t with_padding = (pages - footer.summary_page) * kPageBytes;
  found.entries.resize(footer.entry_count);
  if (with_padding <= probe.tail().size()) {
    const ConstByteSpan summary = probe.tail().last(with_padding).first(bytes);
    if (crc32c(summary) != footer.summary_crc) return false;
    if (bytes > 0) std::memcpy(found.entries.data(), summary.data(), bytes);
  } else {
    Pages memory(pages - footer.summary_page);
    const uint64_t base = superblock.first_segment_offset + probe.index() * superblock.segment_bytes;
    if (transfer_now(drive, IoKind::read, base + footer.summary_page * kPageBytes, memory.data(), memory.bytes()) != 0)
      return false;
    if (crc32c({memory.data(), bytes}) != footer.summary_crc) return false;
    std::memcpy(found.entries.data(), memory.data(), bytes);
  }
  found.segment.first_sequence = footer.first_sequence;
  found.segment.last_sequence = footer.last_sequence;
  found.segment.next_page = static_cast<uint32_t>(footer.summary_page);
  return true;
}

class Collector final : public RecordVisitor {
 public:
  explicit Collector(FoundSegment& found) : found_(found) {}
  void record(const format::RecordHeader& header, bool payload_good, ConstByteSpan payload) override {
    if (!payload_good) {
      found_.bad_pages += format::record_pages(header.length);
      return;
    }
    format::SummaryEntry entry = format::entry_of(header);
    found_.segment.last_sequence = std::max(found_.segment.last_sequence, header.sequence);
    found_.segment.next_page = header.page + static_cast<uint32_t>(format::record_pages(header.length));
    if (header.type == format::RecordType::block) {
      found_.entries.push_back(entry);
      return;
    }
    for (uint64_t at = 0; at + sizeof(format::Tombstone) <= payload.size(); at += sizeof(format::Tombstone)) {
      const auto dead = load<format::Tombstone>(payload.data() + at);
      entry.key = dead.key;
      entry.layout = dead.layout;
      entry.tenant = dead.tenant;
      found_.entries.push_back(entry);
    }
  }
  void hole(uint64_t, uint64_t count) override { found_.bad_pages += count; }
  void unreadable(uint64_t, uint64_t count) override {
    found_.bad_pages += count;
    found_.unreadable = true;
  }

 private:
  FoundSegment& found_;
};

// A window of a segment in memory, refilled as the scan moves on.
class Window {
 public:
  Window(Drive& drive, uint64_t base, uint64_t end_page) : drive_(drive), base_(base), end_page_(end_page) {}

  // Pages [page, page + count) in memory, or nullptr when they cannot be read.
  const std::byte* at(uint64_t page, uint64_t count) {
    if (page < from_ || page + count > from_ + have_) {
      const uint64_t want = std::min(std::max(count, kScanBytes / kPageBytes), end_page_ - page);
      if (memory_ == nullptr || memory_->bytes() < want * kPageBytes) memory_ = std::make_unique<Pages>(want);
      from_ = page;
      have_ = want;
      if (transfer_now(drive_, IoKind::read, base_ + page * kPageBytes, memory_->data(), want * kPageBytes) != 0) {
        have_ = 0;
        // Part of it may be readable: the least that was asked for is tried alone.
        if (transfer_now(drive_, IoKind::read, base_ + page * kPageBytes, memory_->data(), count * kPageBytes) != 0)
          return nullptr;
        have_ = count;
      }
    }
    return memory_->data() + (page - from_) * kPageBytes;
  }

 private:
  Drive& drive_;
  uint64_t base_, end_page_;
  uint64_t from_ = 0, have_ = 0;
  std::unique_ptr<Pages> memory_;
};

Error describe_superblock(const Drive& drive, const std::string& why) {
  return Error{0, drive.info().path + " " + why};
}

void note_oldest(FoundSegment& found) {
  for (const format::SummaryEntry& entry : found.entries) {
    uint64_t& oldest = found.segment.oldest_sequence;
    oldest = oldest == 0 ? entry.sequence : std::min(oldest, entry.sequence);
  }
}

// What the segment is, by its header; or, once that is lost, by its footer.
Segment identity(const format::SegmentHeader& header) {
  Segment segment;
  segment.state = SegmentState::sealed;
  segment.generation = header.generation;
  segment.nonce = header.nonce;
  segment.first_sequence = segment.last_sequence = header.first_sequence;
  return segment;
}

Segment identity(const format::Footer& footer) {
  Segment segment;
  segment.state = SegmentState::sealed;
  segment.generation = footer.generation;
  segment.nonce = footer.nonce;
  segment.first_sequence = segment.last_sequence = footer.first_sequence;
  return segment;
}

// A segment that says nothing of itself: free, unless it could not be read.
FoundSegment nameless(const SegmentProbe& probe) {
  FoundSegment found;
  found.unreadable = probe.header_failed();
  found.segment.state = found.unreadable ? SegmentState::sealed : SegmentState::free;
  return found;
}

// A footer that may stand in for a header that is lost.
const format::Footer* spare_identity(const format::Superblock& superblock, const SegmentProbe& probe) {
  const auto* page = probe.footer();
  if (page == nullptr || !page->intact(format::kFooterMagic) || page->body.version != format::kVersion) return nullptr;
  const format::Footer& footer = page->body;
  return footer.drive == superblock.drive && footer.index == probe.index() && footer.generation > 0 &&
                 footer.generation <= format::kNumberMost && footer.first_sequence <= format::kNumberMost
             ? &footer
             : nullptr;
}

FoundSegment understand(Drive& drive, const format::Superblock& superblock, const SegmentProbe& probe,
                        const Segment& segment) {
  FoundSegment found;
  found.segment = segment;
  if (load_summary(drive, superblock, probe, found.segment, found)) {
    note_oldest(found);
    return found;
  }
  found.entries.clear();
  found.scanned = true;
  Collector collector(found);
  scan_segment(drive, superblock, probe.index(), found.segment, superblock.segment_bytes / kPageBytes, collector);
  if (found.entries.empty() && !found.unreadable) found.segment.state = SegmentState::free;
  note_oldest(found);
  return found;
}

}  // namespace

std::string uuid_text(const format::Uuid& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.size(); ++i) {
    char digits[4];
    std::snprintf(digits, sizeof(digits), i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
    text += digits;
  }
  return text;
}

bool header_is_good(const Page<format::SegmentHeader>& page, const format::Superblock& superblock, uint64_t index) {
  return page.intact(format::kSegmentMagic) && page.body.version == format::kVersion &&
         page.body.drive == superblock.drive && page.body.index == index && page.body.generation > 0 &&
         page.body.generation <= format::kNumberMost && page.body.first_sequence <= format::kNumberMost;
}

bool record_belongs(const Page<format::RecordHeader>& page, uint64_t index, const Segment& segment, uint64_t at_page) {
  const format::RecordHeader& header = page.body;
  // The cheap comparisons first: a scan asks this of every page.
  if (header.magic != format::kRecordMagic || header.nonce != segment.nonce || header.generation != segment.generation)
    return false;
  if (header.segment != index || header.page != at_page || header.version != format::kVersion) return false;
  if (!page.intact(format::kRecordMagic)) return false;
  return header.length > 0 && header.length <= kBlockBytesMost && header.chunk_count <= format::kChunksMost &&
         header.sequence <= format::kNumberMost && header.chunk_shift < 32 &&
         header.chunk_count == ((header.length - 1) >> header.chunk_shift) + 1;
}

bool payload_is_good(const format::RecordHeader& header, ConstByteSpan payload) {
  for (uint32_t i = 0; i < header.chunk_count; ++i) {
    const uint64_t from = uint64_t{i} << header.chunk_shift;
    const uint64_t count = std::min<uint64_t>(uint64_t{1} << header.chunk_shift, header.length - from);
    if (crc32c(payload.subspan(from, count)) != header.chunk_crcs[i]) return false;
  }
  return true;
}

void scan_segment(Drive& drive, const format::Superblock& superblock, uint32_t index, const Segment& segment,
                  uint64_t end_page, RecordVisitor& visitor) {
  Window window(drive, superblock.first_segment_offset + index * superblock.segment_bytes, end_page);
  uint64_t page = 1;
  while (page < end_page) {
    const std::byte* memory = window.at(page, 1);
    if (memory == nullptr) {
      visitor.unreadable(page++, 1);
      continue;
    }
    const auto& record = *reinterpret_cast<const Page<format::RecordHeader>*>(memory);
    const bool ours = record_belongs(record, index, segment, page);
    const uint64_t pages = ours ? format::record_pages(record.body.length) : 0;
    if (!ours || page + pages > end_page) {
      visitor.hole(page++, 1);
      continue;
    }
    const auto header = std::make_unique<format::RecordHeader>(record.body);  // the window may move
    const std::byte* whole = window.at(page, pages);
    if (whole == nullptr) {
      visitor.unreadable(page, pages);
      ++page;
      continue;
    }
    const ConstByteSpan payload(whole + kPageBytes, header->length);
    const bool good = payload_is_good(*header, payload);
    visitor.record(*header, good, payload);
    // Behind a damaged payload nothing says that its length was meant: look at every page.
    page += good ? pages : 1;
  }
}

Result<format::Superblock> read_superblock(Drive& drive) {
  if (drive.info().bytes < format::kFirstSegmentOffset + format::kSegmentsLeast * format::kSegmentBytesLeast) {
    return describe_superblock(drive, "is too small for a Cairn store");
  }
  Pages memory(1);
  bool any_ours = false, contradictory = false;
  int error = 0;
  for (const uint64_t offset : format::kSuperblockOffsets) {
    const int code = transfer_now(drive, IoKind::read, offset, memory.data(), kPageBytes);
    if (code != 0) {
      error = code;
      continue;
    }
    const auto& page = *reinterpret_cast<const Page<format::Superblock>*>(memory.data());
    any_ours |= page.body.magic == format::kSuperblockMagic;
    if (!page.intact(format::kSuperblockMagic)) continue;
    const format::Superblock& found = page.body;
    if (found.reader_version > format::kVersion) {
      return describe_superblock(drive, "was written by a newer Cairn (format " + std::to_string(found.version) +
                                            ", this one reads up to " + std::to_string(format::kVersion) +
                                            "); upgrade cairn-dpu");
    }
    if (found.total_bytes > drive.info().bytes) {
      return describe_superblock(drive, "is smaller than when it was formatted (" + std::to_string(drive.info().bytes) +
                                            " bytes, was " + std::to_string(found.total_bytes) +
                                            "); it is truncated or another drive");
    }
    const bool sound = found.segment_bytes >= format::kSegmentBytesLeast &&
                       found.segment_bytes <= format::kSegmentBytesMost && std::has_single_bit(found.segment_bytes) &&
                       found.segment_count >= format::kSegmentsLeast && found.segment_count < format::kSegmentsMost &&
                       found.first_segment_offset == format::kFirstSegmentOffset &&
                       found.total_bytes > found.first_segment_offset &&
                       found.segment_count <= (found.total_bytes - found.first_segment_offset) / found.segment_bytes;
    if (sound) return found;
    contradictory = true;
  }
  if (error != 0) return Error::from_errno(error, "cannot read the superblock of " + drive.info().path);
  if (contradictory)
    return describe_superblock(drive,
                               "has a superblock whose numbers contradict each other; restore it or format it anew");
  if (any_ours)
    return describe_superblock(
        drive,
        "has a damaged superblock in both copies; `cairn-dpu format --drive PATH --yes --overwrite` makes it empty");
  return describe_superblock(
      drive, "holds no Cairn store; to format it: cairn-dpu format --drive " + drive.info().path + " --yes");
}

Result<Unit> write_superblock(Drive& drive, const format::Superblock& superblock) {
  Pages memory(1);
  auto* page = new (memory.data()) Page<format::Superblock>{};
  page->body = superblock;
  page->seal();
  for (const uint64_t offset : format::kSuperblockOffsets) {
    const int code = transfer_now(drive, IoKind::write, offset, memory.data(), kPageBytes);
    if (code != 0) return Error::from_errno(code, "cannot write the superblock of " + drive.info().path);
  }
  const int code = transfer_now(drive, IoKind::flush, 0, nullptr, 0);
  if (code != 0) return Error::from_errno(code, "cannot flush " + drive.info().path);
  return Unit{};
}

bool repair_superblock(Drive& drive, const format::Superblock& superblock) {
  Pages good(1), memory(1);
  auto* page = new (good.data()) Page<format::Superblock>{};
  page->body = superblock;
  page->seal();
  bool repaired = true;
  for (const uint64_t offset : format::kSuperblockOffsets) {
    const int code = transfer_now(drive, IoKind::read, offset, memory.data(), kPageBytes);
    if (code == 0 && std::memcmp(memory.data(), good.data(), kPageBytes) == 0) continue;
    repaired &= transfer_now(drive, IoKind::write, offset, good.data(), kPageBytes) == 0;
  }
  return repaired;
}

Result<bool> is_blank(Drive& drive) {
  const uint64_t bytes = std::min<uint64_t>(drive.info().bytes, format::kFirstSegmentOffset);
  Pages memory(std::max<uint64_t>(format::pages_of(bytes), 1));
  if (bytes == 0) return true;
  const int code = transfer_now(drive, IoKind::read, 0, memory.data(), round_down(bytes, drive.info().lba_bytes));
  if (code != 0) return Error::from_errno(code, "cannot read " + drive.info().path);
  return std::all_of(memory.data(), memory.data() + memory.bytes(),
                     [](std::byte byte) { return byte == std::byte{0}; });
}

namespace {

void account(FoundDrive& found, const FoundSegment& one) {
  found.next_generation = std::max(found.next_generation, one.segment.generation + 1);
  found.last_sequence = std::max({found.last_sequence, one.segment.first_sequence, one.segment.last_sequence});
  if (one.unreadable) ++found.unreadable;
  if (one.segment.state == SegmentState::sealed) ++(one.scanned ? found.scanned : found.sealed);
}

// Segments whose header is damaged and whose footer is not. They may hold tombstones, without which deleted blocks
// would come back. But the footer may be of an earlier use that ended: then the blocks it lists may have been deleted
// by tombstones that are gone. As segments are used again in the order of their generations, that cannot be while no
// segment is more than one round younger.
void read_headless(Drive& drive, const format::Superblock& superblock, const std::vector<uint32_t>& headless,
                   FoundDrive& found, const SegmentTaker& take) {
  const uint64_t youngest = found.next_generation - 1;
  for (const uint32_t index : headless) {
    const SegmentProbe probe(drive, superblock, index);
    while (!probe.done()) drive.wait(1000);
    const format::Footer* footer = spare_identity(superblock, probe);
    const bool current = footer != nullptr && footer->generation + superblock.segment_count >= youngest;
    FoundSegment one = current ? understand(drive, superblock, probe, identity(*footer)) : nameless(probe);
    account(found, one);
    take(index, one);
  }
}

}  // namespace

FoundDrive read_segments(Drive& drive, const format::Superblock& superblock, const SegmentTaker& take) {
  FoundDrive found;
  const auto count = static_cast<uint32_t>(superblock.segment_count);
  std::vector<uint32_t> headless;
  std::vector<std::unique_ptr<SegmentProbe>> probes;
  for (uint32_t next = 0, handled = 0; handled < count;) {
    while (next < count && probes.size() < kReadsMost)
      probes.push_back(std::make_unique<SegmentProbe>(drive, superblock, next++));
    drive.wait(1000);
    for (size_t i = 0; i < probes.size();) {
      if (!probes[i]->done()) {
        ++i;
        continue;
      }
      const auto probe = std::move(probes[i]);
      probes.erase(probes.begin() + static_cast<long>(i));
      ++handled;
      const bool good = !probe->header_failed() && header_is_good(probe->header(), superblock, probe->index());
      if (!good && spare_identity(superblock, *probe) != nullptr) {
        headless.push_back(probe->index());
        continue;
      }
      FoundSegment one =
          good ? understand(drive, superblock, *probe, identity(probe->header().body)) : nameless(*probe);
      account(found, one);
      take(probe->index(), one);
    }
  }
  read_headless(drive, superblock, headless, found, take);
  return found;
}

}  // namespace cairn
