// Random histories of drives that vanish, fill up, hang, leave and come back in any order, while puts and deletes are
// on their way: whatever is served is the last version that was acknowledged, or one whose fate nobody was told.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/pattern.h"
#include "store/format.h"
#include "store/recovery.h"
#include "testing/store_fixture.h"
#include "testing/torture.h"
#include "testing/torture_world.h"

namespace cairn {
namespace {

constexpr size_t kKeys = 24;
constexpr uint32_t kTight = 5;  // a tenant whose quota squeezes its own blocks out
constexpr uint64_t kDriveBytes = 14_MiB, kSegmentBytes = 1_MiB;

class History {
 public:
  History(TortureReport& report, uint64_t seed)
      : report_(report), violations_(report.violations()), random_(seed), slab_(Slab::create(32_MiB).take()) {
    platters_.resize(2 + below(4));
    for (auto& platter : platters_) {
      platter = std::make_shared<Platter>(kDriveBytes);
      MemoryDrive drive(platter);
      FormatOptions options;
      options.segment_bytes = kSegmentBytes;
      const auto formatted = format_drive(drive, options, clock_);
      CAIRN_CHECK(formatted.ok(), "a good drive cannot be formatted");
    }
    drives_.resize(platters_.size());
    let_go_.resize(platters_.size(), true);
    start(true);
  }
  ~History() { end_life(); }

  void run(int steps) {
    for (int i = 0; i < steps && going(); ++i) step();
    if (going()) rest();
    end_life();
    start(true);
    for (size_t key = 0; key < kKeys && store_ != nullptr; ++key) check(key);
  }
  uint64_t hits() const { return hits_; }
  uint64_t lives() const { return lives_; }

 private:
  using Harm = TortureReport::Harm;
  bool going() const { return store_ != nullptr && report_.violations() == violations_; }
  struct Known {
    std::set<uint32_t> may;  // versions that may be served; a miss is always right
    uint32_t last = 0;
    uint32_t writing = 0;
    std::unique_ptr<PutCall> put;
    std::unique_ptr<DeleteCall> remove;
  };

  uint64_t below(uint64_t limit) { return random_() % limit; }
  static uint32_t tenant_of(size_t key) { return key % 2 == 0 ? 0 : kTight; }
  static std::string name_of(size_t key) { return "key " + std::to_string(key); }
  static std::string content_of(size_t key, uint32_t version) {
    return name_of(key) + " version " + std::to_string(version);
  }

