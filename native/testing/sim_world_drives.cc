// The drives of a simulation: made, plugged in, pulled out, replaced, left out of a life.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "store/format.h"
#include "testing/sim_world.h"

namespace cairn {

namespace {

constexpr uint64_t kSecondNs = 1'000'000'000;

}  // namespace

void SimWorld::make_drive(Place& place) {
  place.platter = std::make_shared<Platter>(plan_.drive_bytes);
  MemoryDrive drive(place.platter);
  FormatOptions options;
  options.segment_bytes = plan_.segment_bytes;
  const auto formatted = format_drive(drive, options, clock_);
  CAIRN_CHECK(formatted.ok(), "a simulation's drive cannot be formatted");
}

std::unique_ptr<SimDrive> SimWorld::plug(Place& place, const SimFaults& faults) {
  auto drive = std::make_unique<SimDrive>(place.platter, clock_, faults, random_(),
                                          "drive " + std::to_string(&place - places_.data()));
  place.plugged = drive->watch();
  place.back_ns = 0;
  return drive;
}

void SimWorld::pull_a_drive() {
  Place& place = places_[random_() % places_.size()];
  if (place.drive() == nullptr || place.back_ns != 0 || !draining_.empty() || !store_->loaded()) return;
  place.drive()->vanish();
  place.back_ns = clock_.now_ns() + (1 + random_() % 20) * kSecondNs;
  oracle_.impair(true);
  ++outcome_.drives_left;
}

void SimWorld::plug_in(Place& place) {
  static const SimFaults kNone;
  const std::weak_ptr<SimDrive> before = place.plugged;
  auto identified = Store::identify(plug(place, kNone));
  if (!identified.ok()) {
    CAIRN_CHECK(plan_.faults.lies(), "a simulation's drive that came back is not known");
    oracle_.lost_for_good();
    make_drive(place);
    identified = Store::identify(plug(place, kNone));
  }
  const auto attached = store_->attach(identified.take());
  if (attached.ok()) return;
  if (attached.error().status == static_cast<uint16_t>(Status::drive_foreign)) {
    // It was used without those that run now.
    place.plugged.reset();
    return;
  }
  // The store has not noticed yet that it had left.
  place.plugged = before;
  place.back_ns = clock_.now_ns() + kSecondNs;
}

// Drained, taken out, and another one put in its place.
void SimWorld::replace_a_drive() {
  const StoreStats stats = store_->stats();
  if (draining_.empty()) {
    const bool away =
        std::any_of(places_.begin(), places_.end(), [](const Place& place) { return place.back_ns != 0; });
    if (away || !store_->loaded() || !happens(plan_.drive_is_replaced)) return;
    const std::string uuid = stats.drives[random_() % stats.drives.size()].uuid;
    if (store_->drain(uuid).ok()) draining_ = uuid;
    return;
  }
  for (const DriveStats& drive : stats.drives) {
    if (drive.uuid != draining_) continue;
    if (drive.state == "draining") return;
    Place& place = places_[std::stoul(drive.path.substr(6))];
    // A drive that failed meanwhile took with it what it still held.
    if (drive.state != "drained") oracle_.lost_for_good();
    const auto detached = store_->detach(drive.uuid);
    CAIRN_CHECK(detached.ok(), "a drained drive cannot be taken out");
    make_drive(place);
    auto identified = Store::identify(plug(place, faults_now_));
    if (!identified.ok()) {
      place.back_ns = clock_.now_ns() + kSecondNs;
    } else if (!store_->attach(identified.take()).ok()) {
      place.back_ns = clock_.now_ns() + kSecondNs;
    }
    ++outcome_.drives_replaced;
  }
  draining_.clear();
}

// Those that a life begins with. Drives that are used apart and never meet are two stores, and the oracle knows one: so
// the next life begins with all.
std::vector<SimWorld::Place*> SimWorld::choose_drives() {
  std::vector<Place*> here;
  for (Place& place : places_) here.push_back(&place);
  if (!met_ || !happens(plan_.starts_without)) return here;
  met_ = false;
  ++outcome_.starts_without;
  const size_t without = 1 + random_() % (places_.size() - 1);
  for (size_t i = 0; i < without; ++i) {
    const size_t which = random_() % here.size();
    if (random_() % 2 == 0) here[which]->back_ns = clock_.now_ns() + (1 + random_() % 20) * kSecondNs;
    here.erase(here.begin() + static_cast<long>(which));
  }
  // What lies on the others may be given up.
  oracle_.lost_for_good();
  return here;
}

}  // namespace cairn
