// Memory runs out at every allocation that a client makes, one after the other: the call comes back, within its
// deadline, with a status for every item, nothing aborts, and the client goes on once there is memory again.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/pattern.h"
#include "client/client.h"
#include "server/server.h"

namespace {

// Of this thread: how many more allocations succeed; negative: all of them.
thread_local int64_t left = -1;
thread_local bool for_ever = false;
thread_local bool failed = false;

bool refuses() {
  if (left < 0) return false;
  if (left > 0) {
    --left;
    return false;
  }
  failed = true;
  if (!for_ever) left = -1;
  return true;
}

}  // namespace

// Every form of them: one that is left out goes past the count, and under ASAN to another heap than its delete.
#define REPLACED [[gnu::noinline]]
using Align = std::align_val_t;
using NoThrow = std::nothrow_t;

REPLACED void* operator new(size_t bytes, Align align, const NoThrow&) noexcept {
  if (refuses()) return nullptr;
  const auto alignment = static_cast<size_t>(align);
  return std::aligned_alloc(alignment, (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment);
}
REPLACED void* operator new(size_t bytes, const NoThrow&) noexcept {
  return refuses() ? nullptr : std::malloc(std::max<size_t>(bytes, 1));
}
REPLACED void* operator new(size_t bytes, Align align) {
  if (void* memory = operator new(bytes, align, std::nothrow)) return memory;
  throw std::bad_alloc();
}
REPLACED void* operator new(size_t bytes) {
  if (void* memory = operator new(bytes, std::nothrow)) return memory;
  throw std::bad_alloc();
}
REPLACED void* operator new[](size_t bytes, Align align, const NoThrow&) noexcept {
  return operator new(bytes, align, std::nothrow);
}
REPLACED void* operator new[](size_t bytes, const NoThrow&) noexcept {
  return operator new(bytes, std::nothrow);
}
REPLACED void* operator new[](size_t bytes, Align align) {
  return operator new(bytes, align);
}
REPLACED void* operator new[](size_t bytes) {
  return operator new(bytes);
}
REPLACED void operator delete(void* memory) noexcept {
  std::free(memory);
}
REPLACED void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
REPLACED void operator delete(void* memory, const NoThrow&) noexcept {
  std::free(memory);
}
REPLACED void operator delete(void* memory, Align) noexcept {
  std::free(memory);
}
REPLACED void operator delete(void* memory, size_t, Align) noexcept {
  std::free(memory);
}
REPLACED void operator delete(void* memory, Align, const NoThrow&) noexcept {
  std::free(memory);
}
REPLACED void operator delete[](void* memory) noexcept {
  std::free(memory);
}
REPLACED void operator delete[](void* memory, size_t) noexcept {
  std::free(memory);
}
REPLACED void operator delete[](void* memory, const NoThrow&) noexcept {
  std::free(memory);
}
REPLACED void operator delete[](void* memory, Align) noexcept {
  std::free(memory);
}
REPLACED void operator delete[](void* memory, size_t, Align) noexcept {
  std::free(memory);
}
REPLACED void operator delete[](void* memory, Align, const NoThrow&) noexcept {
  std::free(memory);
}

namespace cairn {
namespace {

constexpr uint64_t kDriveBytes = 128 * kMiB;
constexpr uint64_t kBlockBytes = 20'000;
constexpr uint32_t kItems = 3;
constexpr uint32_t kDeadlineMs = 2'000;
constexpr uint64_t kBusyMs = 2'000;
constexpr int kAllocationsMost = 3'000;

// The nth allocation of this thread fails from here to the end of the scope, or all from the nth on.
class Shortage {
 public:
  Shortage(int nth, bool stays) {
    failed = false;
    for_ever = stays;
    left = nth;
  }
  ~Shortage() { left = -1; }
  static bool came() { return failed; }
};

class ShortageTest : public ::testing::TestWithParam<std::tuple<std::string, bool>> {
 protected:
  ShortageTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "cairn-shortage-XXXXXX").string();
    EXPECT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    const std::string path = folder_ + "/drive";
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    EXPECT_EQ(ftruncate(file, kDriveBytes), 0);
    ::close(file);
    auto drive = open_drive(path, DriveOptions{});
    EXPECT_TRUE(drive.ok()) << drive.error().message;
    EXPECT_TRUE(format_drive(*drive.value(), FormatOptions{.overwrite = true}, system_clock()).ok());
    drive.value().reset();
    ServerOptions options;
    options.drives.push_back(path);
    options.slab_bytes = 64 * kMiB;
    options.store.wait_until_loaded = true;
    server_ = Server::open(options).take();
    const std::string tcp = server_->listen("tcp://127.0.0.1:0").take();
    const std::string shm = server_->listen("shm://" + folder_ + "/socket").take();
    url_ = std::get<0>(GetParam()) == "tcp" ? tcp : shm;
    server_->start();
  }
  ~ShortageTest() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  std::unique_ptr<Client> connect() {
    ClientOptions options;
    options.lanes = 2;
    auto connected = Client::connect(url_, options);
    EXPECT_EQ(connected.index(), 0u);
    return std::move(std::get<std::unique_ptr<Client>>(connected));
  }

  // Three blocks, put or got. Memory for the call itself is had before.
  std::shared_ptr<Operation> make(FrameType type, uint64_t first) {
    auto operation = std::make_shared<Operation>();
    operation->type = type;
    operation->deadline_ms = kDeadlineMs;
    operation->durability = Durability::relaxed;
    operation->part_first.push_back(0);
    for (uint32_t i = 0; i < kItems; ++i) {
      Key key{};
      const uint64_t number = first + i;
      std::memcpy(key.bytes.data() + 8, &number, sizeof(number));
      operation->keys.push_back(key);
      fill_pattern(memory_[i], type == FrameType::put ? number : 0);
      operation->parts.push_back({memory_[i].data(), memory_[i].size()});
      operation->part_first.push_back(i + 1);
    }
    return operation;
  }

  void check(const Operation& operation, uint64_t first) {
    EXPECT_TRUE(operation.done());
    ASSERT_EQ(operation.statuses.size(), kItems);
    for (uint32_t i = 0; i < kItems; ++i) {
      if (operation.type == FrameType::get && operation.statuses[i] == Status::ok) {
        EXPECT_EQ(check_pattern(memory_[i], first + i), -1) << "wrong bytes";
      }
    }
  }

  std::string folder_, url_;
  std::unique_ptr<Server> server_;
  std::array<std::vector<std::byte>, kItems> memory_{
      std::vector<std::byte>(kBlockBytes), std::vector<std::byte>(kBlockBytes), std::vector<std::byte>(kBlockBytes)};
  uint64_t next_ = 1;
};

TEST(Shortage, NoFormOfAllocationGoesPastTheCount) {
  constexpr std::align_val_t kAlign{64};
  const std::vector<std::function<void*()>> forms = {
      [] { return operator new(8); },
      [] { return operator new[](8); },
      [] { return operator new(8, std::nothrow); },
      [] { return operator new[](8, std::nothrow); },
      [&] { return operator new(8, kAlign); },
      [&] { return operator new[](8, kAlign); },
      [&] { return operator new(8, kAlign, std::nothrow); },
      [&] { return operator new[](8, kAlign, std::nothrow); },
  };
  for (size_t form = 0; form < forms.size(); ++form) {
    void* memory = nullptr;
    {
      const Shortage shortage(0, true);
      try {
        memory = forms[form]();
      } catch (const std::bad_alloc&) {
      }
    }
    EXPECT_TRUE(Shortage::came()) << "form " << form;
    EXPECT_EQ(memory, nullptr) << "form " << form;
    std::free(memory);
  }
}

TEST_P(ShortageTest, ACallComesBackAndTheClientGoesOn) {
  const bool stays = std::get<1>(GetParam());
  for (const FrameType type : {FrameType::put, FrameType::get}) {
    bool came = true;
    for (int nth = 0; came; ++nth) {
      ASSERT_LT(nth, kAllocationsMost) << "it never ends";
      const auto client = connect();
      const uint64_t first = next_;
      next_ += kItems;
      const auto operation = make(type, first);
      const uint64_t began_ms = system_clock().now_ms();
      bool begun = false;
      {
        const Shortage shortage(nth, stays);
        try {
          client->submit(operation);
          begun = true;
          while (!client->wait(*operation, 100)) continue;
        } catch (const std::bad_alloc&) {
          EXPECT_FALSE(begun) << "only a call that has not begun may throw";
        }
        came = Shortage::came();
      }
      EXPECT_LE(system_clock().now_ms() - began_ms, kDeadlineMs + kFenceMs + kBusyMs);
      if (begun) check(*operation, first);
      const auto after = make(FrameType::put, next_);
      next_ += kItems;
      client->submit(after);
      while (!client->wait(*after, 100)) continue;
      check(*after, next_ - kItems);
      if (!came) {
        EXPECT_EQ(after->statuses[0], Status::ok);
      }
    }
  }
}

TEST_P(ShortageTest, ConnectingCancellingAndClosingDoNotAbort) {
  const bool stays = std::get<1>(GetParam());
  bool came = true;
  for (int nth = 0; came; ++nth) {
    ASSERT_LT(nth, kAllocationsMost) << "it never ends";
    ClientOptions options;
    const Shortage shortage(nth, stays);
    try {
      (void)Client::connect(url_, options);
    } catch (const std::bad_alloc&) {
      EXPECT_TRUE(Shortage::came());
    }
    came = Shortage::came();
  }
  came = true;
  for (int nth = 0; came; ++nth) {
    ASSERT_LT(nth, kAllocationsMost) << "it never ends";
    const auto client = connect();
    auto watch = std::make_shared<Operation>();
    watch->type = FrameType::watch;
    watch->after = 1'000'000;
    watch->deadline_ms = 60'000;
    client->submit(watch);
    const auto get = make(FrameType::get, 1);
    client->submit(get);
    const Shortage shortage(nth, stays);
    client->cancel(*watch);
    EXPECT_TRUE(watch->done());
    client->close();
    EXPECT_TRUE(get->done());
    came = Shortage::came();
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, ShortageTest,
                         ::testing::Combine(::testing::Values(std::string("tcp"), std::string("shm")),
                                            ::testing::Bool()),
                         [](const auto& one) {
                           return std::get<0>(one.param) + (std::get<1>(one.param) ? "_for_ever" : "_once");
                         });

}  // namespace
}  // namespace cairn
