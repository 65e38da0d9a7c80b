#include "server/shares.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "wire/limits.h"

namespace cairn {

namespace {

// How far beyond half as much again as its share a tenant may be before it is passed over.
constexpr int64_t kSlackBytes = 8 << 20;
// What the heaviest of several may start before the others have their turn, and how often they do, at most, in a turn
// of the reactor.
constexpr int64_t kPartBytes = 1 << 20;
constexpr int kRoundsATurn = 8;
// What one session may start before the next of its tenant.
constexpr int64_t kSessionQuantumBytes = 4 << 20;
// How long a tenant with nothing on its way still counts as there: a client that waits for an answer before it asks
// again would otherwise find the whole of drives and network taken, every time.
constexpr uint64_t kPresentNs = 100'000'000;
static_assert(kPartBytes > 0 && kSessionQuantumBytes > 0, "a tenant or a session would never have its turn");
static_assert(kPartBytes <= static_cast<int64_t>(SharesOptions{}.turn_bytes),
              "a tenant among several may start more at once than one that is alone");
static_assert(kPartBytes <= INT64_MAX / UINT32_MAX, "the part of the heaviest tenant overflows");

}  // namespace

void Shares::configure(const std::vector<TenantOptions>& tenants) {
  configured_.clear();
  for (const TenantOptions& one : tenants) configured_[one.number] = one;
  for (auto& [number, share] : shares_) {
    CAIRN_CHECK(share.number == number, "a tenant's share lies under another's number");
    const auto found = configured_.find(number);
    const TenantOptions options = found == configured_.end() ? TenantOptions{} : found->second;
    share.weight = std::max<uint64_t>(options.weight, 1);
    share.window_bytes = options.in_flight_bytes == 0 ? options_.tenant_window_bytes : options.in_flight_bytes;
    wake(share);
  }
}

bool Shares::has_own_limit(uint32_t tenant) const {
  const auto configured = configured_.find(tenant);
  return configured != configured_.end() && configured->second.sessions_most > 0;
}

uint64_t Shares::sessions_most(uint32_t tenant) const {
  return has_own_limit(tenant) ? configured_.at(tenant).sessions_most : options_.tenant_sessions_most;
}

bool Shares::may_join(uint32_t tenant) const {
  const auto share = shares_.find(tenant);
  return (share == shares_.end() ? 0 : share->second.sessions) < sessions_most(tenant);
}

void Shares::join(Session& session, uint32_t tenant) {
  CAIRN_CHECK(session.share == nullptr, "a session joins a second tenant");
  CAIRN_CHECK(session.window_used == 0, "a session joins with payload on its way");
  CAIRN_CHECK(may_join(tenant), "a tenant gets more sessions than it may have");
  const auto [found, fresh] = shares_.try_emplace(tenant);
  Share& share = found->second;
  if (fresh) {
    const auto configured = configured_.find(tenant);
    const TenantOptions options = configured == configured_.end() ? TenantOptions{} : configured->second;
    share.number = tenant;
    share.weight = std::max<uint64_t>(options.weight, 1);
    share.window_bytes = options.in_flight_bytes == 0 ? options_.tenant_window_bytes : options.in_flight_bytes;
  }
  ++share.sessions;
  session.share = &share;
}

void Shares::leave(Session& session) {
  CAIRN_CHECK(session.share != nullptr, "a session leaves that belongs to no tenant");
  Share& share = *session.share;
  CAIRN_CHECK(share.sessions > 0, "a session leaves a tenant that has none");
  if (share.ready.holds(session)) share.ready.remove(session);
  if (share.ready.empty() && Tenants::holds(share)) ring_.remove(share);
  // What its links still held came back when they were closed; items end with their requests.
  CAIRN_CHECK(session.window_used == 0, "a session ends with payload on its way");
  --share.sessions;
  CAIRN_CHECK(share.sessions > 0 || share.in_flight_bytes == 0, "a tenant without sessions has payload on its way");
  CAIRN_CHECK(share.sessions > 0 || share.ready.empty(), "a tenant without sessions has one that waits for its turn");
  session.share = nullptr;
}

bool Shares::forget(uint32_t tenant) {
  const auto found = shares_.find(tenant);
  if (found == shares_.end()) return true;
  Share& share = found->second;
  if (share.sessions > 0 || share.deletes > 0) return false;
  CAIRN_CHECK(share.in_flight_bytes == 0, "a tenant without sessions has payload on its way");
  CAIRN_CHECK(share.request_bytes == 0, "a tenant without sessions has requests open");
  CAIRN_CHECK(share.asking.empty(), "a tenant without sessions has something to say");
  CAIRN_CHECK(!Tenants::holds(share), "a tenant without sessions waits for its turn");
  std::erase(present_, &share);
  shares_.erase(found);
  return true;
}

// The payload of a tenant is the sum of that of its sessions, and whose window is full does not wait for its turn.
void Shares::check(const Share& share, const Session& session) {
  CAIRN_CHECK(session.window_used <= share.in_flight_bytes, "a session has more on its way than its whole tenant");
  CAIRN_CHECK(!session.parked || !share.ready.holds(session), "a session whose window is full waits for its turn");
}

void Shares::wake(Session& session, uint64_t now_ns) {
  CAIRN_CHECK(session.share != nullptr, "a session asks that belongs to no tenant");
  Share& share = *session.share;
  share.seen_ns = now_ns;
  if (!share.present) {
    share.present = true;
    present_.push_back(&share);
  }
  if (!share.ready.holds(session)) share.ready.add(session);
  session.parked = false;
  check(share, session);
  wake(share);
}

void Shares::wake(Share& share) {
  share.parked = false;
  if (!share.ready.empty() && !Tenants::holds(share)) ring_.add(share);
  if (!ring_.empty()) runnable_ = true;
}

void Shares::take(Session& session, uint64_t bytes) {
  CAIRN_CHECK(session.share != nullptr, "payload is counted for a session that belongs to no tenant");
  CAIRN_CHECK(bytes <= kBlockBytesMost, "an item weighs more than a block can");
  session.window_used += bytes;
  session.share->in_flight_bytes += bytes;
  check(*session.share, session);
}

void Shares::give_back(Session& session, uint64_t bytes) {
  CAIRN_CHECK(session.share != nullptr, "payload comes back to a session that belongs to no tenant");
  Share& share = *session.share;
  CAIRN_CHECK(session.window_used >= bytes, "more of a session's window is given back than was taken");
  CAIRN_CHECK(share.in_flight_bytes >= bytes, "more of a tenant's window is given back than was taken");
  if (bytes == 0) return;
  session.window_used -= bytes;
  share.in_flight_bytes -= bytes;
  check(share, session);
  if (session.parked) {
    session.parked = false;
    share.ready.add(session);
  }
  wake(share);
}

// --- a round ---------------------------------------------------------------------------------------------

void Shares::watch_presence(uint64_t now_ns) {
  std::erase_if(present_, [&](Share* share) {
    CAIRN_CHECK(share->present, "a tenant is listed as present and does not know");
    if (share->in_flight_bytes > 0 || Tenants::holds(*share)) share->seen_ns = now_ns;
    share->present = now_ns - share->seen_ns <= kPresentNs;
    if (!share->present) share->deficit_bytes = 0;
    return !share->present;
  });
  contended_ = present_.size() > 1;
}

void Shares::weigh() {
  weights_ = 0;
  for (const Share* share : present_) weights_ += share->weight;
  weight_most_ = 1;
  counted_bytes_ = 0;
  ring_.for_each([this](const Share& share) {
    CAIRN_CHECK(share.present, "a tenant has its turn and is not listed as present");
    weight_most_ = std::max(weight_most_, share.weight);
    counted_bytes_ += counted(share);
  });
}

int64_t Shares::share_bytes(const Share& share) const {
  CAIRN_CHECK(weights_ > 0, "shares are divided among tenants that weigh nothing");
  CAIRN_CHECK(share.weight <= weights_, "a tenant weighs more than all that are present");
  return static_cast<int64_t>(options_.shared_window_bytes * share.weight / weights_);
}

// What the others see of it: no more than it is entitled to.
int64_t Shares::counted(const Share& share) const {
  return std::min(static_cast<int64_t>(share.in_flight_bytes), share_bytes(share));
}

// So far beyond its share that its items must be slower than those of the others: it does not hold the round up.
bool Shares::over(const Share& share) const {
  const int64_t own = share_bytes(share);
  return static_cast<int64_t>(share.in_flight_bytes) >= own + own / 2 + kSlackBytes;
}

void Shares::give_part(Share& share) const {
  CAIRN_CHECK(Tenants::holds(share), "a tenant is given a part out of its turn");
  CAIRN_CHECK(weight_most_ > 0, "the parts of tenants are measured by one that weighs nothing");
  if (share.in_turn) return;
  share.in_turn = true;
  if (!contended_) {
    share.deficit_bytes = static_cast<int64_t>(options_.turn_bytes);
    return;
  }
  const int64_t part = kPartBytes * static_cast<int64_t>(share.weight) / static_cast<int64_t>(weight_most_);
  share.deficit_bytes += std::max<int64_t>(part, 1);
}

void Shares::run(uint64_t now_ns) {
  runnable_ = false;
  if (ring_.empty()) return;
  watch_presence(now_ns);
  CAIRN_CHECK(!present_.empty(), "somebody has a turn and nobody is present");
  if (!contended_) return run_round();
  weigh();
  turn_started_bytes_ = 0;
  for (int round = 0; round < kRoundsATurn; ++round) {
    run_round();
    if (!runnable_ || turn_started_bytes_ >= options_.turn_bytes) return;
  }
}

void Shares::run_round() {
  runnable_ = false;
  for (size_t left = ring_.size(); left > 0 && !ring_.empty(); --left) {
    Share& share = *ring_.at();
    give_part(share);
    const End end = serve(share);
    CAIRN_CHECK(ring_.at() == &share, "the turn went to another while a tenant was served");
    if (end == End::no_room) {
      runnable_ = false;
      return;
    }
    share.in_turn = false;
    if (end == End::spent) runnable_ = true;
    if (end != End::spent) share.deficit_bytes = std::min<int64_t>(share.deficit_bytes, 0);
    if (end == End::idle) {
      CAIRN_CHECK(share.parked || share.ready.empty(), "a tenant goes to sleep with something it may start");
      ring_.remove(share);
    } else {
      ring_.advance();
    }
  }
}

// Whether the windows of session and tenant have room. The first item is let through whatever its size: a window that
// is smaller than a block must not stop it for ever.
bool Shares::may_start(Share& share, Session& session, uint64_t bytes) {
  CAIRN_CHECK(session.share == &share, "a session is served in another tenant's turn");
  CAIRN_CHECK(bytes <= kBlockBytesMost, "an item waits that weighs more than a block can");
  if (session.window_used > 0 && session.window_used + bytes > options_.session_window_bytes) {
    share.ready.remove(session);
    session.parked = true;
    return false;
  }
  share.parked =
      share.window_bytes > 0 && share.in_flight_bytes > 0 && share.in_flight_bytes + bytes > share.window_bytes;
  return !share.parked;
}

// Whether drives and network have room for one more of its items, as far as the other tenants are concerned.
Shares::End Shares::look_for_room(const Share& share) const {
  if (!contended_) return End::idle;
  if (ring_.size() > 1 && over(share)) return End::over;
  const int64_t of_others = counted_bytes_ - counted(share);
  const int64_t room = static_cast<int64_t>(options_.shared_window_bytes - share.in_flight_bytes) - of_others;
  return room > 0 ? End::idle : End::no_room;
}

Shares::End Shares::serve(Share& share) {
  while (Session* session = share.ready.at()) {
    const uint64_t bytes = starter_.next_bytes(*session);
    if (bytes == 0) {
      share.ready.remove(*session);
      session->deficit_bytes = 0;
      continue;
    }
    if (!may_start(share, *session, bytes)) {
      if (share.parked) return End::idle;
      continue;
    }
    if (share.deficit_bytes <= 0) return End::spent;
    if (const End end = look_for_room(share); end != End::idle) return end;
    if (session->deficit_bytes <= 0) session->deficit_bytes += kSessionQuantumBytes;
    if (session->deficit_bytes <= 0) {
      share.ready.advance();
      continue;
    }
    start(share, *session, bytes);
  }
  return End::idle;
}

// The other side of may_start() and serve().
void Shares::check_start(const Share& share, const Session& session, uint64_t bytes) const {
  CAIRN_CHECK(bytes > 0, "an item is started that weighs nothing");
  CAIRN_CHECK(share.ready.at() == &session, "a session starts an item out of its turn");
  CAIRN_CHECK(share.deficit_bytes > 0, "a tenant starts more than its part of the round");
  CAIRN_CHECK(session.deficit_bytes > 0, "a session starts more than its part of its tenant's");
  CAIRN_CHECK(session.window_used == 0 || session.window_used + bytes <= options_.session_window_bytes,
              "an item is started beyond its session's window");
  CAIRN_CHECK(
      share.window_bytes == 0 || share.in_flight_bytes == 0 || share.in_flight_bytes + bytes <= share.window_bytes,
      "an item is started beyond its tenant's window");
}

void Shares::start(Share& share, Session& session, uint64_t bytes) {
  check_start(share, session, bytes);
  const int64_t before = contended_ ? counted(share) : 0;
  share.deficit_bytes -= static_cast<int64_t>(bytes);
  session.deficit_bytes -= static_cast<int64_t>(bytes);
  share.started_bytes += bytes;
  turn_started_bytes_ += bytes;
  take(session, bytes);
  if (session.deficit_bytes <= 0) share.ready.advance();
  starter_.start_next(session, bytes);
  if (contended_) counted_bytes_ += counted(share) - before;
}

}  // namespace cairn
