// The one list of outcomes. What a client or a drive can cause is one of these, per item. Python's
// exceptions, the admin plane's problem types and the numbers on the wire are all derived from it
// (a test holds them together), so a code is never re-used and never renumbered.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace cairn {

// CAIRN_STATUS(name, code on the wire, HTTP status, sentence for a person)
#define CAIRN_STATUS_LIST(X)                                                                               \
  X(ok, 0, 200, "Done.")                                                                                   \
  X(exists, 1, 200, "The key already holds a block; the first writer's bytes are kept.")                   \
  X(not_found, 2, 404, "No block is stored under this key, tenant and layout.")                            \
  X(timeout, 3, 504, "The deadline passed before the item was done.")                                      \
  X(cancelled, 4, 499, "The caller cancelled the item.")                                                   \
  X(busy, 5, 503, "The service is at its limit of work in flight; try again later.")                       \
  X(no_space, 6, 507, "No drive has room, and nothing may be evicted to make it.")                         \
  X(too_large, 7, 413, "The block, batch or frame is larger than the limit.")                              \
  X(invalid, 8, 400, "The request is malformed; its reason says which field.")                             \
  X(bad_region, 9, 400, "An extent lies outside the memory this session registered.")                      \
  X(short_buffer, 10, 400, "The destination is smaller than the bytes asked for.")                         \
  X(bad_range, 11, 416, "The range begins or ends beyond the block.")                                      \
  X(corrupt, 12, 404, "The drive returned bytes that fail their checksum; the block is dropped: a miss.")  \
  X(io_error, 13, 503, "The drive reported an error; for a get this is a miss.")                           \
  X(read_only, 14, 503, "No drive accepts writes.")                                                        \
  X(bad_checksum, 15, 422, "The bytes that arrived do not match the checksum the client sent.")            \
  X(denied, 16, 403, "The session's credentials do not allow this.")                                       \
  X(bad_version, 17, 426, "The two sides share no version of the protocol.")                               \
  X(unsupported, 18, 501, "This service does not offer the operation.")                                    \
  X(draining, 19, 503, "The service is shutting down and takes no new work.")                              \
  X(disconnected, 20, 503, "The connection was lost before the answer came.")                              \
  X(unreachable, 21, 503, "The service cannot be reached; the circuit breaker will try again later.")      \
  X(quota_exceeded, 22, 507, "The tenant's quota is used up, and nothing of its own may be evicted.")      \
  X(leased, 23, 409, "The block is leased; release it, or wait until the lease ends.")                     \
  X(lease_too_long, 24, 400, "The lease is longer than the service grants.")                               \
  X(group_too_large, 25, 413, "The group has more members than a group may have.")                         \
  X(not_admitted, 26, 429, "The admission policy keeps the block out: seen once only, or too many bytes.") \
  X(expired, 27, 410, "The time to live was over before the block was stored.")                            \
  X(drive_unknown, 28, 404, "No drive of this store has that identity.")                                   \
  X(drive_in_use, 29, 409, "A drive with that identity is part of the store already.")                     \
  X(drive_foreign, 30, 409, "The drive holds no Cairn store, or that of another fleet.")                   \
  X(drive_newer, 31, 409, "The drive was written by a newer Cairn; upgrade this one.")                     \
  X(drive_damaged, 32, 422, "The drive's superblock is damaged in both copies.")                           \
  X(drive_smaller, 33, 409, "The drive is smaller than when it was formatted.")                            \
  X(drive_draining, 34, 409, "The drive is being drained; wait, or remove it and lose what is left.")

enum class Status : uint16_t {
#define CAIRN_STATUS(name, code, http, sentence) name = (code),
  CAIRN_STATUS_LIST(CAIRN_STATUS)
#undef CAIRN_STATUS
};

struct StatusRow {
  Status status;
  std::string_view name;
  int http;
  std::string_view sentence;
};

inline constexpr std::array kStatusTable = {
#define CAIRN_STATUS(name, code, http, sentence) StatusRow{Status::name, #name, http, sentence},
    CAIRN_STATUS_LIST(CAIRN_STATUS)
#undef CAIRN_STATUS
};

// The row of a status; of a number that no row has (a newer peer's), the row of `invalid`.
constexpr const StatusRow& status_row(Status status) {
  for (const StatusRow& row : kStatusTable) {
    if (row.status == status) return row;
  }
  return kStatusTable[static_cast<size_t>(Status::invalid)];
}

constexpr bool table_is_dense() {
  for (size_t i = 0; i < kStatusTable.size(); ++i) {
    if (static_cast<size_t>(kStatusTable[i].status) != i) return false;
  }
  return true;
}
static_assert(table_is_dense(), "status_row's fallback indexes the table by code");

// Both sides and the admin plane show these to people and programs.
constexpr bool table_is_presentable() {
  for (const StatusRow& row : kStatusTable) {
    if (row.name.empty() || row.sentence.empty() || row.sentence.back() != '.') return false;
  }
  return true;
}
constexpr bool http_codes_are_answers() {
  for (const StatusRow& row : kStatusTable) {
    if (row.http < 200 || row.http > 599) return false;
  }
  return true;
}
static_assert(table_is_presentable(), "a status without a name, or whose meaning is no sentence");
static_assert(http_codes_are_answers(), "a status whose HTTP code is no answer");
static_assert(kStatusTable.size() <= UINT16_MAX, "a status has 16 bits on the link");
static_assert(static_cast<uint16_t>(Status::ok) == 0, "bytes that are all zero say that all is well");
static_assert(status_row(static_cast<Status>(UINT16_MAX)).status == Status::invalid,
              "a newer peer's status has no row");

}  // namespace cairn
