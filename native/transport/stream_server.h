// The server's end of a stream link: tcp and shm. See transport.h for the contract.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "transport/stream_io.h"
#include "transport/transport.h"

namespace cairn {

class StreamServerLink final : public ServerLink, private StreamIo {
 public:
  StreamServerLink(std::unique_ptr<ByteChannel> channel, std::string peer, std::string host = {},
                   uint32_t features = 0);
  ~StreamServerLink() override;

  void set_tag(const SessionTag& tag) override;
  const std::string& peer() const override { return peer_; }
  const std::string& host() const override { return host_; }
  uint32_t features() const override { return features_; }
  int event_fd() const override { return channel_fd(); }
  bool wants_write() const override { return waits_for_room(); }
  void progress(bool readable, bool writable) override;
  bool polled() const override { return channel_polled(); }
  bool poll() override;
  bool rest() override { return rest_channel(); }
  void trim() override { trim_channel(); }
  Result<Unit> prepare() override { return prepare_channel(); }
  void send_welcome(std::vector<std::byte> frame) override;
  void send(std::vector<std::byte> frame) override;
  void send_results(uint64_t request_id, std::span<ResultItem> items, uint16_t flags) override;
  void pull(PullOp& op) override;
  void cancel(PullOp& op) override;
  void flush() override;
  void leave(std::vector<std::byte> frame) override;
  void close() override;
  uint64_t moved_bytes() const override { return moved(); }
  Dues dues() const override;
  uint64_t queued_bytes() const override { return queued(); }
  void hold(bool held) override { hold_input(held); }
  bool held() const override { return input_held(); }

 private:
  struct PullKey {
    uint64_t request_id;
    uint32_t index;
    bool operator==(const PullKey&) const = default;
  };
  struct PullKeyHash {
    size_t operator()(const PullKey& key) const {
      return std::hash<uint64_t>{}(key.request_id * 0x9E3779B97F4A7C15ULL + key.index);
    }
  };

  void frame_arrived(const FrameHeader& header, ConstByteSpan body) override;
  const char* place_payload(const FrameHeader& header, ConstByteSpan body, std::vector<iovec>& into) override;
  void frame_sent(const OutFrame& frame) override;
  void failed(Status status, std::string_view reason) override;
  void broke_rule(Status status, std::string_view reason) override;
  void end_pulls();

  void data_arrived(const FrameHeader& header, const DataBody& data);
  PullOp* find_pull(uint64_t request_id, uint32_t index);

  bool has_right_tag(const FrameHeader& header) const override { return !tagged_ || header.tag == tag_; }

  std::string peer_, host_;
  uint32_t features_;
  bool tagged_ = false;
  SessionTag tag_{};
  std::unordered_map<PullKey, PullOp*, PullKeyHash> pulls_;
  // Pulls of one request that wait to be asked for in one frame.
  uint64_t asking_request_ = 0;
  std::vector<PullBody> asking_;
  DataTrailer trailer_;
};

}  // namespace cairn
