// Any bytes as what a peer sends: both ends of a stream link, fed through the in-process channel. The first
// byte chooses the end and the rest is what it receives; frames are sealed so that the fuzzer gets behind
// the checksums.
#include <cstdint>

#include "testing/link_pair.h"

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

// Feeds `bytes` to one end and pumps it until it takes no more.
class Quiet final : public ServerLinkHandler, public ClientLinkHandler {
 public:
  void on_frame(ServerLink&, const FrameHeader&, ConstByteSpan) override {}
  void on_payload_sent(ServerLink&, uint64_t) override {}
  void on_closed(ServerLink&, Status, std::string_view) override { closed = true; }
  bool source(uint64_t request, uint32_t, uint64_t, uint64_t length, std::vector<iovec>& out) override {
    return give(request, length, out);
  }
  bool destination(uint64_t request, uint32_t, uint64_t length, std::vector<iovec>& out) override {
    return give(request, length, out);
  }
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

void pour(ByteChannel& channel, ConstByteSpan bytes) {
  const iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  if (!bytes.empty()) (void)channel.send({&part, 1});
}

void feed_server(ConstByteSpan bytes) {
  static const std::unique_ptr<Slab> slab = Slab::create(2 * kMiB).take();
  ChannelPair wires;
  const auto client = wires.take_client();
  Quiet handler;
  StreamServerLink link(wires.take_server(), "fuzz", true);
  link.set_handler(&handler);
  std::vector<std::unique_ptr<RecordedPull>> pulls;
  for (uint32_t i = 0; i < 4; ++i) {
    pulls.push_back(std::make_unique<RecordedPull>(*slab, i, i, 256 + i));
    link.pull(*pulls.back());
  }
  pour(*client, bytes);
  for (int i = 0; i < 4 && !handler.closed; ++i) {
    link.progress(true, true);
    link.flush();
  }
  for (const auto& pull : pulls) {
    CAIRN_CHECK(pull->ended.size() <= 1, "a pull ended twice");
    if (pull->ended.empty()) link.cancel(*pull);
  }
}

void feed_client(ConstByteSpan bytes) {
  ChannelPair wires;
  const auto server = wires.take_server();
  Quiet handler;
  StreamClientLink link(wires.take_client());
  link.set_handler(&handler);
  pour(*server, bytes);
  for (int i = 0; i < 4 && !handler.closed; ++i) link.progress(true, true);
  link.forget(1);
  if (!handler.closed) link.progress(true, true);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const ConstByteSpan input(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
  const bool to_server = (data[0] & 1) != 0;
  const bool seal = (data[0] & 2) != 0;
  const std::vector<std::byte> sealed =
      seal ? sealed_frames(input) : std::vector<std::byte>(input.begin(), input.end());
  if (to_server) {
    feed_server(sealed);
  } else {
    feed_client(sealed);
  }
  return 0;
}
