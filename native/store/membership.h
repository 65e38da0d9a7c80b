// Which drives are one store, and which of them may be believed: the record that each carries, and what a start makes
// of those that it finds. Rules only, no I/O but the reading of a record;
// docs/decisions/0010-drives-that-come-and-go.md says why they are these.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "drive/drive.h"
#include "store/format.h"

namespace cairn {

// The youngest intact copy; nothing if there is none. An Error: a copy cannot be read, and the other is none.
Result<std::optional<format::Membership>> read_membership(Drive& drive, const format::Uuid& identity);

// What a start knows of a drive before it reads its segments.
struct DriveFacts {
  format::Uuid drive{};
  std::optional<format::Membership> record;
};

// What becomes of a drive at a start.
enum class Role : uint8_t {
  member,    // missed nothing: what it holds is believed
  outsider,  // was a member: believed if no word that it missed can be lost
  voided,    // what it holds is given up; then it joins
  blank,     // has no record: joins if it holds nothing
  refused,   // is left alone
};

struct StartPlan {
  // fresh: no drive was of a store. warm: go on. cold: go on, and everything is given up. closed: wait for more drives.
  enum class State : uint8_t { fresh, warm, cold, closed };
  State state = State::fresh;
  std::vector<Role> roles;           // of the drives, in their order
  std::vector<std::string> reasons;  // why one is refused
  format::Uuid origin{}, store{};    // zero: to be made up
  uint64_t epoch = 0;                // the largest that is known
  uint64_t lost_sequence = 0;
  uint64_t next_sequence = 0;         // what the store had counted to, at the least
  std::vector<format::Uuid> members;  // of that epoch
  std::vector<format::Uuid> base;
  std::vector<format::Departed> departed;
  std::vector<format::Uuid> missing;  // members that are not there
  bool complete = false;              // every member has this epoch's record
  bool for_now = false;               // closed: half of the drives are there, and begin empty if no other one comes
  std::string why;                    // cold, closed: a sentence that says what to do
};

struct StartOptions {
  bool read_only = false;
  bool without_missing = false;  // the operator's word: those that are missing are gone for good
  bool half_waits = false;       // half of the drives wait for one more, still
};

StartPlan plan_start(const std::vector<DriveFacts>& drives, const StartOptions& options);

std::vector<format::Uuid> members_of(const format::Membership& record);
std::vector<format::Uuid> base_of(const format::Membership& record);
// "3f…, 7a…"
std::string list_of(const std::vector<format::Uuid>& drives);
inline bool contains(const std::vector<format::Uuid>& drives, const format::Uuid& drive) {
  for (const format::Uuid& one : drives) {
    if (one == drive) return true;
  }
  return false;
}

}  // namespace cairn
