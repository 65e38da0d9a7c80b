// What the service says.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "client/client.h"

namespace cairn {

namespace {

// A status this side has no row for comes from a newer service: as good as a refusal.
Status known(Status status) {
  return static_cast<size_t>(status) < kStatusTable.size() ? status : Status::invalid;
}

void append_clipped(std::span<const iovec> parts, uint64_t length, std::vector<iovec>& out) {
  for (const iovec& part : parts) {
    if (length == 0) return;
    const uint64_t take = std::min<uint64_t>(part.iov_len, length);
    if (take > 0) out.push_back({part.iov_base, take});
    length -= take;
  }
  CAIRN_CHECK(length == 0, "bytes are to go to memory that has no room for them");
}

}  // namespace

bool Client::Lane::memory_of(uint64_t request_id, uint32_t index, uint64_t length, bool whole,
                             std::vector<iovec>& out) {
  const auto found = requests.find(request_id);
  if (found == requests.end() || found->second.operation == nullptr || index >= found->second.count) return false;
  const Operation& operation = *found->second.operation;
  const uint32_t item = found->second.first + index;
  CAIRN_CHECK(item < operation.settled_.size(), "a request is for items that its operation does not have");
  if (!operation.moves_payload() || operation.settled_[item]) return false;
  const uint64_t room = operation.room(item);
  if (whole ? length != room : length > room) return false;
  if (!found->second.bounced.empty() && found->second.bounced[index]) {
    if (length > found->second.bounced[index].length()) return false;
    found->second.bounced[index].slice(0, length, out);
    return true;
  }
  if (operation.on_gpu(item)) return false;  // no socket reads or writes that
  append_clipped(operation.memory(item), length, out);
  return true;
}

bool Client::Lane::source(uint64_t request_id, uint32_t index, uint64_t offset, uint64_t length,
                          std::vector<iovec>& out) {
  return offset == 0 && memory_of(request_id, index, length, true, out);
}

bool Client::Lane::destination(uint64_t request_id, uint32_t index, uint64_t length, std::vector<iovec>& out) {
  const auto found = requests.find(request_id);
  if (found != requests.end() && found->second.operation && found->second.operation->type != FrameType::get)
    return false;
  return memory_of(request_id, index, length, false, out);
}

void Client::Lane::on_frame(const FrameHeader& header, ConstByteSpan body) {
  client->answered(*this, header, body);
  arrived.clear();
}

void Client::Lane::on_closed(Status, std::string_view reason) {
  if (leaving) {
    broken = true;  // the better session goes on; end_left() settles what was asked of this one
    return;
  }
  client->lose_session(reason);
}

void Client::answered(Lane& lane, const FrameHeader& header, ConstByteSpan body) {
  if (lost_) return;
  if (header.type == FrameType::refuse || header.type == FrameType::failed) {
    ReasonView view;
    if (const char* wrong = decode_reason(body, view)) return lose_session(wrong);
    if (header.type == FrameType::failed) return finish_request(lane, header.request_id, known(view.status));
    return lose_session("the service ended the session: " + std::string(view.reason));
  }
  if (header.type == FrameType::cancelled) return finish_request(lane, header.request_id, Status::cancelled);
  if (header.type == FrameType::pong || header.type == FrameType::ping) return;
  const auto found = lane.requests.find(header.request_id);
  if (found == lane.requests.end()) return;  // the answer crossed our cancel
  Request& request = found->second;
  const char* wrong = nullptr;
  switch (header.type) {
    case FrameType::results:
      wrong = take_results(lane, request, header, body);
      break;
    case FrameType::statuses:
      wrong = take_statuses(request, header, body);
      break;
    case FrameType::matched:
      if (request.operation && request.operation->type == FrameType::match) {
        wrong = decode_fixed(body, request.operation->matched);
        if (wrong == nullptr && request.operation->matched > request.operation->keys.size())
          wrong = "more keys matched than were asked for";
        if (wrong == nullptr) settle(*request.operation, 0, Status::ok);
      }
      break;
    case FrameType::text:
      if (request.operation && request.operation->type == FrameType::stats) {
        request.operation->text.assign(reinterpret_cast<const char*>(body.data()), body.size());
        settle(*request.operation, 0, Status::ok);
      }
      break;
    case FrameType::events:
      if (request.operation && request.operation->type == FrameType::watch) {
        wrong = decode_events(header, body, request.operation->events);
        request.operation->server_id = welcome_.server_id;
        if (wrong == nullptr) settle(*request.operation, 0, Status::ok);
      }
      break;
    default:
      wrong = "a frame that only clients send";
  }
  if (wrong != nullptr) return lose_session(wrong);
  if ((header.flags & kFrameLast) != 0) finish_request(lane, header.request_id, Status::invalid);
}

const char* Client::take_results(const Lane& lane, Request& request, const FrameHeader& header, ConstByteSpan body) {
  std::vector<ResultBody> results;
  if (const char* wrong = decode_array(header, body, results)) return wrong;
  if (request.operation == nullptr) return nullptr;
  auto arrived = lane.arrived.begin();
  for (const ResultBody& result : results) {
    if (result.index >= request.count) return "a result for an item that was not asked for";
    const bool checked = (result.flags & kResultPayload) != 0 && arrived != lane.arrived.end();
    CAIRN_CHECK(!checked || (arrived->index == result.index && arrived->length == result.length),
                "the bytes of another item are checked");
    settle_result(request, result, checked ? &arrived->crc : nullptr);
    if (checked) ++arrived;
  }
  return nullptr;
}

void Client::settle_result(const Request& request, const ResultBody& result, const uint32_t* crc) {
  Operation& operation = *request.operation;
  const uint32_t item = request.first + result.index;
  CAIRN_CHECK(item < operation.settled_.size(), "a result for an item that the operation does not have");
  CAIRN_CHECK(operation.sequences.size() == operation.settled_.size(), "an operation has no room for its answers");
  if (operation.settled_[item]) return;
  Status status = known(result.status);
  operation.sequences[item] = result.sequence;
  if (operation.type == FrameType::put && status == Status::ok) operation.lengths[item] = operation.room(item);
  if (operation.type == FrameType::get && status == Status::ok) {
    status = result.length > operation.room(item) ? Status::invalid : deliver(request, result, crc);
    if (status == Status::ok) operation.lengths[item] = result.length;
  }
  settle(operation, item, status);
}

const char* Client::take_statuses(Request& request, const FrameHeader& header, ConstByteSpan body) {
  std::vector<Status> statuses;
  if (const char* wrong = decode_array(header, body, statuses)) return wrong;
  if (request.operation == nullptr) return nullptr;
  if (statuses.size() != request.count) return "an answer with another number of items than the request";
  for (uint32_t i = 0; i < request.count; ++i) settle(*request.operation, request.first + i, known(statuses[i]));
  return nullptr;
}

}  // namespace cairn
