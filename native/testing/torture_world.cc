#include "testing/torture_world.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/crc32c.h"

namespace cairn {

namespace {

constexpr uint64_t kTurnsMost = 40'000;
// Who waits for something that takes time is given some after so many turns.
constexpr uint64_t kTurnsBeforeTime = 50;

bool names(const TortureBlock& block, const TortureBlock& named, TortureStep::Kind kind) {
  using Kind = TortureStep::Kind;
  if (block.tenant != named.tenant) return false;
  if (kind == Kind::remove_tenant) return true;
  if (kind == Kind::remove_scope) return block.scope == named.scope;
  if (block.layout != named.layout) return false;
  return kind == Kind::remove_layout || (kind == Kind::remove_group && block.group == named.group);
}

}  // namespace

// --- operations ------------------------------------------------------------------------------------------

class TortureWorld::Put final : public PutOp {
 public:
  Put(TortureWorld& world, size_t which, Durability wanted) : world_(world), block_(which) {
    const TortureBlock& block = world.blocks_[which];
    id = world.blocks_.id(which);
    length = block.bytes;
    durability = wanted;
    group = block.group_id();
    group_members = block.group_members;
    scope = block.scope;
    version_ = world.oracle.put_begins(which);
    ++world.out_;
  }
  void ready() override {
    const std::vector<std::byte>& content = world_.blocks_.content(block_, version_);
    std::vector<iovec> parts;
    buffer.slice(0, length, parts);
    const std::byte* from = content.data();
    for (const iovec& part : parts) {
      std::memcpy(part.iov_base, from, part.iov_len);
      from += part.iov_len;
    }
    world_.store->commit(*this);
  }
  void cancel() {
    if (ended_) return;
    world_.store->cancel(*this);
    done(Status::cancelled);
  }
  void done(Status status) override {
    ended_ = true;
    world_.oracle.put_ends(block_, version_, status, durability);
    --world_.out_;
    if (world_.healthy && status != Status::ok && status != Status::exists && !world_.full_of_leases(status))
      world_.report_.violation("the put of " + world_.blocks_[block_].name + " ended as " +
                               std::string(status_row(status).name) + " on a drive that fails nothing");
  }

 private:
  TortureWorld& world_;
  size_t block_;
  uint32_t version_;
  bool ended_ = false;
};

class TortureWorld::Get final : public GetOp {
 public:
  Get(TortureWorld& world, size_t which, bool range) : world_(world), block_(which) {
    id = world.blocks_.id(which);
    if (range) {
      offset = world.blocks_[which].bytes / 3;
      length = std::max<uint64_t>(world.blocks_[which].bytes / 2, 1);
    }
    right_ = world.oracle[which].versions;
    had_to_be_ = !world.oracle.may_be_absent(which);
    ++world.out_;
  }
  void cancel() {
    if (ended_) return;
    world_.store->cancel(*this);
    done(Status::cancelled);
  }
  void done(Status status) override {
    ended_ = true;
    --world_.out_;
    const std::string& name = world_.blocks_[block_].name;
    if (status == Status::ok) {
      ++world_.found_;
      return compare(name);
    }
    const bool lost = world_.healthy && had_to_be_ && !world_.oracle.may_be_absent(block_);
    world_.missed += lost && world_.misses_excused ? 1 : 0;
    if (lost && !world_.misses_excused)
      world_.report_.violation("block " + name + " was acknowledged as durable and is lost: its get ended as " +
                                   std::string(status_row(status).name),
                               TortureReport::Harm::lost_acknowledged);
    buffer = {};
  }

 private:
  void compare(const std::string& name) {
    std::vector<iovec> parts;
    buffer.slice(buffer_offset, length, parts);
    uint32_t sum = 0;
    for (const iovec& part : parts) sum = crc32c({static_cast<const std::byte*>(part.iov_base), part.iov_len}, sum);
    const uint32_t version = world_.blocks_.version_of(block_, offset, parts);
    // What was right when it was asked, or is now.
    right_ |= world_.oracle[block_].versions;
    const bool known = version < TortureBlocks::kVersions;
    if (!known || sum != crc) {
      world_.report_.violation("a get of " + name + " gave wrong bytes", TortureReport::Harm::wrong_bytes);
    } else if ((right_ >> version & 1U) == 0 && world_.returns_excused) {
      ++world_.returned;
    } else if (right_ == 0) {
      world_.report_.violation("block " + name + " was deleted and is back", TortureReport::Harm::undeleted);
    } else if ((right_ >> version & 1U) == 0) {
      world_.report_.violation("a get of " + name + " gave bytes of a put that was deleted before the one that counts",
                               TortureReport::Harm::undeleted);
    }
    buffer = {};
  }

