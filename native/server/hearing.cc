// Who is heard, and who has to wait: for its output to be read, or for its next part of the turn.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "server/reactor.h"

namespace cairn {

namespace {

// A link is not heard while so much waits to be sent to it, or less when that of all links is much.
constexpr uint64_t kOutputMost = 256 * kKiB;
constexpr uint64_t kOutputLittle = 16 * kKiB;
constexpr uint64_t kOutputOfAllMost = 8 * kMiB;
// Of large frames that are coming in. No tenant has more of it than is left for the others.
constexpr uint64_t kInputOfAllMost = 8 * kMiB;
constexpr int64_t kBytesANs = 8;  // received: by so many the bytes are divided, see work.h

}  // namespace

void Reactor::note_output(LinkState& state) {
  const uint64_t now = state.link->queued_bytes();
  output_bytes_ += now - state.queued_bytes;
  state.queued_bytes = now;
}

void Reactor::note_input(LinkState& state) {
  CAIRN_CHECK(!state.dead, "a link that is gone takes in a frame");
  forget_input(state);
  if (state.session == nullptr) return;  // see hear()
  state.input_bytes = state.link->input_bytes();
  state.session->share->input_bytes += state.input_bytes;
  input_bytes_ += state.input_bytes;
}

void Reactor::forget_input(LinkState& state) {
  const uint64_t bytes = std::exchange(state.input_bytes, 0);
  if (bytes == 0) return;
  CAIRN_CHECK(state.session->share->input_bytes >= bytes && input_bytes_ >= bytes, "input was never counted");
  state.session->share->input_bytes -= bytes;
  input_bytes_ -= bytes;
}

// Whether its tenant's other links have so much coming in that this one is not to begin a frame. What has begun goes
// on.
bool Reactor::crowded(const LinkState& state) const {
  if (state.session == nullptr || state.input_bytes > 0) return false;
  return state.session->share->input_bytes > kInputOfAllMost - std::min(kInputOfAllMost, input_bytes_);
}

uint64_t Reactor::output_most() const {
  return output_bytes_ > kOutputOfAllMost ? kOutputLittle : kOutputMost;
}

bool Reactor::may_speak(const LinkState& state) {
  return !state.paused && (state.session == nullptr || !state.session->share->deletes_waiting.holds(state));
}

void Reactor::hold_back(LinkState& state) {
  if (state.dead || state.leaving) return;
  note_output(state);
  note_input(state);
  if (state.queued_bytes > output_most() || crowded(state)) {
    state.link->hold(true);
    if (std::exchange(state.paused, true)) return;
    ++counters_.links_paused;
    paused_.push_back(&state);
    work_.forget(state);
  } else if (state.unfinished != nullptr || work_.spent(state)) {
    state.link->hold(true);
    if (may_speak(state)) work_.wake(state);
  }
}

// Whose peer has taken in half of what it had left lying is heard again; so is one for whose frame there is room again.
void Reactor::resume_paused() {
  std::erase_if(paused_, [this](LinkState* state) {
    if (state->dead || state->leaving) return false;  // let_go() will
    note_output(*state);
    if (state->queued_bytes > output_most() / 2 || crowded(*state)) return false;
    state->paused = false;
    touch(*state->link);
    if (may_speak(*state)) work_.wake(*state);
    return true;
  });
  settle_touched();
}

void Reactor::hear(LinkState& state) {
  if (state.dead || state.leaving || !may_speak(state)) return work_.forget(state);
  ServerLink& link = *state.link;
  touch(link);
  if (crowded(state)) return hold_back(state);
  if (state.unfinished != nullptr) {
    go_on(state);
    hold_back(state);
    if (state.dead || state.leaving || state.paused || state.unfinished != nullptr || work_.spent(state)) return;
  }
  link.hold(false);
  const uint64_t before = link.moved_bytes();
  link.progress(true, false);
  if (state.dead) return work_.forget(state);
  if (state.session == nullptr && link.input_bytes() > 0)
    return refuse(state, Status::invalid, "the first frame is too large for a hello");
  note_input(state);
  work_.charge(state, static_cast<int64_t>(link.moved_bytes() - before) / kBytesANs);
}

void Reactor::go_on(LinkState& state) {
  const std::unique_ptr<Unfinished> asked = std::move(state.unfinished);
  if (asked->header.type == FrameType::remove) {
    begin_remove(state, *asked);
  } else {
    answer_keys(state, *asked);
  }
}

}  // namespace cairn
