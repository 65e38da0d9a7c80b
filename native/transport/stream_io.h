// Frames over a byte stream: what both ends of tcp and shm share. Output is a queue of frames whose payload
// lies elsewhere; input goes header → body → payload, the payload straight into the memory it is for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/slab.h"
#include "transport/channel.h"
#include "wire/frame.h"

namespace cairn {

// One frame on its way out. `payload` is borrowed: from `keep` (slab), or from a client's request that is
// still open (then request_id and index name it, so that forget() can swap it for filler).
struct OutFrame {
  std::vector<std::byte> head;
  std::vector<iovec> payload;
  std::vector<std::byte> tail;
  std::vector<Buffer> keep;
  uint64_t payload_bytes = 0;
  uint64_t request_id = 0;
  uint64_t kept_bytes = 0;  // of memory while it waits, without its payload
  bool is_data = false;
};

class StreamIo : private ByteWitness {
 public:
  virtual ~StreamIo();
  StreamIo(const StreamIo&) = delete;
  StreamIo& operator=(const StreamIo&) = delete;

 protected:
  explicit StreamIo(std::unique_ptr<ByteChannel> channel);

  virtual bool has_right_tag(const FrameHeader&) const { return true; }
  // A frame whose payload, if any, is in place.
  virtual void frame_arrived(const FrameHeader& header, ConstByteSpan body) = 0;
  // Appends memory for exactly header.payload_bytes; an entry with a null base is drained. nullptr, or why the
  // peer may not send this.
  virtual const char* place_payload(const FrameHeader& header, ConstByteSpan body, std::vector<iovec>& into) = 0;
  // The frame has left, or was dropped with the link.
  virtual void frame_sent(const OutFrame& frame) = 0;
  // Once: the peer went away, or broke the protocol and is not told so.
  virtual void failed(Status status, std::string_view reason) = 0;
  // Whether payload_seen() is wanted: all payload in order, while it is in the cache.
  virtual bool watches_payload() const { return false; }
  virtual void payload_seen(ConstByteSpan) {}
  // The peer broke the protocol. Either fail()s or stop_hearing()s before it returns.
  virtual void broke_rule(Status status, std::string_view reason) { fail(status, reason); }

  void enqueue(OutFrame frame);
  // Sends until the queue is empty or the channel is full.
  void send_queued();
  // Receives at most about `budget` bytes, so that one busy peer does not starve the others.
  void receive_some(uint64_t budget);
  void fail(Status status, std::string_view reason);
  // Closes without calling failed(); frame_sent() is called for what was still queued. Not in a destructor.
  void shut();

  // From now on what comes is thrown away, and the stream ends in our direction when the queue is empty. It fails, as
  // ever, when the peer ends it in the other.
  void stop_hearing();
  bool hears() const { return channel_ != nullptr && hears_; }
  bool leaving() const { return channel_ != nullptr && !hears_; }

  // While it is held nothing is received, and no frame of what was received before arrives.
  void hold_input(bool held) { held_ = held && hears_; }
  bool input_held() const { return held_; }

  bool open() const { return channel_ != nullptr; }
  // What the frames in the queue take of memory, without their payload.
  uint64_t queued() const { return queued_; }
  uint64_t sent() const { return sent_; }
  uint64_t received() const { return moved_ - sent_; }
  uint64_t payload_received() const { return payload_received_; }
  bool output_pending() const { return !out_.empty(); }
  // Whether the wait set is to tell when there is room. A polled channel finds out by itself, or is woken.
  bool waits_for_room() const { return output_pending() && !channel_polled(); }

  // As of ByteChannel.
  Result<Unit> prepare_channel();
  void send_welcome_frame(const std::vector<std::byte>& frame);
  bool channel_polled() const { return channel_ != nullptr && channel_->polled(); }
  // Of a polled channel: sends and receives what there is. True if anything moved, or the link closed.
  bool poll_channel(uint64_t budget);
  bool rest_channel() { return channel_ == nullptr || channel_->rest(output_pending()); }
  void trim_channel() {
    if (channel_ != nullptr) channel_->trim();
  }
  // What the wait set said of the link.
  void progress_channel(bool readable, bool writable, uint64_t budget);
  // All bytes sent and received so far.
  uint64_t moved() const { return moved_; }
  bool mid_frame() const { return phase_ != Phase::header || body_have_ > 0; }
  int channel_fd() const { return channel_ == nullptr ? -1 : channel_->event_fd(); }

  // For forget(): the frames queued, the first possibly half sent; and the payload being received.
  std::deque<OutFrame>& queue() { return out_; }
  size_t front_sent() const { return front_sent_; }
  const FrameHeader* receiving() const { return phase_ == Phase::payload ? &header_ : nullptr; }
  const std::vector<std::byte>& receiving_body() const { return body_; }
  // What is left of the payload being received goes nowhere.
  void drain_payload();

 private:
  enum class Phase : uint8_t { header, body, payload };
  // Each takes what it can from staging and says whether the phase ended.
  bool take_header();
  bool take_body();
  bool take_payload();
  void start_payload();
  void finish_frame();
  void parse_staged();
  void discard_some();
  void check_input() const;
  void release();
  void advance_payload(uint64_t count);
  void saw(ConstByteSpan bytes) final;
  void receive_failed(long code);

  std::unique_ptr<ByteChannel> channel_;
  std::deque<OutFrame> out_;
  std::deque<OutFrame> dropped_;  // what was left when the link was shut
  size_t front_sent_ = 0;
  uint64_t queued_ = 0;
  uint64_t moved_ = 0, sent_ = 0, payload_received_ = 0;
  bool hears_ = true;
  bool held_ = false;
  bool finished_ = false;   // no more is sent
  uint64_t discarded_ = 0;  // since nothing is heard

  Phase phase_ = Phase::header;
  FrameHeader header_;
  std::vector<std::byte> body_;
  size_t body_have_ = 0;
  std::vector<iovec> into_;
  size_t into_at_ = 0;
  uint64_t payload_left_ = 0;
  uint64_t unseen_ = 0;  // of it, during a receive

  std::vector<std::byte> staged_;
  size_t staged_from_ = 0, staged_to_ = 0;
  std::vector<std::byte> sink_;
  std::vector<iovec> vectors_;
};

}  // namespace cairn
