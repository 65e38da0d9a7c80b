// cairn-connect-storm: clients that come and go.
//   cairn-connect-storm URL [--cycles N] [--kills N] [--idle N] [--seed N]
// N cycles (1000) of connect, one exists, disconnect, one after the other. Then N clients (0), each a process of its
// own that puts and gets blocks of 4 MiB until it is killed with SIGKILL after a random time within 30 ms; four live at
// once. Then N sessions (0) are opened and stay, idle, until a byte comes on stdin. Prints one JSON object (before the
// wait, if there is one); ends with 1 when a connection was refused.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
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
#include "base/json.h"
#include "client/client.h"

namespace {

using namespace cairn;

constexpr uint64_t kBlockBytes = 4 * kMiB;
constexpr size_t kLiveAtOnce = 4;

struct Options {
  std::string url;
  uint64_t cycles = 1000, kills = 0, idle = 0, seed = 1;
};

std::unique_ptr<Client> connect(const std::string& url) {
  auto connected = Client::connect(url, ClientOptions{});
  if (auto* client = std::get_if<std::unique_ptr<Client>>(&connected)) return std::move(*client);
  std::fprintf(stderr, "cannot connect to %s: %s\n", url.c_str(), std::get<ConnectFailure>(connected).reason.c_str());
  std::exit(1);
}

std::shared_ptr<Operation> asked(FrameType type, uint64_t number, std::byte* memory, uint64_t bytes) {
  auto operation = std::make_shared<Operation>();
  operation->type = type;
  operation->durability = Durability::relaxed;
  Key key{};
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  key.bytes.back() = 's';  // no other program's
  operation->keys = {key};
  if (!operation->moves_payload()) return operation;
  operation->parts = {{memory, bytes}};
  operation->part_first = {0, 1};
  return operation;
}

double cycles_per_second(const Options& options) {
  const uint64_t began = system_clock().now_ns();
  for (uint64_t i = 0; i < options.cycles; ++i) {
    const auto client = connect(options.url);
    const auto operation = asked(FrameType::exists, i, nullptr, 0);
    client->submit(operation);
    while (!client->wait(*operation, 1000)) {
    }
    if (operation->statuses[0] != Status::not_found) {
      std::fprintf(stderr, "cycle %llu: a service that was just met answers %s: %s\n",
                   static_cast<unsigned long long>(i), status_row(operation->statuses[0]).name.data(),
                   client->info().last_error.c_str());
      std::exit(1);
    }
  }
  return static_cast<double>(options.cycles) * 1e9 / static_cast<double>(system_clock().now_ns() - began);
}

// Ends only by being killed.
[[noreturn]] void live(const std::string& url, uint64_t seed) {
  const auto client = connect(url);
  std::byte* memory = client->alloc_region(2 * kBlockBytes).take()->base();
  for (uint64_t number = seed << 20;; ++number) {
    const auto put = asked(FrameType::put, number, memory, kBlockBytes);
    const auto get = asked(FrameType::get, number - 1, memory + kBlockBytes, kBlockBytes);
    client->submit(put);
    client->submit(get);
    while (!client->wait(*put, 1000) || !client->wait(*get, 1000)) {
    }
  }
}

void kill_clients(const Options& options) {
  std::mt19937_64 random(options.seed);
  std::vector<pid_t> alive;
  const auto kill_first = [&] {
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 30'000));
    kill(alive.front(), SIGKILL);
    waitpid(alive.front(), nullptr, 0);
    alive.erase(alive.begin());
  };
  for (uint64_t i = 0; i < options.kills; ++i) {
    const pid_t child = fork();
    if (child == 0) live(options.url, options.seed * 1'000'000 + i);
    alive.push_back(child);
    if (alive.size() >= kLiveAtOnce) kill_first();
  }
  while (!alive.empty()) kill_first();
}

bool parse(int count, char** words, Options& options) {
  if (count < 2 || words[1][0] == '-' || count % 2 != 0) return false;
  options.url = words[1];
  for (int i = 2; i + 1 < count; i += 2) {
    const std::string name = words[i];
    const uint64_t number = std::strtoull(words[i + 1], nullptr, 10);
    if (name == "--cycles") {
      options.cycles = number;
    } else if (name == "--kills") {
      options.kills = number;
    } else if (name == "--idle") {
      options.idle = number;
    } else if (name == "--seed") {
      options.seed = number;
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
    std::fprintf(stderr, "usage: cairn-connect-storm URL [--cycles N] [--kills N] [--idle N] [--seed N]\n");
    return 2;
  }
  rlimit files{};  // a session has five descriptors
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    const rlimit more{1 << 16, 1 << 16};  // root may
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &more) != 0) setrlimit(RLIMIT_NOFILE, &files);
  }
  kill_clients(options);  // before this process has met a device: a child inherits nothing of one
  JsonWriter json;
  json.begin_object().number("kills", options.kills).number("cycles", options.cycles);
  if (options.cycles > 0) json.real("connects_per_second", cycles_per_second(options));
  std::vector<std::unique_ptr<Client>> idle;
  while (idle.size() < options.idle) idle.push_back(connect(options.url));
  std::printf("%s\n", json.number("idle", idle.size()).end_object().take().c_str());
  std::fflush(stdout);
  if (!idle.empty()) (void)std::getchar();
  return 0;
}
