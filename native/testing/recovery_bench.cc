// cairn-recovery-bench: how long a store takes from open to its first hit and to its whole index, and what it allocates
// for each block.
//   cairn-recovery-bench FILE [--tb N] [--block-mib N | --block-kib N] [--group-blocks N] [--runs N]
// Makes FILE a sparse drive of N TB (1) of which every segment holds a header and the summary of as many blocks of
// N MiB (4) as fit; no payload is written, so no block can be read, and the first hit is the first block that exists()
// finds. Every N blocks are a group (0: none is in one). The page cache is dropped for the file before each run: N (5)
// are made, the median is printed as one JSON object. The file is removed.
//
// allocated_bytes_per_block is what the allocator gave out, its own headers included, from before the store was opened
// until it was whole. The table grows by an eighth at a time, so that this depends on the number of blocks:
// allocated_bytes_per_block_most has the table at its worst over the last eighth of the blocks.
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/entropy.h"
#include "base/json.h"
#include "store/log.h"
#include "store/recovery.h"
#include "store/store.h"

namespace {

using namespace cairn;

constexpr uint64_t kTb = 1'000'000'000'000;

struct Options {
  double tb = 1;
  uint64_t block_bytes = 4 * kMiB;
  uint64_t group_blocks = 0;
  uint64_t runs = 5;
};

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
Made fill(Drive& drive, const Options& options) {
  const uint64_t block_bytes = options.block_bytes;
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
      if (options.group_blocks > 0) {
        entry.group = id_of(made.blocks / options.group_blocks + 1).key.bytes;
        entry.group_members = static_cast<uint16_t>(options.group_blocks);
      }
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
  uint64_t blocks = 0;
  double allocated_per_block = 0, allocated_per_block_most = 0;
};

// Of the whole process, in the heap and in maps of their own.
uint64_t allocated_bytes() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

double per_block(uint64_t bytes, uint64_t blocks) {
  return static_cast<double>(bytes) / static_cast<double>(std::max<uint64_t>(blocks, 1));
}

Run run(const std::string& path, Slab& slab, const Made& made) {
  const int fd = ::open(path.c_str(), O_RDONLY);
  const bool dropped = fd >= 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0;
  CAIRN_CHECK(dropped, "the page cache keeps the bench's file");
  ::close(fd);
  const uint64_t before = allocated_bytes();
  const uint64_t began = system_clock().now_ns();
  const auto passed = [&] { return static_cast<double>(system_clock().now_ns() - began) / 1e9; };
  std::vector<std::unique_ptr<Drive>> drives;
  drives.push_back(open_drive(path, DriveOptions{}).take());
  StoreOptions options;
  options.wait_until_loaded = false;
  auto store = Store::open(std::move(drives), slab, system_clock(), options).take();
  Run result;
  double table_most = 0;
  uint64_t looked_at = made.blocks - made.blocks / 8;  // blocks that are there when the table is looked at next
  while (!store->loaded()) {
    store->poll();
    if (result.first_hit_s == 0 && store->exists(made.youngest)) result.first_hit_s = passed();
    const StoreStats now = store->stats();
    if (now.blocks < looked_at) continue;
    table_most = std::max(table_most, per_block(now.index_bytes, now.blocks));
    looked_at = now.blocks + made.blocks / 256;
  }
  result.whole_s = passed();
  const StoreStats stats = store->stats();
  result.blocks = stats.blocks;
  result.allocated_per_block = per_block(allocated_bytes() - before, stats.blocks);
  const double table = per_block(stats.index_bytes, stats.blocks);
  result.allocated_per_block_most = result.allocated_per_block + std::max(table_most - table, 0.0);
  return result;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

bool parse(int count, char** words, Options& options) {
  if (count < 2 || words[1][0] == '-' || count % 2 != 0) return false;
  for (int i = 2; i + 1 < count; i += 2) {
    const uint64_t number = std::strtoull(words[i + 1], nullptr, 10);
    if (std::strcmp(words[i], "--tb") == 0) {
      options.tb = std::strtod(words[i + 1], nullptr);
    } else if (std::strcmp(words[i], "--block-mib") == 0) {
      options.block_bytes = number * kMiB;
    } else if (std::strcmp(words[i], "--block-kib") == 0) {
      options.block_bytes = number * kKiB;
    } else if (std::strcmp(words[i], "--group-blocks") == 0) {
      options.group_blocks = number;
    } else if (std::strcmp(words[i], "--runs") == 0) {
      options.runs = number;
    } else {
      return false;
    }
  }
  return options.tb > 0 && options.block_bytes > 0 && options.block_bytes <= format::kPartBytes && options.runs > 0 &&
         options.group_blocks <= kGroupMembersMost;
}

void print(const Options& options, const Made& made, const std::vector<double>& first, const std::vector<double>& whole,
           const Run& last) {
  JsonWriter json;
  json.begin_object().real("tb", options.tb).number("blocks", last.blocks).number("blocks_written", made.blocks);
  json.real("first_hit_seconds", median(first)).real("whole_index_seconds", median(whole));
  json.real("whole_index_seconds_per_tb", median(whole) / options.tb);
  json.real("allocated_bytes_per_block", last.allocated_per_block);
  json.real("allocated_bytes_per_block_most", last.allocated_per_block_most);
  std::printf("%s\n", json.end_object().take().c_str());
}

}  // namespace

int main(int count, char** words) {
  Options options;
  if (!parse(count, words, options)) {
    std::fprintf(stderr,
                 "usage: cairn-recovery-bench FILE [--tb N] [--block-mib 1-4 | --block-kib N] [--group-blocks N] "
                 "[--runs N]\n");
    return 2;
  }
  const std::string path = words[1];
  const auto bytes = static_cast<uint64_t>(options.tb * static_cast<double>(kTb));
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
    made = fill(*drive, options);
  }
  auto slab = Slab::create(64 * kMiB).take();
  std::vector<double> first, whole;
  Run last;
  for (uint64_t i = 0; i < options.runs; ++i) {
    last = run(path, *slab, made);
    first.push_back(last.first_hit_s);
    whole.push_back(last.whole_s);
  }
  ::unlink(path.c_str());
  print(options, made, first, whole, last);
  return last.blocks == made.blocks ? 0 : 1;
}
