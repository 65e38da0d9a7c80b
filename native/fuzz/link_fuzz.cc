// Any bytes as what a peer sends: both ends of a stream link. The first byte chooses the end, and whether the rest is
// what it receives in one piece or through a ring whose other side writes what it likes into the shared memory; frames
// are sealed so that the fuzzer gets behind the checksums.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "testing/link_pair.h"
#include "transport/ring_channel.h"

using namespace cairn;

namespace {

// Cuts the input into frames whose CRCs are made right: [header fields][body length: 2 bytes] body …
std::vector<std::byte> sealed_frames(ConstByteSpan input) {
  std::vector<std::byte> out;
  constexpr size_t kFields = 14;
  while (input.size() >= kFields) {
    FrameHeader header;
    header.type = load<FrameType>(input.data());
    header.flags = load<uint8_t>(input.data() + 1);
    header.request_id = load<uint8_t>(input.data() + 2) % 8;
    header.item_count = load<uint16_t>(input.data() + 3);
    header.payload_bytes = load<uint32_t>(input.data() + 5);
    const bool honest = (load<uint8_t>(input.data() + 9) & 1) != 0;
    const size_t wanted = load<uint16_t>(input.data() + 10) % 512;
    const size_t payload = load<uint16_t>(input.data() + 12) % 2048;
    input = input.subspan(kFields);
    const ConstByteSpan body = input.first(std::min(wanted, input.size()));
    input = input.subspan(body.size());
    if (honest) header.payload_bytes = payload;
    FrameBuilder frame(header.type, header.request_id, body.size());
    frame.header() = header;
    frame.append_bytes(body);
    const auto bytes = frame.finish();
    out.insert(out.end(), bytes.begin(), bytes.end());
    if (honest) out.resize(out.size() + payload);
  }
  return out;
}

// A peer that has said all it will say, and hears nothing.
class InputChannel final : public ByteChannel {
 public:
  explicit InputChannel(ConstByteSpan input) : input_(input) {}
  long send(std::span<const iovec> from) override {
    long moved = 0;
    for (const iovec& part : from) {
      // Read, so that the sanitizer sees memory that was given back.
      heard_ = crc32c({static_cast<const std::byte*>(part.iov_base), part.iov_len}, heard_);
      moved += static_cast<long>(part.iov_len);
    }
    return moved;
  }
  long receive(std::span<const iovec> into, ByteWitness* witness) override {
    if (input_.empty()) return -EAGAIN;
    long moved = 0;
    for (const iovec& part : into) {
      const size_t take = std::min(part.iov_len, input_.size());
      if (take > 0) std::memcpy(part.iov_base, input_.data(), take);
      input_ = input_.subspan(take);
      if (witness != nullptr && take > 0) witness->saw({static_cast<const std::byte*>(part.iov_base), take});
      moved += static_cast<long>(take);
    }
    return moved;
  }
  void finish() override {}
  int event_fd() const override { return -1; }

 private:
  ConstByteSpan input_;
  uint32_t heard_ = 0;
};

// A ring whose other side is hostile: it says what the input says, and between two looks of ours it writes words of the
// input into the control blocks.
class WildRings {
 public:
  WildRings(ConstByteSpan input, RingEnd ours) : input_(input), control_(ours == RingEnd::service) {
    int sockets[2];
    const int made = socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sockets);
    CAIRN_CHECK(made == 0, "no socket pair");
    peer_ = sockets[1];
    int descriptor = -1;
    rings_ = SharedRings::make(kRingsFirst, descriptor).take();
    channel = ring_channel(sockets[0], SharedRings::map(descriptor).take(), ours);
    ::close(descriptor);
  }
  ~WildRings() { ::close(peer_); }
  WildRings(const WildRings&) = delete;
  WildRings& operator=(const WildRings&) = delete;

  // [how much is said: 2 bytes] bytes … [which word: 1 byte, its value: 8 bytes]
  void turn() {
    RingControl& in = control_ ? rings_->to_service() : rings_->to_client();
    RingControl& out = control_ ? rings_->to_client() : rings_->to_service();
    std::byte* bytes = control_ ? rings_->to_service_bytes() : rings_->to_client_bytes();
    if (input_.size() < 2) return;
    const size_t said = std::min<size_t>(load<uint16_t>(input_.data()), input_.size() - 2);
    for (size_t i = 0; i < said; ++i) bytes[(in.produced + i - in.origin) % kRingsFirst] = input_[2 + i];
    in.produced += said;
    out.consumed = out.produced;
    input_ = input_.subspan(2 + said);
    if (input_.size() < 9) return;
    uint64_t* const words[] = {&in.produced, &in.origin, &in.consumed, &out.produced, &out.origin, &out.consumed};
    const auto which = load<uint8_t>(input_.data());
    if (which < 2 * std::size(words)) {
      uint64_t& word = *words[which % std::size(words)];
      word = which < std::size(words) ? load<uint64_t>(input_.data() + 1) : word + load<int8_t>(input_.data() + 1);
    }
    in.producer_asleep = out.consumer_asleep = which & 1;
    input_ = input_.subspan(9);
  }
  std::unique_ptr<ByteChannel> channel;

