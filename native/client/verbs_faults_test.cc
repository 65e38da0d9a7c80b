// Every call that a client makes to libibverbs, librdmacm and the device fails, one at a time, once and for ever: the
// call of the engine comes back in time, nothing aborts, no byte beside a named buffer changes, and the client goes on.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/pattern.h"
#include "client/client.h"
#include "server/server.h"
#include "testing/testbed.h"
#include "transport/verbs.h"

namespace cairn {
namespace {

constexpr uint64_t kBlockBytes = 100'000;
constexpr uint64_t kCanaryBytes = 4096;
constexpr uint32_t kItems = 3;
constexpr uint32_t kDeadlineMs = 1'500;
constexpr int kConnectMs = 1'500;
constexpr uint64_t kBusyMs = 4'000;

// What fails on this thread: the nth call of a name, with an errno.
struct Fault {
  std::string name;
  int nth = 0;
  int number = 0;
  bool for_ever = false;
};
thread_local const Fault* fault = nullptr;
thread_local std::map<std::string, int>* counts = nullptr;  // of this thread's calls; nullptr: nobody counts
thread_local bool came = false;

bool refuses(const char* name) {
  if (counts == nullptr) return false;
  const int nth = ++(*counts)[name];
  if (fault == nullptr || fault->name != name) return false;
  const bool now = fault->for_ever ? nth >= fault->nth : nth == fault->nth;
  came = came || now;
  return now;
}

Verbs real;

// Of the manager, -1 and errno; of verbs, the errno itself.
template <class R>
R refused(const char* name) {
  errno = fault->number;
  if constexpr (std::is_pointer_v<R>) {
    return nullptr;
  } else if constexpr (std::is_same_v<R, int>) {
    return std::string(name).starts_with("rdma_") || std::string(name) == "ibv_get_cq_event" ? -1 : fault->number;
  } else {
    return R{};
  }
}

template <auto member, class Function>
struct Wrapped;
template <auto member, class R, class... A>
struct Wrapped<member, R (*)(A...)> {
  static inline const char* name = nullptr;
  static R call(A... arguments) {
    if (refuses(name)) return refused<R>(name);
    return (real.*member)(arguments...);
  }
};

template <auto member>
void wrap(Verbs& verbs, const char* name) {
  using Function = std::remove_cvref_t<decltype(verbs.*member)>;
  Wrapped<member, Function>::name = name;
  verbs.*member = &Wrapped<member, Function>::call;
}

// What gives back (dealloc, destroy, ack) really gives back nothing when it fails, as a device would.
Verbs failing() {
  Verbs verbs = real;
  wrap<&Verbs::alloc_pd>(verbs, "ibv_alloc_pd");
  wrap<&Verbs::dealloc_pd>(verbs, "ibv_dealloc_pd");
  wrap<&Verbs::reg_mr>(verbs, "ibv_reg_mr");
  wrap<&Verbs::dereg_mr>(verbs, "ibv_dereg_mr");
  wrap<&Verbs::create_comp_channel>(verbs, "ibv_create_comp_channel");
  wrap<&Verbs::destroy_comp_channel>(verbs, "ibv_destroy_comp_channel");
  wrap<&Verbs::create_cq>(verbs, "ibv_create_cq");
  wrap<&Verbs::destroy_cq>(verbs, "ibv_destroy_cq");
  wrap<&Verbs::get_cq_event>(verbs, "ibv_get_cq_event");
  wrap<&Verbs::create_qp>(verbs, "ibv_create_qp");
  wrap<&Verbs::modify_qp>(verbs, "ibv_modify_qp");
  wrap<&Verbs::destroy_qp>(verbs, "ibv_destroy_qp");
  wrap<&Verbs::query_device>(verbs, "ibv_query_device");
  wrap<&Verbs::create_event_channel>(verbs, "rdma_create_event_channel");
  wrap<&Verbs::create_id>(verbs, "rdma_create_id");
  wrap<&Verbs::bind_addr>(verbs, "rdma_bind_addr");
  wrap<&Verbs::resolve_addr>(verbs, "rdma_resolve_addr");
  wrap<&Verbs::resolve_route>(verbs, "rdma_resolve_route");
  wrap<&Verbs::init_qp_attr>(verbs, "rdma_init_qp_attr");
  wrap<&Verbs::connect>(verbs, "rdma_connect");
  wrap<&Verbs::establish>(verbs, "rdma_establish");
  wrap<&Verbs::get_cm_event>(verbs, "rdma_get_cm_event");
  return verbs;
}

// The calls that the header makes through the device's own table.
decltype(ibv_context_ops::post_send) real_post_send;
decltype(ibv_context_ops::post_recv) real_post_recv;
decltype(ibv_context_ops::poll_cq) real_poll_cq;
decltype(ibv_context_ops::req_notify_cq) real_notify;
decltype(ibv_context_ops::alloc_mw) real_alloc_mw;
decltype(ibv_context_ops::dealloc_mw) real_dealloc_mw;

void wrap_device(ibv_context& context) {
  if (real_post_send != nullptr) return;
  real_post_send = std::exchange(context.ops.post_send, [](ibv_qp* pair, ibv_send_wr* first, ibv_send_wr** bad) {
    return refuses("post_send") ? fault->number : real_post_send(pair, first, bad);
  });
  real_post_recv = std::exchange(context.ops.post_recv, [](ibv_qp* pair, ibv_recv_wr* first, ibv_recv_wr** bad) {
    return refuses("post_recv") ? fault->number : real_post_recv(pair, first, bad);
  });
  real_poll_cq = std::exchange(context.ops.poll_cq, [](ibv_cq* queue, int most, ibv_wc* done) {
    return refuses("poll_cq") ? -fault->number : real_poll_cq(queue, most, done);
  });
  real_notify = std::exchange(context.ops.req_notify_cq, [](ibv_cq* queue, int solicited) {
    return refuses("req_notify_cq") ? fault->number : real_notify(queue, solicited);
  });
  real_alloc_mw = std::exchange(context.ops.alloc_mw, [](ibv_pd* domain, ibv_mw_type type) {
    return refuses("alloc_mw") ? refused<ibv_mw*>("alloc_mw") : real_alloc_mw(domain, type);
  });
  real_dealloc_mw = std::exchange(context.ops.dealloc_mw, [](ibv_mw* window) {
    return refuses("dealloc_mw") ? fault->number : real_dealloc_mw(window);
  });
}

class RdmaFaultsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* host = std::getenv("CAIRN_TESTBED_ADDRESS");
    if (host == nullptr) GTEST_SKIP() << "there is no RDMA device: tools/testbed/run";
    const auto namespaces = testbed_namespaces();
    if (namespaces.empty()) GTEST_SKIP() << "there is no drive: tools/testbed/run --nvme 1";
    real = *load_verbs().value();
    verbs_ = failing();
    stand_in_for_verbs(&verbs_);
    auto drive = open_drive(namespaces.front(), DriveOptions{});
    ASSERT_TRUE(drive.ok()) << drive.error().message;
    ASSERT_TRUE(format_drive(*drive.value(), FormatOptions{.overwrite = true}, system_clock()).ok());
    drive.value().reset();
    ServerOptions options;
    options.drives = {namespaces.front()};
    options.slab_bytes = 128 * kMiB;
    options.store.wait_until_loaded = true;
    server_ = Server::open(options).take();
    auto listening = server_->listen("rdma://" + std::string(host) + ":0");
    ASSERT_TRUE(listening.ok()) << listening.error().message;
    url_ = listening.value();
    server_->start();
    memory_.assign(kItems * (kBlockBytes + kCanaryBytes) + kCanaryBytes, std::byte{0x5a});
  }
  void TearDown() override {
    server_.reset();
    stand_in_for_verbs(nullptr);
  }

