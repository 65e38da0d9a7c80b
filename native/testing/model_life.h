// One life after another of a model's store: the steps that can be taken, and what the model knows of their outcome.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/entropy.h"
#include "base/pattern.h"
#include "store/index.h"
#include "store/loader.h"
#include "store/membership.h"
#include "store/recovery.h"
#include "testing/model_world.h"

namespace cairn {

inline constexpr uint64_t kModelDriveBytes = 5 * kMiB;  // four segments of the smallest size
inline constexpr uint64_t kModelFillerBytes = 1'000'000;
inline constexpr size_t kModelViolationsMost = 100;
inline constexpr size_t kModelCutsMost = 3;  // told apart in what is left to do
inline constexpr int kModelTurnsMost = 3000;
inline constexpr Scope kModelScope = 7;

inline Key key_of_number(uint64_t number) {
  Key key;
  std::memcpy(key.bytes.data(), &number, sizeof(number));
  return key;
}

// What a line of the store has been told: which version of each key may be served, and which must be.
struct ModelBelief {
  std::array<std::set<uint32_t>, kModelKeys> may;
};

// What the model knows, apart from the drives.
struct ModelKnowledge {
  std::array<uint32_t, kModelKeys> last_version{};
  std::map<format::Uuid, ModelBelief> lines;
  // Of the line that runs, or ran last.
  format::Uuid line{};
  uint32_t members = 0;                         // drives that heard its last word
  bool certain = false;                         // … and nothing was cut off since
  std::array<int, kModelKeys> lies_on{-1, -1};  // where the version that must be there lies
  std::array<bool, kModelKeys> owed{};          // it was acknowledged, and nothing took it since
  uint32_t away = 0;  // a drive that vanished in this life, and has to be believed when it is back
  uint64_t fillers = 0;
  std::array<std::map<uint32_t, uint64_t>, kModelKeys> sequences;  // of versions

  // Whoever is away may have missed what is not known any more.
  void away_for_good() {
    for (size_t key = 0; key < kModelKeys; ++key) {
      if (lies_on[key] >= 0 && (away >> lies_on[key] & 1) != 0) owed[key] = false;
    }
    away = 0;
  }
};

// Nonces and identities from a seed, so that a life replays.
class ModelEntropy final : public EntropySource {
 public:
  void seed(uint64_t seed) { random_.seed(seed); }
  void fill(std::span<std::byte> out) override {
    for (std::byte& byte : out) byte = static_cast<std::byte>(random_());
  }

 private:
  std::mt19937_64 random_;
};

inline bool has_scope(size_t key, uint32_t version) {
  return key == 0 || version % 2 == 0;
}

class ModelPut final : public PutOp {
 public:
  void ready() override {
    if (content == 0) return store->commit(*this);
    std::vector<std::byte> bytes(length);
    fill_pattern(bytes, content);
    std::vector<iovec> parts;
    buffer.slice(0, length, parts);
    const std::byte* from = bytes.data();
    for (const iovec& part : parts) {
      std::memcpy(part.iov_base, from, part.iov_len);
      from += part.iov_len;
    }
    store->commit(*this);
  }
  void done(Status status) override { result = status; }
  Store* store = nullptr;
  uint64_t content = 0;
  std::optional<Status> result;
};

class ModelGet final : public GetOp {
 public:
  void done(Status status) override { result = status; }
  std::optional<Status> result;
};

class ModelDelete final : public DeleteOp {
 public:
  void done() override { ended = true; }
  bool ended = false;
};

inline uint64_t content_of(size_t key, uint32_t version) {
  return 1000 + key * 100 + version;
}

// A state to go on from.
struct ModelNode {
  std::vector<Platter> platters;  // as they were when the present life began, or now if there is none
  ModelKnowledge before;          // … and what was known then
  std::vector<ModelStep> life;    // the steps of the present life; empty: nothing runs
  std::vector<ModelStep> history;
  uint64_t seed = 1;                                    // of the present life
  std::array<size_t, kModelDrivesMost> order{0, 1, 2};  // in which a start hands its drives to the store
  size_t cuts = 0;                                      // so far
  bool off() const { return life.empty(); }
};

class ModelLife {
 public:
  ModelLife(size_t drives, Slab& slab, ModelOutcome& outcome, bool tells)
      : count_(drives), slab_(slab), outcome_(outcome), tells_(tells) {}
  ~ModelLife() { power_off(); }

