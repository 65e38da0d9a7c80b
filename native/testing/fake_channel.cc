#include "testing/fake_channel.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace cairn {

struct ChannelPair::Wire {
  explicit Wire(const ChannelFaults& with) : faults(with), random(with.seed) {}
  struct Direction {
    std::deque<std::byte> bytes;
    bool closed = false;  // the sender says nothing more
    bool unread = false;  // the receiver is gone
  };
  ChannelFaults faults;
  std::mt19937_64 random;
  Direction to_server, to_client;
  bool is_cut = false;

  bool nothing_now() { return faults.seed != 0 && std::uniform_real_distribution<>()(random) < faults.nothing_now; }
  size_t allowance() { return faults.seed == 0 ? SIZE_MAX : 1 + random() % faults.most_per_call; }
};

class ChannelPair::End final : public ByteChannel {
 public:
  End(std::shared_ptr<Wire> wire, Wire::Direction& out, Wire::Direction& in)
      : wire_(std::move(wire)), out_(out), in_(in) {}
  ~End() override {
    out_.closed = in_.unread = true;
    in_.bytes.clear();
  }
  End(const End&) = delete;
  End& operator=(const End&) = delete;

  long send(std::span<const iovec> from) override {
    if (wire_->is_cut || out_.unread || out_.closed) return -EPIPE;
    if (wire_->nothing_now() || out_.bytes.size() >= wire_->faults.capacity) return -EAGAIN;
    size_t left = std::min(wire_->allowance(), wire_->faults.capacity - out_.bytes.size());
    long moved = 0;
    for (const iovec& part : from) {
      const size_t take = std::min(part.iov_len, left);
      const auto* base = static_cast<const std::byte*>(part.iov_base);
      out_.bytes.insert(out_.bytes.end(), base, base + take);
      left -= take;
      moved += static_cast<long>(take);
    }
    return moved;
  }

  long receive(std::span<const iovec> into, ByteWitness* witness) override {
    if (wire_->is_cut) return 0;
    if (in_.bytes.empty()) return in_.closed ? 0 : -EAGAIN;
    if (wire_->nothing_now()) return -EAGAIN;
    size_t left = std::min(wire_->allowance(), in_.bytes.size());
    long moved = 0;
    for (const iovec& part : into) {
      const size_t take = std::min(part.iov_len, left);
      std::copy_n(in_.bytes.begin(), take, static_cast<std::byte*>(part.iov_base));
      in_.bytes.erase(in_.bytes.begin(), in_.bytes.begin() + static_cast<long>(take));
      if (witness != nullptr && take > 0) witness->saw({static_cast<const std::byte*>(part.iov_base), take});
      left -= take;
      moved += static_cast<long>(take);
    }
    return moved;
  }

  void finish() override { out_.closed = true; }

  int event_fd() const override { return -1; }

 private:
  std::shared_ptr<Wire> wire_;
  Wire::Direction& out_;
  Wire::Direction& in_;
};

ChannelPair::ChannelPair(const ChannelFaults& faults) : wire_(std::make_shared<Wire>(faults)) {
  client_ = std::make_unique<End>(wire_, wire_->to_server, wire_->to_client);
  server_ = std::make_unique<End>(wire_, wire_->to_client, wire_->to_server);
}

void ChannelPair::cut() {
  wire_->is_cut = true;
}

}  // namespace cairn
