// A cache's drive is always full. Whatever drives, segments, quotas, weights, blocks and leases there are: every put
// ends within bounded work, is refused only when the rule says so, and no tenant evicts another beyond its share. Each
// seed draws a mix and plays it; CAIRN_FULL_SEEDS=N plays seeds 1 to N.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "store/format.h"
#include "store/store.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

constexpr int kTurnsMost = 20'000;  // of a put, a millisecond each

struct Mix {
  size_t drives = 1;
  bool leases = false;
  uint64_t segment_bytes = 0, segments = 0, slab_bytes = 0;
  std::vector<TenantOptions> tenants;
  std::vector<uint64_t> block_bytes;  // by tenant: the largest that it puts
  uint64_t capacity() const { return segments * segment_bytes; }
};

struct Held {
  uint64_t bytes = 0, taken = 0;  // payload; and what its records take
};

// What is in the store, as its events tell.
class Model final : public EventSink {
 public:
  void on_event(const StoreEvent& event) override {
    const uint32_t tenant = event.id.tenant;
    if (event.kind == StoreEvent::Kind::stored) {
      Held one;
      one.bytes = lengths.at(event.id.key);
      one.taken = format::taken_bytes(one.bytes);
      blocks[tenant][event.id.key] = one;
      held[tenant].bytes += one.bytes;
      held[tenant].taken += one.taken;
    }
    if (event.kind != StoreEvent::Kind::evicted && event.kind != StoreEvent::Kind::deleted) return;
    if (event.kind == StoreEvent::Kind::evicted) evicted(tenant, event.id.key);
    const auto found = blocks[tenant].find(event.id.key);
    if (found == blocks[tenant].end()) return;  // it was there before this life
    held[tenant].bytes -= found->second.bytes;
    held[tenant].taken -= found->second.taken;
    blocks[tenant].erase(found);
  }
  void evicted(uint32_t tenant, const Key& key) {
    const auto lease = leased_until_ms.find(key);
    if (lease != leased_until_ms.end() && lease->second > now_ms()) ++broken_leases;
    const auto safe = safe_bytes.find(tenant);
    if (safe != safe_bytes.end() && held[tenant].taken <= safe->second) ++robbed;
  }

  std::function<uint64_t()> now_ms;
  std::map<Key, uint64_t> lengths;
  std::map<Key, uint64_t> leased_until_ms;
  std::map<uint32_t, std::map<Key, Held>> blocks;
  std::map<uint32_t, Held> held;
  std::map<uint32_t, uint64_t> safe_bytes;  // of a tenant without a quota: below, nobody may take from it
  uint64_t robbed = 0, broken_leases = 0;
};

