#include "testing/sim_oracle.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/crc32c.h"
#include "base/pattern.h"

namespace cairn {

namespace {

// The store counts expiry in ticks, so a block may live a little longer than it was told to.
constexpr uint64_t kExpiryGrainMs = 256;

uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
  return value ^ (value >> 31);
}

// Whether `bytes` are those of the pattern from `offset` on.
bool holds(ConstByteSpan bytes, uint64_t offset, uint64_t seed) {
  if (offset == 0) return check_pattern(bytes, seed) < 0;
  std::vector<std::byte> whole(offset + bytes.size());
  fill_pattern(whole, seed);
  return std::memcmp(whole.data() + offset, bytes.data(), bytes.size()) == 0;
}

}  // namespace

Key wire_key(const SimKey& key) {
  Key wire;
  fill_pattern(std::as_writable_bytes(std::span(wire.bytes)), mix(key.number));
  std::memcpy(wire.bytes.data(), &key.number, sizeof(key.number));
  return wire;
}

std::string tenant_name(uint32_t tenant) {
  return tenant == 0 ? "default" : "tenant-" + std::to_string(tenant);
}

uint32_t tenant_number(uint32_t tenant) {
  static const std::array<uint32_t, 4> kNumbers = [] {
    std::array<uint32_t, 4> numbers{};
    for (uint32_t i = 1; i < numbers.size(); ++i) {
      const std::string name = tenant_name(i);
      numbers[i] = crc32c(std::as_bytes(std::span(name)));
    }
    return numbers;
  }();
  return kNumbers.at(tenant);
}

uint64_t length_of(const SimKey& key) {
  const uint64_t drawn = mix(key.number + 77);
  switch (drawn % 40) {
    case 0:
      return 4 * kMiB + drawn % (3 * kMiB);  // striped
    case 1:
    case 2:
    case 3:
      return 200'000 + drawn % 800'000;
    case 4:
      return 1 + drawn % 10;
    default:
      return 1 + drawn % 60'000;
  }
}

Scope scope_of(const SimKey& key) {
  return mix(key.number + 13) % 3;
}

uint64_t ttl_ms_of(const SimKey& key) {
  return mix(key.number + 5) % 8 == 0 ? 20'000 : 0;
}

SimKey sim_key(const BlockId& id) {
  SimKey key;
  while (tenant_number(key.tenant) != id.tenant) ++key.tenant;
  std::memcpy(&key.number, id.key.bytes.data(), sizeof(key.number));
  return key;
}

uint64_t SimOracle::content(const SimKey& key, uint32_t version) const {
  return mix(seed_ ^ mix(uint64_t{key.tenant} << 32 | key.number) ^ mix(version + 0x1234567));
}

void SimOracle::tell(const SimKey& key, const std::string& what) const {
  if (traced_ == key) std::fprintf(stderr, "  step %lu: %s\n", step_, what.c_str());
}

void SimOracle::violate(const SimKey& key, const std::string& what) {
  tell(key, "VIOLATION " + what);
  violations_.push_back("key " + std::to_string(key.number) + " of tenant " + std::to_string(key.tenant) + ": " + what);
}

std::vector<SimKey> SimOracle::keys() const {
  std::vector<SimKey> all;
  for (const auto& [key, belief] : beliefs_) all.push_back(key);
  return all;
}

// A drive that lies may lose a tombstone, as it may lose a block.
void SimOracle::came_back(const SimKey& key, const std::string& what) {
  if (drives_lie) return;
  ++undeleted;
  violate(key, what);
}

// --- clients ---------------------------------------------------------------------------------------------

uint32_t SimOracle::put_begins(const SimKey& key, uint64_t now_unix_ms) {
  Belief& belief = beliefs_[key];
  CAIRN_CHECK(!belief.open, "a simulation has two operations open on one key");
  belief.open = true;
  belief.went = belief.put_at_large = false;
  belief.opened = belief.changed = ++step_;
  const uint32_t version = ++belief.last_version;
  if (const uint64_t ttl = ttl_ms_of(key); ttl != 0) {
    const uint64_t from = now_unix_ms + ttl;
    belief.expires_from_unix_ms = belief.versions.empty() ? from : std::min(belief.expires_from_unix_ms, from);
  }
  belief.versions.insert(version);
  tell(key, "put of version " + std::to_string(version) + " begins");
  return version;
}

