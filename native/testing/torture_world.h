// One store over fault drives, what is asked of it, and the oracle that is told of every question and answer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/entropy.h"
#include "store/store.h"
#include "testing/fault_drive.h"
#include "testing/torture.h"
#include "testing/torture_oracle.h"
#include "testing/virtual_clock.h"

namespace cairn {

struct TortureStep {
  enum class Kind : uint8_t {
    put,
    get,
    range,
    remove,
    remove_group,
    remove_scope,
    remove_layout,
    remove_tenant,
    lease
  };
  Kind kind = Kind::put;
  std::vector<size_t> blocks;  // one operation each; of a delete of a name the first has it
  Durability durability = Durability::durable;
};

// Nonces and identities from a seed, so that a run replays.
class SeededEntropy final : public EntropySource {
 public:
  explicit SeededEntropy(uint64_t seed) : random_(seed) {}
  void fill(std::span<std::byte> out) override {
    for (std::byte& byte : out) byte = static_cast<std::byte>(random_());
  }

 private:
  std::mt19937_64 random_;
};

class TortureWorld final : private EventSink {
 public:
  // All outlive it.
  TortureWorld(TortureReport& report, const TortureBlocks& blocks, Slab& slab, VirtualClock& clock);
  ~TortureWorld();

  TortureOracle oracle;
  std::vector<std::shared_ptr<Platter>> platters;
  std::vector<FaultDrive*> drives;  // of the present life; the store owns them
  std::unique_ptr<Store> store;
  // No fault is being made: a miss of what is there, and any other answer than a healthy drive's, is a violation.
  bool healthy = true;
  bool losses_excused = false;   // blocks that the store says it dropped may be gone
  bool returns_excused = false;  // a deleted block that is back is counted in `returned`, and is no violation
  bool misses_excused = false;   // a miss of what is there is counted in `missed`, and is no violation
  uint64_t returned = 0, missed = 0;
  // Gets and puts without an answer by then are cancelled, as a caller's deadline does; 0: they are waited for.
  uint64_t deadline_turns = 0;

  // A platter with an empty store on it.
  static std::shared_ptr<Platter> formatted(uint64_t bytes, uint64_t segment_bytes, VirtualClock& clock);
  // Empty when it went well, else why not.
  std::string open(DriveWatcher* watcher, const StoreOptions& options = {});
  void take_drive(FaultDrive& drive) { drives.push_back(&drive); }
  std::unique_ptr<FaultDrive> drive_over(size_t platter, DriveWatcher* watcher);
  void begin(const TortureStep& step);
  bool all_ended() const { return out_ == 0; }
  // Turns until every operation was answered; a violation when that takes for ever.
  void until_answered();
  // … and until the drives have nothing left to do.
  void until_idle();
  void turn();
  // The machine stops. What the platters keep is the caller's business.
  void stop();
  void close();
  // Every block is got and compared with what may be; then the counts. The number of blocks that were there.
  uint64_t check();
  // That nothing holds memory, once the store is gone.
  void check_slab();

 private:
  class Put;
  class Get;
  class Remove;
  void on_event(const StoreEvent& event) override;
  void begin_remove(const TortureStep& step);
  void check_counts(uint64_t found);
  // On drives of five segments a few leases hold all of them.
  bool full_of_leases(Status status) const { return status == Status::no_space && leased_; }
  bool drives_idle() const;
  void cancel_all();

  TortureReport& report_;
  const TortureBlocks& blocks_;
  Slab& slab_;
  VirtualClock& clock_;
  bool leased_ = false;  // something, in this life
  uint64_t out_ = 0, found_ = 0, given_up_ = 0, turns_ = 0;
  std::list<std::unique_ptr<Put>> puts_;
  std::list<std::unique_ptr<Get>> gets_;
  std::list<std::unique_ptr<Remove>> removes_;
};

}  // namespace cairn