 private:
  ConstByteSpan input_;
  bool control_;
  int peer_ = -1;
  std::unique_ptr<SharedRings> rings_;
};

class Quiet final : public ServerLinkHandler, public ClientLinkHandler {
 public:
  void on_frame(ServerLink&, const FrameHeader&, ConstByteSpan) override {}
  void on_violation(ServerLink& link, Status status, std::string_view reason) override {
    link.leave(build_reason(FrameType::refuse, 0, SessionTag{}, status, reason));
  }
  void on_payload_sent(ServerLink&, uint64_t) override {}
  void on_closed(ServerLink&, Status, std::string_view) override { closed = true; }
  bool source(uint64_t request, uint32_t, uint64_t, uint64_t length, std::vector<iovec>& out) override {
    return give(request, length, out);
  }
  bool destination(uint64_t request, uint32_t, uint64_t length, std::vector<iovec>& out) override {
    return give(request, length, out);
  }
  bool checks_payload() const override { return true; }
  void on_frame(const FrameHeader&, ConstByteSpan) override {}
  void on_closed(Status, std::string_view) override { closed = true; }
  bool closed = false;

 private:
  bool give(uint64_t request, uint64_t length, std::vector<iovec>& out) {
    if (request % 2 == 0 || length > sizeof(memory_)) return false;
    if (length > 0) out.push_back({memory_, length});
    return true;
  }
  std::byte memory_[4096];
};

// What the server waits for. Made once: making it anew for every input took most of the time.
std::array<RecordedPull, 4>& pulls() {
  static const std::unique_ptr<Slab> slab = Slab::create(2 * kMiB).take();
  static std::array<RecordedPull, 4> all{RecordedPull{*slab, 0, 0, 256}, RecordedPull{*slab, 1, 1, 257},
                                         RecordedPull{*slab, 2, 2, 258}, RecordedPull{*slab, 3, 3, 259}};
  for (RecordedPull& pull : all) pull.ended.clear();
  return all;
}

void feed_server(ConstByteSpan bytes) {
  auto& waiting = pulls();
  {
    Quiet handler;
    StreamServerLink link(std::make_unique<InputChannel>(bytes), "fuzz");
    link.set_handler(&handler);
    for (RecordedPull& pull : waiting) link.pull(pull);
    for (int i = 0; i < 4 && !handler.closed; ++i) {
      link.progress(true, true);
      link.flush();
    }
    for (RecordedPull& pull : waiting) {
      if (!pull.ended.empty()) continue;
      link.cancel(pull);
      pull.ended.push_back(Status::cancelled);
    }
  }
  for (const RecordedPull& pull : waiting) CAIRN_CHECK(pull.ended.size() == 1, "a pull ended twice");
}

void feed_client(ConstByteSpan bytes) {
  Quiet handler;
  StreamClientLink link(std::make_unique<InputChannel>(bytes));
  link.set_handler(&handler);
  for (int i = 0; i < 4 && !handler.closed; ++i) link.progress(true, true);
  link.forget(1);
  if (!handler.closed) link.progress(true, true);
}

void feed_server_by_rings(ConstByteSpan bytes) {
  auto& waiting = pulls();
  WildRings wild(bytes, RingEnd::service);
  Quiet handler;
  {
    StreamServerLink link(std::move(wild.channel), "fuzz");
    link.set_handler(&handler);
    for (RecordedPull& pull : waiting) link.pull(pull);
    for (int i = 0; i < 8 && !handler.closed; ++i) {
      wild.turn();
      link.poll();
      if (!handler.closed) link.flush();
      if (!handler.closed) (void)link.rest();
    }
    for (RecordedPull& pull : waiting) {
      if (pull.ended.empty()) link.cancel(pull);
    }
  }
}

void feed_client_by_rings(ConstByteSpan bytes) {
  WildRings wild(bytes, RingEnd::client);
  Quiet handler;
  StreamClientLink link(std::move(wild.channel));
  link.set_handler(&handler);
  for (int i = 0; i < 8 && !handler.closed; ++i) {
    wild.turn();
    link.poll();
    if (!handler.closed) (void)link.rest();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const ConstByteSpan input(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
  const bool to_server = (data[0] & 1) != 0;
  const bool seal = (data[0] & 2) != 0;
  const std::vector<std::byte> sealed =
      seal ? sealed_frames(input) : std::vector<std::byte>(input.begin(), input.end());
  if ((data[0] & 4) != 0) {
    if (to_server) {
      feed_server_by_rings(sealed);
    } else {
      feed_client_by_rings(sealed);
    }
  } else if (to_server) {
    feed_server(sealed);
  } else {
    feed_client(sealed);
  }
  return 0;
}