void SimOracle::put_ends(const SimKey& key, uint32_t version, Status status, bool durable, uint64_t now_unix_ms) {
  Belief& belief = beliefs_[key];
  belief.changed = ++step_;
  belief.open = false;
  tell(key, "put of version " + std::to_string(version) + " ends: " + std::string(status_row(status).name) +
                (durable ? "" : ", relaxed"));
  if (const uint64_t ttl = ttl_ms_of(key); ttl != 0) belief.expires_by_unix_ms = now_unix_ms + ttl;
  switch (status) {
    case Status::ok:
      ++puts_ok;
      belief.may_be_absent = belief.went || belief.delete_at_large;
      belief.safe = durable && !belief.may_be_absent;
      return;
    case Status::exists:
      belief.versions.erase(version);
      if (belief.versions.empty()) came_back(key, "a put was told that it exists, and nothing was ever there");
      if (durable && !belief.went && !belief.delete_at_large) {
        belief.may_be_absent = false;
        belief.safe = true;
      }
      return;
    case Status::no_space:
    case Status::quota_exceeded:
    case Status::busy:
    case Status::expired:
    case Status::not_admitted:
    case Status::too_large:
    case Status::read_only:
    case Status::bad_checksum:
      // Refused. read_only and no_space may come when part of it was written.
      if (status != Status::read_only && status != Status::no_space) belief.versions.erase(version);
      return;
    default:
      ++doubts;
  }
}

void SimOracle::abandoned(const SimKey& key, uint64_t now_unix_ms) {
  Belief& belief = beliefs_[key];
  belief.changed = ++step_;
  if (const uint64_t ttl = ttl_ms_of(key); ttl != 0) belief.expires_by_unix_ms = now_unix_ms + ttl;
  if (belief.open) {
    ++doubts;
    belief.delete_at_large = belief.put_at_large = true;  // whatever it was
  }
  belief.open = false;
  belief.may_be_absent |= belief.versions.size() != 1;
  tell(key, "abandoned");
}

void SimOracle::delete_begins(const SimKey& key) {
  Belief& belief = beliefs_[key];
  CAIRN_CHECK(!belief.open, "a simulation has two operations open on one key");
  belief.open = true;
  belief.went = belief.put_at_large = false;
  belief.opened = belief.changed = ++step_;
  belief.may_be_absent = true;
  belief.safe = false;
  tell(key, "delete begins");
}

void SimOracle::delete_ends(const SimKey& key, Status status) {
  Belief& belief = beliefs_[key];
  belief.changed = ++step_;
  tell(key, "delete ends: " + std::string(status_row(status).name));
  belief.open = false;
  if (status != Status::ok && status != Status::not_found) {
    if (status == Status::leased && belief.versions.empty()) violate(key, "a lease holds what is not there");
    ++doubts;
    belief.delete_at_large = true;
    return;
  }
  ++deletes_ok;
  belief.versions.clear();
  belief.leased_until_ns = 0;
}

void SimOracle::missing(const SimKey& key, Belief& belief, uint64_t now_unix_ms, uint64_t since) {
  if (belief.may_be_absent || stirred(belief, since) || impaired_) return;
  if (belief.expires_from_unix_ms != 0 && now_unix_ms >= belief.expires_from_unix_ms) return;
  for (const auto& [began, wide] : wides_) {
    if (covers(wide, key)) return;
  }
  belief.may_be_absent = true;
  if (drives_lie) return;
  ++lost;
  violate(key, "an acknowledged block is gone");
}

void SimOracle::got(const SimKey& key, Status status, uint64_t offset, ConstByteSpan bytes, Times times,
                    uint64_t since) {
  Belief& belief = beliefs_[key];
  ++gets;
  tell(key, "got: " + std::string(status_row(status).name) + " of " + std::to_string(bytes.size()) + " bytes from " +
                std::to_string(offset) + (impaired_ ? ", impaired" : ""));
  if (status == Status::not_found) return missing(key, belief, times.answered_unix_ms, since);
  if (status == Status::corrupt) {
    if (!drives_lie) violate(key, "an honest drive's bytes fail their checksum");
    belief.may_be_absent = true;
    return;
  }
  if (status != Status::ok) {
    if (status == Status::bad_checksum || status == Status::invalid)
      violate(key, "a get ended as " + std::to_string(static_cast<int>(status)));
    return;
  }
  ++hits;
  if (belief.expires_by_unix_ms != 0 && !stirred(belief, since) &&
      times.asked_unix_ms > belief.expires_by_unix_ms + kExpiryGrainMs)
    violate(key, "a block outlived its time");
  for (const uint32_t version : belief.versions) {
    if (holds(bytes, offset, content(key, version))) return;
  }
  for (uint32_t version = 1; version <= belief.last_version; ++version) {
    if (!holds(bytes, offset, content(key, version))) continue;
    if (stirred(belief, since)) return;
    return came_back(key, "version " + std::to_string(version) + " is back, which was deleted");
  }
  ++wrong_bytes;
  uint64_t right = 0;
  for (uint32_t version = 1; version <= belief.last_version; ++version) {
    const int64_t at = offset == 0 ? check_pattern(bytes, content(key, version)) : 0;
    right = std::max(right, static_cast<uint64_t>(std::max<int64_t>(at, 0)));
  }
  violate(key, "wrong bytes from byte " + std::to_string(right) + " on");
}

