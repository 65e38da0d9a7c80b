#include "store/membership.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "store/log.h"
#include "store/recovery.h"

namespace cairn {

using format::Membership;
using format::Uuid;

namespace {

// What no store has written is not believed, whatever its seal: it would be counted on from there.
bool sound(const Membership& record) {
  const auto counted = [](uint64_t number) { return number <= format::kNumberMost - format::kNumbersKept; };
  if (record.version > format::kVersion || record.member_count > format::kMembersMost ||
      record.base_count > format::kMembersMost || record.departed_count > format::kMembersMost)
    return false;
  for (size_t i = 0; i < record.departed_count; ++i) {
    if (record.departed[i].sequence == 0 || record.departed[i].sequence > format::kNumberMost) return false;
  }
  return counted(record.counter) && counted(record.epoch) && record.lost_sequence <= format::kNumberMost &&
         record.next_sequence <= format::kNumberMost && record.void_generation <= format::kNumberMost;
}

// What one line of a store comes to, among the drives that are there.
struct Line {
  Membership record;          // the current one
  std::vector<Uuid> members;  // by it
  std::vector<Uuid> base;
  std::vector<size_t> present, others;  // drives: members, and not
  bool complete_record = false;
  enum class Standing : uint8_t { closed, half, whole } standing = Standing::closed;
};

bool same_epoch(const Membership& a, const Membership& b) {
  return a.store == b.store && a.epoch == b.epoch && members_of(a) == members_of(b);
}

// A member that is listed, and whose own record is older, missed nothing that was acknowledged. One that went on to
// another record shows that this one was never complete.
bool heard_of(const DriveFacts& drive, const Membership& record) {
  if (!drive.record) return true;
  return drive.record->store == record.store &&
         (drive.record->epoch < record.epoch || same_epoch(*drive.record, record));
}

bool contradicted(const std::vector<DriveFacts>& drives, const Membership& record) {
  const std::vector<Uuid> members = members_of(record);
  return std::any_of(drives.begin(), drives.end(), [&](const DriveFacts& one) {
    return one.record && one.record->store == record.store && one.record->epoch >= record.epoch &&
           !same_epoch(*one.record, record) && contains(members, one.drive);
  });
}

Line look_at(const std::vector<DriveFacts>& drives, const Membership& record) {
  CAIRN_CHECK(record.member_count <= format::kMembersMost, "a record is believed that names too many members");
  Line line;
  line.record = record;
  line.members = members_of(record);
  line.base = base_of(record);
  size_t holding = 0;
  bool settled = line.base == line.members, everybody_says_so = true;
  for (size_t i = 0; i < drives.size(); ++i) {
    const DriveFacts& one = drives[i];
    const bool of_it = one.record && one.record->store == record.store;
    if (contains(line.members, one.drive) && heard_of(one, record)) {
      line.present.push_back(i);
      if (of_it && same_epoch(*one.record, record)) {
        ++holding;
        settled |= base_of(*one.record) == line.members;
        everybody_says_so &= base_of(*one.record) == line.members;
        line.record.lost_sequence = std::max(line.record.lost_sequence, one.record->lost_sequence);
        line.record.next_sequence = std::max(line.record.next_sequence, one.record->next_sequence);
      }
    } else if (of_it) {
      line.others.push_back(i);
    }
  }
  line.complete_record = holding == line.members.size();
  CAIRN_CHECK(holding <= line.present.size(), "more members know an epoch than are there");
  if (settled || line.complete_record) line.base = line.members;
  size_t of_base = 0, let_go = 0, let_go_of_base = 0;
  for (const size_t i : line.present) {
    const bool left = drives[i].record && drives[i].record->left != 0;
    let_go += left ? 1 : 0;
    (left ? let_go_of_base : of_base) += contains(line.base, drives[i].drive) ? 1 : 0;
  }
  // Else it is written anew: a start without some of them may find only those that do not know.
  if (let_go > 0 || !everybody_says_so) line.complete_record = false;
  // The others went on as if those that were let go were none; unless there were no others.
  const bool last = let_go == line.members.size();
  const size_t all = line.members.size() - (last ? 0 : let_go), here = line.present.size() - (last ? 0 : let_go);
  // Half of the base is not enough: a store that ran may have gone on with the other half.
  const bool may = last || (2 * of_base > line.base.size() - let_go_of_base && all > 0);
  if (2 * here > all && may) line.standing = Line::Standing::whole;
  if (2 * here == all && all > 0) line.standing = Line::Standing::half;
  return line;
}

// Of one line's records the youngest counts that was not overtaken.
Line line_of(const std::vector<DriveFacts>& drives, const Uuid& store) {
  Line best;
  bool any = false;
  for (const DriveFacts& one : drives) {
    if (!one.record || one.record->store != store || contradicted(drives, *one.record)) continue;
    // One that was let go in good order says nothing of what it left behind.
    if (one.record->left != 0 && !contains(members_of(*one.record), one.drive)) continue;
    if (any && one.record->epoch < best.record.epoch) continue;
    Line line = look_at(drives, *one.record);
    const bool better = !any || line.record.epoch > best.record.epoch || line.standing > best.standing ||
                        (line.standing == best.standing && line.present.size() > best.present.size());
    if (better) best = std::move(line);
    any = true;
  }
  if (any) return best;
  // Each was overtaken by another: nothing is known.
  for (size_t i = 0; i < drives.size(); ++i) {
    if (!drives[i].record || drives[i].record->store != store) continue;
    best.record = *drives[i].record;
    best.members = members_of(best.record);
    best.base = base_of(best.record);
    best.others.push_back(i);
  }
  return best;
}

std::string count_of(size_t part, size_t all) {
  return std::to_string(part) + " of the " + std::to_string(all) + " drives of this store ";
}

std::string be_missing(size_t count) {
  return count == 1 ? "is missing" : "are missing";
}

void take(StartPlan& plan, const Line& line, const std::vector<DriveFacts>& drives) {
  plan.origin = line.record.origin;
  plan.store = line.record.store;
  plan.epoch = line.record.epoch;
  plan.lost_sequence = line.record.lost_sequence;
  plan.next_sequence = line.record.next_sequence;
  plan.members = line.members;
  plan.base = line.base;
  plan.complete = line.complete_record;
  plan.departed.assign(line.record.departed.begin(), line.record.departed.begin() + line.record.departed_count);
  plan.missing.clear();
  for (const Uuid& one : line.members) {
    const bool here =
        std::any_of(line.present.begin(), line.present.end(), [&](const size_t i) { return drives[i].drive == one; });
    if (!here) plan.missing.push_back(one);
  }
}

// A new line, of which nothing is older than this start.
void begin_cold(StartPlan& plan, const std::vector<DriveFacts>& drives) {
  CAIRN_CHECK(plan.roles.size() == drives.size(), "a drive has no part in the plan of a start, or two");
  plan.state = StartPlan::State::cold;
  plan.store = Uuid{};
  plan.epoch = plan.lost_sequence = 0;
  plan.members.clear();
  plan.base.clear();
  plan.departed.clear();
  plan.complete = false;
  for (size_t i = 0; i < drives.size(); ++i) {
    const bool ours = drives[i].record && drives[i].record->origin == plan.origin;
    if (ours || plan.roles[i] == Role::member) plan.roles[i] = Role::voided;
  }
}

}  // namespace

std::vector<Uuid> members_of(const Membership& record) {
  return {record.members.begin(), record.members.begin() + record.member_count};
}

std::vector<Uuid> base_of(const Membership& record) {
  return {record.base.begin(), record.base.begin() + record.base_count};
}

std::string list_of(const std::vector<Uuid>& drives) {
  std::string text;
  for (const Uuid& one : drives) text += (text.empty() ? "" : ", ") + uuid_text(one);
  return text;
}

Result<std::optional<Membership>> read_membership(Drive& drive, const Uuid& identity) {
  Pages memory(1);
  std::optional<Membership> found;
  int error = 0;
  for (const uint64_t offset : format::kMembershipOffsets) {
    int code = transfer_now(drive, IoKind::read, offset, memory.data(), format::kPageBytes);
    for (int tries = 1; code != 0 && worth_another_try(code) && tries < kReadTries; ++tries)
      code = transfer_now(drive, IoKind::read, offset, memory.data(), format::kPageBytes);
    if (code != 0) {
      error = code;
      continue;
    }
    const auto& page = *reinterpret_cast<const format::Page<Membership>*>(memory.data());
    if (!page.intact(format::kMembershipMagic) || page.body.drive != identity || !sound(page.body)) continue;
    if (!found || page.body.counter > found->counter) found = page.body;
  }
  if (!found && error != 0)
    return Error::from_errno(error, "cannot read which store " + drive.info().path + " belongs to");
  return found;
}

StartPlan plan_start(const std::vector<DriveFacts>& drives, const StartOptions& options) {
  StartPlan plan;
  plan.roles.assign(drives.size(), Role::blank);
  plan.reasons.resize(drives.size());
  // Lines in the order of their drives; a drive that was let go belongs to none.
  std::vector<Uuid> stores;
  for (const DriveFacts& one : drives) {
    if (one.record && one.record->left == 0 && !contains(stores, one.record->store))
      stores.push_back(one.record->store);
  }
  for (size_t i = 0; i < drives.size(); ++i) {
    if (drives[i].record && drives[i].record->left != 0) plan.roles[i] = Role::voided;
  }
  if (stores.empty()) {
    // New drives, or those of a version that knew no members: they are taken together.
    for (Role& role : plan.roles) role = role == Role::blank ? Role::member : role;
    return plan;
  }
  std::vector<Line> lines;
  for (const Uuid& store : stores) lines.push_back(line_of(drives, store));
  const Line* chosen = &lines.front();
  for (const Line& line : lines) {
    if (line.standing > chosen->standing) chosen = &line;
  }
  const Uuid origin = chosen->record.origin;
  size_t whole = 0;
  for (const Line& line : lines)
    whole += line.record.origin == origin && line.standing == Line::Standing::whole ? 1 : 0;
  CAIRN_CHECK(whole <= lines.size(), "more lines of a store are whole than there are");
  take(plan, *chosen, drives);
  for (size_t i = 0; i < drives.size(); ++i) {
    if (!drives[i].record || drives[i].record->left != 0) continue;
    if (drives[i].record->origin != origin) {
      plan.roles[i] = Role::refused;
      plan.reasons[i] =
          "belongs to another store (" + uuid_text(drives[i].record->origin) + "); format it to use it here";
    } else {
      plan.roles[i] = Role::voided;  // of another line
    }
  }
  for (const size_t i : chosen->others) {
    if (drives[i].record->left == 0) plan.roles[i] = Role::outsider;
  }
  for (const size_t i : chosen->present) {
    plan.roles[i] = Role::member;
    if (!drives[i].record || drives[i].record->left == 0) continue;
    // It was let go when it was the last, and says what was known then.
    plan.departed.clear();
    for (size_t k = 0; k < drives[i].record->departed_count; ++k) {
      const format::Departed& one = drives[i].record->departed[k];
      if (!contains(plan.members, one.drive)) plan.departed.push_back(one);
    }
  }

  // One that was let go since has heard words that these may not know, and holds none of them any more.
  std::vector<Uuid> let_go;
  for (const Uuid& one : plan.missing) {
    if (std::any_of(drives.begin(), drives.end(), [&](const DriveFacts& drive) {
          return drive.drive == one && drive.record && drive.record->left != 0;
        }))
      let_go.push_back(one);
  }
  const bool all_here = plan.missing.empty();
  const size_t all = plan.members.size(), gone = plan.missing.size();
  CAIRN_CHECK(gone <= all, "more members are missing than there are");
  if (options.read_only && (whole != 1 || !all_here)) {
    plan.state = StartPlan::State::closed;
    plan.why = all_here ? "these drives ran apart, and what they hold cannot be told apart without writing to them; "
                          "start without read_only"
                        : count_of(gone, all) + be_missing(gone) + " (" + list_of(plan.missing) +
                              "), so what these hold may be outdated, and nothing is written to them to find out; name "
                              "them, or start without read_only";
  } else if (whole > 1) {
    begin_cold(plan, drives);
    plan.missing.clear();
    plan.why =
        "these drives are one store that was run apart, and nobody knows in which order its parts were used: what "
        "they held is given up, and the store begins empty";
  } else if (whole == 1) {
    plan.state = StartPlan::State::warm;
  } else if (options.without_missing) {
    plan.state = StartPlan::State::warm;
    plan.store = Uuid{};
    plan.epoch = 0;
    plan.base.clear();
    plan.complete = false;
    for (size_t i = 0; i < drives.size(); ++i) {
      if (plan.roles[i] == Role::outsider) plan.roles[i] = Role::voided;
    }
    plan.members.clear();
    plan.departed.clear();
  } else if (gone > 0 && let_go.size() == gone) {
    begin_cold(plan, drives);
    plan.missing.clear();
    plan.why = list_of(let_go) + (gone == 1 ? " was" : " were") +
               " let go by a store that was used without the other drives, and what was heard there is gone: what the "
               "others hold may be outdated and is given up, and the store begins empty";
  } else if (chosen->standing == Line::Standing::half && options.half_waits) {
    plan.state = StartPlan::State::closed;
    plan.for_now = true;
    plan.why = count_of(gone, all) + be_missing(gone) + " (" + list_of(plan.missing) +
               "), and may have been used without these: attach them soon, or what these hold is given up and the "
               "store begins empty. If they are gone for good, start with --without-missing-drives";
  } else if (chosen->standing == Line::Standing::half) {
    begin_cold(plan, drives);
    plan.why =
        count_of(gone, all) + be_missing(gone) + " (" + list_of(plan.missing) +
        "), and may have been used without these: what these held is given up, and the store begins empty. To keep "
        "it, start with all drives, or with --without-missing-drives if those are gone for good";
  } else {
    plan.state = StartPlan::State::closed;
    plan.why =
        count_of(gone, all) + be_missing(gone) + " (" + list_of(plan.missing) +
        "), and may know better than these what was deleted: attach them, or start with --without-missing-drives if "
        "they are gone for good and were never used without these";
  }
  return plan;
}

}  // namespace cairn
