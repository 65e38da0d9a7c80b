#include "server/work.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace cairn {

namespace {

constexpr int64_t kPartLeastNs = 5'000;
// A tenant for which something long was done waits until it has worked that off, but not longer than this many rounds
// in which nobody else wants anything.
constexpr int kRoundsMost = 64;
static_assert(Work::kLinkNs <= Work::kPartNs && Work::kPartNs <= Work::kTurnNs, "one link has more than its tenant");

}  // namespace

Share& Work::share_of(LinkState& state) {
  return state.session == nullptr ? strangers_ : *state.session->share;
}

void Work::wake(LinkState& state) {
  Share& share = share_of(state);
  if (!share.asking.holds(state)) share.asking.add(state);
  if (!Tenants::holds(share)) ring_.add(share);
}

void Work::forget(LinkState& state) {
  Share& share = share_of(state);
  if (!share.asking.holds(state)) return;
  share.asking.remove(state);
  if (share.asking.empty() && Tenants::holds(share)) ring_.remove(share);
}

void Work::charge(LinkState& state, int64_t cost_ns) {
  CAIRN_CHECK(cost_ns >= 0, "work is given back");
  if (state.work_turn != turn_) {
    state.work_turn = turn_;
    state.work_left_ns = kLinkNs;
  }
  state.work_left_ns -= cost_ns;
  share_of(state).work_left_ns -= cost_ns;
  spent_ns_ += cost_ns;
}

bool Work::spent(const LinkState& state) const {
  return state.work_left_ns <= 0 || turn_over();
}

void Work::serve(Share& share) {
  const bool alone = ring_.size() == 1;
  const int64_t part =
      alone ? kTurnNs : kPartNs * static_cast<int64_t>(share.weight) / static_cast<int64_t>(weight_most_);
  share.work_left_ns = std::min(share.work_left_ns + std::max(part, kPartLeastNs), part);
  while (share.work_left_ns > 0 && !turn_over() && !share.asking.empty()) {
    LinkState& state = *share.asking.at();
    state.work_turn = turn_;
    state.work_left_ns = share.asking.size() == 1 ? share.work_left_ns : std::min(kLinkNs, share.work_left_ns);
    ear_.hear(state);
    if (share.asking.at() != &state) continue;  // it is gone
    if (state.link->held()) {
      ++deferred_;
      share.asking.advance();
    } else {
      share.asking.remove(state);
    }
  }
}

void Work::run() {
  weight_most_ = 1;
  ring_.for_each([this](const Share& share) { weight_most_ = std::max(weight_most_, share.weight); });
  for (int round = 0; round < kRoundsMost && !ring_.empty() && !turn_over(); ++round) {
    for (size_t left = ring_.size(); left > 0 && !ring_.empty() && !turn_over(); --left) {
      Share& share = *ring_.at();
      serve(share);
      if (!Tenants::holds(share)) continue;  // its last link is gone
      if (share.asking.empty()) {
        share.work_left_ns = std::min<int64_t>(share.work_left_ns, 0);
        ring_.remove(share);
      } else {
        ring_.advance();
      }
    }
  }
}

}  // namespace cairn
