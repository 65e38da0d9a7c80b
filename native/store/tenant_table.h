// Which number on the drives stands for which tenant: a table that every drive carries, so that no name ever owns what
// another stored. Bytes: docs/on-disk-format.md. One reactor thread; reading a drive's copies: any.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/result.h"
#include "drive/drive.h"
#include "store/format.h"
#include "store/segment.h"

namespace cairn {

inline constexpr uint32_t kTenantNumberMost = UINT32_MAX - 1;
static_assert(kTenantNumberMost < format::kSharedOwner, "a tenant has the number that stands for several");

// BLAKE2b-128 of a tenant's name.
using TenantIdentity = std::array<uint8_t, 16>;
TenantIdentity tenant_identity(std::string_view name);

namespace format {

inline constexpr uint64_t kTenantTableOffsets[] = {384 * kKiB, 704 * kKiB};
inline constexpr uint64_t kTenantTablePages = 80;
inline constexpr uint64_t kTenantTableMagic = 0x314E455452494143;  // "CAIRTEN1"
inline constexpr size_t kTenantsAPage = 202;
inline constexpr size_t kTenantsMost = kTenantTablePages * kTenantsAPage;
static_assert(kTenantsMost >= 16'000);
static_assert(kStateOffsets[1] + kPageBytes <= kTenantTableOffsets[0], "the table lies over a state page");
static_assert(kTenantTableOffsets[0] + kTenantTablePages * kPageBytes <= kTenantTableOffsets[1], "the copies overlap");
static_assert(kTenantTableOffsets[1] + kTenantTablePages * kPageBytes <= kFirstSegmentOffset,
              "the first segment lies over the tenant table");

struct TenantRow {
  uint32_t number = 0;
  TenantIdentity identity{};
};
static_assert(sizeof(TenantRow) == 20);

// One page of a copy; a copy is good when all of its pages are, with one counter.
struct TenantPage {
  uint64_t magic = kTenantTableMagic;
  uint64_t counter = 0;  // the copy with the larger one counts
  Uuid drive{};
  uint16_t pages = 0;  // of the copy
  uint16_t index = 0;  // of this page, from 0
  uint16_t rows = 0;   // in this page
  uint16_t reserved = 0;
  uint32_t crc = 0;
  std::array<TenantRow, kTenantsAPage> all{};
  uint32_t reserved2 = 0;
};
static_assert(sizeof(TenantPage) == 4088 && offsetof(TenantPage, crc) == 40 && offsetof(TenantPage, all) == 44);
static_assert(std::has_unique_object_representations_v<TenantPage>, "a page of tenants has padding of no known value");

}  // namespace format

// What one drive's copies say.
struct FoundTenants {
  uint64_t counter = 0;  // of the copy that counts; 0: there is none
  std::map<uint32_t, TenantIdentity> rows;
};
// The Error says why the drive cannot be believed: a copy cannot be read and the other is no good, or both are damaged.
Result<FoundTenants> read_tenants(Drive& drive, const format::Superblock& superblock);
// The pages of a copy.
Pages build_tenants(const format::Superblock& superblock, uint64_t counter,
                    const std::map<uint32_t, TenantIdentity>& rows);

class TenantTable {
 public:
  struct Row {
    TenantIdentity identity{};
    uint64_t since = 0;  // the version of the table in which it goes to the drives; 0: in none, it never put
  };

  std::optional<uint32_t> number_of(const TenantIdentity& identity) const;
  const Row* row(uint32_t number) const;
  bool full() const { return rows_.size() >= format::kTenantsMost; }
  // Binds a free number; only in memory, until want().
  void reserve(uint32_t number, const TenantIdentity& identity);
  // Takes back what was reserved and never wanted.
  void release(uint32_t number);
  // From now on it belongs on the drives.
  void want(uint32_t number);

  // What a drive says that contradicts what is known, as the end of a sentence that begins with its path; empty if
  // nothing.
  std::string contradiction(const FoundTenants& found) const;
  // Takes in what a drive says and does not contradict. True: the drive knows all that belongs on it.
  bool unite(const FoundTenants& found);

  // Those that are only reserved.
  std::vector<uint32_t> reserved() const;
  uint64_t version() const { return version_; }
  std::map<uint32_t, TenantIdentity> wanted() const;

 private:
  std::map<uint32_t, Row> rows_;
  std::map<TenantIdentity, uint32_t> numbers_;
  uint64_t version_ = 0;
};

}  // namespace cairn