  // From a node's beginning, silently, to where it is; then one step more.
  void load(const ModelNode& node) {
    power_off();
    clock_ = VirtualClock();
    entropy_.seed(node.seed);
    reseed_hashes();
    platters_.clear();
    for (const Platter& one : node.platters) platters_.push_back(std::make_shared<Platter>(one));
    for (size_t i = 0; i < count_ && uuids_[i].empty(); ++i) uuids_[i] = uuid_text(superblock_of(i).drive);
    knowledge_ = node.before;
    order_ = node.order;
    silent_ = true;
    for (const ModelStep& step : node.life) take(step);
    silent_ = false;
  }

  // False: it could not be taken here.
  bool take(const ModelStep& step) {
    switch (step.kind) {
      case ModelStep::Kind::put:
        put(step.what);
        break;
      case ModelStep::Kind::remove:
        remove(step.what);
        break;
      case ModelStep::Kind::remove_scope:
        remove_scope();
        break;
      case ModelStep::Kind::evict:
        evict();
        break;
      case ModelStep::Kind::attach:
        if (!attach(step.what)) return false;
        settle();
        came(step.what);
        break;
      case ModelStep::Kind::detach:
        waited_ = store_->stats().members_state == "waiting";
        detach(step.what);
        settle();
        went(step.what, false);
        break;
      case ModelStep::Kind::vanish:
        vanish(step.what);
        settle();
        went(step.what, true);
        break;
      case ModelStep::Kind::close:
        store_->close();
        store_.reset();
        forget_life();
        break;
      case ModelStep::Kind::crash:
        crash(false);
        break;
      case ModelStep::Kind::start:
        start(step.what);
        break;
      case ModelStep::Kind::cut:
        return cut(step);
    }
    note_evictions();
    if (!silent_ && store_ != nullptr) check(step);
    return true;
  }

  bool off() const { return store_ == nullptr; }
  bool is_attached(size_t drive) const { return !drives_[drive].expired(); }
  size_t attached() const {
    return static_cast<size_t>(
        std::count_if(drives_.begin(), drives_.end(), [](const auto& one) { return !one.expired(); }));
  }
  std::vector<Platter> platters() const {
    std::vector<Platter> all;
    for (const auto& one : platters_) all.push_back(one->copy());
    return all;
  }
  const ModelKnowledge& knowledge() const { return knowledge_; }
  void power_off() {
    if (store_ == nullptr) return;
    kill(1);
    store_.reset();
    forget_life();
  }
  // The present state, told so that equal ones have the same words (model_state.cc).
  std::pair<uint64_t, uint64_t> fingerprint();
  const std::array<size_t, kModelDrivesMost>& order() const { return order_; }
  void tell_of(const std::vector<ModelStep>& history) { told_ = history; }

 private:
  class Telling;
  void violate(const std::string& what) {
    if (silent_ || outcome_.violations.size() >= kModelViolationsMost) return;
    outcome_.violations.push_back(text_of(told_) + ": " + what);
  }
  void say(const std::string& what) const {
    if (tells_ && !silent_) std::fprintf(stderr, "  %s\n", what.c_str());
  }
  void kill(uint64_t seed) {
    for (const auto& one : drives_) {
      if (const auto drive = one.lock()) drive->kill(seed);
    }
  }
  void forget_life() {
    drives_.fill({});
    evicted_ = 0;
    knowledge_.away_for_good();
  }
  ModelBelief& line() { return knowledge_.lines[knowledge_.line]; }