void SimOracle::told_exists(const SimKey& key, bool exists, uint64_t now_unix_ms, uint64_t since) {
  Belief& belief = beliefs_[key];
  tell(key, exists ? "it exists" : "it does not exist");
  if (!exists) return missing(key, belief, now_unix_ms, since);
  if (belief.versions.empty() && !stirred(belief, since)) came_back(key, "it exists, and was deleted");
}

bool SimOracle::covers(const Wide& wide, const SimKey& key) {
  return key.tenant == wide.tenant && (wide.scope == 0 || scope_of(key) == wide.scope);
}

uint64_t SimOracle::wide_delete_begins(uint32_t tenant, Scope scope) {
  Wide wide{tenant, scope, ++step_, {}};
  for (auto& [key, belief] : beliefs_) {
    if (key.tenant != tenant || (scope != 0 && scope_of(key) != scope)) continue;
    if (belief.open || belief.put_at_large) wide.open.insert(key);
    belief.may_be_absent = true;
    belief.safe = false;
    belief.leased_until_ns = 0;  // a lease goes with its block; one that is put anew is not leased
  }
  wides_[wide.began] = std::move(wide);
  return step_;
}

void SimOracle::wide_delete_ends(uint64_t ticket, Status status) {
  const auto node = wides_.extract(ticket);
  const Wide& wide = node.mapped();
  for (auto& [key, belief] : beliefs_) {
    if (!covers(wide, key)) continue;
    // Nobody knows which of the two came first.
    belief.may_be_absent = belief.went = true;
    belief.safe = false;
    belief.leased_until_ns = 0;
    if (wide.open.contains(key) || belief.opened > wide.began) continue;
    if (status == Status::ok) belief.versions.clear();
    tell(key, "wide delete ended: " + std::string(status_row(status).name));
    belief.changed = ++step_;
  }
}

void SimOracle::leased(const SimKey& key, uint64_t until_ns) {
  Belief& belief = beliefs_[key];
  belief.leased_until_ns = std::max(belief.leased_until_ns, until_ns);
  tell(key, "leased until " + std::to_string(until_ns));
}

// --- the world -------------------------------------------------------------------------------------------

void SimOracle::event(const StoreEvent& event, uint64_t now_ns) {
  using Kind = StoreEvent::Kind;
  if (event.kind == Kind::drive_lost) impair(true);
  if (event.kind != Kind::evicted && event.kind != Kind::expired && event.kind != Kind::dropped) return;
  const SimKey key = sim_key(event.id);
  Belief& belief = beliefs_[key];
  tell(key, "event " + std::to_string(static_cast<int>(event.kind)) + " of sequence " + std::to_string(event.sequence));
  if (event.kind == Kind::evicted && belief.leased_until_ns > now_ns && !drives_lie && !drives_fail && !impaired_)
    violate(key, "it was evicted under a lease");
  if (event.kind == Kind::dropped && !drives_lie && !drives_fail)
    violate(key, "it was dropped, and the drives are well");
  belief.may_be_absent = true;
  belief.went = true;
  belief.leased_until_ns = 0;
}

void SimOracle::process_ended(uint64_t now_unix_ms) {
  if (traced_) tell(*traced_, "the process ended");
  for (auto& [key, belief] : beliefs_) {
    if (belief.open) {
      ++doubts;
      if (const uint64_t ttl = ttl_ms_of(key); ttl != 0) belief.expires_by_unix_ms = now_unix_ms + ttl;
    }
    if (belief.open || !belief.safe) belief.may_be_absent = true;
    belief.open = belief.delete_at_large = belief.put_at_large = false;
    belief.leased_until_ns = 0;
  }
  wides_.clear();
}

void SimOracle::lost_for_good() {
  if (traced_) tell(*traced_, "anything may be lost");
  for (auto& [key, belief] : beliefs_) {
    belief.may_be_absent = true;
    belief.safe = false;
  }
}

}  // namespace cairn
