// GPU memory, with a stand-in for the driver whose memory no host code can touch: what these tests show of our side
// they do not show of a GPU. Transfers without a copy need an RDMA device (tools/testbed); there the test takes the
// part of a kernel that knows dma-bufs, which the device's driver does not.
#include "client/gpu.h"

#include <gtest/gtest.h>
#include <infiniband/verbs.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/pattern.h"
#include "client/client.h"
#include "server/server.h"
#include "testing/gpu_stand_in.h"
#include "testing/testbed.h"
#include "transport/verbs.h"

namespace cairn {
namespace {

constexpr size_t kBytes = 300'001;

std::vector<std::byte> pattern(size_t length, uint64_t seed) {
  std::vector<std::byte> bytes(length);
  fill_pattern(bytes, seed);
  return bytes;
}

class GpuTest : public testing::Test {
 protected:
  GpuStandIn gpu{CAIRN_CUDA_STAND_IN};
};

TEST_F(GpuTest, MemoryIsFoundWhereItLies) {
  const uint64_t memory = gpu.allocate(1, 10'000);
  EXPECT_EQ(gpu.driver->find(memory, 10'000, kAnyGpu).take(), 1);
  EXPECT_EQ(gpu.driver->find(memory + 9'999, 1, 1).take(), 1);
  EXPECT_NE(gpu.driver->find(memory, 10'001, 1).error().message.find("reach beyond"), std::string::npos);
  EXPECT_NE(gpu.driver->find(memory, 10'000, 0).error().message.find("lies on GPU 1, not on GPU 0"), std::string::npos);
  EXPECT_NE(gpu.driver->find(memory, 1, 7).error().message.find("no GPU 7"), std::string::npos);
  int here = 0;
  const auto host = gpu.driver->find(reinterpret_cast<uint64_t>(&here), 1, kAnyGpu);
  EXPECT_NE(host.error().message.find("no memory of a GPU"), std::string::npos);
  EXPECT_EQ(gpu.driver->find(memory, 0, 1).ok(), false);
  EXPECT_EQ(gpu.driver->find(memory, UINT64_MAX, 1).ok(), false);
}

// The stand-in copies when its stream is waited for: who forgets to wait reads what was there before.
TEST_F(GpuTest, CopiesAreOverWhenTheyReturn) {
  const uint64_t memory = gpu.allocate(0, kBytes);
  gpu.write(0, memory, pattern(kBytes, 1));
  EXPECT_EQ(gpu.read(0, memory, kBytes), pattern(kBytes, 1));
  std::vector<std::byte> first(100), second(200);
  const GpuPiece pieces[] = {{first.data(), memory + 50, 100}, {second.data(), memory + 1000, 200}};
  std::string error;
  ASSERT_TRUE(gpu.driver->copy_to_host(0, pieces, error));
  const auto whole = pattern(kBytes, 1);
  EXPECT_EQ(std::memcmp(first.data(), whole.data() + 50, 100), 0);
  EXPECT_EQ(std::memcmp(second.data(), whole.data() + 1000, 200), 0);
}

TEST_F(GpuTest, WhatTheDriverRefusesIsASentence) {
  const uint64_t memory = gpu.allocate(0, 100);
  std::byte here{};
  const GpuPiece piece{&here, memory, 1};
  for (const char* name : {"cuMemcpyDtoHAsync_v2", "cuStreamSynchronize"}) {
    gpu.fail(name, 700, 1);
    std::string error;
    EXPECT_FALSE(gpu.driver->copy_to_host(0, {&piece, 1}, error));
    EXPECT_NE(error.find("cannot copy between the host and GPU 0: "), std::string::npos) << error;
    EXPECT_NE(error.find("(CUDA error 700)"), std::string::npos) << error;
  }
}

TEST_F(GpuTest, ADmaBufIsWholePages) {
  const uint64_t memory = gpu.allocate(0, 3 * 4096);
  auto exported = gpu.driver->export_dma_buf(0, memory + 100, 5000);
  ASSERT_TRUE(exported.ok()) << exported.error().message;
  const DmaBuf buffer = exported.take();
  EXPECT_EQ(buffer.offset(), 100u);
  struct stat file{};
  EXPECT_EQ(fstat(buffer.descriptor(), &file), 0);
}

TEST_F(GpuTest, ADeviceThatExportsNothingSaysWhy) {
  const uint64_t memory = gpu.allocate(0, 4096);
  gpu.attribute(cuda::kDeviceDmaBufSupported, 0);
  EXPECT_NE(gpu.driver->export_dma_buf(0, memory, 4096).error().message.find("open kernel modules"), std::string::npos);
  gpu.attribute(cuda::kDeviceDmaBufSupported, 1);
  gpu.fail("cuMemGetHandleForAddressRange", cuda::kNotSupported, 1);
  EXPECT_NE(gpu.driver->export_dma_buf(0, memory, 4096).error().message.find("operation not supported"),
            std::string::npos);
}

// --- with a service --------------------------------------------------------------------------------------

Key key_of(uint64_t number) {
  Key key{};
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  return key;
}

class GpuClientTest : public GpuTest {
 protected:
  GpuClientTest() {
    std::string name = std::filesystem::temp_directory_path() / "cairn-gpu-XXXXXX";
    folder = mkdtemp(name.data());
    const auto namespaces = testbed_namespaces();
    const std::string drive = namespaces.empty() ? std::string(folder / "drive") : namespaces.front();
    DriveOptions make;
    make.create = namespaces.empty();
    make.create_bytes = 256 * kMiB;
    const auto opened = open_drive(drive, make);
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    FormatOptions how;
    how.overwrite = true;
    EXPECT_TRUE(format_drive(*opened.value(), how, system_clock()).ok());
    ServerOptions options;
    options.drives = {drive};
    options.slab_bytes = 128 * kMiB;
    options.store.wait_until_loaded = true;
    server_options = options;
  }
  ~GpuClientTest() override {
    client.reset();
    if (server != nullptr) server->stop(0);
    server.reset();
    std::filesystem::remove_all(folder);
  }

  void connect(const std::string& url, bool verify = true) {
    if (server == nullptr) {
      server = Server::open(server_options).take();
      at = server->listen(url).take();
      server->start();
    }
    ClientOptions options;
    options.verify = verify;
    auto connected = Client::connect(at, options);
    if (auto* failure = std::get_if<ConnectFailure>(&connected)) FAIL() << failure->reason;
    client = std::get<std::unique_ptr<Client>>(std::move(connected));
  }

  std::shared_ptr<Operation> run(FrameType type, uint64_t number, std::vector<iovec> parts, std::vector<int> gpus,
                                 uint32_t deadline_ms = 10'000) {
    auto operation = std::make_shared<Operation>();
    operation->type = type;
    operation->deadline_ms = deadline_ms;
    operation->keys = {key_of(number)};
    operation->parts = std::move(parts);
    operation->gpus = std::move(gpus);
    operation->part_first = {0, static_cast<uint32_t>(operation->parts.size())};
    client->submit(operation);
    while (!client->wait(*operation, 100)) {
    }
    return operation;
  }
  static iovec at_gpu(uint64_t address, size_t length) { return {reinterpret_cast<void*>(address), length}; }

  std::filesystem::path folder;
  ServerOptions server_options;
  std::unique_ptr<Server> server;
  std::unique_ptr<Client> client;
  std::string at;
};

TEST_F(GpuClientTest, ABlockGoesFromOneGpuToAnother) {
  connect("tcp://127.0.0.1:0");
  const uint64_t from = gpu.allocate(0, kBytes), to = gpu.allocate(1, kBytes);
  gpu.write(0, from, pattern(kBytes, 3));
  EXPECT_EQ(run(FrameType::put, 1, {at_gpu(from, kBytes)}, {0})->statuses[0], Status::ok);
  const auto got = run(FrameType::get, 1, {at_gpu(to, kBytes)}, {1});
  EXPECT_EQ(got->statuses[0], Status::ok);
  EXPECT_EQ(got->lengths[0], kBytes);
  EXPECT_EQ(gpu.read(1, to, kBytes), pattern(kBytes, 3));
  EXPECT_EQ(gpu.pinned(), 1);
  client.reset();
  EXPECT_EQ(gpu.pinned(), 0);
}

TEST_F(GpuClientTest, ABlockLiesInPartOnTheHost) {
  connect("tcp://127.0.0.1:0");
  const uint64_t memory = gpu.allocate(0, kBytes);
  const auto whole = pattern(kBytes, 4);
  auto head = std::vector<std::byte>(whole.begin(), whole.begin() + 1000);
  gpu.write(0, memory, std::vector<std::byte>(whole.begin() + 1000, whole.end()));
  EXPECT_EQ(run(FrameType::put, 2, {{head.data(), 1000}, at_gpu(memory, kBytes - 1000)}, {kHostMemory, 0})->statuses[0],
            Status::ok);
  std::vector<std::byte> back(kBytes);
  EXPECT_EQ(run(FrameType::get, 2, {{back.data(), kBytes}}, {})->statuses[0], Status::ok);
  EXPECT_EQ(back, whole);
}

// A GPU that breaks costs the blocks on it, and nothing else.
TEST_F(GpuClientTest, AGpuThatRefusesCostsItsItemOnly) {
  connect("tcp://127.0.0.1:0");
  const uint64_t memory = gpu.allocate(0, kBytes);
  gpu.write(0, memory, pattern(kBytes, 5));
  gpu.fail("cuMemcpyDtoHAsync_v2", 700, 1);
  EXPECT_EQ(run(FrameType::put, 3, {at_gpu(memory, kBytes)}, {0})->statuses[0], Status::bad_region);
  EXPECT_NE(client->info().last_error.find("CUDA error 700"), std::string::npos);
  std::vector<std::byte> back(kBytes);
  EXPECT_EQ(run(FrameType::get, 3, {{back.data(), kBytes}}, {})->statuses[0], Status::not_found);
  EXPECT_EQ(run(FrameType::put, 3, {at_gpu(memory, kBytes)}, {0})->statuses[0], Status::ok);
  gpu.fail("cuMemcpyHtoDAsync_v2", 700, 1);
  EXPECT_EQ(run(FrameType::get, 3, {at_gpu(memory, kBytes)}, {0})->statuses[0], Status::bad_region);
  EXPECT_EQ(run(FrameType::get, 3, {at_gpu(memory, kBytes)}, {0})->statuses[0], Status::ok);
}

TEST_F(GpuClientTest, HostMemoryThatCannotBePinnedIsSlowerAndThatIsAll) {
  connect("tcp://127.0.0.1:0");
  gpu.fail("cuMemHostRegister_v2", 2, 1);
  const uint64_t memory = gpu.allocate(0, kBytes);
  gpu.write(0, memory, pattern(kBytes, 6));
  EXPECT_EQ(run(FrameType::put, 4, {at_gpu(memory, kBytes)}, {0})->statuses[0], Status::ok);
  gpu.write(0, memory, pattern(kBytes, 7));
  EXPECT_EQ(run(FrameType::get, 4, {at_gpu(memory, kBytes)}, {0})->statuses[0], Status::ok);
  EXPECT_EQ(gpu.read(0, memory, kBytes), pattern(kBytes, 6));
}

// A destination may be larger than any block, and than the memory for copies.
TEST_F(GpuClientTest, ADestinationHasMoreRoomThanABlockNeeds) {
  connect("tcp://127.0.0.1:0");
  const uint64_t memory = gpu.allocate(0, 200 * kMiB);
  gpu.write(0, memory, pattern(kBytes, 14));
  EXPECT_EQ(run(FrameType::put, 5, {at_gpu(memory, kBytes)}, {0})->statuses[0], Status::ok);
  EXPECT_EQ(run(FrameType::put, 6, {at_gpu(memory, 200 * kMiB)}, {0})->statuses[0], Status::too_large);
  gpu.write(0, memory, std::vector<std::byte>(kBytes));
  const auto got = run(FrameType::get, 5, {at_gpu(memory, 200 * kMiB)}, {0});
  EXPECT_EQ(got->statuses[0], Status::ok);
  EXPECT_EQ(got->lengths[0], kBytes);
  EXPECT_EQ(gpu.read(0, memory, kBytes), pattern(kBytes, 14));
}

// --- transfers without a copy ----------------------------------------------------------------------------

// Registers a "dma-buf" of the stand-in as a kernel would one of a GPU: under the address by which the GPU knows it,
// and only with the access that Linux allows.
ibv_mr* register_stand_in(ibv_pd* domain, uint64_t offset, size_t length, uint64_t address, int descriptor,
                          int access) {
  constexpr int kAllowed = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE |
                           IBV_ACCESS_REMOTE_ATOMIC | IBV_ACCESS_RELAXED_ORDERING;
  using Register = ibv_mr* (*)(ibv_pd*, void*, size_t, uint64_t, int);
  static const auto call =
      reinterpret_cast<Register>(dlsym(dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL), "ibv_reg_mr_iova"));
  if ((access & ~kAllowed) != 0 || offset % 4096 != address % 4096) {
    errno = EINVAL;
    return nullptr;
  }
  struct stat file{};
  fstat(descriptor, &file);
  void* pages = mmap(nullptr, static_cast<size_t>(file.st_size), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  return call(domain, static_cast<std::byte*>(pages) + offset, length, address, access);
}

class GpuOverRdmaTest : public GpuClientTest {
 protected:
  void SetUp() override {
    const char* host = std::getenv("CAIRN_TESTBED_ADDRESS");
    if (host == nullptr) GTEST_SKIP() << "no RDMA device here: run it with tools/testbed/run";
    const Verbs* verbs = load_verbs().value();
    real_ = verbs->reg_dmabuf_mr;
    const_cast<Verbs*>(verbs)->reg_dmabuf_mr = &register_stand_in;
    begin("rdma://" + std::string(host) + ":0");
  }
  virtual void begin(const std::string& url) { connect(url); }
  void TearDown() override {
    if (real_ != nullptr) const_cast<Verbs*>(load_verbs().value())->reg_dmabuf_mr = real_;
    gpu.attribute(cuda::kDeviceWritesOrdering, cuda::kOrderedForOwner);
  }
  MemoryRegion* registered(uint64_t address, size_t length) {
    auto region = client->register_memory({reinterpret_cast<std::byte*>(address), length}, 0);
    EXPECT_TRUE(region.ok());
    return region.take();
  }
  decltype(Verbs::reg_dmabuf_mr) real_ = nullptr;
};

TEST_F(GpuOverRdmaTest, TheServiceReadsAndWritesTheGpuItself) {
  const uint64_t memory = gpu.allocate(0, 4 * kMiB);
  MemoryRegion* region = registered(memory + 100, 4 * kMiB - 100);
  EXPECT_EQ(client->region_reason(*region), "");
  gpu.write(0, memory + 1000, pattern(kBytes, 8));
  const int copies = gpu.calls("cuMemcpyDtoHAsync_v2") + gpu.calls("cuMemcpyHtoDAsync_v2");
  // By their addresses alone, as adapters name blocks of a registered cache; and several in one connection, since the
  // service must not take back a key that is of no window.
  for (uint64_t number = 10; number < 20; ++number) {
    ASSERT_EQ(run(FrameType::put, number, {at_gpu(memory + 1000, kBytes)}, {})->statuses[0], Status::ok);
    ASSERT_EQ(run(FrameType::get, number, {at_gpu(memory + 2 * kMiB, kBytes)}, {})->statuses[0], Status::ok);
  }
  EXPECT_EQ(gpu.calls("cuMemcpyDtoHAsync_v2") + gpu.calls("cuMemcpyHtoDAsync_v2"), copies);
  EXPECT_EQ(gpu.read(0, memory + 2 * kMiB, kBytes), pattern(kBytes, 8));
  EXPECT_EQ(client->info().reconnects, 0u);
  client->free_region(region);
}

TEST_F(GpuOverRdmaTest, ABlockInPartOnTheHostTakesBothWaysInOneRequest) {
  const uint64_t memory = gpu.allocate(0, kMiB);
  MemoryRegion* region = registered(memory, kMiB);
  std::vector<std::byte> host = pattern(5000, 9);
  MemoryRegion* here = client->register_memory({host.data(), host.size()}).take();
  gpu.write(0, memory, pattern(kBytes, 9));
  for (uint64_t number = 30; number < 35; ++number) {
    ASSERT_EQ(run(FrameType::put, number, {{host.data(), 5000}, at_gpu(memory + 5000, kBytes - 5000)}, {})->statuses[0],
              Status::ok);
    std::vector<std::byte> back(kBytes);
    ASSERT_EQ(run(FrameType::get, number, {{back.data(), kBytes}}, {})->statuses[0], Status::ok);
    EXPECT_EQ(back, pattern(kBytes, 9));
  }
  EXPECT_EQ(client->info().reconnects, 0u);
  client->free_region(region);
  client->free_region(here);
}

TEST_F(GpuOverRdmaTest, AGpuThatSeesRemoteWritesOutOfOrderIsMadeToTakeThemIn) {
  const int ordinal = 2;  // of which nobody asked so far: what a GPU says is asked once
  gpu.attribute(cuda::kDeviceWritesOrdering, 0);
  gpu.attribute(cuda::kDeviceFlushWritesOptions, 0);
  const uint64_t memory = gpu.allocate(ordinal, kMiB);
  const ByteSpan bytes{reinterpret_cast<std::byte*>(memory), kMiB};
  MemoryRegion* bounced = client->register_memory(bytes, ordinal).take();
  EXPECT_NE(client->region_reason(*bounced).find("neither sees writes"), std::string::npos);
  client->free_region(bounced);
  gpu.attribute(cuda::kDeviceFlushWritesOptions, cuda::kFlushByHost);
  MemoryRegion* direct = client->register_memory(bytes, ordinal).take();
  EXPECT_EQ(client->region_reason(*direct), "");
  gpu.write(ordinal, memory, pattern(kBytes, 11));
  ASSERT_EQ(run(FrameType::put, 50, {at_gpu(memory, kBytes)}, {})->statuses[0], Status::ok);
  EXPECT_EQ(gpu.calls("cuFlushGPUDirectRDMAWrites"), 0);
  ASSERT_EQ(run(FrameType::get, 50, {at_gpu(memory, kBytes)}, {})->statuses[0], Status::ok);
  EXPECT_EQ(gpu.calls("cuFlushGPUDirectRDMAWrites"), 1);
  client->free_region(direct);
}

TEST_F(GpuOverRdmaTest, GetsThatRaceTheirDeadlineLeaveNoMark) {
  const uint64_t memory = gpu.allocate(0, kMiB);
  MemoryRegion* region = registered(memory, kMiB);
  gpu.write(0, memory, pattern(kMiB, 12));
  ASSERT_EQ(run(FrameType::put, 60, {at_gpu(memory, kMiB)}, {})->statuses[0], Status::ok);
  const std::vector<std::byte> empty(kMiB);
  for (int round = 0; round < 30; ++round) {
    gpu.write(0, memory, empty);
    const auto got = run(FrameType::get, 60, {at_gpu(memory, kMiB)}, {}, 1 + static_cast<uint32_t>(round) % 3);
    if (got->statuses[0] == Status::ok) {
      ASSERT_EQ(gpu.read(0, memory, kMiB), pattern(kMiB, 12));
      continue;
    }
    gpu.write(0, memory, empty);
    (void)run(FrameType::get, 61, {at_gpu(memory, 1)}, {});
    ASSERT_EQ(gpu.read(0, memory, kMiB), empty) << "something landed after the call had returned";
  }
  client->free_region(region);
}

// A service in a process of its own, which can be made to stand still. By this kind of name it is run before the
// others: a device that is open does not outlive a fork.
class GpuServiceHangsDeathTest : public GpuOverRdmaTest {
 protected:
  void begin(const std::string& url) override {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    child = fork();
    if (child == 0) serve(url, ends[1]);
    char text[256];
    const ssize_t length = read(ends[0], text, sizeof(text));
    ASSERT_GT(length, 0);
    at = std::string(text, static_cast<size_t>(length));
    client = dial();
  }
  void TearDown() override {
    client.reset();
    if (child > 0) {
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
    GpuOverRdmaTest::TearDown();
  }
  std::unique_ptr<Client> dial() {
    auto connected = Client::connect(at, ClientOptions{});
    if (auto* failure = std::get_if<ConnectFailure>(&connected)) ADD_FAILURE() << failure->reason;
    return std::get<std::unique_ptr<Client>>(std::move(connected));
  }
  [[noreturn]] void serve(const std::string& url, int tell) {
    const auto own = Server::open(server_options).take();
    const std::string where = own->listen(url).take();
    own->start();
    const ssize_t told = write(tell, where.data(), where.size());
    CAIRN_CHECK(told == static_cast<ssize_t>(where.size()), "the service cannot say where it is");
    for (;;) pause();
  }
  pid_t child = -1;
};

// Without windows, what shuts it out is the end of the queue pair.
TEST_F(GpuServiceHangsDeathTest, WhatItWritesAfterTheDeadlineNeverLands) {
  const uint64_t memory = gpu.allocate(0, 4 * kMiB);
  (void)registered(memory, 4 * kMiB);
  gpu.write(0, memory, pattern(4 * kMiB, 20));
  ASSERT_EQ(run(FrameType::put, 80, {at_gpu(memory, 4 * kMiB)}, {})->statuses[0], Status::ok);
  const std::vector<std::byte> empty(4 * kMiB);
  for (int round = 0; round < 3; ++round) {
    kill(child, SIGSTOP);
    const uint64_t began = system_clock().now_ms();
    const auto got = run(FrameType::get, 80, {at_gpu(memory, 4 * kMiB)}, {}, 100);
    EXPECT_NE(got->statuses[0], Status::ok);
    EXPECT_LT(system_clock().now_ms() - began, 5000u);
    gpu.write(0, memory, empty);
    kill(child, SIGCONT);
    (void)dial();  // by now the service has been through what it had
    ASSERT_EQ(gpu.read(0, memory, 4 * kMiB), empty) << "a late write landed on the GPU";
    const uint64_t until = system_clock().now_ms() + 10'000;
    while (run(FrameType::get, 80, {at_gpu(memory, 4 * kMiB)}, {})->statuses[0] != Status::ok)
      ASSERT_LT(system_clock().now_ms(), until);
    ASSERT_EQ(gpu.read(0, memory, 4 * kMiB), pattern(4 * kMiB, 20));
  }
  EXPECT_GT(client->info().reconnects, 0u);
}

TEST_F(GpuOverRdmaTest, WithTheRealDeviceOfTheTestbedItIsCopiedAndSaysWhy) {
  const_cast<Verbs*>(load_verbs().value())->reg_dmabuf_mr = real_;
  const uint64_t memory = gpu.allocate(0, kMiB);
  MemoryRegion* region = registered(memory, kMiB);
  EXPECT_NE(client->region_reason(*region).find("registers no dma-buf"), std::string::npos);
  gpu.write(0, memory, pattern(kBytes, 13));
  ASSERT_EQ(run(FrameType::put, 70, {at_gpu(memory, kBytes)}, {})->statuses[0], Status::ok);
  gpu.write(0, memory, std::vector<std::byte>(kBytes));
  ASSERT_EQ(run(FrameType::get, 70, {at_gpu(memory, kBytes)}, {})->statuses[0], Status::ok);
  EXPECT_EQ(gpu.read(0, memory, kBytes), pattern(kBytes, 13));
  client->free_region(region);
}

}  // namespace
}  // namespace cairn
