// cairn-wear-bench: what the store writes to a drive for what is put to it, over the requests of a trace.
//   cairn-wear-bench --drive-bytes N [--block-kib N] < REQUESTS
// Each line of REQUESTS is one request: the numbers of its blocks, in order. The leading blocks that are there are got,
// the others are put, one request after the other, as `cairn replay` does. Blocks are of N KiB (1024), all zero, on one
// drive that lives in memory and keeps only pages that are not zero: headers, summaries, what is no payload. It takes
// everything else, too: what is counted is what the store counts as written to its drive. Prints one JSON object.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "store/format.h"
#include "store/store.h"

namespace {

using namespace cairn;

constexpr uint64_t kPageBytes = format::kPageBytes;

class ZerolessDrive final : public Drive {
 public:
  explicit ZerolessDrive(uint64_t bytes) : Drive(describe(bytes)), pages_(bytes / kPageBytes) {}

  void poll() override {
    // What completions submit waits for the next poll, as on a real drive.
    for (size_t count = queue_.size(); count > 0; --count) {
      IoRequest* request = queue_.front();
      queue_.pop_front();
      carry_out(*request);
      request->completed(0);
    }
  }
  void wait(int) override { poll(); }
  int event_fd() const override { return -1; }
  uint32_t in_flight() const override { return static_cast<uint32_t>(queue_.size()); }

 private:
  using Page = std::array<std::byte, kPageBytes>;

  static DriveInfo describe(uint64_t bytes) {
    DriveInfo info;
    info.path = info.kind = "memory";
    info.bytes = bytes / kPageBytes * kPageBytes;
    info.lba_bytes = kPageBytes;
    return info;
  }
  void start(IoRequest& request) override { queue_.push_back(&request); }

  void carry_out(const IoRequest& request) {
    if (request.kind != IoKind::read && request.kind != IoKind::write) return;
    uint64_t page = request.offset / kPageBytes;
    for (uint32_t i = 0; i < request.vector_count; ++i) {
      auto* at = static_cast<std::byte*>(request.vectors[i].iov_base);
      for (uint64_t left = request.vectors[i].iov_len; left > 0; left -= kPageBytes, at += kPageBytes) {
        request.kind == IoKind::read ? read(page++, at) : write(page++, at);
      }
    }
  }
  void read(uint64_t page, std::byte* to) const {
    const std::byte* from = pages_[page] == nullptr ? zero_.data() : pages_[page]->data();
    std::memcpy(to, from, kPageBytes);
  }
  void write(uint64_t page, const std::byte* from) {
    if (std::memcmp(from, zero_.data(), kPageBytes) == 0) {
      pages_[page].reset();
      return;
    }
    if (pages_[page] == nullptr) pages_[page] = std::make_unique<Page>();
    std::memcpy(pages_[page]->data(), from, kPageBytes);
  }

  const Page zero_{};
  std::vector<std::unique_ptr<Page>> pages_;  // nullptr: zero
  std::deque<IoRequest*> queue_;
};

struct Counts {
  uint64_t requests = 0, references = 0, delivered = 0, put = 0, existed = 0, failed = 0;
};

// One request's calls; `open` says how many have not ended.
struct Calls {
  class Get final : public GetOp {
   public:
    void done(Status status) override {
      buffer = {};
      calls->counts.delivered += status == Status::ok ? 1 : 0;
      calls->counts.failed += status != Status::ok && status != Status::not_found ? 1 : 0;
      --calls->open;
    }
    Calls* calls = nullptr;
  };
  class Put final : public PutOp {
   public:
    // What lies in the slab is zero: nothing else was ever read into it or put.
    void ready() override { calls->store.commit(*this); }
    void done(Status status) override {
      buffer = {};
      calls->counts.put += status == Status::ok ? 1 : 0;
      calls->counts.existed += status == Status::exists ? 1 : 0;
      calls->counts.failed += status != Status::ok && status != Status::exists ? 1 : 0;
      --calls->open;
    }
    Calls* calls = nullptr;
  };

  void finish() {
    while (open > 0) store.poll();
  }

