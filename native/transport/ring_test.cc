// Rings in shared memory: what lies where, what a hostile other side can do, and who wakes whom.
#include "transport/ring.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/crc32c.h"
#include "base/pattern.h"
#include "testing/golden.h"
#include "transport/ring_channel.h"

namespace cairn {
namespace {

class CountingBell final : public RingBell {
 public:
  void ring() override { ++rung; }
  int rung = 0;
};

class Crc final : public ByteWitness {
 public:
  void saw(ConstByteSpan bytes) override { value = crc32c(bytes, value); }
  uint32_t value = 0;
};

class RingTest : public testing::Test {
 protected:
  static constexpr uint64_t kBytes = 256 * 1024;
  RingTest() {
    memory_ = static_cast<std::byte*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    producer.emplace(control, memory_, kBytes, to_consumer);
    consumer.emplace(control, memory_, kBytes, to_producer);
  }
  ~RingTest() override { munmap(memory_, kBytes); }

  long push(ConstByteSpan bytes) {
    const iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    return producer->push({&part, 1});
  }
  long pull(ByteSpan bytes, ByteWitness* witness = nullptr) {
    const iovec part{bytes.data(), bytes.size()};
    return consumer->pull({&part, 1}, witness);
  }
  // How many pages of the ring have memory.
  size_t pages() {
    std::vector<unsigned char> there(kBytes / 4096);
    mincore(memory_, kBytes, there.data());
    return static_cast<size_t>(
        std::count_if(there.begin(), there.end(), [](unsigned char one) { return (one & 1) != 0; }));
  }

