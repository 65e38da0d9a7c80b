// The client's end of a stream link: tcp and shm. See transport.h for the contract.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "transport/stream_io.h"
#include "transport/transport.h"

namespace cairn {

class StreamClientLink final : public ClientLink, private StreamIo {
 public:
  explicit StreamClientLink(std::unique_ptr<ByteChannel> channel) : StreamIo(std::move(channel)) {}
  ~StreamClientLink() override = default;

  int event_fd() const override { return channel_fd(); }
  bool wants_write() const override { return waits_for_room(); }
  void progress(bool readable, bool writable) override;
  bool polled() const override { return channel_polled(); }
  bool poll() override;
  bool rest() override { return rest_channel(); }
  void send(std::vector<std::byte> frame) override;
  void forget(uint64_t request_id) override;
  void close() override { shut(); }

 private:
  void frame_arrived(const FrameHeader& header, ConstByteSpan body) override;
  const char* place_payload(const FrameHeader& header, ConstByteSpan body, std::vector<iovec>& into) override;
  void frame_sent(const OutFrame&) override {}
  void failed(Status status, std::string_view reason) override;

  void answer_pulls(const FrameHeader& header, ConstByteSpan body);
  void send_data(const FrameHeader& header, const PullBody& pull);

  bool watches_payload() const override { return handler_->checks_payload(); }
  void payload_seen(ConstByteSpan bytes) override;

  // Of the results frame that is being received, those with payload.
  struct Arriving {
    uint32_t index;
    uint32_t crc;
    uint64_t length, left;
  };
  std::vector<ResultBody> results_;
  std::vector<Arriving> arriving_;
  size_t arriving_at_ = 0;
};

}  // namespace cairn
