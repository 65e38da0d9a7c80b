// Any bytes as what a drive holds, before there is a store: superblocks, segment headers, footers, summaries, record
// headers, payloads and tombstones, each under a good seal or a rotten one, and pages that cannot be read. A small
// image is patched as the input says; then all that reads a drive at a start and for `cairn-dpu check` reads it.
#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "store/loader.h"
#include "store/log.h"

using namespace cairn;
using format::kPageBytes;

namespace {

// Two segments, so small that an input is read in some microseconds: one sealed, one not.
constexpr uint64_t kSegments = 2, kSegmentPages = 8;
static_assert(std::has_single_bit(kSegmentPages), "as in a superblock that is believed");
constexpr uint64_t kSuperblocks = 2;
constexpr uint64_t kPages = kSuperblocks + kSegments * kSegmentPages;

struct alignas(kPageBytes) Image {
  std::array<std::array<std::byte, kPageBytes>, kPages> pages{};
  template <class T>
  format::Page<T>& page(uint64_t number) {
    return *reinterpret_cast<format::Page<T>*>(pages[number].data());
  }
};

constexpr uint64_t page_of(uint64_t segment, uint64_t page) {
  return kSuperblocks + segment * kSegmentPages + page;
}

format::Superblock small_superblock() {
  format::Superblock superblock;
  superblock.drive[0] = 9;
  superblock.segment_bytes = kSegmentPages * kPageBytes;
  superblock.segment_count = kSegments;
  superblock.total_bytes = format::kFirstSegmentOffset + kSegments * superblock.segment_bytes;
  return superblock;
}

// --- the image -------------------------------------------------------------------------------------------

// The checksums that a record's header has of its payload, and its own.
void seal_record(Image& image, uint64_t number) {
  auto& page = image.page<format::RecordHeader>(number);
  format::RecordHeader& header = page.body;
  const uint64_t room = (kPages - 1 - number) * kPageBytes;
  const uint64_t chunk = uint64_t{1} << (header.chunk_shift % 32);
  for (uint32_t i = 0; i < std::min(header.chunk_count, format::kChunksMost); ++i) {
    const uint64_t from = std::min(i * chunk, room);
    const uint64_t end = std::min({from + chunk, header.length, room});
    if (end > from) header.chunk_crcs[i] = crc32c({image.pages[number + 1].data() + from, end - from});
  }
  page.seal();
}

// … and a footer of the entries that lie before it.
void seal_summary(Image& image, uint64_t number) {
  auto& page = image.page<format::Footer>(number);
  const uint64_t bytes = page.body.entry_count * sizeof(format::SummaryEntry);
  const uint64_t before = format::summary_pages(page.body.entry_count) - 1;
  if (before <= number && bytes <= number * kPageBytes)
    page.body.summary_crc = crc32c({image.pages[number - before].data(), bytes});
  page.seal();
}

void put_header(Image& image, uint64_t segment, Segment& identity) {
  identity.generation = segment + 1;
  identity.nonce = 0x1234 + segment;
  identity.first_sequence = 1 + segment * 10;
  identity.last_sequence = identity.first_sequence + 1;
  identity.next_page = 5;
  format::SegmentHeader header;
  header.drive = small_superblock().drive;
  header.index = segment;
  header.generation = identity.generation;
  header.nonce = identity.nonce;
  header.first_sequence = identity.first_sequence;
  for (const uint64_t page : {page_of(segment, 0), page_of(segment, kSegmentPages - 1)}) {
    image.page<format::SegmentHeader>(page).body = header;
    image.page<format::SegmentHeader>(page).seal();
  }
}

// A block on page 1, and two tombstones on page 3; again on page 5 where no summary needs the room.
void put_records(Image& image, uint64_t segment, Segment& identity) {
  for (uint32_t page = 1; page <= (segment == 0 ? 3 : 5); page += 2) {
    format::RecordHeader header;
    header.page = page;
    header.segment = segment;
    header.generation = identity.generation;
    header.nonce = identity.nonce;
    header.sequence = identity.first_sequence + (page > 1 ? 1 : 0);
    header.type = page == 1 ? format::RecordType::block : format::RecordType::tombstones;
    header.length = header.block_bytes = page == 1 ? 3000 : 2 * sizeof(format::Tombstone);
    header.part = page == 5 ? 1 : 0;
    header.part_count = page == 1 ? 1 : format::kTombstoneCopies;
    header.chunk_count = 1;
    std::array<format::Tombstone, 2> dead;
    dead[1].kind = format::Buried::scope;
    for (format::Tombstone& one : dead) one.sequence = header.sequence;
    if (page > 1) std::memcpy(image.pages[page_of(segment, page) + 1].data(), dead.data(), sizeof(dead));
    image.page<format::RecordHeader>(page_of(segment, page)).body = header;
    seal_record(image, page_of(segment, page));
    if (page == 1) identity.entries.push_back(format::entry_of(header));
    if (page == 3) {
      for (const format::Tombstone& one : dead) identity.entries.push_back(format::entry_of(header, one));
    }
  }
}

const Image& template_image() {
  static const Image whole = [] {
    Image image;
    format::Superblock large = small_superblock();
    large.segment_bytes = format::kSegmentBytesLeast;
    large.segment_count = format::kSegmentsLeast;
    large.total_bytes = format::kFirstSegmentOffset + large.segment_count * large.segment_bytes;
    for (uint64_t i = 0; i < kSuperblocks; ++i) {
      image.page<format::Superblock>(i).body = large;
      image.page<format::Superblock>(i).seal();
    }
    for (uint64_t segment = 0; segment < kSegments; ++segment) {
      Segment identity;
      put_header(image, segment, identity);
      put_records(image, segment, identity);
      if (segment > 0) continue;
      const auto summary = build_summary(small_superblock(), 0, identity, identity.entries);
      const uint64_t pages = summary->bytes() / kPageBytes;
      std::memcpy(image.pages[page_of(0, kSegmentPages - pages)].data(), summary->data(), summary->bytes());
    }
    return image;
  }();
  return whole;
}

// The image as a drive that answers at the next poll. What lies elsewhere is zero.
class ImageDrive final : public Drive {
 public:
  explicit ImageDrive(const Image& image) : Drive(describe()), image_(image) {}
  std::array<bool, kPages> unreadable{};