  Store& store;
  Counts& counts;
  uint64_t open = 0;
};

BlockId id_of(uint64_t number) {
  BlockId id;
  std::memcpy(id.key.bytes.data(), &number, sizeof(number));
  return id;
}

void replay(Store& store, const std::vector<uint64_t>& blocks, uint64_t block_bytes, Counts& counts) {
  Calls calls{store, counts};
  size_t leading = 0;
  while (leading < blocks.size() && store.exists(id_of(blocks[leading]))) ++leading;
  std::deque<Calls::Get> gets(leading);
  std::deque<Calls::Put> puts(blocks.size() - leading);
  calls.open = blocks.size();
  for (size_t i = 0; i < leading; ++i) {
    gets[i].id = id_of(blocks[i]);
    gets[i].calls = &calls;
    store.get(gets[i]);
  }
  for (size_t i = leading; i < blocks.size(); ++i) {
    Calls::Put& put = puts[i - leading];
    put.id = id_of(blocks[i]);
    put.length = block_bytes;
    put.calls = &calls;
    store.begin_put(put);
  }
  calls.finish();
  ++counts.requests;
  counts.references += blocks.size();
}

// Written to the drive and put to it since an earlier look.
struct Wear {
  uint64_t written = 0, put = 0;
  Wear operator-(const Wear& before) const { return {written - before.written, put - before.put}; }
  double amplification() const { return put == 0 ? 1 : static_cast<double>(written) / static_cast<double>(put); }
};

Wear wear_of(const StoreStats& stats) {
  return {stats.drives[0].written_bytes, stats.put_bytes};
}

void print(const Counts& counts, const StoreStats& stats, const Wear& when_full) {
  const DriveStats& drive = stats.drives[0];
  JsonWriter json;
  json.begin_object().number("requests", counts.requests).number("references", counts.references);
  json.number("delivered", counts.delivered).number("put", counts.put).number("existed", counts.existed);
  json.number("failed", counts.failed).number("put_bytes", stats.put_bytes);
  json.number("written_bytes", drive.written_bytes).number("moved_bytes", drive.moved_bytes);
  json.number("segment_bytes", drive.segment_bytes).number("evicted_segments", drive.evicted_segments);
  json.real("write_amplification", wear_of(stats).amplification());
  json.real("write_amplification_when_full", (wear_of(stats) - when_full).amplification());
  std::printf("%s\n", json.end_object().take().c_str());
}

}  // namespace

int main(int count, char** words) {
  uint64_t drive_bytes = 0, block_kib = 1024;
  for (int i = 1; i + 1 < count; i += 2) {
    if (std::strcmp(words[i], "--drive-bytes") == 0) drive_bytes = std::strtoull(words[i + 1], nullptr, 10);
    if (std::strcmp(words[i], "--block-kib") == 0) block_kib = std::strtoull(words[i + 1], nullptr, 10);
  }
  const uint64_t block_bytes = block_kib * kKiB;
  if (count % 2 == 0 || drive_bytes < 64 * block_bytes || block_bytes == 0 || block_bytes > format::kPartBytes) {
    std::fprintf(stderr, "usage: cairn-wear-bench --drive-bytes N [--block-kib 1-4096] < REQUESTS\n");
    return 2;
  }
  auto drive = std::make_unique<ZerolessDrive>(drive_bytes);
  if (const auto formatted = format_drive(*drive, FormatOptions{}, system_clock()); !formatted) {
    std::fprintf(stderr, "%s\n", formatted.error().message.c_str());
    return 1;
  }
  auto slab = Slab::create(64 * kMiB).take();
  std::vector<std::unique_ptr<Drive>> drives;
  drives.push_back(std::move(drive));
  auto store = Store::open(std::move(drives), *slab, system_clock(), StoreOptions{}).take();
  Counts counts;
  Wear when_full;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream numbers(line);
    std::vector<uint64_t> blocks;
    for (uint64_t number = 0; numbers >> number;) blocks.push_back(number);
    replay(*store, blocks, block_bytes, counts);
    if (when_full.put > 0) continue;
    const StoreStats stats = store->stats();
    if (stats.drives[0].evicted_segments > 0) when_full = wear_of(stats);
  }
  print(counts, store->stats(), when_full);
  store->close();
  return counts.failed == 0 ? 0 : 1;
}
