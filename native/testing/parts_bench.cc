// cairn-parts-bench: what the parts of the data path cost on one core, as input of tools/scale.py.
//   cairn-parts-bench [--seconds N]
// Each part runs for N seconds (1) on this thread, and what is counted is the thread's own processor time, so that
// others on the machine disturb little; the memory bus is shared with them all the same. "cold": over a gibibyte, more
// than a cache holds; "warm": the same bytes again and again. The store runs over a drive in memory, whose own time
// (copying) is measured and taken off: what is left is the store's, CRC32C of the payload included. Nothing here
// touches a device: what the kernel, an RDMA device or a network takes comes on top. Prints one JSON object: GB/s are
// 10^9 bytes a second, the others are calls a second.
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/json.h"
#include "base/slab.h"
#include "base/streaming_copy.h"
#include "store/index.h"
#include "store/store.h"
#include "testing/measuring.h"
#include "wire/frame.h"

namespace {

using namespace cairn;

constexpr uint64_t kColdBytes = kGiB;
constexpr uint64_t kDriveBytes = kGiB;
constexpr uint64_t kStoredBytes = kDriveBytes / 2;
constexpr uint64_t kSlabBytes = 64 * kMiB;
constexpr uint64_t kPartBytes = 2 * kMiB;
constexpr uint64_t kEntries = 10'000'000;
constexpr uint32_t kBatchItems = 64;
constexpr uint64_t kDepthMost = 8;

// The compiler may not leave out what made it.
template <class T>
void keep(const T& value) {
  asm volatile("" : : "r"(&value) : "memory");
}

uint64_t thread_ns() {
  timespec spent{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent);
  return static_cast<uint64_t>(spent.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(spent.tv_nsec);
}

class Memory {
 public:
  explicit Memory(uint64_t bytes) : bytes_(bytes) {
    void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CAIRN_CHECK(base != MAP_FAILED, "there is too little memory for the bench");
    madvise(base, bytes, MADV_HUGEPAGE);
    base_ = static_cast<std::byte*>(base);
    std::memset(base_, 0x5A, bytes);
  }
  ~Memory() { munmap(base_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  std::byte* at(uint64_t offset) const { return base_ + offset; }

 private:
  std::byte* base_ = nullptr;
  uint64_t bytes_;
};

// How often a second `step(turn)` can be done.
template <class Step>
double rate(double seconds, uint64_t steps_a_look, const Step& step) {
  const uint64_t began = thread_ns(), until = began + static_cast<uint64_t>(seconds * 1e9);
  uint64_t turns = 0, now = began;
  while (now < until) {
    for (uint64_t i = 0; i < steps_a_look; ++i) step(turns++);
    now = thread_ns();
  }
  return static_cast<double>(turns) * 1e9 / static_cast<double>(now - began);
}

double gb_per_second(double steps, uint64_t bytes) {
  return steps * static_cast<double>(bytes) / 1e9;
}

void measure_bytes(double seconds, JsonWriter& json) {
  const Memory source(kColdBytes), target(kColdBytes);
  uint32_t crc = 0;
  const auto checksum = [&](uint64_t bytes, uint64_t footprint) {
    const double steps =
        rate(seconds, 4, [&](uint64_t turn) { crc ^= crc32c({source.at(turn * bytes % footprint), bytes}); });
    keep(crc);
    return gb_per_second(steps, bytes);
  };
  json.real("crc32c_64kib_warm_gb_s", checksum(64 * kKiB, 64 * kKiB));
  json.real("crc32c_2mib_warm_gb_s", checksum(kPartBytes, kPartBytes));
  json.real("crc32c_64kib_cold_gb_s", checksum(64 * kKiB, kColdBytes));
  json.real("crc32c_2mib_cold_gb_s", checksum(kPartBytes, kColdBytes));
  const double copies = rate(seconds, 4, [&](uint64_t turn) {
    const uint64_t at = turn * kPartBytes % kColdBytes;
    copy_streaming(target.at(at), source.at(at), kPartBytes);
  });
  json.real("copy_2mib_cold_gb_s", gb_per_second(copies, kPartBytes));
}

Key key_of(uint64_t number) {
  Key key{};
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  return key;
}

void measure_index(double seconds, JsonWriter& json) {
  Index index([](const Index::Entry&) { return true; }, [](const Index::Entry&) {});
  const uint64_t began = thread_ns();
  for (uint64_t i = 0; i < kEntries; ++i) {
    Index::Entry entry;
    entry.key = key_of(i);
    entry.used = 1;
    index.insert(entry);
  }
  const double took_ns = static_cast<double>(thread_ns() - began);
  json.real("index_insert_per_second", static_cast<double>(kEntries) * 1e9 / took_ns);
  std::mt19937_64 random(1);
  uint64_t found = 0, asked = 0;
  const auto look_up = [&](uint64_t first) {
    return rate(seconds, 1000, [&](uint64_t) {
      found += index.find({key_of(first + random() % kEntries), 0, 0}) != nullptr ? 1 : 0;
      ++asked;
    });
  };
  json.real("index_find_per_second", look_up(0));
  CAIRN_CHECK(found == asked, "the index lost an entry");
  json.real("index_miss_per_second", look_up(kEntries));
  CAIRN_CHECK(found < asked, "the index found what was never there");
  json.number("index_entries", index.size()).number("index_bytes", index.memory_bytes());
}

// A batch of gets as a client over RDMA sends it: an item and an extent each.
std::vector<std::byte> get_batch() {
  FrameBuilder frame(FrameType::get, 1);
  frame.header().item_count = kBatchItems;
  BatchBody fixed;
  fixed.extent_count = kBatchItems;
  frame.append(fixed);
  for (uint32_t i = 0; i < kBatchItems; ++i) {
    ItemBody item;
    item.key = key_of(i);
    item.length = kPartBytes;
    item.extent_first = i;
    item.extent_count = 1;
    frame.append(item);
  }
  for (uint32_t i = 0; i < kBatchItems; ++i) frame.append(ExtentBody{i * kPartBytes, kPartBytes, 7, 0});
  return frame.finish();
}

void measure_wire(double seconds, JsonWriter& json) {
  const std::vector<std::byte> frame = get_batch();
  const auto header = load<FrameHeader>(frame.data());
  const ConstByteSpan body{frame.data() + kFrameHeaderBytes, frame.size() - kFrameHeaderBytes};
  const double batches = rate(seconds, 100, [&](uint64_t) {
    BatchView view;
    const bool good = check_header(header) == nullptr && check_body(header, body) == nullptr &&
                      decode_batch(header, body, view) == nullptr;
    CAIRN_CHECK(good, "the bench builds a bad frame");
    keep(view);
  });
  json.real("decode_items_per_second", batches * kBatchItems);
  const double answers = rate(seconds, 100, [&](uint64_t turn) {
    FrameBuilder answer(FrameType::results, turn);
    answer.header().item_count = kBatchItems;
    for (uint32_t i = 0; i < kBatchItems; ++i) answer.append(ResultBody{.index = i, .length = kPartBytes});
    keep(answer.finish());
  });
  json.real("answer_items_per_second", answers * kBatchItems);
}

void measure_slab(double seconds, JsonWriter& json) {
  const auto slab = must(Slab::create(kSlabBytes));
  std::deque<Buffer> held;
  json.real("slab_allocations_per_second", rate(seconds, 1000, [&](uint64_t) {
              held.push_back(slab->allocate(kPartBytes));
              if (held.size() > kDepthMost) held.pop_front();
            }));
}

// A drive that is memory, and says how long it copied.
class CopyingDrive final : public Drive {
 public:
  explicit CopyingDrive(const Memory& memory) : Drive(describe()), memory_(memory) {}

  void poll() override {
    const uint64_t began = thread_ns();
    done_.swap(queue_);
    for (const IoRequest* request : done_) carry_out(*request);
    busy_ns += thread_ns() - began;
    for (IoRequest* request : done_) request->completed(0);
    done_.clear();
  }
  void wait(int) override { poll(); }
  int event_fd() const override { return -1; }
  uint32_t in_flight() const override { return static_cast<uint32_t>(queue_.size()); }

  uint64_t busy_ns = 0;

 private:
  static DriveInfo describe() {
    DriveInfo info;
    info.path = info.kind = "memory";
    info.bytes = kDriveBytes;
    info.lba_bytes = 4096;
    return info;
  }
  void start(IoRequest& request) override { queue_.push_back(&request); }
  void carry_out(const IoRequest& request) const {
    if (request.kind != IoKind::read && request.kind != IoKind::write) return;
    std::byte* place = memory_.at(request.offset);
    for (uint32_t i = 0; i < request.vector_count; ++i) {
      const iovec& part = request.vectors[i];
      request.kind == IoKind::read ? std::memcpy(part.iov_base, place, part.iov_len)
                                   : std::memcpy(place, part.iov_base, part.iov_len);
      place += part.iov_len;
    }
  }

  const Memory& memory_;
  std::vector<IoRequest*> queue_, done_;
};

class StoreBench {
 public:
  StoreBench(const Memory& memory, uint64_t block_bytes) : block_bytes_(block_bytes) {
    std::memset(memory.at(0), 0, kDriveBytes);
    auto drive = std::make_unique<CopyingDrive>(memory);
    drive_ = drive.get();
    must(format_drive(*drive, FormatOptions{.overwrite = true}, system_clock()));
    std::vector<std::unique_ptr<Drive>> drives;
    drives.push_back(std::move(drive));
    store_ = must(Store::open(std::move(drives), *slab_, system_clock(), StoreOptions{}));
  }
  ~StoreBench() { store_->close(); }

  // Puts what the gets then ask for. The seconds of one put that are not the drive's.
  double put_seconds() {
    const uint64_t count = kStoredBytes / (block_bytes_ + kPageOfHeader);
    stored_ = count;
    return timed(count, [&](uint64_t number) {
      ++open_;
      puts_.push_back(std::make_unique<Put>(*this));
      puts_.back()->id.key = key_of(number);
      puts_.back()->length = block_bytes_;
      puts_.back()->durability = Durability::relaxed;
      store_->begin_put(*puts_.back());
    });
  }

  // Round and round, so that what is asked for left the read cache long ago.
  double get_seconds(double seconds) {
    const uint64_t turns = std::max<uint64_t>(stored_, 1);
    double spent = 0, calls = 0;
    do {
      spent += timed(turns, [&](uint64_t number) { ask(number); }) * static_cast<double>(turns);
      calls += static_cast<double>(turns);
    } while (spent < seconds);
    CAIRN_CHECK(from_memory_ * 20 < static_cast<uint64_t>(calls), "the read cache answers, and not the drive");
    return spent / calls;
  }

  // The same few again and again.
  double hit_seconds(double seconds) {
    const double calls = rate(seconds, 100, [&](uint64_t turn) {
      ask(turn % kDepthMost);
      finish(0);
    });
    return 1 / calls;
  }

 private:
  static constexpr uint64_t kPageOfHeader = 4096;
  struct Get final : GetOp {
    explicit Get(StoreBench& bench) : bench_(bench) {}
    void done(Status status) override {
      CAIRN_CHECK(status == Status::ok, "the bench does not get what it put");
      bench_.from_memory_ += from_memory ? 1 : 0;
      buffer = {};
      --bench_.open_;
    }
    StoreBench& bench_;
  };
  struct Put final : PutOp {
    explicit Put(StoreBench& bench) : bench_(bench) {}
    void ready() override { bench_.store_->commit(*this); }
    void done(Status status) override {
      CAIRN_CHECK(status == Status::ok, "the bench cannot put");
      buffer = {};
      --bench_.open_;
    }
    StoreBench& bench_;
  };

  void ask(uint64_t number) {
    ++open_;
    gets_.push_back(std::make_unique<Get>(*this));
    gets_.back()->id.key = key_of(number);
    store_->get(*gets_.back());
  }

  // Polls until no more than `most` calls are open; those that ended are dropped when none is.
  void finish(uint64_t most) {
    while (open_ > most) store_->poll();
    if (open_ > 0) return;
    gets_.clear();
    puts_.clear();
  }

  // The seconds of one of `count` calls, kDepthMost at a time, less those that the drive copied.
  template <class Call>
  double timed(uint64_t count, const Call& call) {
    const uint64_t busy = drive_->busy_ns, began = thread_ns();
    for (uint64_t number = 0; number < count; ++number) {
      call(number);
      if (open_ >= kDepthMost) finish(0);
    }
    finish(0);
    const uint64_t took = thread_ns() - began - (drive_->busy_ns - busy);
    return static_cast<double>(took) / 1e9 / static_cast<double>(count);
  }

  const uint64_t block_bytes_;
  std::unique_ptr<Slab> slab_ = must(Slab::create(kSlabBytes));
  CopyingDrive* drive_ = nullptr;
  std::unique_ptr<Store> store_;
  std::vector<std::unique_ptr<Get>> gets_;
  std::vector<std::unique_ptr<Put>> puts_;
  uint64_t open_ = 0, from_memory_ = 0, stored_ = 0;
};

void measure_store(double seconds, JsonWriter& json) {
  const Memory memory(kDriveBytes);
  for (const uint64_t block_bytes : {4 * kKiB, 64 * kKiB, 2 * kMiB}) {
    const std::string size = std::to_string(block_bytes / kKiB) + "kib";
    StoreBench bench(memory, block_bytes);
    json.real("store_put_" + size + "_us", bench.put_seconds() * 1e6);
    json.real("store_get_" + size + "_us", bench.get_seconds(seconds) * 1e6);
    json.real("store_hit_" + size + "_us", bench.hit_seconds(seconds) * 1e6);
  }
}

}  // namespace

int main(int count, char** words) {
  const bool timed = count == 3 && std::strcmp(words[1], "--seconds") == 0;
  const double seconds = timed ? std::strtod(words[2], nullptr) : 1;
  if ((count != 1 && !timed) || seconds <= 0) {
    std::fprintf(stderr, "usage: cairn-parts-bench [--seconds N]\n");
    return 2;
  }
  JsonWriter json;
  json.begin_object();
  measure_bytes(seconds, json);
  measure_index(seconds, json);
  measure_wire(seconds, json);
  measure_slab(seconds, json);
  measure_store(seconds, json);
  std::printf("%s\n", json.end_object().take().c_str());
  return 0;
}