  template <class Holds>
  bool run_until(Holds holds) {
    for (int i = 0; i < kModelTurnsMost; ++i) {
      if (holds()) return true;
      clock_.advance_ms(1);
      store_->poll();
    }
    violate("it does not come to rest");
    for (const DriveStats& one : store_->stats().drives) say(one.uuid + " " + one.state + " " + one.reason);
    say(store_->stats().members_state + " " + store_->stats().members_reason);
    return false;
  }
  // Until the drives know of each other and what was begun is done.
  void settle() {
    (void)run_until([&] { return store_->loaded(); });
    for (int i = 0; i < 12; ++i) {
      clock_.advance_ms(1);
      store_->poll();
    }
  }

  uint32_t members_now() const {
    uint32_t set = 0;
    for (const DriveStats& drive : store_->stats().drives) {
      if (drive.state == "failed") continue;
      for (size_t i = 0; i < count_; ++i) set |= uuid_of(i) == drive.uuid ? 1U << i : 0;
    }
    return set;
  }
  format::Superblock superblock_of(size_t drive) const {
    format::Page<format::Superblock> page;
    platters_[drive]->read(0, reinterpret_cast<std::byte*>(&page), sizeof(page));
    return page.body;
  }
  const std::string& uuid_of(size_t drive) const { return uuids_[drive]; }
  std::optional<format::Membership> record_of(size_t drive) const {
    std::optional<format::Membership> found;
    for (const uint64_t offset : format::kMembershipOffsets) {
      format::Page<format::Membership> page;
      iovec to{&page, sizeof(page)};
      platters_[drive]->read_cached(offset, &to, 1);
      if (page.intact(format::kMembershipMagic) && (!found || page.body.counter > found->counter)) found = page.body;
    }
    return found;
  }
  uint64_t record_writes() const {
    uint64_t sum = 0;
    for (size_t i = 0; i < count_; ++i) {
      const auto record = record_of(i);
      sum += record ? record->counter : 0;
    }
    return sum;
  }
  // The line that runs.
  void learn_line() {
    for (size_t i = 0; i < count_; ++i) {
      if ((members_now() >> i & 1) == 0 || drives_[i].expired()) continue;
      const auto record = record_of(i);
      if (record && record->left == 0) knowledge_.line = record->store;
    }
  }

  void start(uint32_t set) {
    const uint32_t before = knowledge_.members;
    const format::Uuid line_before = knowledge_.line;
    // Drives of two stores, or of one that ran apart: which of them goes on is another rule.
    std::set<format::Uuid> stores;
    for (size_t i = 0; i < count_; ++i) {
      const auto record = (set >> i & 1) == 0 ? std::nullopt : record_of(i);
      if (record && record->left == 0) stores.insert(record->store);
    }
    const bool knew = knowledge_.certain && stores.size() <= 1;
    std::vector<std::unique_ptr<Drive>> owned;
    for (size_t at = 0; at < count_; ++at) {
      const size_t i = order_[at];
      if ((set >> i & 1) == 0) continue;
      auto drive = std::make_unique<MemoryDrive>(platters_[i]);
      drives_[i] = drive->watch();
      owned.push_back(std::move(drive));
    }
    StoreOptions options;
    options.wait_until_loaded = false;
    auto opened = Store::open(std::move(owned), slab_, clock_, options);
    if (!opened.ok()) {
      drives_.fill({});
      return violate("it does not start: " + opened.error().message);
    }
    store_ = opened.take();
    if (cut_at_ > 0) return;
    settle();
    started(set, before, line_before, knew);
  }

  void started(uint32_t set, uint32_t before, const format::Uuid& line_before, bool knew) {
    const std::string state = store_->stats().members_state;
    say("state " + state + " " + store_->stats().members_reason);
    const int all = std::popcount(before), here = std::popcount(before & set);
    if (!silent_) {
      ++outcome_.starts;
      outcome_.begun_empty += state == "begun_empty" ? 1 : 0;
      outcome_.waiting += state == "waiting" ? 1 : 0;
    }
    if (state == "waiting") {
      if (knew && all > 0 && 2 * here >= all) violate("it waits for drives that it does not need");
      return;
    }
    learn_line();
    const bool same = knowledge_.line == line_before;
    if (knew && before != 0 && 2 * here > all && (!same || state != "whole"))
      violate("most of its drives are there, and it does not go on");
    if (!same) knowledge_.owed.fill(false);
    const uint32_t missing = before & ~set;
    // Members that a start does without heard all that was said before: when they come, they are believed.
    const bool waited_for = knew && same && 2 * here > all;
    for (size_t key = 0; key < kModelKeys; ++key) {
      if (!waited_for && knowledge_.lies_on[key] >= 0 && (missing >> knowledge_.lies_on[key] & 1) != 0)
        knowledge_.owed[key] = false;
    }
    knowledge_.members = members_now();
    knowledge_.certain = true;
    knowledge_.away = waited_for ? missing : 0;
  }

