#include "transport/stream_server.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "transport/rdma_listener.h"
#include "transport/ring_channel.h"
#include "transport/sockets.h"

namespace cairn {

namespace {

// What one link may receive before the reactor turns to the others.
constexpr uint64_t kReceiveBudget = 2 * kMiB;
static_assert(kReceiveBudget >= kBodyBytesMost, "the largest command takes more than one turn");

}  // namespace

StreamServerLink::StreamServerLink(std::unique_ptr<ByteChannel> channel, std::string peer, std::string host,
                                   uint32_t features)
    : StreamIo(std::move(channel)), peer_(std::move(peer)), host_(std::move(host)), features_(features) {}

StreamServerLink::~StreamServerLink() {
  CAIRN_CHECK(pulls_.empty(), "a link was destroyed with pulls in flight");
}

void StreamServerLink::progress(bool readable, bool writable) {
  CAIRN_CHECK(handler_ != nullptr, "a link is driven that reports to nobody");
  progress_channel(readable, writable, kReceiveBudget);
}

bool StreamServerLink::poll() {
  return poll_channel(kReceiveBudget);
}

void StreamServerLink::send_welcome(std::vector<std::byte> frame) {
  // Where it takes no road but the stream, it waits for its turn and for room as every frame does.
  if ((features_ & kFeatureRings) == 0) return send(std::move(frame));
  send_welcome_frame(frame);
}

void StreamServerLink::set_tag(const SessionTag& tag) {
  CAIRN_CHECK(!tagged_, "a link that belongs to a session is given to another");
  CAIRN_CHECK(tag != SessionTag{}, "a link is given the tag of no session");
  tag_ = tag;
  tagged_ = true;
}

void StreamServerLink::send(std::vector<std::byte> frame) {
  CAIRN_CHECK(!leaving(), "a frame goes behind the last word");
  flush();  // what was asked for before goes out before
  OutFrame out;
  out.head = std::move(frame);
  enqueue(std::move(out));
}

void StreamServerLink::send_results(uint64_t request_id, std::span<ResultItem> items, uint16_t flags) {
  CAIRN_CHECK(!items.empty(), "an answer without results");
  CAIRN_CHECK(!leaving(), "results go behind the last word");
  CAIRN_CHECK(items.size() <= kBatchItemsMost, "more results than a batch has items");
  CAIRN_CHECK(flags == 0 || flags == kFrameLast, "results with a flag that the format does not know");
  FrameBuilder frame(FrameType::results, request_id, items.size() * sizeof(ResultBody));
  OutFrame out;
  for (ResultItem& item : items) {
    if (item.buffer && item.body.status == Status::ok) {
      CAIRN_CHECK(item.body.length > 0, "a result has memory and no bytes");
      CAIRN_CHECK(item.buffer_offset <= item.buffer.length(), "a result begins behind its memory");
      CAIRN_CHECK(item.body.length <= item.buffer.length() - item.buffer_offset,
                  "a result would carry bytes of somebody else");
      CAIRN_CHECK((item.body.flags & kResultPayload) == 0, "a result was sent before");
      if (item.to.empty()) {
        item.body.flags |= kResultPayload;
        item.buffer.slice(item.buffer_offset, item.body.length, out.payload);
        out.payload_bytes += item.body.length;
        out.keep.push_back(std::move(item.buffer));
      } else {  // memory that this link does not reach
        item.body.status = Status::bad_region;
        item.body.length = 0;
      }
    }
    frame.append(item.body);
  }
  frame.header().tag = tag_;
  frame.header().flags = flags;
  frame.header().item_count = static_cast<uint32_t>(items.size());
  frame.header().payload_bytes = out.payload_bytes;
  out.head = frame.finish();
  out.request_id = request_id;
  enqueue(std::move(out));
}

void StreamServerLink::pull(PullOp& op) {
  CAIRN_CHECK(op.length > 0, "nothing is pulled");
  CAIRN_CHECK(op.length <= kBlockBytesMost, "more is pulled than a block can hold");
  CAIRN_CHECK(op.buffer.capacity() >= op.length, "a pull without memory for it");
  if (!open()) return op.pulled(Status::disconnected);
  if (!op.from.empty()) return op.pulled(Status::bad_region);
  const bool fresh = pulls_.emplace(PullKey{op.request_id, op.index}, &op).second;
  CAIRN_CHECK(fresh, "an item is pulled twice");
  if (!asking_.empty() && asking_request_ != op.request_id) flush();
  CAIRN_CHECK(asking_.size() < kBatchItemsMost, "more items of a request are pulled than it has");
  asking_request_ = op.request_id;
  asking_.push_back(PullBody{op.index, 0, 0, op.length});
}

void StreamServerLink::flush() {
  if (!asking_.empty()) {
    FrameBuilder frame(FrameType::pull, asking_request_, asking_.size() * sizeof(PullBody));
    frame.header().tag = tag_;
    frame.header().item_count = static_cast<uint32_t>(asking_.size());
    frame.append_bytes(std::as_bytes(std::span(asking_)));
    asking_.clear();
    OutFrame out;
    out.head = frame.finish();
    enqueue(std::move(out));
  }
  send_queued();
}

// What waits here because it is held is not owed.
Dues StreamServerLink::dues() const {
  const Due reading{output_pending(), sent()};
  if (input_held()) return {reading, {false, payload_received()}, {false, received()}};
  return {reading, {!pulls_.empty(), payload_received()}, {mid_frame(), received()}};
}

PullOp* StreamServerLink::find_pull(uint64_t request_id, uint32_t index) {
  const auto found = pulls_.find(PullKey{request_id, index});
  if (found == pulls_.end()) return nullptr;
  CAIRN_CHECK(found->second != nullptr, "a pull in flight is nobody's");
  CAIRN_CHECK(found->second->request_id == request_id, "a pull in flight became one of another request");
  CAIRN_CHECK(found->second->index == index, "a pull in flight became one of another item");
  return found->second;
}

void StreamServerLink::cancel(PullOp& op) {
  const PullOp* found = find_pull(op.request_id, op.index);
  if (found == nullptr) return;
  CAIRN_CHECK(found == &op, "another pull is in flight under the name of the one that is cancelled");
  pulls_.erase(PullKey{op.request_id, op.index});
  const FrameHeader* header = receiving();
  if (header == nullptr || header->type != FrameType::data || header->request_id != op.request_id) return;
  CAIRN_CHECK(receiving_body().size() == sizeof(DataBody), "data is received behind a body that is not its own");
  if (load<DataBody>(receiving_body().data()).index == op.index) drain_payload();
}

const char* StreamServerLink::place_payload(const FrameHeader& header, ConstByteSpan body, std::vector<iovec>& into) {
  CAIRN_CHECK(header.payload_bytes > 0, "memory is looked for where no payload comes");
  DataBody data;
  if (header.type != FrameType::data) return "payload behind a frame that carries none";
  if (const char* wrong = decode_fixed(body, data)) return wrong;
  if (data.length > kBlockBytesMost) return "data longer than a block can be";
  if (header.payload_bytes != data.length + sizeof(DataTrailer)) return "a data frame whose lengths disagree";
  PullOp* op = find_pull(header.request_id, data.index);
  if (data.length > 0) {
    if (op == nullptr) {
      into.push_back({nullptr, data.length});  // given up meanwhile
    } else {
      if (data.offset != 0 || data.length != op->length) return "data that was not asked for";
      op->buffer.slice(0, data.length, into);
    }
  }
  into.push_back({&trailer_, sizeof(trailer_)});
  return nullptr;
}

void StreamServerLink::data_arrived(const FrameHeader& header, const DataBody& data) {
  PullOp* op = find_pull(header.request_id, data.index);
  if (op == nullptr) return;
  pulls_.erase(PullKey{header.request_id, data.index});
  op->pulled(trailer_.status == Status::ok && data.length == op->length ? Status::ok : Status::cancelled);
}

void StreamServerLink::frame_arrived(const FrameHeader& header, ConstByteSpan body) {
  if (header.type != FrameType::data) return handler_->on_frame(*this, header, body);
  DataBody data;
  const char* wrong = decode_fixed(body, data);
  if (wrong == nullptr && header.payload_bytes == 0) wrong = "a data frame without its trailer";
  if (wrong != nullptr) return broke_rule(Status::invalid, wrong);
  data_arrived(header, data);
}

void StreamServerLink::frame_sent(const OutFrame& frame) {
  if (frame.payload_bytes > 0) handler_->on_payload_sent(*this, frame.payload_bytes);
}

void StreamServerLink::end_pulls() {
  auto pulls = std::move(pulls_);
  pulls_.clear();
  asking_.clear();
  for (const auto& [key, op] : pulls) op->pulled(Status::disconnected);
  CAIRN_CHECK(pulls_.empty(), "a pull was begun on a link that ends");
}

void StreamServerLink::broke_rule(Status status, std::string_view reason) {
  CAIRN_CHECK(handler_ != nullptr, "a rule is broken and nobody is told");
  handler_->on_violation(*this, status, reason);
  CAIRN_CHECK(!hears(), "a peer that broke a rule is still heard");
}

void StreamServerLink::leave(std::vector<std::byte> frame) {
  if (!open()) return;
  stop_hearing();
  end_pulls();
  OutFrame out;
  out.head = std::move(frame);
  enqueue(std::move(out));
}

void StreamServerLink::failed(Status status, std::string_view reason) {
  const std::string why(reason);
  end_pulls();
  CAIRN_CHECK(handler_ != nullptr, "a link breaks and nobody is told");
  handler_->on_closed(*this, status, why);
}

void StreamServerLink::close() {
  send_queued();
  if (!open()) return;
  shut();
  pulls_.clear();
}

// --- listening -------------------------------------------------------------------------------------------

namespace {

class StreamListener final : public Listener {
 public:
  explicit StreamListener(ListeningSocket listening)
      : listening_(std::move(listening)),
        url_(to_url(listening_.bound)),
        spare_(open("/dev/null", O_RDONLY | O_CLOEXEC)) {
    CAIRN_CHECK(listening_.socket >= 0, "a listener without a socket");
  }
  ~StreamListener() override {
    ::close(listening_.socket);
    if (spare_ >= 0) ::close(spare_);
    if (listening_.bound.kind == Address::Kind::shm) unlink(listening_.bound.path.c_str());
  }
  StreamListener(const StreamListener&) = delete;
  StreamListener& operator=(const StreamListener&) = delete;

