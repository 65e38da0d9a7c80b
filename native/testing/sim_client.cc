#include "testing/sim_client.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/pattern.h"

namespace cairn {

namespace {

constexpr uint64_t kMsNs = 1'000'000;
constexpr uint32_t kItemsMost = 6;
// A service that has not answered so long after the deadline never will.
constexpr uint64_t kSlackMs = 120'000;

}  // namespace

SimClient::SimClient(Server& server, SimOracle& oracle, const VirtualClock& clock, const SimLoad& load, uint32_t number,
                     uint64_t seed)
    : server_(server), oracle_(oracle), clock_(clock), load_(load), number_(number), random_(seed) {}

SimKey SimClient::draw_key(bool own) {
  const uint32_t client = own ? number_ : static_cast<uint32_t>(random_() % load_.clients);
  // The others of this tenant have the same numbers modulo the tenants, so that a leak between tenants would show.
  const uint32_t column = client / load_.tenants;
  return {client % load_.tenants,
          column * load_.keys_per_client + static_cast<uint32_t>(random_() % load_.keys_per_client)};
}

void SimClient::reset() {
  link_.reset();
  welcomed_ = open_ = cancelling_ = lost_ = false;
  items_.clear();
  act_ns_ = clock_.now_ns();
}

void SimClient::connect() {
  welcomed_ = false;
  lost_ = false;
  link_ = std::make_unique<StreamClientLink>(server_.connect(*this));
  link_->set_handler(this);
  FrameBuilder frame(FrameType::hello);
  HelloBody hello;
  const std::string name = tenant_name(tenant());
  hello.tenant_bytes = static_cast<uint16_t>(name.size());
  frame.append(hello);
  frame.append_text(name);
  link_->send(frame.finish());
}

bool SimClient::step() {
  if (lost_) die(2'000);
  if (link_ == nullptr) {
    if (paused_ || clock_.now_ns() < act_ns_) return false;
    connect();
    return true;
  }
  link_->progress(true, true);
  if (lost_) {
    die(2'000);
    return true;
  }
  if (open_) {
    if (happens(load_.dies)) {
      die(5'000);
      return true;
    }
    if (clock_.now_ns() >= give_up_ns_) {
      oracle_.got(items_.front().key, Status::invalid, 0, {}, {asked_unix_ms_, clock_.unix_ms()},
                  asked_);  // an answer that never came
      die(1'000);
      return true;
    }
    if (!cancelling_ && happens(load_.cancels)) {
      cancelling_ = true;
      FrameBuilder frame(FrameType::cancel, request_id_);
      frame.header().tag = tag_;
      link_->forget(request_id_);
      link_->send(frame.finish());
    }
    return false;
  }
  if (!welcomed_ || paused_ || clock_.now_ns() < act_ns_) return false;
  act();
  return true;
}

void SimClient::act() {
  static constexpr FrameType kTypes[] = {FrameType::put,    FrameType::put,   FrameType::put,     FrameType::get,
                                         FrameType::get,    FrameType::get,   FrameType::exists,  FrameType::match,
                                         FrameType::remove, FrameType::touch, FrameType::prefetch};
  begin(kTypes[random_() % std::size(kTypes)]);
}

void SimClient::begin(FrameType type) {
  type_ = type;
  items_.clear();
  const bool own = type == FrameType::put || type == FrameType::remove;
  const uint64_t count = 1 + random_() % kItemsMost;
  for (uint64_t i = 0; i < count; ++i) {
    const SimKey key = draw_key(own);
    const bool twice = std::any_of(items_.begin(), items_.end(), [&](const Item& item) { return item.key == key; });
    // Others of this tenant only: a session sees no other. A batch has one scope.
    if (twice || key.tenant != tenant()) continue;
    if (type == FrameType::put && !items_.empty() && scope_of(key) != scope_of(items_.front().key)) continue;
    Item item;
    item.key = key;
    item.length = length_of(key);
    items_.push_back(std::move(item));
  }
  if (items_.empty()) return;
  durable_ = random_() % 4 != 0;
  for (Item& item : items_) {
    if (type == FrameType::put) {
      item.version = oracle_.put_begins(item.key, clock_.unix_ms());
      item.memory.resize(item.length);
      fill_pattern(item.memory, oracle_.content(item.key, item.version));
    } else if (type == FrameType::get) {
      if (random_() % 4 == 0) item.offset = random_() % item.length;
      item.memory.resize(item.length);
    } else if (type == FrameType::remove) {
      oracle_.delete_begins(item.key);
    }
  }
  send_request(type);
}

void SimClient::send_request(FrameType type) {
  ++requests;
  ++request_id_;
  FrameBuilder frame(type, request_id_);
  frame.header().tag = tag_;
  frame.header().item_count = static_cast<uint32_t>(items_.size());
  frame.header().deadline_ms = 1 + static_cast<uint32_t>(random_() % load_.deadline_ms_most);
  BatchBody batch;
  batch.scope = type == FrameType::put ? scope_of(items_.front().key) : 0;
  batch.durability = durable_ ? Durability::durable : Durability::relaxed;
  frame.append(batch);
  for (const Item& item : items_) {
    if (type != FrameType::put && type != FrameType::get && type != FrameType::prefetch) {
      frame.append(wire_key(item.key));
      continue;
    }
    ItemBody body;
    body.key = wire_key(item.key);
    body.length = item.length;
    body.range_offset = item.offset;
    body.ttl_ms = type == FrameType::put ? ttl_ms_of(item.key) : 0;
    frame.append(body);
  }
  open_ = true;
  cancelling_ = false;
  asked_ = oracle_.step();
  asked_unix_ms_ = clock_.unix_ms();
  give_up_ns_ = clock_.now_ns() + (frame.header().deadline_ms + kSlackMs) * kMsNs;
  server_.note(uint64_t{number_} << 32 | static_cast<uint64_t>(type));
  link_->send(frame.finish());
}

bool SimClient::source(uint64_t request_id, uint32_t index, uint64_t offset, uint64_t length, std::vector<iovec>& out) {
  if (!open_ || request_id != request_id_ || type_ != FrameType::put || index >= items_.size()) return false;
  Item& item = items_[index];
  if (item.settled || cancelling_ || offset != 0 || length != item.memory.size()) return false;
  out.push_back({item.memory.data(), item.memory.size()});
  return true;
}

bool SimClient::destination(uint64_t request_id, uint32_t index, uint64_t length, std::vector<iovec>& out) {
  if (!open_ || request_id != request_id_ || type_ != FrameType::get || index >= items_.size()) return false;
  Item& item = items_[index];
  if (item.settled || cancelling_ || length > item.memory.size()) return false;
  out.push_back({item.memory.data(), length});
  return true;
}

void SimClient::on_frame(const FrameHeader& header, ConstByteSpan body) {
  server_.note(uint64_t{number_} << 40 | uint64_t{header.body_crc} << 8 | static_cast<uint64_t>(header.type));
  if (header.type == FrameType::welcome) {
    tag_ = header.tag;
    welcomed_ = true;
    act_ns_ = clock_.now_ns();
    return;
  }
  if (header.type == FrameType::refuse) {
    lost_ = true;
    return;
  }
  if (!open_ || header.request_id != request_id_) return;
  if (header.type == FrameType::cancelled) return close_request(Status::cancelled);
  if (header.type == FrameType::failed) {
    ReasonView view;
    return close_request(decode_reason(body, view) == nullptr ? view.status : Status::invalid);
  }
  if (header.type == FrameType::results) take_results(header, body);
  if (header.type == FrameType::statuses) take_statuses(header, body);
  if (header.type == FrameType::matched) {
    uint64_t matched = 0;
    if (decode_fixed(body, matched) != nullptr) return;
    for (uint64_t i = 0; i < items_.size() && i <= matched; ++i)
      oracle_.told_exists(items_[i].key, i < matched, clock_.unix_ms(), asked_);
  }
  if ((header.flags & kFrameLast) != 0) close_request(Status::cancelled);
}

void SimClient::on_closed(Status, std::string_view) {
  lost_ = true;
}

void SimClient::settle(Item& item, Status status, uint64_t nbytes) {
  if (item.settled) return;
  item.settled = true;
  const uint64_t now = clock_.unix_ms();
  if (type_ == FrameType::put) oracle_.put_ends(item.key, item.version, status, durable_, now);
  if (type_ == FrameType::remove) oracle_.delete_ends(item.key, status);
  // After a cancel nothing is received into its memory any more.
  if (type_ == FrameType::get && !cancelling_) {
    const bool whole = status != Status::ok || nbytes == item.length - item.offset;
    oracle_.got(item.key, whole ? status : Status::invalid, item.offset, {item.memory.data(), whole ? nbytes : 0},
                {asked_unix_ms_, now}, asked_);
  }
  if (type_ == FrameType::exists || type_ == FrameType::touch)
    oracle_.told_exists(item.key, status == Status::ok, now, asked_);
}

void SimClient::take_results(const FrameHeader& header, ConstByteSpan body) {
  std::vector<ResultBody> results;
  if (decode_array(header, body, results) != nullptr) return;
  for (const ResultBody& result : results) {
    if (result.index < items_.size()) settle(items_[result.index], result.status, result.length);
  }
}

void SimClient::take_statuses(const FrameHeader& header, ConstByteSpan body) {
  std::vector<Status> statuses;
  if (decode_array(header, body, statuses) != nullptr || statuses.size() != items_.size()) return;
  for (size_t i = 0; i < statuses.size(); ++i) settle(items_[i], statuses[i], 0);
}

void SimClient::close_request(Status rest) {
  for (Item& item : items_) {
    if (item.settled) continue;
    const bool asks = type_ == FrameType::exists || type_ == FrameType::touch;
    if (asks || (type_ == FrameType::get && rest == Status::cancelled)) continue;
    settle(item, rest, 0);
  }
  open_ = false;
  // A service that refused an item may have answered before all of its bytes were sent.
  link_->forget(request_id_);
  act_ns_ = clock_.now_ns() + (1 + random_() % load_.think_ms_most) * kMsNs;
}

void SimClient::die(uint64_t back_ms_most) {
  for (const Item& item : items_) {
    if (open_ && !item.settled && (type_ == FrameType::put || type_ == FrameType::remove))
      oracle_.abandoned(item.key, clock_.unix_ms());
  }
  link_.reset();
  open_ = welcomed_ = lost_ = false;
  items_.clear();
  // Long enough for the service to have seen the end of the link.
  act_ns_ = clock_.now_ns() + (1'000 + random_() % back_ms_most) * kMsNs;
}

}  // namespace cairn
