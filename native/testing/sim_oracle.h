// What a simulation believes of every key: absent, exactly one of some versions, or either. Anything else that the
// store says is a violation, told in a sentence. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "store/store.h"

namespace cairn {

// A key of the simulation; its number is in the key's first bytes, so that events can be traced back to it.
struct SimKey {
  uint32_t tenant = 0;
  uint32_t number = 0;
  auto operator<=>(const SimKey&) const = default;
};
Key wire_key(const SimKey& key);
std::string tenant_name(uint32_t tenant);
uint32_t tenant_number(uint32_t tenant);  // what the service makes of the name
SimKey sim_key(const BlockId& id);
// What a key's blocks have in common, whatever their version: it follows from its number.
uint64_t length_of(const SimKey& key);
Scope scope_of(const SimKey& key);
uint64_t ttl_ms_of(const SimKey& key);  // 0: for ever

class SimOracle {
 public:
  // `seed` goes into every block's bytes.
  explicit SimOracle(uint64_t seed) : seed_(seed) {}

  // The bytes of a version: their pattern's seed.
  uint64_t content(const SimKey& key, uint32_t version) const;

  // --- what clients did ---
  uint32_t put_begins(const SimKey& key, uint64_t now_unix_ms);  // gives the version
  void put_ends(const SimKey& key, uint32_t version, Status status, bool durable, uint64_t now_unix_ms);
  void delete_begins(const SimKey& key);
  void delete_ends(const SimKey& key, Status status);
  // A get that was asked while the block had time to live may bring it later.
  struct Times {
    uint64_t asked_unix_ms, answered_unix_ms;
  };
  // What a get brought: `bytes`, from `offset` of the block on, are checked. `since`: the step when it was asked; if
  // anything was done to the key since then, either outcome is right, and any version.
  void got(const SimKey& key, Status status, uint64_t offset, ConstByteSpan bytes, Times times, uint64_t since);
  void told_exists(const SimKey& key, bool exists, uint64_t now_unix_ms, uint64_t since);
  uint64_t step() const { return step_; }
  // Deletes of everything of a tenant, or of one scope of it. Keys with a put open meanwhile stay in doubt.
  uint64_t wide_delete_begins(uint32_t tenant, Scope scope);
  void wide_delete_ends(uint64_t ticket, Status status);
  // The client is gone: nobody knows what became of what it had open.
  void abandoned(const SimKey& key, uint64_t now_unix_ms);
  void leased(const SimKey& key, uint64_t until_ns);

  // --- what the world did ---
  void event(const StoreEvent& event, uint64_t now_ns);
  void process_ended(uint64_t now_unix_ms);
  // Blocks may be missing for now (a drive is away, or was not wholly read), or for good (lost_for_good).
  void impair(bool now) {
    // Answers given while it was so may still be on their way.
    if (impaired_ && !now) well_since_ = ++step_;
    impaired_ = now;
  }
  bool impaired() const { return impaired_; }
  void lost_for_good();
  // The drives hand out other bytes than were written, or keep other ones, or say that they flushed and did not: then
  // only wrong bytes are a violation.
  bool drives_lie = false;
  bool drives_fail = false;  // drives report errors

  // Prints what is done to this key, on stderr.
  void trace(const SimKey& key) { traced_ = key; }

  const std::vector<std::string>& violations() const { return violations_; }
  std::vector<SimKey> keys() const;
  uint64_t gets = 0, hits = 0, puts_ok = 0, deletes_ok = 0, doubts = 0, wrong_bytes = 0, lost = 0, undeleted = 0;

 private:
  struct Belief {
    std::set<uint32_t> versions;  // what may be found
    uint32_t last_version = 0;
    bool may_be_absent = true;
    bool safe = false;  // a durable put was acknowledged: neither kill nor power loss takes it
    uint64_t expires_from_unix_ms = 0, expires_by_unix_ms = 0;  // 0: never
    uint64_t leased_until_ns = 0;
    bool open = false;             // a put or delete is on its way
    bool went = false;             // … and the store told meanwhile that the block went
    bool put_at_large = false;     // its client died: until that one is back it may still come
    bool delete_at_large = false;  // nobody waits for a delete any more, but it may still come
    uint64_t opened = 0;           // when the last one began
    uint64_t changed = 0;          // when anything was done to it last
  };
  struct Wide {
    uint32_t tenant = 0;
    Scope scope = 0;
    uint64_t began = 0;
    std::set<SimKey> open;
  };
  bool stirred(const Belief& belief, uint64_t since) const {
    return belief.open || belief.changed > since || well_since_ > since;
  }
  static bool covers(const Wide& wide, const SimKey& key);
  void violate(const SimKey& key, const std::string& what);
  void came_back(const SimKey& key, const std::string& what);
  void tell(const SimKey& key, const std::string& what) const;
  void missing(const SimKey& key, Belief& belief, uint64_t now_unix_ms, uint64_t since);

  uint64_t seed_;
  uint64_t step_ = 0, well_since_ = 0;
  bool impaired_ = false;
  std::optional<SimKey> traced_;
  std::map<SimKey, Belief> beliefs_;
  std::map<uint64_t, Wide> wides_;
  std::vector<std::string> violations_;
};

}  // namespace cairn