  std::byte* block(uint32_t item) { return memory_.data() + kCanaryBytes + item * (kBlockBytes + kCanaryBytes); }
  bool canaries_are_intact() {
    for (uint32_t item = 0; item <= kItems; ++item) {
      const std::byte* canary = memory_.data() + item * (kBlockBytes + kCanaryBytes);
      for (uint64_t at = 0; at < kCanaryBytes; ++at) {
        if (canary[at] != std::byte{0x5a}) return false;
      }
    }
    return true;
  }

  Status run(Client& client, FrameType type, uint64_t first) {
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
      fill_pattern({block(i), kBlockBytes}, type == FrameType::put ? number : 0);
      operation->parts.push_back({block(i), kBlockBytes});
      operation->part_first.push_back(i + 1);
    }
    const uint64_t began_ms = system_clock().now_ms();
    client.submit(operation);
    while (!client.wait(*operation, 100)) continue;
    EXPECT_LE(system_clock().now_ms() - began_ms, kDeadlineMs + kFenceMs + kBusyMs);
    for (uint32_t i = 0; i < kItems; ++i) {
      if (type == FrameType::get && operation->statuses[i] == Status::ok) {
        EXPECT_EQ(check_pattern({block(i), kBlockBytes}, first + i), -1) << "wrong bytes";
      }
    }
    EXPECT_TRUE(canaries_are_intact());
    return operation->statuses[0];
  }

  // Connects, registers some of the memory, puts, gets, and closes.
  void live(uint64_t first) {
    ClientOptions options;
    options.connect_timeout_ms = kConnectMs;
    const uint64_t began_ms = system_clock().now_ms();
    auto connected = Client::connect(url_, options);
    EXPECT_LE(system_clock().now_ms() - began_ms, kConnectMs + kBusyMs);
    auto* client = std::get_if<std::unique_ptr<Client>>(&connected);
    if (client == nullptr) return;
    auto region = (*client)->register_memory({block(0), kBlockBytes});
    (void)run(**client, FrameType::put, first);
    (void)run(**client, FrameType::get, first);
    if (region.ok()) (*client)->free_region(region.value());
    (*client)->close();
  }

  std::string url_;
  Verbs verbs_{};
  std::unique_ptr<Server> server_;
  std::vector<std::byte> memory_;
};

