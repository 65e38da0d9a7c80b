// cairn-recovery-bench: how long a store takes from open to its first hit and to its whole index.
//   cairn-recovery-bench FILE [--tb N] [--block-mib N]
// Makes FILE a sparse drive of N TB (1) of which every segment holds a header and the summary of as many blocks of
// N MiB (4) as fit; no payload is written, so no block can be read, and the first hit is the first block that exists()
// finds. The page cache is dropped for the file before each run: five are made, the median is printed as one JSON
// object. The file is removed.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/entropy.h"
#include "base/json.h"
#include "store/log.h"
#include "store/recovery.h"
#include "store/store.h"

namespace {

using namespace cairn;

constexpr uint64_t kTb = 1'000'000'000'000;

struct Made {
  uint64_t blocks = 0;
  BlockId youngest;
};

BlockId id_of(uint64_t number) {
  BlockId id;
  uint64_t word = number * 0x9E3779B97F4A7C15ULL;
  std::memcpy(id.key.bytes.data(), &word, sizeof(word));
  std::memcpy(id.key.bytes.data() + 8, &number, sizeof(number));
  return id;
}

// Headers and summaries of every segment but the last, as the store would have left them.
Made fill(Drive& drive, uint64_t block_bytes) {
  const format::Superblock superblock = read_superblock(drive).take();
  Made made;
  const uint64_t pages = superblock.segment_bytes / format::kPageBytes;
  for (uint32_t index = 0; index + 1 < superblock.segment_count; ++index) {
    Pages memory(1);
    auto* page = new (memory.data()) format::Page<format::SegmentHeader>{};
    page->body.drive = superblock.drive;
    page->body.index = index;
    page->body.generation = index + 1;
    page->body.nonce = entropy<uint64_t>();
    page->body.first_sequence = made.blocks + 1;
    page->body.owner = 0;
    Segment segment;
    segment.generation = index + 1;
    segment.nonce = page->body.nonce;
    segment.owner = 0;
    segment.first_sequence = made.blocks + 1;
    std::vector<format::SummaryEntry> entries;
    uint64_t next_page = 1;
    while (next_page + format::record_pages(block_bytes) + format::summary_pages(entries.size() + 1) <= pages) {
      format::SummaryEntry entry;
      made.youngest = id_of(++made.blocks);
      entry.key = made.youngest.key;
      entry.type = format::RecordType::block;
      entry.length = block_bytes;
      entry.block_bytes = static_cast<uint32_t>(block_bytes);
      entry.sequence = made.blocks;
      entry.page = static_cast<uint32_t>(next_page);
      next_page += format::record_pages(block_bytes);
      entries.push_back(entry);
    }
    segment.last_sequence = made.blocks;
    page->seal();
    const uint64_t base = superblock.first_segment_offset + index * superblock.segment_bytes;
    const auto summary = build_summary(superblock, index, segment, entries);
    const int failed = transfer_now(drive, IoKind::write, base, memory.data(), memory.bytes()) |
                       transfer_now(drive, IoKind::write, base + superblock.segment_bytes - summary->bytes(),
                                    summary->data(), summary->bytes());
    CAIRN_CHECK(failed == 0, "the bench cannot write its drive");
  }
  return made;
}

struct Run {
  double first_hit_s = 0, whole_s = 0;
  uint64_t blocks = 0, index_bytes = 0;
};

Run run(const std::string& path, Slab& slab, const Made& made) {
  const int fd = ::open(path.c_str(), O_RDONLY);
  const bool dropped = fd >= 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0;
  CAIRN_CHECK(dropped, "the page cache keeps the bench's file");
  ::close(fd);
  const uint64_t began = system_clock().now_ns();
  const auto passed = [&] { return static_cast<double>(system_clock().now_ns() - began) / 1e9; };
  std::vector<std::unique_ptr<Drive>> drives;
  drives.push_back(open_drive(path, DriveOptions{}).take());
  StoreOptions options;
  options.wait_until_loaded = false;
  auto store = Store::open(std::move(drives), slab, system_clock(), options).take();
  Run result;
  while (!store->loaded()) {
    store->poll();
    if (result.first_hit_s == 0 && store->exists(made.youngest)) result.first_hit_s = passed();
  }
  result.whole_s = passed();
  const StoreStats stats = store->stats();
  result.blocks = stats.blocks;
  result.index_bytes = stats.index_bytes;
  return result;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int count, char** words) {
  double tb = 1;
  uint64_t block_mib = 4;
  for (int i = 2; i + 1 < count; i += 2) {
    if (std::strcmp(words[i], "--tb") == 0) tb = std::strtod(words[i + 1], nullptr);
    if (std::strcmp(words[i], "--block-mib") == 0) block_mib = std::strtoull(words[i + 1], nullptr, 10);
  }
  if (count < 2 || words[1][0] == '-' || tb <= 0 || block_mib == 0 || block_mib > 4) {
    std::fprintf(stderr, "usage: cairn-recovery-bench FILE [--tb N] [--block-mib 1-4]\n");
    return 2;
  }
  const std::string path = words[1];
  const auto bytes = static_cast<uint64_t>(tb * static_cast<double>(kTb));
  const int fd = ::open(path.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    std::perror(("cannot make a sparse file of that size at " + path).c_str());
    return 1;
  }
  ::close(fd);
  Made made;
  {
    auto drive = open_drive(path, DriveOptions{}).take();
    const auto formatted = format_drive(*drive, FormatOptions{}, system_clock());
    CAIRN_CHECK(formatted.ok(), "the bench cannot format its drive");
    made = fill(*drive, block_mib * kMiB);
  }
  auto slab = Slab::create(64 * kMiB).take();
  std::vector<double> first, whole;
  Run last;
  for (int i = 0; i < 5; ++i) {
    last = run(path, *slab, made);
    first.push_back(last.first_hit_s);
    whole.push_back(last.whole_s);
  }
  ::unlink(path.c_str());
  JsonWriter json;
  json.begin_object().real("tb", tb).number("blocks", last.blocks).number("blocks_written", made.blocks);
  json.real("first_hit_seconds", median(first)).real("whole_index_seconds", median(whole));
  json.real("whole_index_seconds_per_tb", median(whole) / tb);
  json.real("index_bytes_per_block",
            static_cast<double>(last.index_bytes) / static_cast<double>(std::max<uint64_t>(last.blocks, 1)));
  std::printf("%s\n", json.end_object().take().c_str());
  return last.blocks == made.blocks ? 0 : 1;
}