  RingControl control;
  std::byte* memory_;
  uint32_t sum_ = 0;  // of what a second thread sent
  CountingBell to_consumer, to_producer;
  std::optional<RingProducer> producer;
  std::optional<RingConsumer> consumer;
};

TEST_F(RingTest, BytesComeOutAsTheyWentInAroundTheEndAgainAndAgain) {
  // Something always stays in the ring, so that it never begins again at its beginning.
  std::vector<std::byte> rest(1000), in(70'001), out(70'001);
  ASSERT_EQ(push(rest), 1000);
  for (uint64_t round = 0; round < 40; ++round) {
    fill_pattern(in, round);
    ASSERT_EQ(push(in), static_cast<long>(in.size()));
    ASSERT_EQ(pull(rest), 1000);
    Crc seen;
    ASSERT_EQ(pull(std::span(out).first(69'001), &seen), 69'001);
    ASSERT_EQ(seen.value, crc32c(std::span(in).first(69'001))) << "the witness saw other bytes";
    ASSERT_EQ(std::memcmp(in.data(), out.data(), 69'001), 0) << round;
    // The last 1,000 are taken in the next round, as `rest`.
  }
}

TEST_F(RingTest, AnEmptyRingBeginsAgainWhereItsMemoryIsWarm) {
  std::vector<std::byte> frame(300), got(300);
  for (int i = 0; i < 10'000; ++i) {
    ASSERT_EQ(push(frame), 300);
    ASSERT_EQ(pull(got), 300);
  }
  EXPECT_LE(pages(), 1U) << "small frames walk through the whole ring";
}

TEST_F(RingTest, WhoeverNeverReadsCostsAWindowAndWhoeverReadsGetsTheWholeRing) {
  std::vector<std::byte> much(2 * kBytes), out(kBytes);
  EXPECT_EQ(push(much), static_cast<long>(kRingWindowLeast));
  EXPECT_EQ(push(much), 0);
  EXPECT_LE(pages(), kRingWindowLeast / 4096);
  EXPECT_EQ(pull(out), static_cast<long>(kRingWindowLeast));
  EXPECT_EQ(push(much), static_cast<long>(kBytes));
  EXPECT_EQ(push(much), 0);
}

TEST_F(RingTest, MemoryIsGivenBackWhenAllWasReadAndNotBefore) {
  std::vector<std::byte> in(kRingWindowLeast), out(kRingWindowLeast);
  fill_pattern(in, 3);
  ASSERT_EQ(push(in), static_cast<long>(in.size()));
  producer->trim();
  ASSERT_EQ(pull(out), static_cast<long>(out.size()));
  EXPECT_EQ(check_pattern(out, 3), -1) << "bytes that were not read were given back";
  const size_t before = pages();
  producer->trim();
  EXPECT_LT(pages(), before);
  fill_pattern(in, 4);
  ASSERT_EQ(push(in), static_cast<long>(in.size()));
  ASSERT_EQ(pull(out), static_cast<long>(out.size()));
  EXPECT_EQ(check_pattern(out, 4), -1);
}

// --- a hostile other side ----------------------------------------------------------------------------------

TEST_F(RingTest, AReadersIndexThatCannotBeIsToldAndNothingIsWritten) {
  std::vector<std::byte> in(5000);
  ASSERT_EQ(push(in), 5000);
  for (const uint64_t wrong : {uint64_t{5001}, UINT64_MAX, uint64_t{1} << 63}) {
    control.consumed = wrong;
    EXPECT_EQ(push(in), -EPROTO) << wrong;
  }
  control.consumed = 4000;
  EXPECT_EQ(push(in), 5000);
  control.consumed = 3999;  // backwards
  EXPECT_EQ(push(in), -EPROTO);
}

TEST_F(RingTest, AWritersIndexThatCannotBeIsToldAndNothingIsRead) {
  std::vector<std::byte> in(5000), out(5000);
  for (const uint64_t wrong : {kBytes + 1, UINT64_MAX, uint64_t{1} << 63}) {
    control.produced = wrong;
    EXPECT_EQ(pull(out), -EPROTO) << wrong;
  }
  control.produced = 0;
  ASSERT_EQ(push(in), 5000);
  ASSERT_EQ(pull(std::span(out).first(5000)), 5000);
  control.produced = 4999;  // backwards
  EXPECT_EQ(pull(out), -EPROTO);
}

TEST_F(RingTest, AnOriginThatCannotBeIsTold) {
  std::vector<std::byte> in(100), out(100);
  ASSERT_EQ(push(in), 100);
  control.origin = 1;
  EXPECT_EQ(pull(out), -EPROTO);
}

// Whatever the other side writes into the control words, and whenever: no byte outside of the ring and of the memory
// that was given is touched (the sanitizers and the canaries see it), and every call returns.
TEST_F(RingTest, AnyWordsInTheControlBlockTouchNothingElse) {
  std::minstd_rand random(7);
  std::vector<std::byte> canary(64, std::byte{0x5A});
  std::vector<std::byte> out(3 * 64);
  for (int round = 0; round < 20'000; ++round) {
    RingControl wild;
    const auto word = [&]() -> uint64_t {
      const uint64_t base = random() % 2 == 0 ? uint64_t{random()} << 33 | random() : random() % (2 * kBytes);
      return base;
    };
    wild.produced = word();
    wild.origin = word();
    wild.consumed = word();
    wild.consumer_asleep = static_cast<uint32_t>(random());
    wild.producer_asleep = static_cast<uint32_t>(random());
    std::memcpy(static_cast<void*>(&control), &wild, sizeof(control));
    RingProducer out_ring(control, memory_, kBytes, to_consumer);
    RingConsumer in_ring(control, memory_, kBytes, to_producer);
    std::fill(out.begin(), out.end(), std::byte{0x5A});
    const iovec middle{out.data() + 64, 64};
    (void)in_ring.pull({&middle, 1}, nullptr);
    (void)out_ring.push({&middle, 1});
    (void)in_ring.sleep();
    (void)out_ring.sleep();
    ASSERT_EQ(std::memcmp(out.data(), canary.data(), 64), 0);
    ASSERT_EQ(std::memcmp(out.data() + 128, canary.data(), 64), 0);
  }
}

// --- sleeping ----------------------------------------------------------------------------------------------

TEST_F(RingTest, TheBellRingsOnceForEachSleepAndNeverForOneThatIsAwake) {
  std::vector<std::byte> in(100), out(kBytes);
  ASSERT_EQ(push(in), 100);
  EXPECT_EQ(to_consumer.rung, 0);
  EXPECT_FALSE(consumer->sleep()) << "it sleeps on bytes that are there";
  consumer->wake();
  ASSERT_EQ(pull(std::span(out).first(100)), 100);
  EXPECT_TRUE(consumer->sleep());
  ASSERT_EQ(push(in), 100);
  ASSERT_EQ(push(in), 100);
  EXPECT_EQ(to_consumer.rung, 1);
}

TEST_F(RingTest, AWriterThatSleepsIsWokenWhenThereIsRoomForMuch) {
  std::vector<std::byte> much(2 * kBytes), out(kBytes);
  while (push(much) > 0 || pull(out) > 0) {
    if (push(much) == static_cast<long>(kBytes)) break;
  }
  EXPECT_TRUE(producer->sleep());
  const int before = to_producer.rung;
  ASSERT_GT(pull(std::span(out).first(100)), 0);
  EXPECT_EQ(to_producer.rung, before) << "it is woken for room for 100 bytes";
  while (pull(std::span(out).first(10'000)) > 0) {
  }
  EXPECT_EQ(to_producer.rung, before + 1);
  producer->wake();
  EXPECT_FALSE(producer->sleep()) << "it sleeps though all was read before it said so";
}

// Two threads that sleep as soon as they may, over a bell that is a semaphore: a wake-up that is lost ends in a
// time-out.
TEST_F(RingTest, NoWakeUpIsLostBetweenTwoThreads) {
  class Semaphore final : public RingBell {
   public:
    Semaphore() { EXPECT_EQ(pipe2(ends_, O_NONBLOCK), 0); }
    ~Semaphore() {
      ::close(ends_[0]);
      ::close(ends_[1]);
    }
    void ring() override { (void)!::write(ends_[1], "x", 1); }
    bool wait() {
      pollfd waiting{ends_[0], POLLIN, 0};
      if (::poll(&waiting, 1, 20'000) <= 0) return false;
      char drained[64];
      (void)!::read(ends_[0], drained, sizeof(drained));
      return true;
    }

   private:
    int ends_[2];
  };
  Semaphore data, room;
  RingProducer writes(control, memory_, kBytes, data);
  RingConsumer reads(control, memory_, kBytes, room);
  constexpr uint64_t kTotal = 48 << 20;
  std::atomic<bool> good{true};
  std::thread writer([&] {
    std::minstd_rand random(1);
    std::vector<std::byte> block(200'000);
    uint32_t crc = 0;
    for (uint64_t sent = 0; sent < kTotal && good;) {
      const size_t wanted = std::min<uint64_t>(1 + random() % block.size(), kTotal - sent);
      fill_pattern(std::span(block).first(wanted), sent);
      for (size_t at = 0; at < wanted && good;) {
        const iovec part{block.data() + at, wanted - at};
        const long pushed = writes.push({&part, 1});
        if (pushed < 0) good = false;
        if (pushed > 0) at += static_cast<size_t>(pushed);
        if (at < wanted && writes.sleep() && !room.wait()) good = false;
        writes.wake();
      }
      sent += wanted;
      crc = crc32c(std::span(block).first(wanted), crc);
    }
    sum_ = crc;
  });
  Crc seen;
  std::vector<std::byte> into(150'000);
  for (uint64_t got = 0; got < kTotal && good;) {
    const iovec part{into.data(), into.size()};
    const long pulled = reads.pull({&part, 1}, &seen);
    if (pulled < 0) good = false;
    if (pulled > 0) {
      got += static_cast<uint64_t>(pulled);
      continue;
    }
    if (reads.sleep() && !data.wait()) good = false;
    reads.wake();
  }
  writer.join();
  ASSERT_TRUE(good) << "a wake-up was lost";
  EXPECT_EQ(seen.value, sum_);
}

// --- the memory, between processes ---------------------------------------------------------------------------

TEST(SharedRings, BeginWithTheHeaderOfTheDocument) {
  int descriptor = -1;
  auto made = SharedRings::make(kRingBytes, descriptor);
  ASSERT_TRUE(made.ok());
  std::vector<std::byte> header(sizeof(RingsHeader));
  ASSERT_EQ(pread(descriptor, header.data(), header.size(), 0), static_cast<ssize_t>(header.size()));
  ::close(descriptor);
  EXPECT_EQ(hex(header), golden_in_page("wire-format.md", "rings"));
}

TEST(SharedRings, AreSealedAndTakeNoMemoryBeforeTheyAreUsed) {
  int descriptor = -1;
  auto made = SharedRings::make(kRingBytes, descriptor);
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(fcntl(descriptor, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  EXPECT_NE(ftruncate(descriptor, 4096), 0);
  struct stat file{};
  ASSERT_EQ(fstat(descriptor, &file), 0);
  EXPECT_LE(file.st_blocks * 512, 65'536) << "a connection that says nothing costs more than a page";
  auto again = SharedRings::map(descriptor);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again.value()->ring_bytes(), kRingBytes);
  ::close(descriptor);
}

// Each in a memfd of its own, as a service that is broken or hostile would hand it over.
TEST(SharedRings, MemoryThatIsNotAsItMustBeIsRefusedWithTheReason) {
  const auto reason_for = [](const std::function<void(RingsHeader&)>& change, uint64_t file_bytes, bool sealed) {
    RingsHeader header;
    header.ring_bytes = 65'536;
    header.to_service_first = 65'536;
    header.to_client_first = 131'072;
    header.total_bytes = 196'608;
    change(header);
    const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    EXPECT_EQ(ftruncate(fd, static_cast<off_t>(file_bytes)), 0);
    EXPECT_EQ(pwrite(fd, &header, sizeof(header), 0), static_cast<ssize_t>(sizeof(header)));
    if (sealed) fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
    auto mapped = SharedRings::map(fd);
    ::close(fd);
    return mapped.ok() ? std::string() : mapped.error().message;
  };
  const auto nothing = [](RingsHeader&) {};
  EXPECT_EQ(reason_for(nothing, 196'608, true), "");
  EXPECT_NE(reason_for(nothing, 196'608, false).find("it could shrink"), std::string::npos);
  EXPECT_NE(reason_for([](RingsHeader& h) { h.magic = 1; }, 196'608, true).find("CIRS"), std::string::npos);
  EXPECT_NE(reason_for([](RingsHeader& h) { h.version = 2; }, 196'608, true).find("version 2"), std::string::npos);
  const std::vector<std::function<void(RingsHeader&)>> lengths = {
      [](RingsHeader& h) { h.total_bytes = 196'609; },
      [](RingsHeader& h) { h.ring_bytes = 65'537; },
      [](RingsHeader& h) { h.ring_bytes = 131'072; },
      [](RingsHeader& h) { h.ring_bytes = uint64_t{1} << 63; },
      [](RingsHeader& h) { h.ring_bytes = 0; },
      [](RingsHeader& h) { h.to_service_first = 0; },
      [](RingsHeader& h) { h.to_client_first = h.to_service_first; },
      [](RingsHeader& h) { h.to_client_first = UINT64_MAX - 65'535; },
      [](RingsHeader& h) { h.to_client_first = 131'071; },
  };
  for (size_t i = 0; i < lengths.size(); ++i)
    EXPECT_NE(reason_for(lengths[i], 196'608, true).find("lengths"), std::string::npos) << i;
}

// A client process and a service process, each with its own mapping; every byte both ways, asleep whenever possible.
TEST(SharedRings, TwoProcessesExchangeMegabytesAndSeeEachOtherGo) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
  int descriptor = -1;
  auto rings = SharedRings::make(kRingBytes, descriptor).take();
  constexpr uint64_t kTotal = 32 << 20;
  // Sends what it gets back, until its peer is gone.
  const pid_t child = fork();
  if (child == 0) {
    ::close(ends[0]);
    auto channel = ring_channel(ends[1], SharedRings::map(descriptor).take(), RingEnd::client);
    std::vector<std::byte> held(300'000);
    size_t from = 0, to = 0;
    for (;;) {
      long moved = 0;
      if (from == to) {
        from = to = 0;
        const iovec part{held.data(), held.size()};
        moved = channel->receive({&part, 1}, nullptr);
        if (moved > 0) to = static_cast<size_t>(moved);
      } else {
        const iovec part{held.data() + from, to - from};
        moved = channel->send({&part, 1});
        if (moved > 0) from += static_cast<size_t>(moved);
      }
      if (moved == 0) _exit(0);
      if (moved > 0) continue;
      if (moved != -EAGAIN) _exit(2);
      if (!channel->rest(from != to)) {
        channel->wake();
        continue;
      }
      pollfd waiting{channel->event_fd(), POLLIN, 0};
      if (::poll(&waiting, 1, 20'000) <= 0) _exit(3);
      channel->heed();
      channel->wake();
    }
  }
  ::close(ends[1]);
  ::close(descriptor);
  auto channel = ring_channel(ends[0], std::move(rings), RingEnd::service);
  std::vector<std::byte> block(100'000), back(100'000);
  uint32_t said = 0;
  Crc heard;
  uint64_t sent = 0, got = 0;
  size_t at = block.size();
  bool woken = true;
  while (got < kTotal && woken) {
    bool any = false;
    if (at == block.size() && sent < kTotal) {
      fill_pattern(block, sent);
      at = 0;
    }
    if (at < block.size()) {
      const size_t most = std::min<uint64_t>(block.size() - at, kTotal - sent);
      const iovec part{block.data() + at, most};
      const long moved = most > 0 ? channel->send({&part, 1}) : -EAGAIN;
      if (moved > 0) {
        said = crc32c(std::span(block).subspan(at, static_cast<size_t>(moved)), said);
        at += static_cast<size_t>(moved);
        sent += static_cast<uint64_t>(moved);
        any = true;
      }
    }
    const iovec part{back.data(), back.size()};
    const long moved = channel->receive({&part, 1}, &heard);
    if (moved > 0) got += static_cast<uint64_t>(moved);
    if (moved == 0) break;
    if (any || moved > 0 || !channel->rest(sent < kTotal)) {
      channel->wake();
      continue;
    }
    pollfd waiting{channel->event_fd(), POLLIN, 0};
    woken = ::poll(&waiting, 1, 20'000) > 0;
    channel->heed();
    channel->wake();
  }
  EXPECT_TRUE(woken) << "a wake-up was lost";
  EXPECT_EQ(got, kTotal);
  EXPECT_EQ(heard.value, said);
  channel.reset();
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace cairn
