// Who is heard, and who has to wait: for its output to be read, or for its next part of the turn.
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
constexpr int64_t kBytesANs = 8;  // received: by so many the bytes are divided, see work.h

}  // namespace

void Reactor::note_output(LinkState& state) {
  const uint64_t now = state.link->queued_bytes();
  output_bytes_ += now - state.queued_bytes;
  state.queued_bytes = now;
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
  if (state.queued_bytes > output_most()) {
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

// Whose peer has taken in half of what it had left lying is heard again.
void Reactor::resume_paused() {
  std::erase_if(paused_, [this](LinkState* state) {
    if (state->dead || state->leaving) return false;  // let_go() will
    note_output(*state);
    if (state->queued_bytes > output_most() / 2) return false;
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
  if (state.unfinished != nullptr) {
    go_on(state);
    hold_back(state);
    if (state.dead || state.leaving || state.paused || state.unfinished != nullptr || work_.spent(state)) return;
  }
  link.hold(false);
  const uint64_t before = link.moved_bytes();
  link.progress(true, false);
  if (state.dead) return work_.forget(state);
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