  int event_fd() const override { return listening_.socket; }
  const std::string& url() const override { return url_; }

  std::unique_ptr<ServerLink> accept() override {
    const int socket = accept4(listening_.socket, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (socket < 0) {
      if (errno == EMFILE || errno == ENFILE) refuse_one();
      return nullptr;
    }
    if (socket >= descriptors_for_links()) {
      ::close(socket);
      return nullptr;
    }
    const Address::Kind kind = listening_.bound.kind;
    tune_socket(socket, kind);
    std::string host = kind == Address::Kind::tcp ? peer_host(socket) : std::string();
    const bool rings = kind == Address::Kind::shm;
    auto channel = rings ? ring_channel(socket) : socket_channel(socket);
    return std::make_unique<StreamServerLink>(std::move(channel), peer_name(socket, kind), std::move(host),
                                              rings ? kFeatureRings : 0);
  }

 private:
  // Out of descriptors: the waiting connection would keep the wait set awake for ever. The spare one makes
  // room to take it and hang up.
  void refuse_one() {
    if (spare_ < 0) return;
    ::close(spare_);
    const int socket = accept4(listening_.socket, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket >= 0) ::close(socket);
    spare_ = open("/dev/null", O_RDONLY | O_CLOEXEC);
  }

  ListeningSocket listening_;
  std::string url_;
  int spare_;
};

}  // namespace

Result<std::unique_ptr<Listener>> listen_at(const Address& address, const ListenOptions& options) {
  if (address.kind == Address::Kind::rdma) return listen_rdma(address, options);
  auto listening = listen_socket(address);
  if (!listening) return listening.error();
  return std::unique_ptr<Listener>(std::make_unique<StreamListener>(listening.take()));
}

}  // namespace cairn