  TortureWorld& world_;
  size_t block_;
  uint32_t right_;
  bool had_to_be_;
  bool ended_ = false;
};

class TortureWorld::Remove final : public DeleteOp {
 public:
  Remove(TortureWorld& world, const std::vector<size_t>& which) : world_(world), blocks_(which) {
    for (const size_t block : blocks_) world.oracle.delete_begins(block);
    ++world.out_;
  }
  void done() override {
    --world_.out_;
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const Status status = statuses[kind == DeleteKind::keys ? i : 0];
      world_.oracle.delete_ends(blocks_[i], status);
      const bool good = status == Status::ok || status == Status::not_found || status == Status::leased ||
                        world_.full_of_leases(status);
      if (world_.healthy && !good)
        world_.report_.violation("the delete of " + world_.blocks_[blocks_[i]].name + " ended as " +
                                 std::string(status_row(status).name) + " on a drive that fails nothing");
    }
  }

 private:
  TortureWorld& world_;
  std::vector<size_t> blocks_;
};

// --- life ------------------------------------------------------------------------------------------------

TortureWorld::TortureWorld(TortureReport& report, const TortureBlocks& blocks, Slab& slab, VirtualClock& clock)
    : oracle(blocks), report_(report), blocks_(blocks), slab_(slab), clock_(clock) {}

TortureWorld::~TortureWorld() {
  stop();
}

std::shared_ptr<Platter> TortureWorld::formatted(uint64_t bytes, uint64_t segment_bytes, VirtualClock& clock) {
  auto platter = std::make_shared<Platter>(bytes);
  FaultDrive drive(platter, clock, nullptr, "new");
  FormatOptions options;
  options.segment_bytes = segment_bytes;
  const auto done = format_drive(drive, options, clock);
  CAIRN_CHECK(done.ok(), "a good drive cannot be formatted");
  platter->flush();
  return platter;
}

std::unique_ptr<FaultDrive> TortureWorld::drive_over(size_t platter, DriveWatcher* watcher) {
  return std::make_unique<FaultDrive>(platters[platter], clock_, watcher, "drive" + std::to_string(platter));
}

std::string TortureWorld::open(DriveWatcher* watcher, const StoreOptions& options) {
  std::vector<std::unique_ptr<Drive>> owned;
  drives.clear();
  turns_ = 0;
  for (size_t i = 0; i < platters.size(); ++i) {
    auto drive = drive_over(i, watcher);
    drives.push_back(drive.get());
    owned.push_back(std::move(drive));
  }
  // A drive that comes back late may need a segment for what it missed: who is full gives one up while it opens.
  StoreOptions heard = options;
  heard.events = this;
  auto opened = Store::open(std::move(owned), slab_, clock_, heard);
  if (!opened) {
    drives.clear();
    return opened.error().message;
  }
  store = opened.take();
  return "";
}

void TortureWorld::stop() {
  for (FaultDrive* drive : drives) drive->stop();
  drives.clear();
  store.reset();
  puts_.clear();
  gets_.clear();
  removes_.clear();
  out_ = 0;
  leased_ = false;
  oracle.life_ends();
}

void TortureWorld::close() {
  store->close();
  drives.clear();
  stop();
}

void TortureWorld::on_event(const StoreEvent& event) {
  const bool given_up = event.kind == StoreEvent::Kind::evicted || event.kind == StoreEvent::Kind::expired;
  if (!given_up && event.kind != StoreEvent::Kind::dropped) return;
  const size_t block = blocks_.find(event.id);
  if (block == blocks_.size()) return;
  given_up_ += given_up ? 1 : 0;
  if (given_up || losses_excused) return oracle.given_up(block);
  if (!oracle.may_be_absent(block))
    report_.violation("the store dropped block " + blocks_[block].name + ", which was acknowledged as durable",
                      TortureReport::Harm::lost_acknowledged);
}

// --- asking ----------------------------------------------------------------------------------------------

