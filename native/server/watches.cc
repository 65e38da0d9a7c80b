#include "server/watches.h"

#include <algorithm>

namespace cairn {

void Watches::add(const Watch& watch) {
  auto owned = std::make_unique<Watch>(watch);
  Watch& added = *owned;
  std::vector<Watch*>& siblings = tenants_[added.tenant];
  added.place = siblings.size();
  siblings.push_back(&added);
  added.number = next_number_++;
  deadlines_.emplace(std::pair(added.deadline_ns, added.number), &added);
  const bool fresh = sessions_[added.session].emplace(added.request_id, std::move(owned)).second;
  CAIRN_CHECK(fresh, "a watch with a number that is in use");
}

void Watches::remove(Watch& watch) {
  const auto tenant = tenants_.find(watch.tenant);
  tenant->second.back()->place = watch.place;
  tenant->second[watch.place] = tenant->second.back();
  tenant->second.pop_back();
  if (tenant->second.empty()) tenants_.erase(tenant);
  deadlines_.erase({watch.deadline_ns, watch.number});
  if (watch.due) std::erase(due_, &watch);
  const auto session = sessions_.find(watch.session);
  session->second.erase(watch.request_id);  // destroys it
  if (session->second.empty()) sessions_.erase(session);
}

Watch* Watches::find(const Session& session, uint64_t request_id) const {
  const auto found = sessions_.find(&session);
  if (found == sessions_.end()) return nullptr;
  const auto watch = found->second.find(request_id);
  return watch == found->second.end() ? nullptr : watch->second.get();
}

size_t Watches::of_session(const Session& session) const {
  const auto found = sessions_.find(&session);
  return found == sessions_.end() ? 0 : found->second.size();
}

void Watches::make_due(Watch& watch) {
  if (std::exchange(watch.due, true)) return;
  due_.push_back(&watch);
}

void Watches::make_due(uint32_t tenant, uint64_t newest) {
  const auto found = tenants_.find(tenant);
  if (found == tenants_.end()) return;
  for (Watch* watch : found->second) {
    if (newest > watch->after) make_due(*watch);
  }
}

void Watches::make_due_until(uint64_t now_ns) {
  for (const auto& [key, watch] : deadlines_) {
    if (key.first > now_ns) return;
    make_due(*watch);
  }
}

uint64_t Watches::next_deadline_ns() const {
  for (const auto& [key, watch] : deadlines_) {
    if (!watch->due) return key.first;
  }
  return UINT64_MAX;
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
