// One request of a client while it is open: a batch of items that move payload.
#pragma once

#include <cstdint>
#include <vector>

#include "store/store.h"
#include "transport/transport.h"
#include "wire/frame.h"

namespace cairn {

class Session;
struct Request;

// Told when an item is settled, on the reactor thread, possibly from inside the call that started it.
class ItemSink {
 public:
  virtual void item_settled(Request& request, uint32_t index) = 0;
  // Something waits in the request's link to be flushed.
  virtual void link_used(Request& request) = 0;

 protected:
  ~ItemSink() = default;
};

class GetItem final : public GetOp {
 public:
  void done(Status status) override;
  Request* request = nullptr;
  uint32_t index = 0;
};

class PutItem final : public PutOp, public PullOp {
 public:
  void ready() override;
  void done(Status status) override;
  void pulled(Status status) override;
  Request* request = nullptr;
  uint32_t item = 0;
  bool pulling = false;
};

enum class ItemState : uint8_t { queued, running, settled };

struct Request {
  uint64_t id = 0;      // the client's
  uint64_t number = 0;  // ours, of no other request
  FrameType type{};
  Session* session = nullptr;
  ServerLink* link = nullptr;
  Store* store = nullptr;
  ItemSink* sink = nullptr;
  uint64_t started_ns = 0;
  uint64_t deadline_ns = 0;
  BatchView batch;

  // One of the two, as long as the batch, once an item was started; addresses are stable while operations run.
  std::vector<GetItem> gets;
  std::vector<PutItem> puts;
  std::vector<ItemState> states;
  std::vector<uint64_t> charges;  // bytes of the session's window each item holds

  uint32_t next = 0;              // first item that was never started
  uint32_t weighed = UINT32_MAX;  // the item whose weight is known
  uint64_t weight = 0;
  uint64_t bytes = 0;  // of memory that it takes, as bytes_of() says
  uint32_t unsettled = 0;
  bool dirty = false;  // on the reactor's list of requests with results to send
  std::vector<ResultItem> ready;

  // What remembering a batch takes, apart from payload, before its items are started.
  static uint64_t bytes_of(const BatchView& batch);
  // Starts item `next`. It may settle before this returns.
  void start_next(uint32_t tenant, uint64_t now_unix_ms);
  // Ends an item that is not settled yet: whatever runs for it is cancelled.
  void abandon(uint32_t index, Status status);
  // Called by the items.
  void settle(uint32_t index, ResultItem result);
  // What holds between any two calls.
  void check(uint32_t index) const;

 private:
  void start_get(uint32_t index, uint32_t tenant);
  void start_put(uint32_t index, uint32_t tenant, uint64_t now_unix_ms);
};

}  // namespace cairn