// The device is open from the first life on: its table is the same for all of them.
TEST_F(RdmaFaultsTest, WhateverTheDeviceRefusesTheEngineGoesOn) {
  uint64_t first = 1;
  int devices = 0;
  ibv_context** open = nullptr;
  using List = ibv_context** (*)(int*);
  const auto list = reinterpret_cast<List>(dlsym(dlopen("librdmacm.so.1", RTLD_NOW), "rdma_get_devices"));
  ASSERT_NE(list, nullptr);
  open = list(&devices);
  ASSERT_GT(devices, 0);
  for (int i = 0; i < devices; ++i) wrap_device(*open[i]);
  std::map<std::string, int> listed;
  counts = &listed;
  live(first);
  counts = nullptr;
  ASSERT_GT(listed["post_send"], 3);
  ASSERT_GT(listed["rdma_connect"], 0);
  int cases = 0;
  for (const auto& [name, calls] : listed) {
    // Calls that are made again and again are alike: the first few, and one in the middle.
    for (const int nth : {1, 2, 3, 5, calls / 2}) {
      if (nth < 1 || nth > calls) continue;
      for (const bool for_ever : {false, true}) {
        const Fault planned{name, nth, cases % 2 == 0 ? ENOMEM : EINVAL, for_ever};
        SCOPED_TRACE(name + ":" + std::to_string(nth) + (for_ever ? ":for_ever" : ":once"));
        std::map<std::string, int> counted;
        first += kItems;
        fault = &planned;
        counts = &counted;
        live(first);
        counts = nullptr;
        fault = nullptr;
        ++cases;
      }
    }
  }
  std::printf("%d calls of %zu names failed\n", cases, listed.size());
  ClientOptions options;
  auto connected = Client::connect(url_, options);
  ASSERT_EQ(connected.index(), 0u) << std::get<ConnectFailure>(connected).reason;
  Client& client = *std::get<0>(connected);
  EXPECT_EQ(run(client, FrameType::put, first + kItems), Status::ok);
  EXPECT_EQ(run(client, FrameType::get, first + kItems), Status::ok);
}

}  // namespace
}  // namespace cairn