  void put(size_t key) {
    const uint32_t version = ++knowledge_.last_version[key];
    ModelPut op;
    op.store = store_.get();
    op.id.key = key_of_number(key);
    op.length = 3000 + key;
    op.content = content_of(key, version);
    op.scope = has_scope(key, version) ? kModelScope : 0;
    std::array<uint64_t, kModelDrivesMost> before = blocks_on();
    store_->begin_put(op);
    if (!run_until([&] { return op.result.has_value(); })) return store_->cancel(op);
    say("put: " + std::string(status_row(*op.result).name));
    ModelBelief& belief = line();
    if (op.sequence != 0 && *op.result != Status::exists) knowledge_.sequences[key][version] = op.sequence;
    if (*op.result == Status::ok) {
      belief.may[key] = {version};
      const std::array<uint64_t, kModelDrivesMost> after = blocks_on();
      for (size_t i = 0; i < count_; ++i) {
        if (after[i] > before[i]) knowledge_.lies_on[key] = static_cast<int>(i);
      }
      knowledge_.owed[key] = true;
    } else if (*op.result == Status::exists) {
      if (belief.may[key].empty()) violate("a put was told that it exists, and it was deleted");
    } else if (*op.result != Status::read_only && *op.result != Status::no_space) {
      belief.may[key].insert(version);
    }
  }
  std::array<uint64_t, kModelDrivesMost> blocks_on() const {
    std::array<uint64_t, kModelDrivesMost> counts{};
    for (const DriveStats& drive : store_->stats().drives) {
      for (size_t i = 0; i < count_; ++i) counts[i] += uuid_of(i) == drive.uuid ? drive.put_bytes : 0;
    }
    return counts;
  }

  void remove(size_t key) {
    ModelDelete op;
    op.ids.push_back({key_of_number(key), 0, 0});
    store_->remove(op);
    if (!run_until([&] { return op.ended; })) return;
    say("delete: " + std::string(status_row(op.statuses[0]).name));
    if (op.statuses[0] != Status::ok && op.statuses[0] != Status::not_found) return;
    line().may[key].clear();
    knowledge_.owed[key] = false;
  }

  void remove_scope() {
    ModelDelete op;
    op.kind = DeleteKind::scope;
    op.ids.push_back({});
    op.scope = kModelScope;
    store_->remove(op);
    if (!run_until([&] { return op.ended; })) return;
    say("delete scope: " + std::string(status_row(op.statuses[0]).name));
    knowledge_.away_for_good();
    for (size_t key = 0; key < kModelKeys; ++key) {
      std::set<uint32_t>& may = line().may[key];
      const bool acked = op.statuses[0] == Status::ok;
      if (!may.empty() && has_scope(key, *may.rbegin())) knowledge_.owed[key] = false;
      if (acked) std::erase_if(may, [&](uint32_t version) { return has_scope(key, version); });
    }
  }

  // So many blocks that every segment that was sealed before is used anew.
  void evict() {
    for (uint64_t i = 0; i < 5 * std::max<uint64_t>(1, attached()); ++i) {
      ModelPut op;
      op.store = store_.get();
      op.id.key = key_of_number(1000 + knowledge_.fillers++);
      op.length = kModelFillerBytes;
      store_->begin_put(op);
      if (!run_until([&] { return op.result.has_value(); })) return store_->cancel(op);
      if (*op.result != Status::ok) break;
    }
    settle();
    knowledge_.owed.fill(false);
    knowledge_.away_for_good();
  }

