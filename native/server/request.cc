#include "server/request.h"

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

std::span<const ExtentBody> Request::extents_of(const ItemBody& item) const {
  return std::span(batch.extents).subspan(item.extent_first, item.extent_count);
}

void Request::start_next(uint32_t tenant, uint64_t now_unix_ms) {
  const uint32_t index = next++;
  CAIRN_CHECK(states[index] == ItemState::queued, "an item is started twice");
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
  CAIRN_CHECK(states[index] == ItemState::running || states[index] == ItemState::queued, "an item is settled twice");
  states[index] = ItemState::settled;
  --unsettled;
  ready.push_back(std::move(result));
  sink->item_settled(*this, index);
}

void Request::abandon(uint32_t index, Status status) {
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
  pulling = false;
  PullOp::buffer = {};
  if (status == Status::ok) return request->store->commit(*this);
  request->store->cancel(*this);
  PutOp::buffer = {};
  request->settle(item, plain_result(item, status));
}

void PutItem::done(Status status) {
  CAIRN_CHECK(!pulling, "a put ended while its bytes were on their way");
  PutOp::buffer = {};
  ResultItem result = plain_result(item, status);
  result.body.sequence = sequence;
  if (status == Status::ok) result.body.length = PutOp::length;
  request->settle(item, std::move(result));
}

}  // namespace cairn
