// cairn-fence-races: calls that are given up at any moment, and memory that must be quiet from then on.
//   cairn-fence-races URL [--races N] [--seed N] [--bytes N]
// One thread gets and puts blocks of up to N bytes (1 MiB) in memory that the client registered, and cancels each call
// after a random time; half of them have a deadline of a millisecond besides. As soon as a call has returned its memory
// is filled with a canary of its own. It is looked at again when 63 other calls have returned, and at the end. Of a put
// that was given up the block is absent or exact: it is got later and compared. So a store is met once with each seed.
// A get of a block that was evicted is no race: it is counted as missed, the block is put again, and another call takes
// its place. Prints one JSON object; ends with 1 when a byte came late or is wrong.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/entropy.h"
#include "base/json.h"
#include "base/pattern.h"
#include "client/client.h"

namespace {

using namespace cairn;

constexpr size_t kSlots = 64;
constexpr size_t kBlocks = 32;

struct Options {
  std::string url;
  uint64_t races = 100'000;
  uint64_t seed = 1;
  uint64_t bytes = 1 * kMiB;
};

struct Counts {
  uint64_t races = 0, ended = 0, cancelled = 0, timeouts = 0, missed = 0, failed = 0, late_writes = 0, wrong_blocks = 0,
           sessions = 0;
};

class Races {
 public:
  explicit Races(const Options& options) : options_(options), random_(options.seed) {
    auto connected = Client::connect(options.url, ClientOptions{});
    if (auto* failure = std::get_if<ConnectFailure>(&connected)) {
      std::fprintf(stderr, "cannot connect to %s: %s\n", options.url.c_str(), failure->reason.c_str());
      std::exit(1);
    }
    client_ = std::move(std::get<std::unique_ptr<Client>>(connected));
    memory_ = client_->alloc_region((kSlots + 1) * options.bytes).take()->base();
    for (size_t slot = 0; slot < kSlots; ++slot) fill(slot);
    for (size_t block = 0; block < kBlocks; ++block) put_block(block);
  }

  Counts run() {
    while (counts_.races < options_.races) race(calls_++ % kSlots);
    for (size_t slot = 0; slot < kSlots; ++slot) look(slot);
    counts_.sessions = client_->info().reconnects + 1;
    return counts_;
  }

 private:
  std::byte* at(size_t slot) const { return memory_ + slot * options_.bytes; }
  // Another seed's blocks are others: they have other lengths.
  Key named(char kind, uint64_t number) const {
    Key key{};
    key.bytes[0] = static_cast<uint8_t>(kind);
    const auto seed = static_cast<uint32_t>(options_.seed);
    std::memcpy(key.bytes.data() + 4, &seed, sizeof(seed));
    std::memcpy(key.bytes.data() + 8, &number, sizeof(number));
    return key;
  }

  // What the gets are of.
  void put_block(uint64_t number) {
    fill_pattern({at(kSlots), options_.bytes}, number);
    (void)run(FrameType::put, named('b', number), kSlots, options_.bytes);
  }

  void fill(size_t slot) { std::memset(at(slot), static_cast<int>(0x80 | slot), options_.bytes); }
  void look(size_t slot) {
    const auto canary = static_cast<std::byte>(0x80 | slot);
    const std::byte* bytes = at(slot);
    if (!std::all_of(bytes, bytes + options_.bytes, [canary](std::byte one) { return one == canary; }))
      ++counts_.late_writes;
  }

  std::shared_ptr<Operation> begin(FrameType type, const Key& key, size_t slot, uint64_t bytes, uint32_t deadline_ms) {
    auto operation = std::make_shared<Operation>();
    operation->type = type;
    operation->durability = Durability::relaxed;
    operation->deadline_ms = deadline_ms;
    operation->keys = {key};
    operation->parts = {{at(slot), bytes}};
    operation->part_first = {0, 1};
    client_->submit(operation);
    return operation;
  }

  Status run(FrameType type, const Key& key, size_t slot, uint64_t bytes) {
    const auto operation = begin(type, key, slot, bytes, 0);
    while (!client_->wait(*operation, 1000)) {
    }
    return operation->statuses[0];
  }

  void race(size_t slot) {
    look(slot);
    const uint64_t bytes = 1 + random_() % options_.bytes;
    const bool put = random_() % 4 == 0;
    const uint64_t number = put ? calls_ : random_() % kBlocks;
    if (put) fill_pattern({at(slot), bytes}, number);
    const auto operation = begin(put ? FrameType::put : FrameType::get, named(put ? 'p' : 'b', number), slot,
                                 put ? bytes : options_.bytes, random_() % 2 == 0 ? 1 : 0);
    // Some are given up before a byte moved, most in the middle of it, and some are done.
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 600));
    bool done = false;
    for (uint64_t looks = random_() % 4; looks > 0 && !done; --looks) done = client_->wait(*operation, 1);
    if (!done) client_->cancel(*operation);
    count(operation->statuses[0]);
    fill(slot);
    if (put) compare(number, bytes);
    if (!put && operation->statuses[0] == Status::not_found) put_block(number);
  }

  void count(Status status) {
    if (status == Status::not_found) {
      ++counts_.missed;
      return;
    }
    ++counts_.races;
    if (status == Status::ok || status == Status::exists) {
      ++counts_.ended;
    } else if (status == Status::cancelled) {
      ++counts_.cancelled;
    } else if (status == Status::timeout) {
      ++counts_.timeouts;
    } else {
      ++counts_.failed;
    }
  }

  // One put in sixteen.
  void compare(uint64_t number, uint64_t bytes) {
    if (random_() % 16 != 0) return;
    const Status status = run(FrameType::get, named('p', number), kSlots, bytes);
    if (status == Status::ok && check_pattern({at(kSlots), bytes}, number) >= 0) ++counts_.wrong_blocks;
  }

  const Options options_;
  std::mt19937_64 random_;
  std::unique_ptr<Client> client_;
  std::byte* memory_ = nullptr;
  uint64_t calls_ = 0;
  Counts counts_;
};

bool parse(int count, char** words, Options& options) {
  if (count < 2 || words[1][0] == '-' || count % 2 != 0) return false;
  options.url = words[1];
  for (int i = 2; i + 1 < count; i += 2) {
    const std::string name = words[i];
    const uint64_t number = std::strtoull(words[i + 1], nullptr, 10);
    if (number == 0) return false;
    if (name == "--races") {
      options.races = number;
    } else if (name == "--seed") {
      options.seed = number;
    } else if (name == "--bytes") {
      options.bytes = number;
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int count, char** words) {
  Options options;
  if (!parse(count, words, options)) {
    std::fprintf(stderr, "usage: cairn-fence-races URL [--races N] [--seed N] [--bytes N]\n");
    return 2;
  }
  const Counts counts = Races(options).run();
  JsonWriter json;
  json.begin_object().number("races", counts.races).number("ended", counts.ended).number("cancelled", counts.cancelled);
  json.number("timeouts", counts.timeouts).number("missed", counts.missed).number("failed", counts.failed);
  json.number("sessions", counts.sessions);
  json.number("late_writes", counts.late_writes).number("wrong_blocks", counts.wrong_blocks);
  std::printf("%s\n", json.end_object().take().c_str());
  return counts.late_writes + counts.wrong_blocks == 0 ? 0 : 1;
}
