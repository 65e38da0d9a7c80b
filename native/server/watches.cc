#include "server/watches.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/check.h"

namespace cairn {

void Watches::add(const Watch& watch) {
  CAIRN_CHECK(watch.session != nullptr, "a watch of no session");
  CAIRN_CHECK(watch.link != nullptr, "a watch that came by no link");
  CAIRN_CHECK(!watch.due, "a watch is due before it began");
  CAIRN_CHECK(watch.events_most > 0, "a watch that may be told nothing");
  CAIRN_CHECK(watch.events_most <= kEventsMost, "a watch for more events than an answer holds got past the decoder");
  auto owned = std::make_unique<Watch>(watch);
  Watch& added = *owned;
  std::vector<Watch*>& siblings = tenants_[added.tenant];
  added.place = siblings.size();
  siblings.push_back(&added);
  added.number = next_number_++;
  const bool timed = deadlines_.emplace(std::pair(added.deadline_ns, added.number), &added).second;
  CAIRN_CHECK(timed, "two watches have one number, and one of them no deadline");
  const bool fresh = sessions_[added.session].emplace(added.request_id, std::move(owned)).second;
  CAIRN_CHECK(fresh, "a watch with a number that is in use");
}

void Watches::remove(Watch& watch) {
  const auto tenant = tenants_.find(watch.tenant);
  CAIRN_CHECK(tenant != tenants_.end(), "a watch ends whose tenant has none");
  CAIRN_CHECK(watch.place < tenant->second.size(), "a watch has a place that its tenant's list has not");
  CAIRN_CHECK(tenant->second[watch.place] == &watch, "another watch is where one says that it is");
  tenant->second.back()->place = watch.place;
  tenant->second[watch.place] = tenant->second.back();
  tenant->second.pop_back();
  if (tenant->second.empty()) tenants_.erase(tenant);
  if (watch.due) {
    CAIRN_CHECK(due_[watch.due_place] == &watch, "another watch is due where one says that it is");
    due_.back()->due_place = watch.due_place;
    due_[watch.due_place] = due_.back();
    due_.pop_back();
  } else {
    const size_t timed = deadlines_.erase({watch.deadline_ns, watch.number});
    CAIRN_CHECK(timed == 1, "a watch ends that has no deadline");
  }
  const auto session = sessions_.find(watch.session);
  CAIRN_CHECK(session != sessions_.end(), "a watch ends whose session has none");
  const size_t ended = session->second.erase(watch.request_id);  // destroys it
  CAIRN_CHECK(ended == 1, "a watch ends that its session does not know");
  if (session->second.empty()) sessions_.erase(session);
}

Watch* Watches::find(const Session& session, uint64_t request_id) const {
  const auto found = sessions_.find(&session);
  if (found == sessions_.end()) return nullptr;
  const auto watch = found->second.find(request_id);
  if (watch == found->second.end()) return nullptr;
  CAIRN_CHECK(watch->second->session == &session, "a watch is kept for another session");
  CAIRN_CHECK(watch->second->request_id == request_id, "a watch is kept under another number");
  return watch->second.get();
}

size_t Watches::of_session(const Session& session) const {
  const auto found = sessions_.find(&session);
  return found == sessions_.end() ? 0 : found->second.size();
}

void Watches::make_due(Watch& watch) {
  if (std::exchange(watch.due, true)) return;
  const size_t timed = deadlines_.erase({watch.deadline_ns, watch.number});
  CAIRN_CHECK(timed == 1, "a watch is due that had no deadline");
  watch.due_place = due_.size();
  due_.push_back(&watch);
}

std::vector<Watch*> Watches::some_due() {
  constexpr size_t kSome = 256;
  const size_t count = std::min(kSome, due_.size());
  std::vector<Watch*> some;
  some.reserve(count);
  for (size_t i = 0; i < count; ++i) some.push_back(due_[(due_at_ + i) % due_.size()]);
  due_at_ = due_.empty() ? 0 : (due_at_ + count) % due_.size();
  return some;
}

void Watches::make_due(uint32_t tenant, uint64_t newest) {
  const auto found = tenants_.find(tenant);
  if (found == tenants_.end()) return;
  for (Watch* watch : found->second) {
    CAIRN_CHECK(watch->tenant == tenant, "a watch would be told of another tenant's events");
    if (newest > watch->after) make_due(*watch);
  }
}

void Watches::make_due_until(uint64_t now_ns) {
  while (!deadlines_.empty() && deadlines_.begin()->first.first <= now_ns) make_due(*deadlines_.begin()->second);
}

uint64_t Watches::next_deadline_ns() const {
  return deadlines_.empty() ? UINT64_MAX : deadlines_.begin()->first.first;
}

std::vector<Watch*> Watches::of_link(const Session& session, const ServerLink* link) const {
  std::vector<Watch*> found;
  const auto of = sessions_.find(&session);
  if (of == sessions_.end()) return found;
  for (const auto& [id, watch] : of->second) {
    if (watch->link == link) found.push_back(watch.get());
  }
  return found;
}

}  // namespace cairn
