#include "store/tenant_table.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/blake2b.h"
#include "store/log.h"
#include "store/recovery.h"
#include "wire/status.h"

namespace cairn {

using format::kPageBytes;
using format::Page;
using format::TenantPage;

TenantIdentity tenant_identity(std::string_view name) {
  TenantIdentity identity;
  const auto digest = blake2b(name, identity.size());
  std::copy_n(digest.begin(), identity.size(), identity.begin());
  return identity;
}

// --- bytes -----------------------------------------------------------------------------------------------

namespace {

enum class Copy { good, none, damaged };

Copy parse(ConstByteSpan bytes, const format::Superblock& superblock, FoundTenants& found) {
  const auto* pages = reinterpret_cast<const Page<TenantPage>*>(bytes.data());
  // Each byte is the one before it, and the first is zero.
  if (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0) return Copy::none;
  const TenantPage& first = pages[0].body;
  if (!pages[0].intact(format::kTenantTableMagic) || first.pages == 0 || first.pages > format::kTenantTablePages ||
      first.counter == 0 || first.counter > format::kNumberMost)
    return Copy::damaged;
  std::set<TenantIdentity> identities;
  for (uint16_t i = 0; i < first.pages; ++i) {
    const TenantPage& page = pages[i].body;
    if (!pages[i].intact(format::kTenantTableMagic) || page.drive != superblock.drive || page.index != i ||
        page.pages != first.pages || page.counter != first.counter || page.rows > format::kTenantsAPage)
      return Copy::damaged;
    for (uint16_t row = 0; row < page.rows; ++row) {
      const format::TenantRow& one = page.all[row];
      // One number or one tenant twice: no store wrote that.
      if (one.number > kTenantNumberMost || !found.rows.emplace(one.number, one.identity).second ||
          !identities.insert(one.identity).second)
        return Copy::damaged;
    }
  }
  found.counter = first.counter;
  return Copy::good;
}

}  // namespace

Result<FoundTenants> read_tenants(Drive& drive, const format::Superblock& superblock) {
  FoundTenants newest;
  bool damaged = false, none = false;
  int error = 0;
  for (const uint64_t offset : format::kTenantTableOffsets) {
    Pages pages(format::kTenantTablePages);
    FoundTenants found;
    int code = transfer_now(drive, IoKind::read, offset, pages.data(), pages.bytes());
    for (int tries = 1; code != 0 && worth_another_try(code) && tries < kReadTries; ++tries)
      code = transfer_now(drive, IoKind::read, offset, pages.data(), pages.bytes());
    if (code != 0) {
      damaged = true;
      error = code;
      continue;
    }
    switch (parse({pages.data(), pages.bytes()}, superblock, found)) {
      case Copy::good:
        if (found.counter > newest.counter) newest = std::move(found);
        break;
      case Copy::none:
        none = true;
        break;
      case Copy::damaged:
        damaged = true;
        break;
    }
  }
  // Of a copy that was cut short while the other was never written nothing was promised.
  if (newest.counter == 0 && error != 0)
    return Error::from_errno(error, "cannot read whose blocks " + drive.info().path + " holds");
  if (newest.counter == 0 && damaged && !none) {
    return Error{0,
                 drive.info().path +
                     " does not tell whose blocks it holds: both copies of its tenant table are damaged; " +
                     "check the drive, then format it anew",
                 static_cast<uint16_t>(Status::drive_damaged)};
  }
  return newest;
}

Pages build_tenants(const format::Superblock& superblock, uint64_t counter,
                    const std::map<uint32_t, TenantIdentity>& rows) {
  CAIRN_CHECK(rows.size() <= format::kTenantsMost, "a drive is told of more tenants than its table holds");
  const size_t count = std::max<size_t>(1, (rows.size() + format::kTenantsAPage - 1) / format::kTenantsAPage);
  Pages memory(count);
  auto row = rows.begin();
  for (size_t i = 0; i < count; ++i) {
    auto* page = new (memory.data() + i * kPageBytes) Page<TenantPage>{};
    page->body.counter = counter;
    page->body.drive = superblock.drive;
    page->body.pages = static_cast<uint16_t>(count);
    page->body.index = static_cast<uint16_t>(i);
    for (; row != rows.end() && page->body.rows < format::kTenantsAPage; ++row)
      page->body.all[page->body.rows++] = {row->first, row->second};
    page->seal();
  }
  CAIRN_CHECK(row == rows.end(), "tenants are left over that fit no page");
  return memory;
}

// --- the table -------------------------------------------------------------------------------------------

std::optional<uint32_t> TenantTable::number_of(const TenantIdentity& identity) const {
  const auto found = numbers_.find(identity);
  if (found == numbers_.end()) return {};
  return found->second;
}

const TenantTable::Row* TenantTable::row(uint32_t number) const {
  const auto found = rows_.find(number);
  return found == rows_.end() ? nullptr : &found->second;
}

void TenantTable::reserve(uint32_t number, const TenantIdentity& identity) {
  const bool fresh = rows_.emplace(number, Row{identity, 0}).second;
  CAIRN_CHECK(fresh, "a number is given to two tenants");
  const bool alone = numbers_.emplace(identity, number).second;
  CAIRN_CHECK(alone, "a tenant is given two numbers");
}

void TenantTable::release(uint32_t number) {
  const auto found = rows_.find(number);
  if (found == rows_.end() || found->second.since != 0) return;
  numbers_.erase(found->second.identity);
  rows_.erase(found);
}

void TenantTable::want(uint32_t number) {
  Row& row = rows_.at(number);
  if (row.since == 0) row.since = ++version_;
}

std::string TenantTable::contradiction(const FoundTenants& found) const {
  size_t fresh = 0;
  for (const auto& [number, identity] : found.rows) {
    const Row* known = row(number);
    fresh += known == nullptr ? 1 : 0;
    if (known != nullptr && known->identity != identity)
      return "says that the number " + std::to_string(number) +
             " stands for another tenant than the service and its other drives say: it belongs to another store; "
             "format it to use it here";
    const auto other = number_of(identity);
    if (other && *other != number)
      return "knows a tenant under the number " + std::to_string(number) +
             " that the service and its other drives know under " + std::to_string(*other) +
             ": it belongs to another store, or the tenant was configured with another id; configure that id, or "
             "format "
             "the drive to use it here";
  }
  if (rows_.size() + fresh > format::kTenantsMost)
    return "knows more tenants than can be told apart beside those that the service and its other drives know (" +
           std::to_string(format::kTenantsMost) + " together); format it to use it here";
  return {};
}

bool TenantTable::unite(const FoundTenants& found) {
  for (const auto& [number, identity] : found.rows) {
    if (row(number) == nullptr) reserve(number, identity);
    want(number);
  }
  return found.rows.size() == wanted().size();
}

std::vector<uint32_t> TenantTable::reserved() const {
  std::vector<uint32_t> all;
  for (const auto& [number, row] : rows_) {
    if (row.since == 0) all.push_back(number);
  }
  return all;
}

std::map<uint32_t, TenantIdentity> TenantTable::wanted() const {
  std::map<uint32_t, TenantIdentity> all;
  for (const auto& [number, row] : rows_) {
    if (row.since != 0) all.emplace(number, row.identity);
  }
  return all;
}

}  // namespace cairn
