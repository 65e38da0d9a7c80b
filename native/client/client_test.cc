// Many threads on one client, over auto:// and a service in this process: what races is who drives, who looks for RDMA
// and who closes. Where there is RDMA too, tests/integration/test_auto.py.
#include "client/client.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/pattern.h"
#include "server/server.h"

namespace cairn {
namespace {

constexpr uint64_t kDriveBytes = 128 * kMiB;
constexpr uint64_t kBlockBytes = 50'000;
constexpr uint32_t kDeadlineMs = 20'000;
constexpr uint64_t kRestNs = 1'250'000'000;  // of the first failure, at most

// A block that is put and got by one thread.
class Caller {
 public:
  explicit Caller(Client& client) : client_(client), source_(kBlockBytes), target_(kBlockBytes) {}

  // Whether both were ok. Whatever came was the block.
  bool put_and_get() {
    static std::atomic<uint64_t> blocks{0};
    block_ = ++blocks;
    fill_pattern(source_, block_);
    if (run(FrameType::put, source_) != Status::ok) return false;
    const Status status = run(FrameType::get, target_);
    if (status != Status::ok) return false;
    EXPECT_EQ(check_pattern(target_, block_), -1) << "wrong bytes";
    return true;
  }

  Status run(FrameType type, std::vector<std::byte>& memory) {
    auto operation = std::make_shared<Operation>();
    operation->type = type;
    operation->deadline_ms = kDeadlineMs;
    operation->durability = Durability::relaxed;
    Key key{};
    std::memcpy(key.bytes.data() + 8, &block_, sizeof(block_));
    operation->keys.push_back(key);
    operation->parts.push_back({memory.data(), memory.size()});
    operation->part_first = {0, 1};
    client_.submit(operation);
    while (!client_.wait(*operation, 100)) continue;
    return operation->statuses[0];
  }

 private:
  Client& client_;
  uint64_t block_ = 0;
  std::vector<std::byte> source_, target_;
};

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "cairn-client-XXXXXX").string();
    const int file = mkstemp(pattern.data());
    EXPECT_GE(file, 0);
    EXPECT_EQ(ftruncate(file, kDriveBytes), 0);
    ::close(file);
    path_ = pattern;
    auto drive = open_drive(path_, DriveOptions{});
    EXPECT_TRUE(drive.ok()) << drive.error().message;
    EXPECT_TRUE(format_drive(*drive.value(), FormatOptions{.overwrite = true}, system_clock()).ok());
    drive.value().reset();
    ServerOptions options;
    options.drives.push_back(path_);
    options.slab_bytes = 64 * kMiB;
    options.store.wait_until_loaded = true;
    auto server = Server::open(options);
    EXPECT_TRUE(server.ok()) << server.error().message;
    server_ = server.take();
    url_ = server_->listen("tcp://127.0.0.1:0").take();
    url_.replace(0, 3, "auto");
    server_->start();
  }
  ~ClientTest() override {
    server_.reset();
    ::unlink(path_.c_str());
  }

  std::unique_ptr<Client> connect(uint32_t lanes) {
    ClientOptions options;
    options.lanes = lanes;
    auto connected = Client::connect(url_, options);
    EXPECT_EQ(connected.index(), 0u);
    return std::move(std::get<std::unique_ptr<Client>>(connected));
  }

  std::string path_, url_;
  std::unique_ptr<Server> server_;
};

TEST_F(ClientTest, ThreadsAreServedWhileTheBetterWayIsTried) {
  const auto client = connect(2);
  EXPECT_EQ(client->info().transport, "tcp");
  EXPECT_FALSE(client->info().last_error.empty()) << "it does not say why this is not RDMA";
  std::vector<std::thread> threads;
  const uint64_t until_ns = system_clock().now_ns() + 2 * kRestNs;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      Caller caller(*client);
      while (system_clock().now_ns() < until_ns) EXPECT_TRUE(caller.put_and_get());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(client->info().reconnects, 0u);
}

TEST_F(ClientTest, SeveralThreadsCloseWhileOthersAsk) {
  for (int round = 0; round < 20; ++round) {
    const auto client = connect(1);
    if (round % 2 == 0) {
      EXPECT_TRUE(client->completion_fd().ok());
    }
    std::atomic<int> asked{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; ++i) {
      threads.emplace_back([&] {
        Caller caller(*client);
        while (caller.put_and_get()) ++asked;
      });
      threads.emplace_back([&] {
        while (asked < 3) std::this_thread::yield();
        client->close();
      });
    }
    for (std::thread& thread : threads) thread.join();
    Caller late(*client);
    EXPECT_FALSE(late.put_and_get());
    EXPECT_FALSE(client->info().connected);
  }
}

TEST_F(ClientTest, AServiceThatEndsEndsNoThread) {
  const auto client = connect(2);
  std::atomic<int> asked{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      Caller caller(*client);
      while (caller.put_and_get()) ++asked;
    });
  }
  while (asked < 10) std::this_thread::yield();
  server_->stop(0);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace cairn
