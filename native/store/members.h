// The members of a running store: who is one, who may become one, and the record of it on every drive. While a change
// of members is on its way no put and no delete is acknowledged, so that whoever starts these drives next can tell from
// their records which of them heard every word. Never waits for a drive. Reactor thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "store/log_store.h"
#include "store/membership.h"

namespace cairn {

class LogStore::Members {
 public:
  explicit Members(LogStore& store)
      : store_(store), half_until_ms_(store.clock_.now_ms() + store.options_.half_waits_ms) {}
  ~Members();
  Members(const Members&) = delete;
  Members& operator=(const Members&) = delete;

  // Decides what becomes of the drives that are there, and begins to read those that count. Again when one more comes
  // while the store is closed.
  void plan();
  // A drive comes to a running store, or to one that still reads its first drives. An Error: it is refused.
  Result<Unit> admit(Slot& slot);
  // Whether it may come at all, by its record alone.
  Result<Unit> look_at(const std::string& path, const format::Uuid& drive,
                       const std::optional<format::Membership>& record) const;
  // A member, or one that was about to be, hears no more.
  void departs(Slot& slot);
  // It was let go in good order: its record will say so. Takes its log.
  void let_go(Slot& slot, bool emptied);

  void poll();
  // Every member heard that it is one, and nobody else is: words may be acknowledged.
  bool durable() const;
  // Nothing may be written, for as long as why() says.
  bool closed() const { return closed_; }
  // What is not durable yet does not become it.
  bool over() const { return closed_ || stopped_; }
  // A start that waits for more drives: nothing is read and nothing served.
  bool waits() const { return waits_; }
  // Drives that come, and are not members yet.
  bool joining() const;
  bool counts_on_absent() const { return !departed_.empty(); }
  bool knows(const format::Uuid& drive) const;  // … one that is being let go
  size_t leaving() const { return leaving_.size(); }
  // The drives that a start found are read. Numbers of an earlier life that no drive here may know are left out, and
  // members that are not here missed what comes from now on.
  void first_drives_read();
  bool fresh() const { return fresh_; }
  bool cold() const { return cold_; }
  // What was read of a drive after all is not to be believed: it is given up before anything is written to it.
  void give_up(Slot& slot);
  // Nothing new is begun, and nobody is told any more.
  void stop() { stopped_ = true; }
  bool idle() const { return out_ == 0; }
  // Nothing is on its way of what makes members, or of what tells who was let go.
  bool settled() const;
  void tell(StoreStats& stats) const;

 private:
  class RecordWrite;
  enum class Phase : uint8_t { give_up, old_members, new_members, settle };
  // A change on its way.
  struct Change {
    uint64_t epoch = 0, lost_sequence = 0, next_sequence = 0;
    std::vector<format::Uuid> members, base;
    std::map<format::Uuid, uint64_t> departed;
    Phase phase = Phase::give_up;
    bool failed = false;
  };
  struct Leaving {
    std::unique_ptr<DriveLog> log;
    uint64_t counter = 0;
    bool emptied = false;
    bool begun = false, done = false, stamped = false;
  };

  static const format::Uuid& identity_of(const DriveLog& log) { return log.superblock().drive; }
  static void list(const std::vector<format::Uuid>& drives, std::array<format::Uuid, format::kMembersMost>& in) {
    CAIRN_CHECK(drives.size() <= in.size(), "a record has no room for so many drives");
    for (size_t i = 0; i < drives.size(); ++i) in[i] = drives[i];
  }
  static bool eligible(const Slot& slot);
  std::vector<format::Uuid> wanted() const;
  void begin_reading(Slot& slot);
  std::string judge(Slot& slot, FoundDrive& found);
  bool believed(const Slot& slot, uint64_t last_sequence) const;
  void refuse(Slot& slot, const std::string& why);
  void read_late_ones();
  void take_learned();
  void leave_out_silent();
  bool may_go_on(const std::vector<format::Uuid>& wanted);
  bool enough(const std::vector<format::Uuid>& wanted) const;
  void begin_change(const std::vector<format::Uuid>& wanted);
  void next_phase();
  void send_phase(Phase phase);
  void end_change();
  void send(Slot& slot, const format::Membership& record);
  void abandon(Slot& slot);
  void write(DriveLog& log, format::Membership record, uint64_t counter, std::function<void(int)> done);
  format::Membership record_of(const Slot& slot, const Change& change) const;
  void serve_leaving();
  void forget(const format::Uuid& drive, bool lost);

  LogStore& store_;
  const uint64_t half_until_ms_;
  bool for_now_ = false;  // it waits until then, and not for ever
  format::Uuid origin_{}, line_{};
  uint64_t epoch_ = 0, lost_sequence_ = 0, next_sequence_ = 0;
  std::vector<format::Uuid> members_, base_;
  // Of changes that failed since one was complete: each may stand on all that it names, whatever those answered.
  std::set<std::vector<format::Uuid>> attempted_;
  std::map<format::Uuid, uint64_t> departed_;
  std::vector<format::Uuid> early_departed_;  // members that are not here, until the others are read
  bool complete_ = false;                     // every one of `members_` has the record
  bool closed_ = false, waits_ = true, leaps_ = false, cold_ = false, fresh_ = false, outnumbered_ = false,
       stopped_ = false;
  std::string state_ = "new", why_;
  std::unique_ptr<Change> change_;
  uint32_t out_ = 0;  // records on their way, without those of drives that go: nobody waits for these
  uint64_t sent_ms_ = 0;
  std::list<Leaving> leaving_;
};

}  // namespace cairn
