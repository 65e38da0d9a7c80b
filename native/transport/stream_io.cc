#include "transport/stream_io.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "base/streaming_copy.h"

namespace cairn {

namespace {

// Small, so that at most this much of a large payload is copied instead of received in place.
constexpr size_t kStagedBytes = 4096;
constexpr size_t kSinkBytes = 64 * 1024;
// Of a long body no more memory is taken at once: what a peer announces costs it what it sends.
constexpr size_t kBodyBytesAtOnce = 64 * 1024;
constexpr size_t kVectorsMost = 64;
// What keeping a frame costs besides its bytes, more or less.
constexpr uint64_t kFrameKeptBytes = sizeof(OutFrame) + 64;
// Of a peer that is no longer heard: some of it in a turn, and all told what may well be under way on a fast network.
constexpr uint64_t kDiscardedAtOnce = 1 << 20;
constexpr uint64_t kDiscardedMost = 64 << 20;
// Of one link in a turn, so that a peer that takes in fast does not starve the others.
constexpr uint64_t kSentAtOnce = 8 << 20;
const char* const kBadIndex = "an index in the shared memory that cannot be";
static_assert(kStagedBytes >= kFrameHeaderBytes, "a header takes more than one receive");
static_assert(kVectorsMost <= IOV_MAX, "the system takes fewer vectors in one call");
static_assert(kDiscardedAtOnce >= kSinkBytes, "a peer that is no longer heard is given no turn");
static_assert(kDiscardedMost >= kBlockBytesMost, "a block that is under way cuts off the reason");
static_assert(kVectorsMost >= 2, "a receive needs a vector for the payload and one for what comes behind it");

}  // namespace

StreamIo::StreamIo(std::unique_ptr<ByteChannel> channel) : channel_(std::move(channel)), staged_(kStagedBytes) {
  CAIRN_CHECK(channel_ != nullptr, "a link over no channel");
}

StreamIo::~StreamIo() {
  release();
}

void StreamIo::shut() {
  release();
  for (const OutFrame& frame : dropped_) frame_sent(frame);
  dropped_.clear();
  CAIRN_CHECK(out_.empty(), "a frame was queued on a link that was shut");
}

// Takes no memory: a link also ends when there is none.
void StreamIo::release() {
  CAIRN_CHECK(dropped_.empty(), "a link is shut while it is being shut");
  dropped_.swap(out_);
  channel_.reset();
  front_sent_ = 0;
  queued_ = 0;
}

void StreamIo::fail(Status status, std::string_view reason) {
  if (channel_ == nullptr) return;
  CAIRN_CHECK(status != Status::ok, "a link breaks although all is well");
  shut();
  failed(status, reason);
}

void StreamIo::stop_hearing() {
  CAIRN_CHECK(hears_, "a peer that is not heard is stopped from being heard");
  hears_ = held_ = false;
  phase_ = Phase::header;
  body_ = {};
  body_have_ = 0;
  into_.clear();
  payload_left_ = 0;
  staged_from_ = staged_to_ = 0;
}

// --- output ---------------------------------------------------------------------------------------------

void StreamIo::enqueue(OutFrame frame) {
  CAIRN_CHECK(frame.head.size() >= kFrameHeaderBytes, "a frame is sent without its header");
  CAIRN_CHECK(frame.payload.empty() == (frame.payload_bytes == 0), "a frame announces payload that it does not have");
  CAIRN_CHECK(frame.is_data == !frame.tail.empty(), "data is sent without its trailer, or something else with one");
  CAIRN_CHECK(frame.keep.empty() || frame.payload_bytes > 0, "a frame holds memory of which it sends nothing");
  if (channel_ == nullptr) return frame_sent(frame);
  frame.kept_bytes = frame.head.size() + frame.tail.size() + frame.payload.size() * sizeof(iovec) + kFrameKeptBytes;
  queued_ += frame.kept_bytes;
  out_.push_back(std::move(frame));
}

void StreamIo::send_queued() {
  for (uint64_t at_once = 0; channel_ != nullptr && !out_.empty();) {
    if (at_once >= kSentAtOnce) return;
    vectors_.clear();
    size_t skip = front_sent_;
    const auto add = [&](const void* base, size_t length) {
      if (skip >= length) {
        skip -= length;
        return;
      }
      if (vectors_.size() < kVectorsMost) {
        vectors_.push_back({const_cast<std::byte*>(static_cast<const std::byte*>(base)) + skip, length - skip});
      }
      skip = 0;
    };
    for (const OutFrame& frame : out_) {
      if (vectors_.size() == kVectorsMost) break;
      add(frame.head.data(), frame.head.size());
      for (const iovec& part : frame.payload) add(part.iov_base, part.iov_len);
      add(frame.tail.data(), frame.tail.size());
    }
    CAIRN_CHECK(!vectors_.empty(), "a frame that was sent whole is still in the queue");
    const long sent = channel_->send(vectors_);
    if (sent == -EAGAIN || sent == -EINTR) return;
    if (sent == -EPROTO) return fail(Status::invalid, kBadIndex);
    if (sent < 0) {
      fail(Status::disconnected, std::strerror(static_cast<int>(-sent)));
      return;
    }
    moved_ += static_cast<uint64_t>(sent);
    at_once += static_cast<uint64_t>(sent);
    sent_ += static_cast<uint64_t>(sent);
    front_sent_ += static_cast<size_t>(sent);
    while (!out_.empty()) {
      const OutFrame& front = out_.front();
      const size_t length = front.head.size() + front.payload_bytes + front.tail.size();
      if (front_sent_ < length) break;
      front_sent_ -= length;
      const OutFrame done = std::move(out_.front());
      out_.pop_front();
      CAIRN_CHECK(queued_ >= done.kept_bytes, "a queue of frames counts less than it holds");
      queued_ -= done.kept_bytes;
      frame_sent(done);
      if (channel_ == nullptr) return;
    }
    CAIRN_CHECK(!out_.empty() || front_sent_ == 0, "more bytes were sent than the queue held");
  }
  if (hears_ || finished_ || channel_ == nullptr) return;
  CAIRN_CHECK(out_.empty(), "a stream ends before its last frame");
  finished_ = true;
  channel_->finish();
}

// --- polled channels -------------------------------------------------------------------------------------

Result<Unit> StreamIo::prepare_channel() {
  CAIRN_CHECK(channel_ != nullptr, "a link that is closed is prepared for a session");
  return channel_->prepare();
}

void StreamIo::send_welcome_frame(const std::vector<std::byte>& frame) {
  if (channel_ == nullptr) return;
  CAIRN_CHECK(out_.empty(), "something was said to a client before its welcome");
  const iovec part{const_cast<std::byte*>(frame.data()), frame.size()};
  const long sent = channel_->send_welcome({&part, 1});
  if (sent < 0) return fail(Status::disconnected, std::strerror(static_cast<int>(-sent)));
  moved_ += static_cast<uint64_t>(sent);
}

bool StreamIo::poll_channel(uint64_t budget) {
  if (channel_ == nullptr) return false;
  const uint64_t before = moved_ + discarded_;
  channel_->wake();
  if (!out_.empty()) send_queued();
  if (channel_ != nullptr) receive_some(budget);
  return channel_ == nullptr || moved_ + discarded_ != before;
}

void StreamIo::progress_channel(bool readable, bool writable, uint64_t budget) {
  if (channel_polled()) {
    if (readable) channel_->heed();
    poll_channel(budget);
    return;
  }
  if (writable) send_queued();
  if (readable && channel_ != nullptr) receive_some(budget);
}

// --- input ----------------------------------------------------------------------------------------------

// What holds between two calls of the channel while the link is open.
void StreamIo::check_input() const {
  if (phase_ == Phase::header) {
    CAIRN_CHECK(body_have_ == 0 || body_.size() == kFrameHeaderBytes, "a header is collected where it has no room");
  } else {
    CAIRN_CHECK(body_.size() <= header_.body_bytes, "the body that is received is longer than its header says");
  }
  if (phase_ == Phase::payload) {
    CAIRN_CHECK(body_have_ == header_.body_bytes, "payload is received before its frame is whole");
    CAIRN_CHECK(payload_left_ > 0, "a payload that is whole was not handed on");
    CAIRN_CHECK(payload_left_ <= header_.payload_bytes, "more payload is to come than the header announced");
  } else {
    CAIRN_CHECK(payload_left_ == 0, "payload is left over from a frame that ended");
  }
}

void StreamIo::discard_some() {
  CAIRN_CHECK(!hears_, "what a peer says is thrown away though it is heard");
  sink_.resize(kSinkBytes);
  for (uint64_t at_once = 0; at_once < kDiscardedAtOnce;) {
    const iovec into{sink_.data(), sink_.size()};
    const long got = channel_->receive({&into, 1}, nullptr);
    if (got == -EAGAIN || got == -EINTR) return;
    if (got <= 0) {
      send_queued();  // who says no more may still listen; it is not waited for
      return fail(Status::disconnected, "the peer closed the connection");
    }
    at_once += static_cast<uint64_t>(got);
    discarded_ += static_cast<uint64_t>(got);
    if (discarded_ > kDiscardedMost) return fail(Status::disconnected, "the peer goes on although it was refused");
  }
}

void StreamIo::receive_some(uint64_t budget) {
  uint64_t received = 0;
  if (hears_ && staged_from_ < staged_to_) parse_staged();  // what was left when it was held
  while (channel_ != nullptr && !held_ && received < budget) {
    if (!hears_) return discard_some();
    CAIRN_CHECK(staged_from_ == staged_to_, "staged bytes were left unparsed");
    check_input();
    staged_from_ = staged_to_ = 0;
    vectors_.clear();
    uint64_t direct = 0;
    if (phase_ == Phase::body) {
      direct = body_.size() - body_have_;
      vectors_.push_back({body_.data() + body_have_, direct});
    } else if (phase_ == Phase::payload) {
      for (size_t i = into_at_; i < into_.size() && vectors_.size() < kVectorsMost - 1; ++i) {
        iovec part = into_[i];
        if (part.iov_base == nullptr) {
          sink_.resize(kSinkBytes);
          const bool whole = part.iov_len <= kSinkBytes;
          part = {sink_.data(), std::min<size_t>(part.iov_len, kSinkBytes)};
          vectors_.push_back(part);
          direct += part.iov_len;
          if (!whole) break;
          continue;
        }
        vectors_.push_back(part);
        direct += part.iov_len;
      }
    }
    const bool all_direct = phase_ == Phase::header || (phase_ == Phase::body) || direct == payload_left_;
    if (all_direct) vectors_.push_back({staged_.data(), staged_.size()});
    unseen_ = payload_left_;
    const bool watched = phase_ == Phase::payload && watches_payload();
    const long got = channel_->receive(vectors_, watched ? this : nullptr);
    if (got == -EAGAIN || got == -EINTR) return;
    if (got <= 0) return receive_failed(got);
    received += static_cast<uint64_t>(got);
    moved_ += static_cast<uint64_t>(got);
    const uint64_t placed = std::min<uint64_t>(static_cast<uint64_t>(got), direct);
    staged_to_ = static_cast<size_t>(static_cast<uint64_t>(got) - placed);
    CAIRN_CHECK(staged_to_ <= (all_direct ? staged_.size() : 0), "more was received than there was memory for");
    const bool short_read = static_cast<uint64_t>(got) < direct + (all_direct ? staged_.size() : 0);
    if (phase_ == Phase::body) {
      body_have_ += placed;
    } else if (phase_ == Phase::payload) {
      advance_payload(placed);
    }
    parse_staged();
    if (short_read) return;  // the socket is empty; the wait set tells when it is not
  }
}

void StreamIo::receive_failed(long code) {
  if (code == -EPROTO) return broke_rule(Status::invalid, kBadIndex);
  fail(Status::disconnected, code == 0 ? "the peer closed the connection" : std::strerror(static_cast<int>(-code)));
}

// Behind the payload there may be frames in the same receive.
void StreamIo::saw(ConstByteSpan bytes) {
  const ConstByteSpan payload = bytes.first(std::min<uint64_t>(bytes.size(), unseen_));
  unseen_ -= payload.size();
  if (!payload.empty()) payload_seen(payload);
}

void StreamIo::advance_payload(uint64_t count) {
  CAIRN_CHECK(count <= payload_left_, "more payload was received than the header announced");
  payload_left_ -= count;
  payload_received_ += count;
  while (count > 0) {
    CAIRN_CHECK(into_at_ < into_.size(), "payload was received beyond the memory that was given for it");
    iovec& part = into_[into_at_];
    const uint64_t step = std::min<uint64_t>(part.iov_len, count);
    if (part.iov_base != nullptr) part.iov_base = static_cast<std::byte*>(part.iov_base) + step;
    part.iov_len -= step;
    count -= step;
    if (part.iov_len == 0) ++into_at_;
  }
}

void StreamIo::parse_staged() {
  while (channel_ != nullptr && hears_) {
    if (held_) return;
    CAIRN_CHECK(staged_from_ <= staged_to_, "more staged bytes were parsed than arrived");
    bool ended = false;
    if (phase_ == Phase::header) {
      ended = take_header();
    } else if (phase_ == Phase::body) {
      ended = take_body();
    } else {
      ended = take_payload();
    }
    if (!ended) return;
  }
  staged_from_ = staged_to_ = 0;
}

bool StreamIo::take_header() {
  CAIRN_CHECK(body_have_ < kFrameHeaderBytes, "a header that is whole was not looked at");
  // The header is collected in body_, which no other phase is using now.
  if (body_have_ == 0) body_.resize(kFrameHeaderBytes);
  const size_t take = std::min(kFrameHeaderBytes - body_have_, staged_to_ - staged_from_);
  std::memcpy(body_.data() + body_have_, staged_.data() + staged_from_, take);
  body_have_ += take;
  staged_from_ += take;
  if (body_have_ < kFrameHeaderBytes) return false;
  header_ = load<FrameHeader>(body_.data());
  body_have_ = 0;
  if (const char* wrong = check_header(header_)) {
    broke_rule(status_of_wrong(header_), wrong);
    return false;
  }
  if (!has_right_tag(header_)) {
    broke_rule(Status::denied, "a frame without the session's tag");
    return false;
  }
  CAIRN_CHECK(header_.body_bytes <= kBodyBytesMost, "an absurd length got past the check of the header");
  body_.resize(std::min<size_t>(header_.body_bytes, kBodyBytesAtOnce));
  phase_ = Phase::body;
  return true;
}

bool StreamIo::take_body() {
  CAIRN_CHECK(body_have_ <= body_.size(), "more of a body was received than there is");
  const size_t take = std::min(body_.size() - body_have_, staged_to_ - staged_from_);
  if (take > 0) std::memcpy(body_.data() + body_have_, staged_.data() + staged_from_, take);
  body_have_ += take;
  staged_from_ += take;
  if (body_have_ < body_.size()) return false;
  if (body_have_ < header_.body_bytes) {
    body_.resize(std::min<size_t>(header_.body_bytes, body_.size() * 2));
    return staged_from_ < staged_to_;
  }
  if (const char* wrong = check_body(header_, body_)) {
    broke_rule(Status::invalid, wrong);
    return false;
  }
  if (header_.payload_bytes == 0) {
    finish_frame();
    return true;
  }
  into_.clear();
  into_at_ = 0;
  if (const char* wrong = place_payload(header_, body_, into_)) {
    broke_rule(Status::invalid, wrong);
    return false;
  }
  std::erase_if(into_, [](const iovec& part) { return part.iov_len == 0; });  // no byte would ever get past it
  uint64_t placed = 0;
  for (const iovec& part : into_) placed += part.iov_len;
  CAIRN_CHECK(placed == header_.payload_bytes, "memory for a payload is not as long as the payload");
  payload_left_ = header_.payload_bytes;
  phase_ = Phase::payload;
  return true;
}

bool StreamIo::take_payload() {
  while (staged_from_ < staged_to_ && payload_left_ > 0) {
    CAIRN_CHECK(into_at_ < into_.size(), "staged payload has no memory to go to");
    const iovec part = into_[into_at_];
    const size_t take = std::min<size_t>(part.iov_len, staged_to_ - staged_from_);
    if (watches_payload()) payload_seen({staged_.data() + staged_from_, take});
    if (part.iov_base != nullptr)
      copy_streaming(static_cast<std::byte*>(part.iov_base), staged_.data() + staged_from_, take);
    staged_from_ += take;
    advance_payload(take);
  }
  if (payload_left_ > 0) return false;
  finish_frame();
  return true;
}

void StreamIo::finish_frame() {
  CAIRN_CHECK(body_.size() == header_.body_bytes, "a frame ends with another body than its header announced");
  CAIRN_CHECK(payload_left_ == 0, "a frame ends before its payload");
  // The frame may be answered, forgotten or the link closed in here: leave nothing half-done behind.
  phase_ = Phase::header;
  body_have_ = 0;
  const std::vector<std::byte> body = std::move(body_);
  body_ = {};
  frame_arrived(header_, body);
}

void StreamIo::drain_payload() {
  if (phase_ != Phase::payload) return;
  for (size_t i = into_at_; i < into_.size(); ++i) into_[i].iov_base = nullptr;
}

}  // namespace cairn
