// A whole Cairn in one thread, from one seed: the real store and the real reactor over simulated drives, links and
// time, and clients that check every answer. It lives several lives; between them the process is killed, the power
// goes, or it is closed in order. The same seed gives the same run, event for event.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/entropy.h"
#include "server/reactor.h"
#include "testing/sim_client.h"
#include "testing/sim_drive.h"

namespace cairn {

// What a run is made of. drawn() draws all of it from the seed.
struct SimPlan {
  uint64_t seed = 1;
  uint32_t lives = 4;
  uint64_t life_seconds_most = 60;
  uint32_t drives = 2;
  uint64_t drive_bytes = 24 * kMiB, segment_bytes = 1 * kMiB, slab_bytes = 24 * kMiB;
  SimLoad load;
  SimFaults faults;              // while a life lasts
  bool faults_at_start = false;  // … and already while it reads its drives
  double crash_while_loading = 0.2;
  double drive_leaves = 0;       // drives vanish, and come back
  double drive_is_replaced = 0;  // … or are drained and replaced
  double starts_without = 0;     // a life begins without some drives, which come late, or not before the next
  double wide_deletes = 0;       // a second
  double leases = 0;             // a second
  uint64_t quota_bytes = 0;      // of each tenant
  uint64_t scrub_bytes_per_second = 0;
  static SimPlan drawn(uint64_t seed);
};

struct SimOutcome {
  uint64_t seed = 0, event_hash = 0;
  double simulated_seconds = 0;
  uint64_t turns = 0, requests = 0, lives = 0, kills = 0, power_losses = 0, closes = 0, crashes_while_loading = 0;
  uint64_t gets = 0, hits = 0, puts = 0, deletes = 0, doubts = 0, evicted = 0, drive_errors = 0, drive_lies = 0,
           stalls = 0;
  uint64_t drives_left = 0, drives_replaced = 0, starts_without = 0, wrong_bytes = 0, lost = 0, undeleted = 0;
  std::vector<std::string> violations;
};

class SimWorld final : private SimClient::Server, private EventSink, private EntropySource {
 public:
  explicit SimWorld(const SimPlan& plan);
  ~SimWorld();
  SimOutcome run();
  void trace(const SimKey& key) { oracle_.trace(key); }

 private:
  class Removal;
  struct Place {  // where a drive is plugged in
    std::shared_ptr<Platter> platter;
    std::weak_ptr<SimDrive> plugged;  // the store owns it
    SimDrive* drive() const { return plugged.lock().get(); }
    std::string uuid;
    uint64_t back_ns = 0;  // when a drive that left is plugged in again; 0: it is there
  };

  // SimClient::Server
  std::unique_ptr<ByteChannel> connect(SimClient& client) override;
  void note(uint64_t what) override;
  void on_event(const StoreEvent& event) override;
  void fill(std::span<std::byte> out) override;

  std::unique_ptr<SimDrive> plug(Place& place, const SimFaults& faults);
  void make_drive(Place& place);
  bool boot(bool healed);
  void live(uint64_t until_ns, bool last);
  void turn();
  void meddle();
  void pull_a_drive();
  void plug_in(Place& place);
  void replace_a_drive();
  void end_life(bool orderly);
  void kill_drives(bool power_lost);
  void forget_process();
  void verify_all();
  void settle();
  void harvest();
  void check_leaks();
  uint64_t next_event_ns() const;
  std::vector<Place*> choose_drives();
  bool happens(double share) { return share > 0 && std::uniform_real_distribution<>()(random_) < share; }

  SimPlan plan_;
  std::mt19937_64 random_, entropy_;
  VirtualClock clock_;
  TurnClock turn_clock_{clock_};
  SimOracle oracle_;
  SimFaults faults_now_;
  SimOutcome outcome_;
  std::unique_ptr<Slab> slab_;
  std::vector<Place> places_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Reactor> reactor_;
  std::vector<std::unique_ptr<SimClient>> clients_;
  std::list<std::unique_ptr<Removal>> removals_;
  std::string draining_;
  std::set<std::string> distrusted_;  // drives whose blocks were given up; the oracle knows
  uint64_t second_ns_ = 0, quiet_ = 0;
  bool met_ = true;  // all drives were together in the last life
};

}  // namespace cairn