  void poll() override {
    for (std::vector<IoRequest*> all = std::exchange(queue_, {}); IoRequest * request : all)
      request->completed(answer(*request));
  }
  void wait(int) override { poll(); }
  int event_fd() const override { return -1; }
  uint32_t in_flight() const override { return static_cast<uint32_t>(queue_.size()); }

 private:
  static DriveInfo describe() {
    DriveInfo info;
    info.path = "image";
    info.bytes = format::kFirstSegmentOffset + format::kSegmentsLeast * format::kSegmentBytesLeast;
    return info;
  }
  static uint64_t number_of(uint64_t offset) {
    for (uint64_t i = 0; i < kSuperblocks; ++i) {
      if (offset == format::kSuperblockOffsets[i]) return i;
    }
    if (offset + kPageBytes == format::kFirstSegmentOffset) return kSuperblocks - 1;  // before the first segment
    if (offset < format::kFirstSegmentOffset) return kPages;
    return kSuperblocks + (offset - format::kFirstSegmentOffset) / kPageBytes;
  }
  void start(IoRequest& request) override { queue_.push_back(&request); }
  int answer(const IoRequest& request) {
    auto* to = static_cast<std::byte*>(request.vectors[0].iov_base);
    for (uint64_t at = 0; at < request.bytes; at += kPageBytes) {
      const uint64_t number = number_of(request.offset + at);
      if (number < kPages && unreadable[number]) return EIO;
      if (number < kPages) {
        std::memcpy(to + at, image_.pages[number].data(), kPageBytes);
      } else {
        std::memset(to + at, 0, kPageBytes);
      }
    }
    return 0;
  }
  const Image& image_;
  std::vector<IoRequest*> queue_;
};

// --- the input -------------------------------------------------------------------------------------------

// [what: 1][page: 1][offset: 2][length: 1] bytes …, again and again. `what` says under which seal, or none, and whether
// the page cannot be read.
void patch(Image& image, ImageDrive& drive, std::array<bool, kPages>& patched, ConstByteSpan input) {
  while (input.size() >= 5) {
    const auto what = load<uint8_t>(input.data());
    const uint64_t number = load<uint8_t>(input.data() + 1) % kPages;
    const uint64_t offset = load<uint16_t>(input.data() + 2) % kPageBytes;
    const size_t length = std::min<size_t>({load<uint8_t>(input.data() + 4), input.size() - 5, kPageBytes - offset});
    if (length > 0) std::memcpy(image.pages[number].data() + offset, input.data() + 5, length);
    input = input.subspan(5 + length);
    patched[number] = true;
    drive.unreadable[number] = drive.unreadable[number] || (what & 8) != 0;
    if ((what & 7) == 1) image.page<format::Superblock>(number).seal();
    if ((what & 7) == 2) image.page<format::SegmentHeader>(number).seal();
    if ((what & 7) == 3) image.page<format::RecordHeader>(number).seal();
    if ((what & 7) == 4) image.page<format::Footer>(number).seal();
    if ((what & 7) == 5) seal_record(image, number);
    if ((what & 7) == 6) seal_summary(image, number);
  }
}

// --- what must hold --------------------------------------------------------------------------------------

class Visited final : public RecordVisitor {
 public:
  void record(const format::RecordHeader& header, bool payload_good, ConstByteSpan payload) override {
    CAIRN_CHECK(payload.size() == header.length, "a record's payload of another length");
    CAIRN_CHECK(header.page + format::record_pages(header.length) <= kSegmentPages, "a record beyond its segment");
    if (payload_good) (void)tombstones_in(header, payload);
  }
  void hole(uint64_t first, uint64_t count) override { inside(first, count); }
  void unreadable(uint64_t first, uint64_t count) override { inside(first, count); }