  bool attach(size_t drive) {
    waited_ = store_->stats().members_state == "waiting";
    auto one = std::make_unique<MemoryDrive>(platters_[drive]);
    const auto known = one->watch();
    auto identified = Store::identify(std::move(one));
    if (!identified.ok()) {
      violate("a drive is not known any more: " + identified.error().message);
      return false;
    }
    auto attached = store_->attach(identified.take());
    if (!attached.ok()) {
      say("attach: " + attached.error().message);
      outcome_.refused += silent_ ? 0 : 1;
      return false;
    }
    drives_[drive] = known;
    return true;
  }
  void came(size_t drive) {
    const uint32_t was_away = knowledge_.away;
    for (const DriveStats& one : store_->stats().drives) {
      if (one.uuid != uuid_of(drive)) continue;
      say("attached: " + one.state + " " + one.reason + (one.distrusted ? ", given up" : ""));
      if (!silent_) ++(one.distrusted ? outcome_.given_up : outcome_.believed);
      if ((was_away >> drive & 1) != 0 && (one.distrusted || one.state == "failed"))
        violate("a drive that was away for a moment is not believed");
      if (one.state == "failed") drives_[drive].reset();
    }
    if (store_->stats().members_state == "waiting") return;
    const format::Uuid before = knowledge_.line;
    learn_line();
    if (before != knowledge_.line) knowledge_.owed.fill(false);
    knowledge_.away &= ~(1U << drive);
    // It waited for this one: members that it goes on without come late.
    if (waited_ && before == knowledge_.line) knowledge_.away |= knowledge_.members & ~members_now();
    knowledge_.members = members_now();
    knowledge_.certain = true;
  }

  void detach(size_t drive) {
    const auto gone = store_->detach(uuid_of(drive), true);
    if (!gone.ok()) violate("a drive cannot be detached: " + gone.error().message);
  }
  // Every request to it ends as ENODEV from now on.
  void pull(size_t drive) {
    DriveFaults& faults = drives_[drive].lock()->faults;
    faults.error = ENODEV;
    faults.fail_read = faults.fail_write = faults.fail_flush = faults.fail_discard = 1;
    faults.for_ever = true;
  }
  void vanish(size_t drive) {
    pull(drive);
    // It is looked at once a second.
    for (int i = 0; i < 12; ++i) {
      clock_.advance_ms(200);
      store_->poll();
    }
    for (const DriveStats& one : store_->stats().drives) {
      const bool waits = store_->stats().members_state == "waiting";  // it reads nothing
      if (one.uuid == uuids_[drive] && one.state != "failed" && !waits) violate("nobody notices that a drive is gone");
    }
  }
  void went(size_t drive, bool vanished) {
    drives_[drive].reset();
    const bool waits = store_->stats().members_state == "waiting";
    knowledge_.away_for_good();
    if (vanished && !waits) knowledge_.away = 1U << drive;
    for (size_t key = 0; key < kModelKeys; ++key) {
      if (!vanished && knowledge_.lies_on[key] == static_cast<int>(drive)) knowledge_.owed[key] = false;
    }
    knowledge_.certain &= !waits;
    if (!vanished) knowledge_.members &= ~(1U << drive);
    if (attached() > 0 && !waits) knowledge_.members = members_now();
    if (!vanished && waited_ && attached() > 0 && !waits) {
      // The drives that it waited with belong to no store, and are a new one.
      const format::Uuid before = knowledge_.line;
      learn_line();
      if (before != knowledge_.line) knowledge_.owed.fill(false);
      knowledge_.certain = true;
    }
  }

  void crash(bool kept) {
    outcome_.crashes += silent_ ? 0 : 1;
    kill(7);
    store_.reset();
    for (size_t i = 0; i < count_; ++i) {
      if (kept) {
        platters_[i]->flush();
      } else {
        platters_[i]->lose_cached();
      }
    }
    forget_life();
  }

