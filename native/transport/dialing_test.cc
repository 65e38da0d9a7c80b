// Connecting takes no longer than it may, and no failure for what passes: full queues, signals, addresses that are
// dead.
#include "transport/dialing.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"

namespace cairn {
namespace {

// What a machine that is busy adds to any of the times below.
constexpr uint64_t kBusyMs = 2000;
constexpr int kLongMs = 60'000;

uint64_t now_ms() {
  return system_clock().now_ms();
}

Patience patience_of(int ms, Interruption* interruption = nullptr) {
  return Patience(now_ms() + static_cast<uint64_t>(ms), interruption);
}

// Nobody is let in: whoever connects when its queue is full is not answered.
class FullTcp {
 public:
  FullTcp() : listening_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    name_.sin_family = AF_INET;
    name_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(bind(listening_, sockaddr_of(), sizeof(name_)), 0);
    EXPECT_EQ(listen(listening_, 0), 0);
    socklen_t length = sizeof(name_);
    EXPECT_EQ(getsockname(listening_, reinterpret_cast<sockaddr*>(&name_), &length), 0);
    for (int& one : waiting_) {
      one = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      (void)connect(one, sockaddr_of(), sizeof(name_));
    }
  }
  ~FullTcp() {
    for (const int one : waiting_) ::close(one);
    ::close(listening_);
  }
  Place place() const { return {sockaddr_of(), sizeof(name_), AF_INET}; }

 private:
  const sockaddr* sockaddr_of() const { return reinterpret_cast<const sockaddr*>(&name_); }
  int listening_;
  sockaddr_in name_{};
  std::array<int, 4> waiting_;
};

class Listening {
 public:
  explicit Listening(const Address& address) : made_(listen_socket(address).take()) {}
  ~Listening() { ::close(made_.socket); }
  const Address& bound() const { return made_.bound; }
  int take() {
    int taken = -1;
    while (taken < 0) taken = accept(made_.socket, nullptr, nullptr);
    return taken;
  }

 private:
  ListeningSocket made_;
};

Address loopback() {
  Address address;
  address.host = "127.0.0.1";
  return address;
}

// A Unix socket whose queue of connections holds one.
class FullUnix {
 public:
  FullUnix() {
    std::string folder = (std::filesystem::temp_directory_path() / "cairn-dial-XXXXXX").string();
    EXPECT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    address_.kind = Address::Kind::shm;
    address_.path = folder + "/socket";
    const sockaddr_un name = unix_address(address_.path);
    listening_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(bind(listening_, reinterpret_cast<const sockaddr*>(&name), sizeof(name)), 0);
    EXPECT_EQ(listen(listening_, 0), 0);
    first_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(connect(first_, reinterpret_cast<const sockaddr*>(&name), sizeof(name)), 0);
  }
  ~FullUnix() {
    ::close(first_);
    ::close(listening_);
    std::filesystem::remove_all(folder_);
  }
  const Address& address() const { return address_; }
  void take_one() { ::close(accept(listening_, nullptr, nullptr)); }

 private:
  Address address_;
  std::string folder_;
  int listening_ = -1, first_ = -1;
};

class After final : public Interruption {
 public:
  explicit After(uint64_t ms) : at_ms_(now_ms() + ms) {}
  bool requested() override { return now_ms() >= at_ms_; }

