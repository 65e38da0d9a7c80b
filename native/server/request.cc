#include "server/request.h"

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace cairn {

namespace {

ResultItem plain_result(uint32_t index, Status status) {
  ResultItem result;
  result.body.index = index;
  result.body.status = status;
  return result;
}

// What is wrong with an item before anything is done for it; ok if nothing.
Status check_item(FrameType type, const ItemBody& item) {
  if (type == FrameType::put) {
    if (item.length == 0) return Status::invalid;
    if (item.length > kBlockBytesMost) return Status::too_large;
    if (item.group_members != 0 && item.group == GroupId{}) return Status::invalid;
  }
  return Status::ok;
}

}  // namespace

void Request::check(uint32_t index) const {
  CAIRN_CHECK(index < states.size(), "a request is asked for an item that it does not have");
  CAIRN_CHECK(states.size() == batch.items.size(), "a request has not one state for each of its items");
  CAIRN_CHECK(charges.size() == states.size(), "a request has not one charge for each of its items");
  CAIRN_CHECK(puts.empty() || (type == FrameType::put && puts.size() == states.size()),
              "a request has not one put for each item");
  CAIRN_CHECK(gets.empty() || (type != FrameType::put && gets.size() == states.size()),
              "a request has not one get for each item");
  CAIRN_CHECK(next <= states.size(), "a request started more items than it has");
  CAIRN_CHECK(unsettled <= states.size(), "a request has more items open than it has");
  CAIRN_CHECK(ready.size() <= states.size() - unsettled, "a request has more results than items that ended");
  CAIRN_CHECK(session != nullptr, "a request of no session");
  CAIRN_CHECK(link != nullptr, "a request that came by no link");
  CAIRN_CHECK(store != nullptr, "a request to no store");
  CAIRN_CHECK(sink != nullptr, "a request whose items nobody is told of");
}

uint64_t Request::bytes_of(const BatchView& batch) {
  return sizeof(Request) + batch.items.size() * (sizeof(ItemBody) + sizeof(ItemState) + sizeof(uint64_t)) +
         batch.extents.size() * sizeof(ExtentBody);
}

void Request::start_next(uint32_t tenant, uint64_t now_unix_ms) {
  check(next);
  if (type == FrameType::put && puts.empty()) {
    puts = std::vector<PutItem>(states.size());
  } else if (type != FrameType::put && gets.empty()) {
    gets = std::vector<GetItem>(states.size());
  }
  const uint32_t index = next++;
  CAIRN_CHECK(states[index] == ItemState::queued, "an item is started twice");
  CAIRN_CHECK(uint64_t{batch.items[index].extent_first} + batch.items[index].extent_count <= batch.extents.size(),
              "an item with extents outside its batch got past the decoder");
  states[index] = ItemState::running;
  const Status wrong = check_item(type, batch.items[index]);
  if (wrong != Status::ok) return settle(index, plain_result(index, wrong));
  if (type == FrameType::put) {
    start_put(index, tenant, now_unix_ms);
  } else {
    start_get(index, tenant);
  }
}

void Request::start_get(uint32_t index, uint32_t tenant) {
  const ItemBody& item = batch.items[index];
  GetItem& get = gets[index];
  get.id = {item.key, batch.fixed.layout, tenant};
  get.offset = item.range_offset;
  get.length = item.range_bytes;
  get.request = this;
  get.index = index;
  store->get(get);
}

void Request::start_put(uint32_t index, uint32_t tenant, uint64_t now_unix_ms) {
  const ItemBody& item = batch.items[index];
  PutItem& put = puts[index];
  put.id = {item.key, batch.fixed.layout, tenant};
  put.PutOp::length = item.length;
  put.durability = batch.fixed.durability;
  // A time to live beyond what the clock can count is for ever.
  put.expiry_unix_ms = item.ttl_ms == 0 || item.ttl_ms > UINT64_MAX - now_unix_ms ? 0 : now_unix_ms + item.ttl_ms;
  put.group = item.group;
  put.group_members = item.group_members;
  put.scope = batch.fixed.scope;
  put.has_crc = (item.flags & kItemHasCrc) != 0;
  put.crc = item.crc;
  put.request = this;
  put.item = index;
  store->begin_put(put);
}

void Request::settle(uint32_t index, ResultItem result) {
  check(index);
  CAIRN_CHECK(states[index] == ItemState::running || states[index] == ItemState::queued, "an item is settled twice");
  CAIRN_CHECK(unsettled > 0, "more items are settled than a request has");
  CAIRN_CHECK(result.body.index == index, "a result is filed under another item");
  CAIRN_CHECK(!result.buffer || result.body.status == Status::ok, "an item that failed hands bytes to the client");
  CAIRN_CHECK(result.buffer || result.to.empty(), "a result without bytes says where they go");
  states[index] = ItemState::settled;
  --unsettled;
  ready.push_back(std::move(result));
  sink->item_settled(*this, index);
}

void Request::abandon(uint32_t index, Status status) {
  check(index);
  CAIRN_CHECK(status != Status::ok, "an item is given up as if it were done");
  if (states[index] == ItemState::queued)
    CAIRN_CHECK(charges[index] == 0, "an item that was never started holds a part of its session's window");
  if (states[index] == ItemState::running) {
    if (type == FrameType::put) {
      PutItem& put = puts[index];
      if (put.pulling) link->cancel(put);
      put.pulling = false;
      store->cancel(put);
      put.PutOp::buffer = {};
      put.PullOp::buffer = {};
    } else {
      store->cancel(gets[index]);
      gets[index].buffer = {};
    }
  }
  settle(index, plain_result(index, status));
}

void GetItem::done(Status status) {
  CAIRN_CHECK(request != nullptr, "a get ends that belongs to no request");
  request->check(index);
  CAIRN_CHECK(request->states[index] == ItemState::running, "a get ends that is not under way");
  CAIRN_CHECK(status != Status::ok || buffer, "a get is done and has no bytes");
  CAIRN_CHECK(status != Status::ok || buffer_offset + length <= buffer.length(),
              "a get is given bytes of somebody else");
  ResultItem result = plain_result(index, status);
  const ItemBody& item = request->batch.items[index];
  if (status == Status::ok && request->type == FrameType::get) {
    if (item.length < length) {
      result.body.status = Status::short_buffer;
    } else {
      result.body.length = length;
      result.body.crc = crc;
      result.buffer = std::move(buffer);
      result.buffer_offset = buffer_offset;
      result.to = std::span(request->batch.extents).subspan(item.extent_first, item.extent_count);
    }
    result.body.sequence = sequence;
    if (from_memory) result.body.flags |= kResultFromMemory;
  }
  buffer = {};
  request->settle(index, std::move(result));
}

void PutItem::ready() {
  CAIRN_CHECK(request != nullptr, "memory is granted to a put of no request");
  request->check(item);
  CAIRN_CHECK(request->states[item] == ItemState::running, "memory is granted to a put that is not under way");
  CAIRN_CHECK(!pulling, "memory is granted twice to one put");
  CAIRN_CHECK(PutOp::buffer.length() >= PutOp::length, "a put is granted less memory than its block needs");
  CAIRN_CHECK(!PullOp::buffer, "a put still holds the memory of an earlier pull");
  request_id = request->id;
  PullOp::index = item;
  PullOp::length = PutOp::length;
  PullOp::buffer = PutOp::buffer;
  const ItemBody& body = request->batch.items[item];
  from = std::span(request->batch.extents).subspan(body.extent_first, body.extent_count);
  pulling = true;
  request->sink->link_used(*request);
  request->link->pull(*this);
}

void PutItem::pulled(Status status) {
  CAIRN_CHECK(request != nullptr, "bytes come for a put of no request");
  CAIRN_CHECK(pulling, "bytes come for a put that does not wait for any");
  CAIRN_CHECK(request->states[item] == ItemState::running, "bytes come for a put that is not under way");
  CAIRN_CHECK(PullOp::length == PutOp::length, "another number of bytes was pulled than the block has");
  pulling = false;
  PullOp::buffer = {};
  if (status == Status::ok) return request->store->commit(*this);
  request->store->cancel(*this);
  PutOp::buffer = {};
  request->settle(item, plain_result(item, status));
}

void PutItem::done(Status status) {
  CAIRN_CHECK(request != nullptr, "a put ends that belongs to no request");
  CAIRN_CHECK(!pulling, "a put ended while its bytes were on their way");
  CAIRN_CHECK(request->states[item] == ItemState::running, "a put ends that is not under way");
  PutOp::buffer = {};
  ResultItem result = plain_result(item, status);
  result.body.sequence = sequence;
  if (status == Status::ok) result.body.length = PutOp::length;
  request->settle(item, std::move(result));
}

}  // namespace cairn
