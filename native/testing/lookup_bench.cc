// cairn-lookup-bench: how long a lookup takes while many clients look up.
//   cairn-lookup-bench URL [--sessions N] [--calls-per-second N] [--keys N] [--seconds N]
// N clients (100), each with a session and a thread of its own, call exists and match in turn, with N keys (100) each.
// Between two calls a client thinks, for a time drawn from an exponential distribution, so that all of them together
// make about N calls a second (2000) for N seconds (2). The first half of the keys of a call is there, the second is
// not; blocks are put first, and their keys are fresh. Prints one JSON object: what a call took, from submit() until it
// was done, by nearest rank.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
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
#include "client/client.h"

namespace {

using namespace cairn;

constexpr uint64_t kBlockBytes = 4096;
constexpr size_t kStored = 20'000;
constexpr size_t kPutsACall = 250;

struct Options {
  std::string url;
  size_t sessions = 100;
  double calls_per_second = 2000;
  size_t keys = 100;
  double seconds = 2;
};

Key fresh_key() {
  return {entropy<std::array<uint8_t, 16>>()};
}

std::unique_ptr<Client> connect(const std::string& url) {
  auto connected = Client::connect(url, ClientOptions{});
  if (auto* client = std::get_if<std::unique_ptr<Client>>(&connected)) return std::move(*client);
  std::fprintf(stderr, "cannot connect to %s: %s\n", url.c_str(), std::get<ConnectFailure>(connected).reason.c_str());
  std::exit(1);
}

void wait_for(Client& client, const std::shared_ptr<Operation>& operation) {
  client.submit(operation);
  while (!client.wait(*operation, 1000)) {
  }
}

std::vector<Key> store_blocks(Client& client) {
  std::vector<Key> keys(kStored);
  std::generate(keys.begin(), keys.end(), fresh_key);
  std::vector<std::byte> block(kBlockBytes, std::byte{1});
  for (size_t at = 0; at < keys.size(); at += kPutsACall) {
    auto put = std::make_shared<Operation>();
    put->type = FrameType::put;
    put->durability = Durability::relaxed;
    put->part_first.push_back(0);
    for (size_t i = at; i < std::min(at + kPutsACall, keys.size()); ++i) {
      put->keys.push_back(keys[i]);
      put->parts.push_back({block.data(), block.size()});
      put->part_first.push_back(static_cast<uint32_t>(put->parts.size()));
    }
    wait_for(client, put);
    for (const Status status : put->statuses) CAIRN_CHECK(status == Status::ok, "the bench cannot put its blocks");
  }
  return keys;
}

class Session {
 public:
  Session(const Options& options, const std::vector<Key>& stored, uint64_t seed)
      : options_(options), stored_(stored), random_(seed), client_(connect(options.url)) {}

  void run(uint64_t until_ns) {
    std::exponential_distribution<double> think(options_.calls_per_second / static_cast<double>(options_.sessions));
    while (true) {
      std::this_thread::sleep_for(std::chrono::duration<double>(think(random_)));
      if (system_clock().now_ns() >= until_ns) return;
      call(calls_us.size() % 2 == 0 ? FrameType::exists : FrameType::match);
    }
  }

  std::vector<double> calls_us;
  uint64_t wrong = 0;  // answers that are not what was put

 private:
  void call(FrameType type) {
    auto lookup = std::make_shared<Operation>();
    lookup->type = type;
    const size_t present = options_.keys / 2;
    for (size_t i = 0; i < options_.keys; ++i)
      lookup->keys.push_back(i < present ? stored_[random_() % stored_.size()] : fresh_key());
    const uint64_t began = system_clock().now_ns();
    wait_for(*client_, lookup);
    calls_us.push_back(static_cast<double>(system_clock().now_ns() - began) / 1000);
    const auto there = std::count(lookup->statuses.begin(), lookup->statuses.end(), Status::ok);
    const uint64_t found = type == FrameType::match ? lookup->matched : static_cast<uint64_t>(there);
    wrong += found == present ? 0 : 1;
  }

  const Options& options_;
  const std::vector<Key>& stored_;
  std::mt19937_64 random_;
  std::unique_ptr<Client> client_;
};

double quantile(const std::vector<double>& ordered, double share) {
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(ordered.size())));
  return ordered[std::max<size_t>(rank, 1) - 1];
}

bool parse(int count, char** words, Options& options) {
  if (count < 2 || words[1][0] == '-' || count % 2 != 0) return false;
  options.url = words[1];
  for (int i = 2; i + 1 < count; i += 2) {
    const double number = std::strtod(words[i + 1], nullptr);
    if (number <= 0) return false;
    if (std::strcmp(words[i], "--sessions") == 0) {
      options.sessions = static_cast<size_t>(number);
    } else if (std::strcmp(words[i], "--calls-per-second") == 0) {
      options.calls_per_second = number;
    } else if (std::strcmp(words[i], "--keys") == 0) {
      options.keys = static_cast<size_t>(number);
    } else if (std::strcmp(words[i], "--seconds") == 0) {
      options.seconds = number;
    } else {
      return false;
    }
  }
  return options.sessions > 0 && options.keys > 1;
}

}  // namespace

int main(int count, char** words) {
  Options options;
  if (!parse(count, words, options)) {
    std::fprintf(stderr,
                 "usage: cairn-lookup-bench URL [--sessions N] [--calls-per-second N] [--keys N] [--seconds N]\n");
    return 2;
  }
  const std::vector<Key> stored = store_blocks(*connect(options.url));
  std::vector<std::unique_ptr<Session>> sessions;
  for (uint64_t i = 0; i < options.sessions; ++i) sessions.push_back(std::make_unique<Session>(options, stored, i + 1));
  const uint64_t until_ns = system_clock().now_ns() + static_cast<uint64_t>(options.seconds * 1e9);
  std::vector<std::thread> threads;
  for (const auto& session : sessions) threads.emplace_back([&session, until_ns] { session->run(until_ns); });
  for (std::thread& thread : threads) thread.join();
  std::vector<double> all;
  uint64_t wrong = 0;
  for (const auto& session : sessions) {
    all.insert(all.end(), session->calls_us.begin(), session->calls_us.end());
    wrong += session->wrong;
  }
  if (all.empty()) {
    std::fprintf(stderr, "no call was made in the time given\n");
    return 1;
  }
  std::sort(all.begin(), all.end());
  JsonWriter json;
  json.begin_object().number("sessions", options.sessions).number("keys", options.keys).number("calls", all.size());
  json.real("calls_per_second", static_cast<double>(all.size()) / options.seconds).number("wrong", wrong);
  json.real("p50_us", quantile(all, 0.5)).real("p90_us", quantile(all, 0.9)).real("p99_us", quantile(all, 0.99));
  json.real("most_us", all.back());
  std::printf("%s\n", json.end_object().take().c_str());
  return wrong == 0 ? 0 : 1;
}