  // --- lives ---
  void start(bool all) {
    std::vector<std::unique_ptr<Drive>> owned;
    for (size_t i = 0; i < platters_.size(); ++i) {
      drives_[i] = nullptr;
      if (!all && below(3) == 0) continue;
      auto drive = std::make_unique<MemoryDrive>(platters_[i]);
      drives_[i] = drive.get();
      owned.push_back(std::move(drive));
    }
    // Drives that were let go are no store's, and begin one of their own.
    bool any = false;
    for (size_t i = 0; i < drives_.size(); ++i) any |= drives_[i] != nullptr && !let_go_[i];
    if (!any && !all) return start(true);
    StoreOptions options;
    options.wait_until_loaded = below(2) == 0;
    // Halves that are used apart are two stores (docs/storage-faults.md): here a half waits for the other.
    options.half_waits_ms = UINT32_MAX;
    auto opened = Store::open(std::move(owned), *slab_, clock_, options);
    if (!opened.ok()) return report_.violation("it does not start: " + opened.error().message);
    store_ = opened.take();
    ++lives_;
    TenantOptions tight;
    tight.name = "tight";
    tight.number = kTight;
    tight.quota_bytes = 400'000;
    const auto set = store_->set_tenants({tight});
    CAIRN_CHECK(set.ok(), "a tenant that nobody else is cannot be set");
    turn(static_cast<int>(below(200)));
  }
  void end_life() {
    if (store_ == nullptr) return;
    const uint64_t how = below(3);
    if (how == 0) {
      for (MemoryDrive* drive : drives_) {
        if (drive != nullptr) drive->faults.hold = false;
      }
      store_->close();
    } else {
      for (MemoryDrive* drive : drives_) {
        if (drive == nullptr) continue;
        how == 1 ? drive->crash(random_()) : drive->kill(random_());
      }
    }
    settle();
    store_.reset();
    for (Known& one : known_) {
      one.put.reset();
      one.remove.reset();
    }
  }
  void turn(int turns) {
    for (int i = 0; i < turns; ++i) {
      clock_.advance_ms(below(8) == 0 ? 40 : 0);
      store_->poll();
      settle();
    }
  }
  // Whatever ended meanwhile.
  void settle() {
    for (Known& one : known_) {
      if (one.put != nullptr && !one.put->ended.empty()) {
        const Status status = one.put->ended[0];
        if (status == Status::ok) one.may = {one.writing};
        if (status == Status::exists) one.may.erase(one.writing);
        one.put.reset();
      }
      if (one.remove != nullptr && one.remove->ended) {
        const Status status = one.remove->statuses[0];
        if (status == Status::ok || status == Status::not_found) one.may.clear();
        one.remove.reset();
      }
    }
  }
  bool busy() const {
    return std::any_of(known_.begin(), known_.end(),
                       [](const Known& one) { return one.put != nullptr || one.remove != nullptr; });
  }
  // Drives are well again, but for those that vanished: everybody is answered.
  void rest() {
    for (size_t i = 0; i < drives_.size(); ++i) {
      if (drives_[i] == nullptr) continue;
      drives_[i]->faults.hold = false;
      if (drives_[i]->faults.error == ENOSPC) drives_[i]->faults = {};
    }
    for (int i = 0; i < 4'000 && busy(); ++i) {
      turn(1);
      clock_.advance_ms(10);
    }
    if (busy()) report_.violation("somebody waits for ever");
    for (const DriveStats& one : store_->stats().drives) {
      for (size_t i = 0; i < drives_.size(); ++i) {
        if (drives_[i] != nullptr && one.put_bytes > 0 && uuid_of(i) == one.uuid) let_go_[i] = false;
      }
    }
  }