 private:
  static void inside(uint64_t first, uint64_t count) {
    CAIRN_CHECK(first > 0 && first + count <= kSegmentPages, "a hole beyond its segment");
  }
};

void check_found(const FoundSegment& found) {
  const Segment& segment = found.segment;
  CAIRN_CHECK(found.index < kSegments, "a segment that there is not");
  CAIRN_CHECK(segment.state == SegmentState::sealed || segment.state == SegmentState::free, "found in use");
  CAIRN_CHECK(segment.generation <= format::kNumberMost, "a generation beyond counting");
  CAIRN_CHECK(segment.last_sequence <= format::kNumberMost, "a sequence beyond counting");
  CAIRN_CHECK(segment.next_page <= kSegmentPages, "records beyond their segment");
  if (segment.summarised)
    CAIRN_CHECK(format::summary_pages(found.entries.size()) < kSegmentPages, "a summary beyond its segment");
  if (!found.scanned) return;
  for (const format::SummaryEntry& entry : found.entries) {
    CAIRN_CHECK(entry.page > 0 && entry.page < kSegmentPages, "an entry beyond its segment");
    CAIRN_CHECK(entry.sequence <= format::kNumberMost, "an entry's sequence beyond counting");
    if (entry.type == format::RecordType::block) CAIRN_CHECK(entry.part < format::kPartsMost, "a part beyond the last");
  }
}

// Of a segment with a summary: the others were scanned already.
void scan_as_check_does(Drive& drive, const format::Superblock& superblock, const FoundSegment& found) {
  if (found.segment.state != SegmentState::sealed || found.segment.generation == 0) return;
  Visited visited;
  SegmentScan scan(drive, superblock, found.index, found.segment, found.segment.next_page, visited);
  scan.start();
  while (!scan.done()) drive.wait(0);
}

// One segment, by what its header says; nothing if that is not its header.
void read_segment(Image& image, Drive& drive, const format::Superblock& superblock, uint32_t index) {
  const auto& page = image.page<format::SegmentHeader>(page_of(index, 0));
  FoundSegment known;
  known.index = index;
  known.segment.state = SegmentState::sealed;
  known.segment.generation = page.body.generation;
  known.segment.nonce = page.body.nonce;
  known.segment.first_sequence = known.segment.last_sequence = page.body.first_sequence;
  if (freed_is_good(page, superblock, index) || !header_is_good(page, superblock, index)) return;
  SegmentRead read(drive, superblock, std::move(known));
  while (!read.done()) {
    drive.poll();
    read.poll();
  }
  check_found(read.found());
  if (!read.found().scanned) scan_as_check_does(drive, superblock, read.found());
}

// The whole drive, as a start reads it.
void load_drive(Drive& drive, const format::Superblock& superblock) {
  uint64_t seen = 0;
  const FoundDrive found = load_now(drive, superblock, 0, [&](FoundSegment& one) {
    check_found(one);
    CAIRN_CHECK((seen & 1U << one.index) == 0, "a segment was found twice");
    seen |= 1U << one.index;
  });
  CAIRN_CHECK(found.next_generation > 0 && found.next_generation <= format::kNumberMost + 1, "counted too far");
  CAIRN_CHECK(found.last_sequence <= format::kNumberMost, "a last sequence beyond counting");
}

void read_superblocks(Drive& drive) {
  const auto read = read_superblock(drive);
  if (!read.ok()) return;
  const format::Superblock& found = read.value();
  CAIRN_CHECK(found.segment_count >= format::kSegmentsLeast, "too few segments were believed");
  CAIRN_CHECK(found.first_segment_offset + found.segment_count * found.segment_bytes <= drive.info().bytes,
              "segments beyond the drive were believed");
}

}  // namespace

// What one input gave back is soon used again, while it is still in the processor's cache: half as fast without.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() {
  return "quarantine_size_mb=8";
}

// The first byte says what is read, the rest is patched in before.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Image image = template_image();
  static std::array<bool, kPages> patched{};
  static const format::Superblock superblock = small_superblock();
  if (size == 0) return 0;
  for (uint64_t i = 0; i < kPages; ++i) {
    if (std::exchange(patched[i], false)) image.pages[i] = template_image().pages[i];
  }
  ImageDrive drive(image);
  patch(image, drive, patched, {reinterpret_cast<const std::byte*>(data) + 1, size - 1});
  switch (data[0] % 4) {
    case 0:
      load_drive(drive, superblock);
      break;
    case 1:
      read_superblocks(drive);
      break;
    default:
      read_segment(image, drive, superblock, data[0] % 4 - 2);
  }
  return 0;
}