Mix draw(std::mt19937_64& random) {
  const auto pick = [&](std::initializer_list<uint64_t> of) { return *(of.begin() + random() % of.size()); };
  Mix mix;
  mix.drives = pick({1, 1, 2, 3});
  mix.leases = random() % 2 == 0;
  mix.segment_bytes = pick({1, 1, 2, 4, 8, 16}) << 20;
  mix.segments = pick({4, 5, 8, 12, 20, 40, 70});
  while (mix.drives * mix.capacity() > 160_MiB && mix.segments > 4) mix.segments = mix.segments * 2 / 3;
  mix.segments = std::max<uint64_t>(mix.segments, 4);
  mix.slab_bytes = pick({16, 24, 64}) << 20;
  // Up to what just fits a segment. A block in more parts than one fits when the drives can hold it twice.
  const uint64_t record = format::payload_bytes_most(mix.segment_bytes);
  const uint64_t most = record < format::kPartBytes ? record
                        : mix.segments >= 8         ? 2 * format::kPartBytes
                                                    : format::kPartBytes;
  const size_t tenants = pick({1, 2, 3, 5, 9});
  for (size_t i = 0; i < tenants; ++i) {
    TenantOptions tenant;
    tenant.number = static_cast<uint32_t>(i + 1);
    tenant.weight = static_cast<uint32_t>(pick({1, 1, 2, 5, 20}));
    const uint64_t block = std::min<uint64_t>(pick({1, 4096, 20'000, 100'000, 700'000, 1_MiB, 5_MiB, 8_MiB}), most);
    mix.block_bytes.push_back(block);
    tenant.quota_bytes = pick({0, 0, block, block + 1, 3 * block, 20 * block, mix.capacity() / 2, mix.capacity() * 4});
    mix.tenants.push_back(tenant);
  }
  return mix;
}

class FullDrives : public testing::TestWithParam<uint64_t> {
 protected:
  struct Call {
    std::unique_ptr<PutCall> put;
    int turns = 0;
  };

  void play(uint64_t seed);
  void step(StoreWorld& world, const Mix& mix);
  void look(StoreWorld& world, Call& call, const Mix& mix);
  void turn(StoreWorld& world, const Mix& mix);

  std::mt19937_64 random_;
  Model model_;
  std::vector<Call> calls_;
  uint64_t puts_ = 0, refused_quota_ = 0;
  uint64_t next_ = 0;
};

// Whether a refusal is one that the rule names.
void FullDrives::look(StoreWorld& world, Call& call, const Mix& mix) {
  const PutCall& put = *call.put;
  const Status status = put.ended.at(0);
  const TenantOptions& tenant = mix.tenants[put.id.tenant - 1];
  if (status == Status::ok || status == Status::exists) return;
  uint64_t leased_bytes = 0, held_bytes = 0;
  for (const TenantStats& one : world.store->stats().tenants) {
    if (one.number != put.id.tenant) continue;
    leased_bytes = one.leased_bytes;
    held_bytes = one.payload_bytes;
  }
  if (status == Status::quota_exceeded) {
    ++refused_quota_;
    EXPECT_TRUE(tenant.quota_bytes != 0 && put.length + leased_bytes > tenant.quota_bytes)
        << "a put of " << put.length << " bytes was refused: quota " << tenant.quota_bytes << ", held " << held_bytes
        << ", leased " << leased_bytes;
    return;
  }
  ADD_FAILURE() << "a put of " << put.length << " bytes ended with " << static_cast<int>(status);
}

void FullDrives::turn(StoreWorld& world, const Mix& mix) {
  world.clock.advance_ms(1);
  world.store->poll();
  for (size_t i = 0; i < calls_.size();) {
    Call& call = calls_[i];
    if (!call.put->ended.empty()) {
      look(world, call, mix);
      calls_.erase(calls_.begin() + static_cast<long>(i));
      continue;
    }
    ++call.turns;
    ++i;
  }
}

void FullDrives::step(StoreWorld& world, const Mix& mix) {
  const size_t who = random_() % 3 == 0 ? random_() % mix.tenants.size() : 0;  // the first floods
  const uint64_t most = mix.block_bytes[who];
  const uint64_t length = random_() % 2 == 0 ? most : 1 + random_() % most;
  Call call;
  // Now and then a key that was put before, and perhaps given up since.
  const std::string name =
      std::to_string(who) + " " + std::to_string(random_() % 8 == 0 && next_ > 0 ? random_() % next_ : next_++);
  call.put = std::make_unique<PutCall>(name, length);
  PutCall& put = *call.put;
  put.store = world.store.get();
  put.id.tenant = mix.tenants[who].number;
  put.durability = random_() % 2 == 0 ? Durability::durable : Durability::relaxed;
  const auto known = model_.lengths.try_emplace(put.id.key, length);
  put.length = known.first->second;
  calls_.push_back(std::move(call));
  ++puts_;
  world.store->begin_put(put);
  if (mix.leases && random_() % 4 == 0 && !model_.blocks[put.id.tenant].empty()) {
    // A lease of any of its blocks, for a while.
    auto& blocks = model_.blocks[put.id.tenant];
    auto at = blocks.begin();
    std::advance(at, static_cast<long>(random_() % std::min<size_t>(blocks.size(), 50)));
    const uint64_t ms = 1 + random_() % 60'000;
    const Key key = at->first;
    if (world.store->lease({key, 0, put.id.tenant}, 1, ms) != Status::ok) return;
    uint64_t& until = model_.leased_until_ms[key];
    until = std::max(until, world.clock.now_ms() + ms);
  }
}

void FullDrives::play(uint64_t seed) {
  random_.seed(seed);
  const Mix mix = draw(random_);
  SCOPED_TRACE(testing::Message() << mix.drives << " drives of " << mix.segments << " segments of "
                                  << (mix.segment_bytes >> 20) << " MiB, slab " << (mix.slab_bytes >> 20) << " MiB, "
                                  << mix.tenants.size() << " tenants");
  StoreWorld world(format::kFirstSegmentOffset + mix.capacity(), mix.drives, mix.slab_bytes, mix.segment_bytes);
  ASSERT_TRUE(world.store->set_tenants(mix.tenants).ok());
  world.store->add_event_sink(model_);
  model_.now_ms = [&] { return world.clock.now_ms(); };
  uint64_t weights = 0;
  for (const TenantOptions& tenant : mix.tenants) weights += tenant.weight;
  for (size_t i = 0; i < mix.tenants.size(); ++i) {
    const TenantOptions& tenant = mix.tenants[i];
    // Two segments are open or kept free. A third of the share: three quarters of it are kept by what blocks take with
    // others like them, and one of just over half of a segment takes all of it.
    const uint64_t usable = (mix.segments - 2) * mix.segment_bytes;
    if (tenant.quota_bytes == 0 && mix.segments >= 8)
      model_.safe_bytes[tenant.number] = usable * tenant.weight / weights / 3;
  }
  const size_t together = 1 + random_() % 12;
  uint64_t put_bytes = 0;
  const uint64_t enough = 4 * mix.drives * mix.capacity();
  for (int i = 0; i < 3000 && put_bytes < enough; ++i) {
    step(world, mix);
    put_bytes += format::taken_bytes(calls_.back().put->length);
    int turns = 0;
    while (calls_.size() >= together) {
      turn(world, mix);
      ASSERT_LE(++turns, kTurnsMost) << "a put of tenant " << calls_[0].put->id.tenant << ", " << calls_[0].put->length
                                     << " bytes, never ends; put " << puts_;
    }
    if (HasFailure()) return;
  }
  for (int turns = 0; !calls_.empty(); ++turns) {
    ASSERT_LE(turns, kTurnsMost) << "a put never ends";
    turn(world, mix);
  }
  EXPECT_EQ(model_.broken_leases, 0U) << "leased blocks were evicted";
  // Leases take room from shares: what is leased stays, whoever is beyond its share with it.
  if (!mix.leases) {
    EXPECT_EQ(model_.robbed, 0U) << "blocks were taken from tenants within their shares";
  }
  for (const TenantStats& one : world.store->stats().tenants) {
    if (one.number == 0) continue;
    EXPECT_EQ(one.payload_bytes, model_.held[one.number].bytes);
    const uint64_t quota = mix.tenants[one.number - 1].quota_bytes;
    if (quota != 0) {
      EXPECT_LE(one.payload_bytes, quota);
    }
  }
  uint64_t written = 0, put = 0;
  for (const DriveStats& drive : world.store->stats().drives) {
    written += drive.moved_bytes;
    put += drive.put_bytes;
  }
  RecordProperty("moved_percent", static_cast<int>(put == 0 ? 0 : written * 100 / put));
  if (std::getenv("CAIRN_FULL_SEEDS") != nullptr)
    std::printf("seed %llu: %zu drives x %llu x %llu MiB, %zu tenants: %llu puts, %llu refused, moved %llu %%\n",
                static_cast<unsigned long long>(seed), mix.drives, static_cast<unsigned long long>(mix.segments),
                static_cast<unsigned long long>(mix.segment_bytes >> 20), mix.tenants.size(),
                static_cast<unsigned long long>(puts_), static_cast<unsigned long long>(refused_quota_),
                static_cast<unsigned long long>(put == 0 ? 0 : written * 100 / put));
  world.store->remove_event_sink(model_);
}

TEST_P(FullDrives, FreezeNobody) {
  play(GetParam());
}

uint64_t seeds() {
  const char* told = std::getenv("CAIRN_FULL_SEEDS");
  return told == nullptr ? 24 : std::strtoull(told, nullptr, 10);
}

INSTANTIATE_TEST_SUITE_P(Seeds, FullDrives, testing::Range<uint64_t>(1, seeds() + 1));

}  // namespace
}  // namespace cairn
