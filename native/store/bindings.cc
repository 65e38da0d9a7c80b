// Which number stands for which tenant, and that the drives know before anything is stored under it.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "store/jobs.h"

namespace cairn {

namespace {

constexpr uint64_t kRetryMs = 100;
constexpr uint32_t kTriesMost = 50;  // of one drive's table, in a row: five seconds

}  // namespace

// --- whose number is whose -------------------------------------------------------------------------------

// The CRC32C of the name, or the first free one of the four words of its identity and of what follows the last of them.
// Those but the CRC32C may hold no blocks: a drive of an older service may have some whose name was not met yet.
uint32_t LogStore::free_number(const TenantIdentity& identity, std::string_view name) {
  const uint32_t crc = std::clamp<uint32_t>(crc32c(std::as_bytes(std::span(name))), 1, kTenantNumberMost);
  if (tenant_table_.row(crc) == nullptr) return crc;
  const auto free = [this](uint32_t number) {
    return number > 0 && number <= kTenantNumberMost && tenant_table_.row(number) == nullptr &&
           tenants_.at(number).blocks == 0;
  };
  uint32_t word = 0;
  for (size_t i = 0; i < identity.size(); i += sizeof(word)) {
    word = cairn::load<uint32_t>(reinterpret_cast<const std::byte*>(identity.data()) + i);
    if (free(word)) return word;
  }
  while (!free(word)) ++word;
  return word;
}

Result<uint32_t> LogStore::number_of(std::string_view tenant) {
  CAIRN_CHECK(!tenant.empty(), "the number of a tenant without a name is asked for");
  const TenantIdentity identity = tenant_identity(tenant);
  const auto known = tenant_table_.number_of(identity);
  if (!known && tenant_table_.full()) {
    return Error{0, "the drives know as many tenants as they can tell apart: " + std::to_string(format::kTenantsMost),
                 static_cast<uint16_t>(Status::busy)};
  }
  const uint32_t number = known ? *known : free_number(identity, tenant);
  if (!known) tenant_table_.reserve(number, identity);
  // A drive of an older service holds blocks under it and does not say whose they are: this name's, from now on.
  if (tenants_.at(number).blocks > 0) tenant_table_.want(number);
  return number;
}

Result<Unit> LogStore::set_tenants(const std::vector<TenantOptions>& tenants) {
  std::vector<std::pair<uint32_t, TenantIdentity>> fresh;
  for (const TenantOptions& one : tenants) {
    if (one.name.empty() || one.number == 0) continue;
    const TenantIdentity identity = tenant_identity(one.name);
    const TenantTable::Row* row = tenant_table_.row(one.number);
    const auto number = tenant_table_.number_of(identity);
    const std::string what = "the tenant '" + one.name + "' cannot have the id " + std::to_string(one.number);
    if (row != nullptr && row->identity != identity) {
      return Error{0, what + ": on the drives it stands for another tenant; choose another id",
                   static_cast<uint16_t>(Status::invalid)};
    }
    if (number && *number != one.number) {
      if (tenant_table_.row(*number)->since != 0) {
        return Error{
            0, what + ": its blocks lie on the drives under the id " + std::to_string(*number) + "; configure that id",
            static_cast<uint16_t>(Status::invalid)};
      }
      tenant_table_.release(*number);
    }
    if (row == nullptr) fresh.emplace_back(one.number, identity);
  }
  for (const auto& [number, identity] : fresh) {
    if (tenant_table_.row(number) != nullptr) continue;
    if (tenant_table_.full())
      return Error{0,
                   "the drives know " + std::to_string(format::kTenantsMost) +
                       " tenants, as many as they can tell apart, and there is no room for those that are configured; "
                       "move what is to be kept to a drive that is formatted anew",
                   static_cast<uint16_t>(Status::busy)};
    tenant_table_.reserve(number, identity);
  }
  tenants_.configure(tenants);
  cache_.weights_changed();
  return Unit{};
}

// --- on the drives ---------------------------------------------------------------------------------------

// One copy of the table, and a flush behind it.
class LogStore::TableWrite final : public IoRequest {
 public:
  TableWrite(LogStore& store, DriveLog& log, uint64_t counter, uint64_t version)
      : store_(store),
        log_(log),
        version_(version),
        pages_(build_tenants(log.superblock(), counter, store.tenant_table_.wanted())) {
    kind = IoKind::write;
    // In turn, so that what is cut short leaves the other.
    offset = format::kTenantTableOffsets[counter % std::size(format::kTenantTableOffsets)];
    bytes = pages_.bytes();
    vector_ = {pages_.data(), bytes};
    vectors = &vector_;
    vector_count = 1;
  }
  void completed(int error) override {
    if (error == 0 && kind == IoKind::write && log_.drive().info().volatile_write_cache) {
      kind = IoKind::flush;
      vector_count = 0;
      bytes = 0;
      return log_.drive().submit(*this);
    }
    store_.table_written(log_, version_, error);
    delete this;
  }

 private:
  LogStore& store_;
  DriveLog& log_;
  uint64_t version_;
  Pages pages_;
  iovec vector_{};
};

void LogStore::table_written(DriveLog& log, uint64_t version, int error) {
  log.note_write(error);
  Slot& slot = slots_[log.number()];
  CAIRN_CHECK(slot.log.get() == &log, "a drive went while its tenant table was written");
  CAIRN_CHECK(slot.table_writing, "a tenant table was written that nobody wrote");
  slot.table_writing = false;
  if (error != 0) {
    slot.table_retry_ms = clock_.now_ms() + kRetryMs;
    // A drive that takes no writes at all rests, and what it holds is served. Of one that takes others whoever puts for
    // the first time would wait for ever.
    slot.table_failures = log.writable() ? slot.table_failures + 1 : 0;
    if (slot.table_failures >= kTriesMost)
      log.fail("its table of tenants cannot be written: " + cause_and_advice(error));
    return;
  }
  slot.table_failures = 0;
  ++slot.table_counter;
  slot.table_version_before = std::exchange(slot.table_version, version);
}

bool LogStore::bound(uint32_t tenant) {
  const TenantTable::Row* row = tenant_table_.row(tenant);
  if (row == nullptr) return true;  // it has no name
  tenant_table_.want(tenant);
  return std::all_of(slots_.begin(), slots_.end(), [&](const Slot& slot) {
    return slot.log == nullptr || slot.standing != Standing::member || !slot.log->writable() ||
           slot.table_version >= row->since;
  });
}

// A drive holds the table twice, so one page that goes bad loses no tenant.
void LogStore::turn_bindings() {
  const uint64_t version = tenant_table_.version();
  for (Slot& slot : slots_) {
    if (slot.log == nullptr || slot.standing != Standing::member || slot.loader != nullptr || !slot.log->writable() ||
        slot.table_writing || closing_)
      continue;
    const bool behind = slot.table_version < version || (slot.table_version_before < version && slot.table_counter > 0);
    if (!behind || !loaded_once_ || clock_.now_ms() < slot.table_retry_ms) continue;
    slot.table_writing = true;
    slot.log->drive().submit(*new TableWrite(*this, *slot.log, slot.table_counter + 1, version));
  }
  if (bind_waiting_.empty()) return;
  for (auto at = bind_waiting_.begin(); at != bind_waiting_.end();) {
    if (!bound((*at)->id.tenant)) {
      ++at;
      continue;
    }
    restart_.push_back(*at);
    at = bind_waiting_.erase(at);
  }
  restart_waiters();
}

}  // namespace cairn