  // --- steps ---
  void step() {
    const uint64_t what = below(100);
    if (what < 45) {
      begin_put(below(kKeys));
    } else if (what < 57) {
      begin_remove(below(kKeys));
    } else if (what < 75) {
      check(below(kKeys));
    } else if (what < 92) {
      trouble(below(platters_.size()));
    } else if (what < 96) {
      rest();
    } else {
      end_life();
      start(below(4) == 0);
      if (!going()) return;
      for (size_t key = 0; key < kKeys; ++key) check(key);
    }
    turn(static_cast<int>(below(12)));
  }
  void begin_put(size_t key) {
    Known& one = known_[key];
    if (one.put != nullptr || one.remove != nullptr) return;
    one.writing = ++one.last;
    one.may.insert(one.writing);
    one.put = std::make_unique<PutCall>(name_of(key), 100 + below(3) * 60'000);
    one.put->id.tenant = tenant_of(key);
    one.put->content = content_of(key, one.writing);
    one.put->store = store_.get();
    store_->begin_put(*one.put);
    settle();
  }
  void begin_remove(size_t key) {
    Known& one = known_[key];
    if (one.put != nullptr || one.remove != nullptr) return;
    one.remove = std::make_unique<DeleteCall>();
    one.remove->ids.push_back({key_of(name_of(key)), 0, tenant_of(key)});
    store_->remove(*one.remove);
    settle();
  }
  void trouble(size_t i) {
    if (drives_[i] == nullptr) return attach(i);
    DriveFaults& faults = drives_[i]->faults;
    const uint64_t which = below(6);
    switch (which) {
      case 0:
      case 1:
        faults.hold = !faults.hold;
        return;
      case 2:
        faults.error = ENOSPC;
        faults.fail_write = 1;
        faults.for_ever = true;
        return;
      case 3:
        if (faults.error == ENOSPC) faults = {};
        return;
      case 4:
        faults.hold = false;
        faults.error = ENODEV;
        faults.fail_read = faults.fail_write = faults.fail_flush = faults.fail_discard = 1;
        faults.for_ever = true;
        turn(static_cast<int>(below(30)));
        return detach(i);
      default:
        return detach(i);
    }
  }
  void detach(size_t i) {
    const std::string uuid = uuid_of(i);
    const bool gone = drives_[i]->faults.error == ENODEV;
    if (!others_than(i)) return;  // without it there would be another store, or none
    drives_[i]->faults.hold = false;
    let_go_[i] = let_go_[i] || !gone;
    if (!store_->begin_detach(uuid, true).ok()) return;
    for (int turns = 0; turns < 2'000 && !store_->detached(uuid); ++turns) turn(1);
    if (!store_->detached(uuid)) report_.violation("a drive never leaves");
    drives_[i] = nullptr;
    if (below(2) == 0) attach(i);
  }
  // Whether there is a drive of the store besides this one.
  bool others_than(size_t i) const {
    for (size_t other = 0; other < drives_.size(); ++other) {
      if (other != i && drives_[other] != nullptr && !let_go_[other] && drives_[other]->faults.error != ENODEV)
        return true;
    }
    return false;
  }
  void attach(size_t i) {
    if (let_go_[i] && !others_than(i)) return;
    auto drive = std::make_unique<MemoryDrive>(platters_[i]);
    MemoryDrive* const known = drive.get();
    auto identified = Store::identify(std::move(drive));
    if (identified.ok() && store_->attach(identified.take()).ok()) drives_[i] = known;
  }
  std::string uuid_of(size_t i) const {
    format::Page<format::Superblock> page;
    platters_[i]->read(0, reinterpret_cast<std::byte*>(&page), sizeof(page));
    return uuid_text(page.body.drive);
  }

  // --- judging ---
  void check(size_t key) {
    Known& one = known_[key];
    if (one.put != nullptr || one.remove != nullptr) return;
    GetCall call(name_of(key));
    call.id.tenant = tenant_of(key);
    store_->get(call);
    for (int i = 0; i < 300 && call.ended.empty(); ++i) turn(1);
    if (call.ended.empty()) return store_->cancel(call);  // its drive is held
    if (call.ended[0] != Status::ok) return;
    ++hits_;
    const std::vector<std::byte> got = call.bytes();
    uint32_t version = 0;
    for (uint32_t tried = 1; tried <= one.last && version == 0; ++tried) {
      std::vector<std::byte> right(got.size());
      fill_pattern(right, seed_of(content_of(key, tried)));
      if (got == right) version = tried;
    }
    if (version == 0) return report_.violation("wrong bytes under " + name_of(key), Harm::wrong_bytes);
    if (!one.may.contains(version)) {
      report_.violation("version " + std::to_string(version) + " of " + name_of(key) + " is back, the last was " +
                            std::to_string(one.last),
                        Harm::undeleted);
    }
  }

  TortureReport& report_;
  const uint64_t violations_;  // before it
  std::mt19937_64 random_;
  VirtualClock clock_;
  std::unique_ptr<Slab> slab_;
  std::vector<std::shared_ptr<Platter>> platters_;
  std::vector<MemoryDrive*> drives_;  // of the store, which owns them; nullptr: it does not have that one
  std::vector<bool> let_go_;          // in good order, and nothing was put to it since
  std::array<Known, kKeys> known_;
  std::unique_ptr<Store> store_;
  uint64_t hits_ = 0, lives_ = 0;
};

}  // namespace

void torture_histories(const TortureOptions& options, TortureReport& report) {
  constexpr int kSteps = 150;
  uint64_t histories = 0, hits = 0, lives = 0;
  for (; histories < options.random && !report.time_is_up(); ++histories) {
    const uint64_t seed = options.seed + histories;
    report.at("histories --random 1 --seed " + std::to_string(seed));
    SeededEntropy entropy(seed);
    History history(report, seed);
    history.run(kSteps);
    hits += history.hits();
    lives += history.lives();
  }
  report.json.number("histories", histories).number("lives", lives).number("hits", hits);
}

}  // namespace cairn
