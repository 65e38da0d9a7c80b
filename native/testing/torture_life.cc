// A short life of the real store on a real file, for whoever makes system calls fail under it
// (tests/reliability/syscall_sites.py): what is promised is said on stdout in the moment in which it is.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/pattern.h"
#include "base/shortage.h"
#include "store/store.h"
#include "testing/torture.h"

namespace cairn {

namespace {

constexpr uint64_t kFileBytes = 65 * kMiB;
constexpr uint64_t kSlabBytes = 16 * kMiB;
constexpr int kSleepMs = 10;
constexpr uint32_t kRefusalMsMost = 200;
enum Ending { kWell = 0, kViolated = 1, kCannot = 3 };

struct LifeBlock {
  std::string_view name;
  uint64_t bytes;
};
constexpr std::array kBlocks = {LifeBlock{"byte", 1}, LifeBlock{"page", 4096}, LifeBlock{"chunks", 70'000},
                                LifeBlock{"fleeting", 3000}, LifeBlock{"striped", 5 * kMiB}};
constexpr LifeBlock kAfterwards = {"afterwards", 9000};
constexpr std::string_view kDeleted = "fleeting";
constexpr std::string_view kRanged = "striped";

BlockId id_of(const LifeBlock& block) {
  BlockId id;
  std::memcpy(id.key.bytes.data(), block.name.data(), std::min(block.name.size(), id.key.bytes.size()));
  return id;
}

std::vector<std::byte> content_of(const LifeBlock& block) {
  std::vector<std::byte> content(block.bytes);
  fill_pattern(content, block.bytes);
  return content;
}

// Past stdio, so that every word is out before the next system call.
void say(std::string line) {
  line += "\n";
  if (write(STDOUT_FILENO, line.data(), line.size()) != static_cast<ssize_t>(line.size())) _exit(kCannot);
}

int end(Ending ending, const std::string& sentence) {
  std::fprintf(stderr, "%s\n", sentence.c_str());
  return ending;
}

class LifePut final : public PutOp {
 public:
  LifePut(Store& store, const LifeBlock& block) : store_(store), content_(content_of(block)) {
    id = id_of(block);
    length = block.bytes;
  }
  void ready() override {
    std::vector<iovec> parts;
    buffer.slice(0, length, parts);
    const std::byte* from = content_.data();
    for (const iovec& part : parts) {
      std::memcpy(part.iov_base, from, part.iov_len);
      from += part.iov_len;
    }
    store_.commit(*this);
  }
  void done(Status status) override {
    ended = true;
    result = status;
  }
  bool ended = false;
  Status result = Status::ok;

 private:
  Store& store_;
  std::vector<std::byte> content_;
};

class LifeGet final : public GetOp {
 public:
  explicit LifeGet(const LifeBlock& block) : content_(content_of(block)) { id = id_of(block); }
  void done(Status status) override {
    ended = true;
    result = status;
  }
  bool right() const {
    std::vector<iovec> parts;
    buffer.slice(buffer_offset, length, parts);
    const std::byte* expected = content_.data() + offset;
    for (const iovec& part : parts) {
      if (std::memcmp(part.iov_base, expected, part.iov_len) != 0) return false;
      expected += part.iov_len;
    }
    return expected <= content_.data() + content_.size();
  }
  bool ended = false;
  Status result = Status::ok;

 private:
  std::vector<std::byte> content_;
};

class LifeDelete final : public DeleteOp {
 public:
  void done() override { ended = true; }
  bool ended = false;
};

// The store, from its file to its last word. Each step is kWell, or has said why not.
class Life {
 public:
  Life(std::string path, uint64_t bytes) : path_(std::move(path)), bytes_(bytes) {}

  int open() {
    auto slab = Slab::create(kSlabBytes);
    if (!slab) return end(kCannot, slab.error().message);
    slab_ = slab.take();
    const auto formatted = is_formatted(path_, drive_options());
    if (!formatted) return end(kCannot, formatted.error().message);
    if (!formatted.value()) {
      if (const auto made = format(); !made) return end(kCannot, made.error().message);
    }
    auto drive = open_drive(path_, drive_options());
    if (!drive) return end(kCannot, drive.error().message);
    std::vector<std::unique_ptr<Drive>> drives;
    drives.push_back(drive.take());
    auto store = Store::open(std::move(drives), *slab_, system_clock(), {});
    if (!store) return end(kCannot, store.error().message);
    store_ = store.take();
    return kWell;
  }

  int put(const LifeBlock& block) {
    LifePut op(*store_, block);
    store_->begin_put(op);
    run_until(op.ended);
    if (op.result != Status::ok) return cannot("put", block, op.result);
    say("kept " + std::string(block.name));
    return kWell;
  }

  int get(const LifeBlock& block, uint64_t offset = 0, uint64_t length = 0) {
    LifeGet op(block);
    op.offset = offset;
    op.length = length;
    store_->get(op);
    run_until(op.ended);
    const bool lost = op.result == Status::not_found || op.result == Status::corrupt;
    if (lost && serving()) return end(kViolated, "the block " + std::string(block.name) + " is lost");
    if (op.result != Status::ok) return cannot("get", block, op.result);
    const uint64_t wanted = length != 0 ? length : block.bytes - offset;
    if (op.length == wanted && op.right()) return kWell;
    return end(kViolated, "wrong bytes were served for the block " + std::string(block.name));
  }

  int remove(const LifeBlock& block) {
    LifeDelete op;
    op.ids = {id_of(block)};
    say("deleting " + std::string(block.name));
    store_->remove(op);
    run_until(op.ended);
    if (op.statuses.at(0) != Status::ok) return cannot("delete", block, op.statuses[0]);
    say("deleted " + std::string(block.name));
    return kWell;
  }

  bool exists(const LifeBlock& block) { return store_->exists(id_of(block)); }
  void close() { store_->close(); }

 private:
  Result<Unit> format() {
    DriveOptions options = drive_options();
    options.create = true;
    options.create_bytes = bytes_;
    const auto drive = open_drive(path_, options);
    if (!drive) return drive.error();
    return format_drive(*drive.value(), {}, system_clock());
  }

  static DriveOptions drive_options() {
    DriveOptions options;
    options.refusal_ms_most = kRefusalMsMost;
    return options;
  }

  // As a reactor does: a turn, then sleep until a drive has something.
  void run_until(const bool& ended) {
    for (store_->poll(); !ended; store_->poll()) {
      std::vector<pollfd> events;
      for (const int event : store_->event_fds()) events.push_back({event, POLLIN, 0});
      ::poll(events.data(), events.size(), kSleepMs);
      uint64_t count = 0;
      for (const pollfd& event : events) (void)!::read(event.fd, &count, sizeof(count));
    }
  }

  bool serving() const { return store_->stats().drives.at(0).state == "serving"; }

  int cannot(const char* what, const LifeBlock& block, Status status) {
    const DriveStats drive = store_->stats().drives.at(0);
    return end(kCannot, std::string("cannot ") + what + " the block " + std::string(block.name) + ": " + path_ +
                            " is " + drive.state + (drive.reason.empty() ? "" : ": " + drive.reason) + "; " +
                            std::string(status_row(status).sentence));
  }

  std::string path_;
  uint64_t bytes_;
  std::unique_ptr<Slab> slab_;
  std::unique_ptr<Store> store_;
};

int live(Life& life) {
  if (const int ending = life.open(); ending != kWell) return ending;
  for (const LifeBlock& block : kBlocks) {
    if (const int ending = life.put(block); ending != kWell) return ending;
  }
  for (const LifeBlock& block : kBlocks) {
    if (const int ending = life.get(block); ending != kWell) return ending;
    if (block.name != kDeleted) continue;
    if (const int ending = life.remove(block); ending != kWell) return ending;
    if (life.exists(block)) return end(kViolated, "the block " + std::string(block.name) + " was deleted and is there");
  }
  for (const LifeBlock& block : kBlocks) {
    if (block.name != kRanged) continue;
    if (const int ending = life.get(block, block.bytes / 3, block.bytes / 2); ending != kWell) return ending;
  }
  life.close();
  return kWell;
}

// What was promised: the lines of an earlier life's stdout.
std::map<std::string, std::string> read_promises() {
  std::map<std::string, std::string> promises;
  std::string word, name;
  while (std::cin >> word) {
    if (word == "kept" || word == "deleting" || word == "deleted") {
      std::cin >> name;
      promises[name] = word;
    }
  }
  return promises;
}

int check(Life& life) {
  std::map<std::string, std::string> promises = read_promises();
  if (const int ending = life.open(); ending != kWell) return ending;
  for (const LifeBlock& block : kBlocks) {
    const std::string promise = promises[std::string(block.name)];
    const bool there = life.exists(block);
    if (promise == "kept" && !there) return end(kViolated, "the block " + std::string(block.name) + " is lost");
    if (promise == "deleted" && there)
      return end(kViolated, "the block " + std::string(block.name) + " was deleted and is back");
    if (!there) continue;
    if (const int ending = life.get(block); ending != kWell) return ending;
  }
  if (const int ending = life.put(kAfterwards); ending != kWell) return ending;
  if (const int ending = life.get(kAfterwards); ending != kWell) return ending;
  life.close();
  return kWell;
}

}  // namespace

int torture_life(int count, char** words) {
  std::string path;
  uint64_t bytes = kFileBytes;
  bool checks = false, known = true;
  for (int i = 2; i < count; ++i) {
    const std::string word = words[i];
    if (word == "--check") {
      checks = true;
    } else if (word == "--file" && i + 1 < count) {
      path = words[++i];
    } else if (word == "--size" && i + 1 < count) {
      bytes = std::strtoull(words[++i], nullptr, 10);
    } else {
      known = false;
    }
  }
  if (!known || path.empty()) return -1;
  end_when_out_of_memory(kCannot);
  say("begin");
  Life life(path, bytes);
  return checks ? check(life) : live(life);
}

}  // namespace cairn
