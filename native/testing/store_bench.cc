// cairn-store-bench: how fast the store alone moves blocks to and from drives, to be compared with fio on the same
// ones.
//   cairn-store-bench put|get DRIVE… [--bytes N] [--depth N] [--count N] [--warm N] [--slab N]
// What the service does for a durable put whose bytes have come, and for a get until its bytes could be sent: records,
// checksums, index, flushes, the read cache; no client and no network. N blocks (512) of N bytes (2 MiB), so many in
// flight (8), after N others (160) that are not timed, through a slab of N bytes (256 MiB). `put` formats the drives
// and destroys what they hold; `get` gets what a `put` of the same numbers left, in an order of its own, and fails when
// one was in memory. Prints one JSON object; the processor's time, the kernel's included, is that of the whole process.
#include <poll.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/json.h"
#include "store/store.h"
#include "testing/measuring.h"

namespace {

using namespace cairn;

struct Wishes {
  bool put = false;
  std::vector<std::string> paths;
  uint64_t bytes = 2 << 20, depth = 8, count = 512, warm = 160, slab = 256 << 20;
};

class Bench {
 public:
  explicit Bench(const Wishes& wishes) : wishes_(wishes), slab_(must(Slab::create(wishes.slab))) {
    std::vector<std::unique_ptr<Drive>> drives;
    for (const std::string& path : wishes.paths) {
      drives.push_back(must(open_drive(path, DriveOptions{})));
      (void)drives.back()->register_memory(slab_->memory());  // where it cannot be, requests are slower
      if (wishes.put) must(format_drive(*drives.back(), FormatOptions{.overwrite = true}, system_clock()));
    }
    store_ = must(Store::open(std::move(drives), *slab_, system_clock(), StoreOptions{}));
  }
  ~Bench() { store_->close(); }

  // Seconds for the blocks of these numbers.
  double move(const std::vector<uint64_t>& numbers) {
    const uint64_t began = system_clock().now_ns();
    for (const uint64_t number : numbers) {
      while (open_ == wishes_.depth) turn();
      ++open_;
      wishes_.put ? put(number) : get(number);
    }
    while (open_ > 0) turn();
    return static_cast<double>(system_clock().now_ns() - began) / 1e9;
  }

  uint64_t from_memory() const { return store_->stats().hits_memory; }

 private:
  struct Get final : GetOp {
    explicit Get(Bench& bench) : bench_(bench) {}
    void done(Status status) override { bench_.ended(status, buffer); }
    Bench& bench_;
  };
  struct Put final : PutOp {
    explicit Put(Bench& bench) : bench_(bench) {}
    void ready() override { bench_.store_->commit(*this); }  // whatever lies there is the block
    void done(Status status) override { bench_.ended(status, buffer); }
    Bench& bench_;
  };

  static BlockId id_of(uint64_t number) {
    BlockId id{};
    std::memcpy(id.key.bytes.data(), &number, sizeof(number));
    return id;
  }
  void get(uint64_t number) {
    gets_.push_back(std::make_unique<Get>(*this));
    gets_.back()->id = id_of(number);
    store_->get(*gets_.back());
  }
  void put(uint64_t number) {
    puts_.push_back(std::make_unique<Put>(*this));
    puts_.back()->id = id_of(number);
    puts_.back()->length = wishes_.bytes;
    store_->begin_put(*puts_.back());
  }
  void ended(Status status, Buffer& buffer) {
    CAIRN_CHECK(status == Status::ok, "the bench does not get what it put, or cannot put");
    buffer = {};
    --open_;
  }

  // As the service's reactor: it sleeps until a drive has something to say.
  void turn() {
    const uint64_t before = open_;
    store_->poll();
    if (open_ < before || store_->behind()) return;
    std::vector<pollfd> waits;
    for (const int fd : store_->event_fds()) waits.push_back({.fd = fd, .events = POLLIN, .revents = 0});
    (void)::poll(waits.data(), waits.size(), store_->hungry() ? 0 : 100);
  }

  const Wishes& wishes_;
  std::unique_ptr<Slab> slab_;
  std::unique_ptr<Store> store_;
  std::vector<std::unique_ptr<Get>> gets_;
  std::vector<std::unique_ptr<Put>> puts_;
  uint64_t open_ = 0;
};

std::vector<uint64_t> numbers(uint64_t first, uint64_t count) {
  std::vector<uint64_t> all(count);
  std::iota(all.begin(), all.end(), first);
  return all;
}

int measure(const Wishes& wishes) {
  Bench bench(wishes);
  bench.move(numbers(1, wishes.warm));
  std::vector<uint64_t> timed = numbers(1 + wishes.warm, wishes.count);
  if (!wishes.put) std::shuffle(timed.begin(), timed.end(), std::mt19937_64(1));
  const double before = processor_seconds();
  const double seconds = bench.move(timed);
  const double spent = processor_seconds() - before;
  if (bench.from_memory() > 0) {
    std::fprintf(stderr, "blocks that should have been read from a drive were in memory: more --count, less --slab\n");
    return 1;
  }
  JsonWriter json;
  json.begin_object().text("what", wishes.put ? "put" : "get").number("bytes", wishes.bytes);
  json.number("depth", wishes.depth).number("count", wishes.count);
  json.real("bytes_per_second", static_cast<double>(wishes.count * wishes.bytes) / seconds);
  json.real("processor_us_per_block", spent * 1e6 / static_cast<double>(wishes.count));
  std::printf("%s\n", json.end_object().take().c_str());
  return 0;
}

bool parse(int count, char** words, Wishes& wishes) {
  const std::string what = count > 2 ? words[1] : "";
  wishes.put = what == "put";
  if (what != "put" && what != "get") return false;
  int at = 2;
  for (; at < count && words[at][0] != '-'; ++at) wishes.paths.emplace_back(words[at]);
  for (; at + 1 < count; at += 2) {
    const std::string name = words[at];
    const uint64_t number = std::strtoull(words[at + 1], nullptr, 10);
    if (number == 0) return false;
    if (name == "--bytes") {
      wishes.bytes = number;
    } else if (name == "--depth") {
      wishes.depth = number;
    } else if (name == "--count") {
      wishes.count = number;
    } else if (name == "--warm") {
      wishes.warm = number;
    } else if (name == "--slab") {
      wishes.slab = number;
    } else {
      return false;
    }
  }
  return at == count && !wishes.paths.empty();
}

}  // namespace

int main(int count, char** words) {
  Wishes wishes;
  if (!parse(count, words, wishes)) {
    std::fprintf(stderr,
                 "usage: cairn-store-bench put|get DRIVE… [--bytes N] [--depth N] [--count N] [--warm N] [--slab N]\n");
    return 2;
  }
  return measure(wishes);
}
