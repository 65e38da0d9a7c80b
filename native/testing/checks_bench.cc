// cairn-checks-bench: how much a service does, to tell what CAIRN_CHECK costs: a build with CAIRN_CHECKS=OFF runs the
// same beside it (tools/bench.py, group "checks").
//   cairn-checks-bench DRIVE [--seconds N]
// DRIVE is a file of at least 1 GiB that is formatted. The service runs here on a thread of its own, the client on
// another, over shm. For N seconds (1) each: exists of 1,000 keys a call; gets of 64 KiB blocks in DRAM, 16 a call;
// relaxed puts of fresh 4 KiB blocks, 64 a call, which the store writes to DRIVE. Prints one JSON object of items a
// second.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/entropy.h"
#include "base/json.h"
#include "client/client.h"
#include "server/server.h"
#include "testing/measuring.h"

namespace {

using namespace cairn;

constexpr uint64_t kSlabBytes = 256 * kMiB;
constexpr uint64_t kReadBytes = 64 * kKiB;
constexpr uint64_t kWrittenBytes = 4 * kKiB;
constexpr size_t kStored = 1000;
constexpr size_t kGetsACall = 16;
constexpr size_t kPutsACall = 64;

std::unique_ptr<Server> serve(const std::string& path, std::string& url) {
  must(format_drive(*must(open_drive(path, DriveOptions{})), FormatOptions{.overwrite = true}, system_clock()));
  ServerOptions options;
  options.drives.push_back(path);
  options.slab_bytes = kSlabBytes;
  options.store.wait_until_loaded = true;
  auto server = must(Server::open(options));
  url = must(server->listen("shm://" + path + ".sock"));
  server->start();
  return server;
}

class Bench {
 public:
  Bench(const std::string& url, double seconds) : seconds_(seconds), keys_(kStored) {
    auto connected = Client::connect(url, ClientOptions{});
    CAIRN_CHECK(connected.index() == 0, "the service here refuses a session");
    client_ = std::move(std::get<std::unique_ptr<Client>>(connected));
    memory_ = must(client_->alloc_region(kGetsACall * kReadBytes));
    for (Key& key : keys_) key = fresh_key();
    for (size_t at = 0; at < kStored; at += kPutsACall) call(put(keys_of(at, kPutsACall), 0, kReadBytes));
  }

  double exists() {
    return rate([&](size_t) {
      auto operation = asked(FrameType::exists);
      operation->keys = keys_;
      return operation;
    });
  }

  double get() {
    return rate([&](size_t turn) {
      auto operation = asked(FrameType::get);
      operation->keys = keys_of(turn * kGetsACall % kStored, kGetsACall);
      place(*operation, kReadBytes, kReadBytes);
      return operation;
    });
  }

  double put_fresh() {
    return rate([&](size_t) {
      std::vector<Key> keys(kPutsACall);
      for (Key& key : keys) key = fresh_key();
      return put(std::move(keys), kWrittenBytes, kWrittenBytes);
    });
  }

 private:
  Key fresh_key() {
    std::memcpy(next_.data(), &++count_, sizeof(count_));
    return {next_};
  }

  std::vector<Key> keys_of(size_t first, size_t most) const {
    const size_t count = std::min(most, kStored - first);
    return {keys_.begin() + static_cast<ptrdiff_t>(first), keys_.begin() + static_cast<ptrdiff_t>(first + count)};
  }

  std::shared_ptr<Operation> asked(FrameType type) const {
    auto operation = std::make_shared<Operation>();
    operation->type = type;
    return operation;
  }

  // Item i is `bytes` of the region, `stride` after the one before it; 0: all are the same memory.
  void place(Operation& operation, uint64_t stride, uint64_t bytes) const {
    operation.part_first.push_back(0);
    for (size_t i = 0; i < operation.keys.size(); ++i) {
      operation.parts.push_back({memory_->base() + i * stride, bytes});
      operation.part_first.push_back(static_cast<uint32_t>(operation.parts.size()));
    }
  }

  std::shared_ptr<Operation> put(std::vector<Key> keys, uint64_t stride, uint64_t bytes) const {
    auto operation = asked(FrameType::put);
    operation->durability = Durability::relaxed;
    operation->keys = std::move(keys);
    place(*operation, stride, bytes);
    return operation;
  }

  size_t call(const std::shared_ptr<Operation>& operation) {
    client_->submit(operation);
    while (!client_->wait(*operation, 1000)) {
    }
    for (const Status status : operation->statuses) CAIRN_CHECK(status == Status::ok, "the bench has a call refused");
    return operation->keys.size();
  }

  template <class Make>
  double rate(const Make& make) {
    const uint64_t began = system_clock().now_ns();
    const uint64_t until = began + static_cast<uint64_t>(seconds_ * 1e9);
    uint64_t items = 0, now = began;
    for (size_t turn = 0; now < until; ++turn, now = system_clock().now_ns()) items += call(make(turn));
    return static_cast<double>(items) * 1e9 / static_cast<double>(now - began);
  }

  const double seconds_;
  std::unique_ptr<Client> client_;
  MemoryRegion* memory_ = nullptr;
  std::vector<Key> keys_;
  std::array<uint8_t, 16> next_ = entropy<std::array<uint8_t, 16>>();
  uint64_t count_ = 0;
};

}  // namespace

int main(int count, char** words) {
  const bool timed = count == 4 && std::strcmp(words[2], "--seconds") == 0;
  const double seconds = timed ? std::strtod(words[3], nullptr) : 1;
  if ((count != 2 && !timed) || words[1][0] == '-' || seconds <= 0) {
    std::fprintf(stderr, "usage: cairn-checks-bench DRIVE [--seconds N]\n");
    return 2;
  }
  std::string url;
  const auto server = serve(words[1], url);
  JsonWriter json;
  {
    Bench bench(url, seconds);
    json.begin_object().real("exists_per_second", bench.exists()).real("get_per_second", bench.get());
    json.real("put_per_second", bench.put_fresh());
  }
  server->stop(1000);
  std::printf("%s\n", json.end_object().take().c_str());
  return 0;
}
