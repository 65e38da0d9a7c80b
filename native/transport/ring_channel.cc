#include "transport/ring_channel.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/persist.h"

namespace cairn {

namespace {

const char* const kWhat = "cannot make the shared memory of a connection";

// Bells that are taken in at once; more of them wait for the next turn.
constexpr size_t kBellsAtOnce = 4096;

Error wrong_memory(const std::string& why) {
  return Error{0, "the shared memory that the service handed over is not as it must be: " + why, 0};
}

bool is_right(const RingsHeader& header, uint64_t file_bytes) {
  const auto fits = [&](uint64_t first) {
    return first >= kRingsFirst && first % kRingsFirst == 0 && first <= header.total_bytes &&
           header.ring_bytes <= header.total_bytes - first;
  };
  const uint64_t low = std::min(header.to_service_first, header.to_client_first);
  const uint64_t high = std::max(header.to_service_first, header.to_client_first);
  return header.total_bytes == file_bytes && std::has_single_bit(header.ring_bytes) &&
         header.ring_bytes >= kRingsFirst && header.ring_bytes <= kRingBytesMost && fits(low) && fits(high) &&
         high - low >= header.ring_bytes;
}

// Where the system gives huge pages to whoever does not ask, every idle client would cost one.
void keep_pages_small(void* base, uint64_t bytes) {
  (void)madvise(base, bytes, MADV_NOHUGEPAGE);
}

}  // namespace

// --- the memory ------------------------------------------------------------------------------------------

Result<std::unique_ptr<SharedRings>> SharedRings::make(uint64_t ring_bytes, int& descriptor) {
  CAIRN_CHECK(std::has_single_bit(ring_bytes) && ring_bytes >= kRingsFirst && ring_bytes <= kRingBytesMost,
              "rings of a size that no client takes");
  RingsHeader header;
  header.ring_bytes = ring_bytes;
  header.to_service_first = kRingsFirst;
  header.to_client_first = kRingsFirst + ring_bytes;
  header.total_bytes = header.to_client_first + ring_bytes;
  const int fd = persist([] { return memfd_create("cairn-rings", MFD_CLOEXEC | MFD_ALLOW_SEALING); });
  if (fd < 0) return Error::from_errno(errno, kWhat);
  const auto failed = [fd](int number) {
    ::close(fd);
    return Error::from_errno(number, kWhat);
  };
  const auto total_bytes = static_cast<off_t>(header.total_bytes);
  if (persist([&] { return ftruncate(fd, total_bytes); }) != 0) return failed(errno);
  // Neither side can take away what the other has mapped.
  const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  if (persist([&] { return fcntl(fd, F_ADD_SEALS, seals); }) != 0) return failed(errno);
  // The first page, by a call that fails where there is no memory. Rings get theirs as they are used (RingPages).
  const ssize_t written = persist([&] { return pwrite(fd, &header, sizeof(header), 0); });
  if (written != static_cast<ssize_t>(sizeof(header))) return failed(written < 0 ? errno : ENOSPC);
  void* base = mmap(nullptr, header.total_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) return failed(errno);
  descriptor = fd;
  keep_pages_small(base, header.total_bytes);
  return std::unique_ptr<SharedRings>(new SharedRings(static_cast<std::byte*>(base), header));
}

Result<std::unique_ptr<SharedRings>> SharedRings::map(int descriptor) {
  struct stat file{};
  if (fstat(descriptor, &file) != 0) return Error::from_errno(errno, "cannot look at the service's shared memory");
  const auto seals = persist([&] { return fcntl(descriptor, F_GET_SEALS); });
  if (seals < 0) return Error::from_errno(errno, "cannot look at the service's shared memory");
  // Memory that could shrink would kill this process when it is touched.
  if ((seals & F_SEAL_SHRINK) == 0) return wrong_memory("it could shrink");
  RingsHeader header;
  const ssize_t got = persist([&] { return pread(descriptor, &header, sizeof(header), 0); });
  if (got < 0) return Error::from_errno(errno, "cannot read the service's shared memory");
  if (got != static_cast<ssize_t>(sizeof(header))) return wrong_memory("it has no header");
  if (header.magic != kRingsMagic) return wrong_memory("its first bytes are not CIRS");
  if (header.version != kRingsVersion)
    return wrong_memory("version " + std::to_string(header.version) + ", and this client knows " +
                        std::to_string(kRingsVersion) + " only");
  if (!is_right(header, static_cast<uint64_t>(file.st_size))) return wrong_memory("its lengths do not go together");
  void* base = mmap(nullptr, header.total_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (base == MAP_FAILED) return Error::from_errno(errno, "cannot map the service's shared memory");
  keep_pages_small(base, header.total_bytes);
  return std::unique_ptr<SharedRings>(new SharedRings(static_cast<std::byte*>(base), header));
}

SharedRings::~SharedRings() {
  munmap(base_, total_);
}

// --- the channel -----------------------------------------------------------------------------------------

namespace {

class RingChannel final : public ByteChannel, private RingBell {
 public:
  explicit RingChannel(int socket) : socket_(socket_channel(socket)), fd_(socket) {}
  RingChannel(int socket, std::unique_ptr<SharedRings> rings, RingEnd end) : RingChannel(socket) {
    rings_ = std::move(rings);
    begin(end);
  }
  ~RingChannel() override {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  RingChannel(const RingChannel&) = delete;
  RingChannel& operator=(const RingChannel&) = delete;

  Result<Unit> prepare() override {
    CAIRN_CHECK(rings_ == nullptr, "the rings of a connection are made twice");
    auto made = SharedRings::make(kRingBytes, descriptor_);
    if (!made) return made.error();
    rings_ = made.take();
    return Unit{};
  }

  long send_welcome(std::span<const iovec> from) override {
    CAIRN_CHECK(rings_ != nullptr && descriptor_ >= 0, "a welcome is sent before there are rings");
    size_t bytes = 0;
    for (const iovec& part : from) bytes += part.iov_len;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(from.data());
    message.msg_iovlen = from.size();
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &descriptor_, sizeof(int));
    const ssize_t sent = persist([&] { return sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT); });
    const int number = errno;
    ::close(std::exchange(descriptor_, -1));
    if (sent < 0) return -number;
    // The first words to a peer, and few of them: they fit, unless it is none that is waiting for them.
    if (static_cast<size_t>(sent) != bytes) return -ENOBUFS;
    begin(RingEnd::service);
    return sent;
  }

  long send(std::span<const iovec> from) override {
    if (!out_) return socket_->send(from);
    const long sent = out_->push(from);
    if (sent != 0) return sent;
    return broken_ != 0 ? -broken_ : -EAGAIN;
  }

  long receive(std::span<const iovec> into, ByteWitness* witness) override {
    if (!in_) return socket_->receive(into, witness);
    // Looked at before the ring: what the peer wrote before it went is still read.
    const bool over = over_;
    const long got = in_->pull(into, witness);
    if (got != 0) return got;
    if (over) return broken_ == 0 || broken_ == EPIPE ? 0 : -broken_;
    return -EAGAIN;
  }

  void finish() override { socket_->finish(); }
  int event_fd() const override { return fd_; }

  bool polled() const override { return in_.has_value(); }

  bool rest(bool pending) override {
    if (!in_ || over_) return !over_;
    resting_ = true;
    const bool empty = in_->sleep();
    return (!pending || out_->sleep()) && empty;
  }

  void wake() override {
    if (!resting_) return;
    resting_ = false;
    in_->wake();
    out_->wake();
  }

  void trim() override {
    if (out_) out_->trim();
  }

  void heed() override {
    if (!in_) return;
    std::array<std::byte, kBellsAtOnce> bells;
    const ssize_t got = recv(fd_, bells.data(), bells.size(), MSG_DONTWAIT);
    if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR))) return;
    gone(got == 0 ? 0 : errno);
  }

 private:
  void begin(RingEnd end) {
    const bool service = end == RingEnd::service;
    RingBell& bell = *this;
    const uint64_t bytes = rings_->ring_bytes();
    RingControl& to_service = rings_->to_service();
    RingControl& to_client = rings_->to_client();
    out_.emplace(service ? to_client : to_service, service ? rings_->to_client_bytes() : rings_->to_service_bytes(),
                 bytes, bell);
    in_.emplace(service ? to_service : to_client, service ? rings_->to_service_bytes() : rings_->to_client_bytes(),
                bytes, bell);
  }

  // A bell that is lost leaves the peer asleep for ever: what cannot be rung ends the link.
  void ring() override {
    const std::byte bell{};
    constexpr int kTriesMost = 3;
    ssize_t sent = -1;
    for (int tries = 0; sent < 0 && (tries == 0 || (errno == EAGAIN && tries < kTriesMost)); ++tries)
      sent = persist([&] { return ::send(fd_, &bell, sizeof(bell), MSG_NOSIGNAL | MSG_DONTWAIT); });
    // Still EAGAIN: the socket is full of bells that the peer has not heard.
    if (sent < 0 && errno != EAGAIN) gone(errno);
  }

  void gone(int number) {
    over_ = true;
    if (broken_ == 0) broken_ = number;
  }

  std::unique_ptr<ByteChannel> socket_;
  int fd_;
  int descriptor_ = -1;  // of the rings, until the peer has it
  std::unique_ptr<SharedRings> rings_;
  std::optional<RingProducer> out_;
  std::optional<RingConsumer> in_;
  bool resting_ = false;
  bool over_ = false;  // the peer says no more but what lies in the ring
  int broken_ = 0;     // … and why, where it did not just close
};

}  // namespace

std::unique_ptr<ByteChannel> ring_channel(int socket) {
  return std::make_unique<RingChannel>(socket);
}

std::unique_ptr<ByteChannel> ring_channel(int socket, std::unique_ptr<SharedRings> rings, RingEnd end) {
  CAIRN_CHECK(rings != nullptr, "a channel over no rings");
  return std::make_unique<RingChannel>(socket, std::move(rings), end);
}

}  // namespace cairn