  // Each life begins a segment, and a drive has four: some go without having been asked to.
  void note_evictions() {
    if (store_ == nullptr) return;
    uint64_t evicted = 0;
    for (const DriveStats& one : store_->stats().drives) evicted += one.evicted_segments;
    if (evicted == std::exchange(evicted_, evicted)) return;
    knowledge_.owed.fill(false);
    knowledge_.away_for_good();
  }

  // A change of the drives that ends in its middle.
  bool cut(const ModelStep& step) {
    outcome_.cuts += silent_ ? 0 : 1;
    const uint64_t writes = record_writes();
    cut_at_ = writes + step.writes;
    bool took = true;
    if (step.inner == ModelStep::Kind::start) {
      start(step.what);
      took = store_ != nullptr;
    } else if (step.inner == ModelStep::Kind::attach) {
      took = attach(step.what);
    } else if (step.inner == ModelStep::Kind::detach) {
      detach(step.what);
    } else {
      pull(step.what);
    }
    const uint64_t until = std::exchange(cut_at_, 0);
    if (!took) return false;
    int turns = 0;
    for (; turns < 120 && record_writes() < until; ++turns) {
      clock_.advance_ms(1);
      store_->poll();
    }
    crash(step.kept);
    knowledge_.certain = false;
    knowledge_.owed.fill(false);
    knowledge_.members = 0;
    return turns < 120;  // else nothing was cut off: the step itself covers it
  }

  // All keys are read; nothing is served that should not be, and what should be is.
  void check(const ModelStep& step) {
    for (size_t key = 0; key < kModelKeys; ++key) {
      ModelGet op;
      op.id.key = key_of_number(key);
      store_->get(op);
      if (!run_until([&] { return op.result.has_value(); })) return store_->cancel(op);
      ++outcome_.gets;
      const std::set<uint32_t>& may = line().may[key];
      if (*op.result != Status::ok) {
        const bool waits = store_->stats().members_state == "waiting";
        const bool owed = knowledge_.owed[key] && knowledge_.away == 0 && !waits;
        if (owed) violate("key " + std::to_string(key) + " is gone: " + std::string(status_row(*op.result).name));
        continue;
      }
      ++outcome_.hits;
      outcome_.kept += knowledge_.owed[key] ? 1 : 0;
      std::vector<std::byte> bytes;
      std::vector<iovec> parts;
      op.buffer.slice(op.buffer_offset, op.length, parts);
      for (const iovec& part : parts) {
        const auto* base = static_cast<const std::byte*>(part.iov_base);
        bytes.insert(bytes.end(), base, base + part.iov_len);
      }
      uint32_t served = 0;
      for (uint32_t version = 1; version <= knowledge_.last_version[key]; ++version) {
        if (check_pattern(bytes, content_of(key, version)) < 0) served = version;
      }
      say("key " + std::to_string(key) + ": version " + std::to_string(served));
      if (served == 0) {
        violate("key " + std::to_string(key) + " has bytes that were never put");
      } else if (!may.contains(served)) {
        violate("key " + std::to_string(key) + " is served as version " + std::to_string(served) +
                (may.empty() ? ", and was deleted" : ", and was replaced") + " (after " + text_of(step) + ")");
      }
    }
  }

  size_t count_;
  Slab& slab_;
  ModelOutcome& outcome_;
  bool tells_;
  ModelEntropy entropy_;
  VirtualClock clock_;
  std::vector<std::shared_ptr<Platter>> platters_;
  std::unique_ptr<Store> store_;
  std::array<std::weak_ptr<MemoryDrive>, kModelDrivesMost> drives_;  // the store owns them
  std::array<std::string, kModelDrivesMost> uuids_;
  ModelKnowledge knowledge_;
  std::array<size_t, kModelDrivesMost> order_{0, 1, 2};
  std::vector<ModelStep> told_;  // the present history
  bool silent_ = false;
  bool waited_ = false;  // for more drives, before one was attached
  uint64_t cut_at_ = 0;
  uint64_t evicted_ = 0;  // segments, in this life
};

}  // namespace cairn
