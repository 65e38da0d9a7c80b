#include "testing/sim_world.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "store/format.h"
#include "store/index.h"
#include "transport/stream_server.h"

namespace cairn {

namespace {

constexpr uint64_t kSecondNs = 1'000'000'000;
constexpr uint64_t kMsNs = 1'000'000;
// Turns without news before time goes on to the next thing that is due: a dribbling link may move nothing a few times.
constexpr uint64_t kQuietTurns = 6;

}  // namespace

// A delete of everything of a tenant or a scope, made by the world itself.
class SimWorld::Removal final : public DeleteOp {
 public:
  void done() override { ended = true; }
  uint64_t ticket = 0;
  bool ended = false;
};

SimWorld::SimWorld(const SimPlan& plan)
    : plan_(plan),
      random_(plan.seed),
      entropy_(plan.seed + 1),
      oracle_(plan.seed),
      slab_(Slab::create(plan.slab_bytes).take()) {
  // The first use of hashes in a process draws a seed as well: it may not be part of the run.
  (void)hash_of(BlockId{});
  entropy_.seed(plan.seed + 1);
  reseed_hashes();
  oracle_.drives_lie = plan_.faults.lies();
  oracle_.drives_fail = plan_.faults.fails() || plan_.drive_leaves > 0;
  places_.resize(plan_.drives);
  for (Place& place : places_) make_drive(place);
  for (uint32_t i = 0; i < plan_.load.clients; ++i)
    clients_.push_back(
        std::make_unique<SimClient>(static_cast<SimClient::Server&>(*this), oracle_, clock_, plan_.load, i, random_()));
}

SimWorld::~SimWorld() {
  forget_process();
}

void SimWorld::fill(std::span<std::byte> out) {
  for (std::byte& byte : out) byte = static_cast<std::byte>(entropy_());
}

void SimWorld::note(uint64_t what) {
  outcome_.event_hash = (outcome_.event_hash ^ what ^ clock_.now_ns()) * 0x100000001B3ULL + 0x9E3779B97F4A7C15ULL;
}

void SimWorld::on_event(const StoreEvent& event) {
  note(static_cast<uint64_t>(event.kind) << 56 ^ event.sequence);
  outcome_.evicted += event.kind == StoreEvent::Kind::evicted ? 1 : 0;
  oracle_.event(event, clock_.now_ns());
}

std::unique_ptr<ByteChannel> SimWorld::connect(SimClient& client) {
  ChannelFaults faults;
  if (plan_.load.dribbling) {
    faults.seed = random_() | 1;
    faults.most_per_call = 20'000;
  }
  ChannelPair pair(faults);
  reactor_->adopt(std::make_unique<StreamServerLink>(pair.take_server(), "client " + std::to_string(client.tenant())));
  return pair.take_client();
}

// --- lives -----------------------------------------------------------------------------------------------

bool SimWorld::boot(bool healed) {
  faults_now_ = healed || !plan_.faults_at_start ? SimFaults{} : plan_.faults;
  const bool blind = faults_now_.read_error > 0 || faults_now_.lies();
  oracle_.impair(true);
  std::vector<std::unique_ptr<Drive>> drives;
  const std::vector<Place*> here = choose_drives();
  for (Place* place : here) drives.push_back(plug(*place, faults_now_));
  StoreOptions options;
  options.wait_until_loaded = false;
  options.scrub_bytes_per_second = plan_.scrub_bytes_per_second;
  auto opened = Store::open(std::move(drives), *slab_, clock_, options);
  if (!opened.ok()) {
    CAIRN_CHECK(!healed || plan_.faults.lies(), "a store on healthy drives does not open");
    // A drive that lies may have lost both of its superblocks: it is formatted anew, as its operator would do.
    if (healed) {
      oracle_.lost_for_good();
      for (Place& place : places_) make_drive(place);
    }
    return false;
  }
  store_ = opened.take();
  store_->add_event_sink(*this);
  if (plan_.quota_bytes > 0) {
    std::vector<TenantOptions> tenants(1);
    tenants[0].quota_bytes = plan_.quota_bytes;
    if (auto set = store_->set_tenants(tenants); !set) CAIRN_CHECK(false, "the simulated tenants do not go together");
  }
  reactor_ = std::make_unique<Reactor>(*store_, turn_clock_, ReactorOptions{});
  const bool crash = !healed && happens(plan_.crash_while_loading);
  uint64_t turns = crash ? random_() % 200 : UINT64_MAX;
  for (auto& client : clients_) client->pause(crash);
  while (!store_->loaded()) {
    if (turns-- == 0) {
      ++outcome_.crashes_while_loading;
      if (blind) oracle_.lost_for_good();
      end_life(false);
      return false;
    }
    turn();
  }
  for (auto& client : clients_) client->pause(false);
  const std::vector<DriveStats> loaded = store_->stats().drives;
  const bool well =
      std::none_of(loaded.begin(), loaded.end(), [](const DriveStats& drive) { return drive.state == "failed"; });
  if (!blind && well) oracle_.impair(false);
  // What could not be read at the start may be overwritten before the next.
  if (blind) oracle_.lost_for_good();
  for (const DriveStats& drive : loaded) {
    if (drive.distrusted) oracle_.lost_for_good();
  }
  faults_now_ = healed ? SimFaults{} : plan_.faults;
  met_ |= here.size() == places_.size() && well;
  return true;
}

void SimWorld::turn() {
  ++outcome_.turns;
  uint64_t before = 0;
  for (const Place& place : places_) before += place.drive() == nullptr ? 0 : place.drive()->in_flight();
  reactor_->turn(0);
  bool news = false;
  for (auto& client : clients_) news |= client->step();
  uint64_t after = 0;
  for (const Place& place : places_) after += place.drive() == nullptr ? 0 : place.drive()->in_flight();
  quiet_ = news || before != after ? 0 : quiet_ + 1;
  clock_.advance_to(clock_.now_ns() + 1'000 + random_() % 20'000);
  if (quiet_ > kQuietTurns) clock_.advance_to(std::min(next_event_ns(), clock_.now_ns() + kSecondNs));
}

uint64_t SimWorld::next_event_ns() const {
  uint64_t next = UINT64_MAX;
  for (const Place& place : places_) {
    if (place.drive() != nullptr) next = std::min(next, place.drive()->next_due_ns());
    if (place.back_ns != 0) next = std::min(next, place.back_ns);
  }
  bool open = false;
  for (const auto& client : clients_) {
    next = std::min(next, client->next_event_ns());
    open |= !client->idle();
  }
  // While somebody waits, deadlines and retries inside the service want to be looked at.
  return open ? std::min(next, clock_.now_ns() + 10 * kMsNs) : next;
}

void SimWorld::meddle() {
  for (Place& place : places_) {
    if (place.back_ns != 0 && clock_.now_ns() >= place.back_ns) plug_in(place);
  }
  const bool away = std::any_of(places_.begin(), places_.end(), [](const Place& place) { return place.back_ns != 0; });
  if (oracle_.impaired()) {
    bool well = !away && store_->loaded();
    // What a drive held is given up when it comes back, and it may be gone again, and back, before all are here.
    std::set<std::string> distrusted;
    for (const DriveStats& drive : store_->stats().drives) {
      well &= drive.state != "failed" && drive.state != "loading";
      if (drive.distrusted) distrusted.insert(drive.uuid);
      if (drive.distrusted && !distrusted_.contains(drive.uuid)) oracle_.lost_for_good();
    }
    distrusted_ = std::move(distrusted);
    oracle_.impair(!well);
  }
  harvest();
  if (clock_.now_ns() < second_ns_ + kSecondNs) return;
  second_ns_ = clock_.now_ns();
  if (happens(plan_.drive_leaves)) pull_a_drive();
  replace_a_drive();
  const auto tenant = static_cast<uint32_t>(random_() % plan_.load.tenants);
  const uint32_t number = tenant_number(tenant);
  if (happens(plan_.wide_deletes)) {
    auto removal = std::make_unique<Removal>();
    removal->scope = random_() % 3;
    removal->kind = removal->scope == 0 ? DeleteKind::tenant : DeleteKind::scope;
    removal->ids = {{Key{}, 0, number}};
    removal->ticket = oracle_.wide_delete_begins(tenant, removal->scope);
    Removal& op = *removal;
    removals_.push_back(std::move(removal));
    store_->remove(op);
  }
  if (happens(plan_.leases)) {
    const SimKey key{tenant, static_cast<uint32_t>(random_() % plan_.load.keys_per_client)};
    const uint64_t ms = 1 + random_() % 30'000;
    if (store_->lease({wire_key(key), 0, number}, 7, ms) == Status::ok)
      oracle_.leased(key, clock_.now_ns() + ms * kMsNs);
  }
}

void SimWorld::harvest() {
  std::erase_if(removals_, [this](const auto& removal) {
    if (!removal->ended) return false;
    oracle_.wide_delete_ends(removal->ticket, removal->statuses[0]);
    return true;
  });
}

void SimWorld::live(uint64_t until_ns, bool last) {
  while (clock_.now_ns() < until_ns) {
    turn();
    meddle();
  }
  if (!last) return;
  faults_now_ = SimFaults{};
  settle();
}

// Until nobody has anything open.
void SimWorld::settle() {
  for (auto& client : clients_) client->pause(true);
  const auto busy = [this] {
    const bool away =
        std::any_of(places_.begin(), places_.end(), [](const Place& place) { return place.back_ns != 0; });
    return away || !removals_.empty() || !draining_.empty() || !store_->loaded() ||
           !std::all_of(clients_.begin(), clients_.end(), [](const auto& client) { return client->idle(); });
  };
  constexpr uint64_t kTurnsMost = 300'000;
  for (uint64_t turns = 0; busy(); ++turns) {
    if (turns >= kTurnsMost) {
      std::fprintf(stderr, "seed %lu: removals %zu, draining '%s', loaded %d\n", plan_.seed, removals_.size(),
                   draining_.c_str(), store_->loaded() ? 1 : 0);
      for (const Place& place : places_) {
        if (place.drive() == nullptr) continue;
        std::fprintf(stderr, "  %s back in %ld ms\n", place.drive()->info().path.c_str(),
                     place.back_ns == 0 ? 0L : (long)(place.back_ns - clock_.now_ns()) / 1000000);
      }
      for (const DriveStats& drive : store_->stats().drives)
        std::fprintf(stderr,
                     "  %s %s %s; %lu reads, %lu writes, %lu segments given up, %lu blocks moved, %lu free, %lu bytes "
                     "scrubbed\n",
                     drive.path.c_str(), drive.state.c_str(), drive.reason.c_str(), drive.reads, drive.writes,
                     drive.evicted_segments, drive.moved_blocks, drive.segments_free, drive.scrubbed_bytes);
      for (const auto& client : clients_) std::fprintf(stderr, "  client idle %d\n", client->idle() ? 1 : 0);
    }
    CAIRN_CHECK(turns < kTurnsMost, "a simulation does not come to rest");
    turn();
    meddle();
  }
}

void SimWorld::kill_drives(bool power_lost) {
  for (Place& place : places_) {
    if (place.drive() == nullptr) continue;
    if (power_lost) place.drive()->lose_power();
    if (!power_lost) place.drive()->kill();
    outcome_.drive_errors += place.drive()->counters().errors;
    outcome_.drive_lies += place.drive()->counters().lies;
    outcome_.stalls += place.drive()->counters().stalls;
  }
}

void SimWorld::end_life(bool orderly) {
  ++outcome_.lives;
  draining_.clear();
  if (orderly) {
    settle();
    for (auto& client : clients_) {
      outcome_.requests += std::exchange(client->requests, 0);
      client->reset();
    }
    reactor_->drain();
    while (!reactor_->quiet()) turn();
    reactor_->close_sessions();
    reactor_.reset();
    store_->close();
    store_.reset();
    ++outcome_.closes;
  } else {
    const bool power_lost = random_() % 2 == 0;
    store_->remove_event_sink(*this);
    kill_drives(power_lost);
    ++(power_lost ? outcome_.power_losses : outcome_.kills);
  }
  oracle_.process_ended(clock_.unix_ms());
  forget_process();
  check_leaks();
}

void SimWorld::forget_process() {
  for (auto& client : clients_) {
    outcome_.requests += std::exchange(client->requests, 0);
    client->reset();
  }
  // The reactor insists that deletes end; on dead drives they do, at once.
  if (reactor_ != nullptr) {
    reactor_->close_sessions();
    for (int i = 0; i < 10'000 && !reactor_->quiet(); ++i) {
      reactor_->turn(0);
      clock_.advance_ms(1);  // what looks at a drive now and then has to see that it is dead
    }
  }
  for (int i = 0; i < 10'000 && !removals_.empty() && store_ != nullptr; ++i) {
    store_->poll();
    std::erase_if(removals_, [](const auto& removal) { return removal->ended; });
  }
  reactor_.reset();
  store_.reset();
  removals_.clear();
  for (Place& place : places_) {
    place.plugged.reset();
    place.back_ns = 0;
  }
}

void SimWorld::check_leaks() {
  if (slab_->free_bytes() != slab_->total_bytes())
    outcome_.violations.push_back(std::to_string(slab_->total_bytes() - slab_->free_bytes()) +
                                  " bytes of the slab leaked");
}

// Everything once more, on healthy drives.
void SimWorld::verify_all() {
  class Get final : public GetOp {
   public:
    void done(Status status) override {
      ended = true;
      result = status;
    }
    bool ended = false;
    Status result{};
  };
  for (const SimKey& key : oracle_.keys()) {
    Get get;
    get.id = {wire_key(key), 0, tenant_number(key.tenant)};
    const uint64_t asked_unix_ms = clock_.unix_ms();
    store_->get(get);
    while (!get.ended) turn();
    std::vector<std::byte> bytes;
    std::vector<iovec> parts;
    if (get.result == Status::ok) get.buffer.slice(get.buffer_offset, get.length, parts);
    for (const iovec& part : parts) {
      const auto* base = static_cast<const std::byte*>(part.iov_base);
      bytes.insert(bytes.end(), base, base + part.iov_len);
    }
    oracle_.got(key, get.result, 0, bytes, {asked_unix_ms, clock_.unix_ms()}, oracle_.step());
  }
}

SimOutcome SimWorld::run() {
  outcome_.seed = plan_.seed;
  const uint64_t began_ns = clock_.now_ns();
  for (uint32_t life = 0; life < plan_.lives; ++life) {
    bool up = boot(false);
    for (int tries = 0; !up && tries < 20; ++tries) up = boot(tries >= 10);
    live(clock_.now_ns() + (1 + random_() % (plan_.life_seconds_most * 1000)) * kMsNs, false);
    end_life(random_() % 4 == 0);
  }
  const bool booted = boot(true) || boot(true);
  CAIRN_CHECK(booted, "healthy drives do not start");
  verify_all();
  end_life(true);
  outcome_.simulated_seconds = static_cast<double>(clock_.now_ns() - began_ns) / 1e9;
  outcome_.gets = oracle_.gets;
  outcome_.hits = oracle_.hits;
  outcome_.puts = oracle_.puts_ok;
  outcome_.deletes = oracle_.deletes_ok;
  outcome_.doubts = oracle_.doubts;
  outcome_.wrong_bytes = oracle_.wrong_bytes;
  outcome_.lost = oracle_.lost;
  outcome_.undeleted = oracle_.undeleted;
  outcome_.violations.insert(outcome_.violations.end(), oracle_.violations().begin(), oracle_.violations().end());
  return outcome_;
}

}  // namespace cairn