 private:
  uint64_t at_ms_;
};

TEST(DialingTest, AFullQueueIsWaitedOutAndNoFailure) {
  FullUnix full;
  std::thread server([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    full.take_one();
  });
  Patience patience = patience_of(kLongMs);
  auto connected = dial(full.address(), patience);
  server.join();
  ASSERT_TRUE(connected.ok()) << connected.error().message;
  ::close(connected.value());
}

TEST(DialingTest, AQueueThatStaysFullIsToldWhenTheTimeIsUp) {
  const FullUnix full;
  const uint64_t began = now_ms();
  Patience patience = patience_of(300);
  auto connected = dial(full.address(), patience);
  ASSERT_FALSE(connected.ok());
  EXPECT_EQ(connected.error().system_errno, ETIMEDOUT);
  EXPECT_NE(connected.error().message.find("queue of connections stays full"), std::string::npos);
  EXPECT_GE(now_ms() - began, 300u);
  EXPECT_LE(now_ms() - began, 300 + kBusyMs);
}

TEST(DialingTest, AnAddressThatDoesNotAnswerCostsNoMoreThanItsHeadStart) {
  Listening good(loopback());
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  name.sin_port = htons(good.bound().port);
  const FullTcp dead, as_dead;
  const uint64_t began = now_ms();
  Patience patience = patience_of(kLongMs);
  const std::vector<Place> places = {
      dead.place(), as_dead.place(), {reinterpret_cast<const sockaddr*>(&name), sizeof(name), AF_INET}};
  auto connected = dial_one_of(good.bound(), places, patience);
  ASSERT_TRUE(connected.ok()) << connected.error().message;
  EXPECT_LE(now_ms() - began, 500 + kBusyMs);
  ::close(good.take());
  ::close(connected.value());
}

TEST(DialingTest, AddressesThatDoNotAnswerShareTheTime) {
  const FullTcp one, two, three;
  const uint64_t began = now_ms();
  Patience patience = patience_of(600);
  auto connected = dial_one_of(loopback(), {one.place(), two.place(), three.place()}, patience);
  ASSERT_FALSE(connected.ok());
  EXPECT_EQ(connected.error().system_errno, ETIMEDOUT);
  EXPECT_LE(now_ms() - began, 600 + kBusyMs);
}

TEST(DialingTest, AnInterruptionEndsIt) {
  const FullTcp dead;
  const FullUnix full;
  for (int round = 0; round < 2; ++round) {
    After soon(200);
    const uint64_t began = now_ms();
    Patience patience = patience_of(kLongMs, &soon);
    auto connected = round == 0 ? dial_one_of(loopback(), {dead.place()}, patience) : dial(full.address(), patience);
    ASSERT_FALSE(connected.ok());
    EXPECT_EQ(connected.error().system_errno, ECANCELED);
    EXPECT_LE(now_ms() - began, 200 + Interruption::kEveryMs + kBusyMs);
  }
}

TEST(DialingTest, SignalsAreNoFailure) {
  struct sigaction before{}, noted{};
  noted.sa_handler = [](int) {};  // without SA_RESTART: every call that waits is interrupted
  ASSERT_EQ(sigaction(SIGUSR1, &noted, &before), 0);
  std::atomic<bool> over{false};
  const pthread_t self = pthread_self();
  std::thread sender([&] {
    while (!over) {
      pthread_kill(self, SIGUSR1);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  FullUnix full;
  std::thread server([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    full.take_one();
  });
  Patience patience = patience_of(kLongMs);
  auto connected = dial(full.address(), patience);
  over = true;
  sender.join();
  server.join();
  ASSERT_EQ(sigaction(SIGUSR1, &before, nullptr), 0);
  ASSERT_TRUE(connected.ok()) << connected.error().message;
  ::close(connected.value());
}

TEST(DialingTest, WhatIsWrongIsSaid) {
  Address nobody = loopback();
  {
    const Listening once(loopback());
    nobody.port = once.bound().port;
  }
  Patience patience = patience_of(kLongMs);
  EXPECT_NE(dial(nobody, patience).error().message.find("Connection refused"), std::string::npos);
  Address unknown = loopback();
  unknown.host = "no-such-host.invalid";
  EXPECT_NE(dial(unknown, patience).error().message.find("cannot find the host 'no-such-host.invalid'"),
            std::string::npos);
  Address missing;
  missing.kind = Address::Kind::shm;
  missing.path = "/no-such-folder/socket";
  EXPECT_NE(dial(missing, patience).error().message.find("has not made its socket"), std::string::npos);
}

}  // namespace
}  // namespace cairn