void TortureWorld::begin(const TortureStep& step) {
  using Kind = TortureStep::Kind;
  if (step.kind >= Kind::remove && step.kind <= Kind::remove_tenant) return begin_remove(step);
  for (const size_t block : step.blocks) {
    if (step.kind == Kind::put) {
      puts_.push_back(std::make_unique<Put>(*this, block, step.durability));
      store->begin_put(*puts_.back());
    } else if (step.kind == Kind::lease) {
      leased_ |= store->lease(blocks_.id(block), 1, 60'000) == Status::ok;
    } else {
      gets_.push_back(std::make_unique<Get>(*this, block, step.kind == Kind::range));
      store->get(*gets_.back());
    }
  }
}

void TortureWorld::begin_remove(const TortureStep& step) {
  using Kind = TortureStep::Kind;
  std::vector<size_t> met;
  const TortureBlock& named = blocks_[step.blocks.at(0)];
  for (size_t i = 0; i < blocks_.size() && step.kind != Kind::remove; ++i) {
    if (names(blocks_[i], named, step.kind)) met.push_back(i);
  }
  removes_.push_back(std::make_unique<Remove>(*this, step.kind == Kind::remove ? step.blocks : met));
  Remove& op = *removes_.back();
  if (step.kind == Kind::remove) {
    for (const size_t block : step.blocks) op.ids.push_back(blocks_.id(block));
  } else {
    op.ids.push_back(blocks_.id(step.blocks[0]));
    op.kind = step.kind == Kind::remove_group    ? DeleteKind::group
              : step.kind == Kind::remove_scope  ? DeleteKind::scope
              : step.kind == Kind::remove_layout ? DeleteKind::layout
                                                 : DeleteKind::tenant;
    op.group = named.group_id();
    op.scope = named.scope;
  }
  store->remove(op);
}

void TortureWorld::turn() {
  store->poll();
  if (++turns_ > kTurnsBeforeTime) clock_.advance_ms(100);
}

bool TortureWorld::drives_idle() const {
  return std::all_of(drives.begin(), drives.end(), [](const FaultDrive* drive) { return drive->in_flight() == 0; });
}

void TortureWorld::until_answered() {
  turns_ = 0;
  while (!all_ended() && turns_ < kTurnsMost) {
    turn();
    if (turns_ == deadline_turns) cancel_all();
  }
  if (!all_ended()) report_.violation("something that was asked was never answered");
  turns_ = 0;
}

void TortureWorld::cancel_all() {
  for (const auto& put : puts_) put->cancel();
  for (const auto& get : gets_) get->cancel();
}

void TortureWorld::until_idle() {
  until_answered();
  constexpr int kStill = 4;
  for (int still = 0; still < kStill && turns_ < kTurnsMost;) {
    turn();
    still = drives_idle() ? still + 1 : 0;
  }
  if (!drives_idle()) report_.violation("the store never comes to rest");
  turns_ = 0;
}

// --- judging ---------------------------------------------------------------------------------------------

uint64_t TortureWorld::check() {
  found_ = given_up_ = 0;
  uint64_t there = 0;
  for (size_t block = 0; block < blocks_.size(); ++block) {
    there += store->exists(blocks_.id(block)) ? 1 : 0;
    begin({TortureStep::Kind::get, {block}, Durability::durable});
  }
  until_answered();
  if (healthy && there != found_)
    report_.violation(std::to_string(there) + " blocks exist, and gets found " + std::to_string(found_));
  if (healthy) check_counts(found_);
  gets_.clear();
  return found_;
}

void TortureWorld::check_counts(uint64_t found) {
  const StoreStats stats = store->stats();
  uint64_t blocks = 0, bytes = 0, hidden = 0;
  for (const DriveStats& drive : stats.drives) {
    blocks += drive.blocks;
    bytes += drive.payload_bytes;
  }
  uint64_t parts = 0;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    hidden += blocks_[i].group != 0 ? 1 : 0;
    parts += blocks_[i].bytes > 4 * kMiB ? 1 : 0;
  }
  // Some of those that were found may have been given up since.
  if (stats.blocks + given_up_ < found || stats.blocks > found + hidden)
    report_.violation("the index counts " + std::to_string(stats.blocks) + " blocks, and " + std::to_string(found) +
                      " are there");
  if ((blocks != stats.blocks && parts == 0) || bytes != stats.payload_bytes)
    report_.violation("the drives count " + std::to_string(blocks) + " blocks of " + std::to_string(bytes) +
                      " bytes, the index " + std::to_string(stats.blocks) + " of " +
                      std::to_string(stats.payload_bytes));
}

void TortureWorld::check_slab() {
  if (store == nullptr && slab_.free_bytes() != slab_.total_bytes())
    report_.violation(std::to_string(slab_.total_bytes() - slab_.free_bytes()) +
                      " bytes of the slab were not given back");
}

}  // namespace cairn
