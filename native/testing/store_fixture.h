// A little language for store tests: put("a", 4_MiB), expect_get, crash(seed), reopen.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/pattern.h"
#include "store/format.h"
#include "store/store.h"
#include "testing/memory_drive.h"
#include "testing/virtual_clock.h"
#include "wire/limits.h"

namespace cairn {

constexpr uint64_t operator""_KiB(unsigned long long count) {
  return count * kKiB;
}
constexpr uint64_t operator""_MiB(unsigned long long count) {
  return count * kMiB;
}

// The key of a name, and the seed of the bytes under it.
Key key_of(const std::string& name);
uint64_t seed_of(const std::string& name);

// Changes a structure on the drive, under a good seal: a mistaken writer's, or an older one's.
template <class T>
void edit_page(Platter& platter, uint64_t offset, const std::function<void(T&)>& change) {
  format::Page<T> page;
  platter.read(offset, reinterpret_cast<std::byte*>(&page), sizeof(page));
  change(page.body);
  page.seal();
  platter.write(offset, reinterpret_cast<const std::byte*>(&page), sizeof(page));
}

class PutCall final : public PutOp {
 public:
  explicit PutCall(const std::string& name, uint64_t bytes);
  void ready() override;
  void done(Status status) override { ended.push_back(status); }
  Store* store = nullptr;
  std::string content;  // whose pattern is put: the name, unless told otherwise
  bool fill_at_once = true;
  bool granted = false;
  std::vector<Status> ended;
  void fill_and_commit();
};

class GetCall final : public GetOp {
 public:
  explicit GetCall(const std::string& name) { id.key = key_of(name); }
  void done(Status status) override { ended.push_back(status); }
  std::vector<std::byte> bytes() const;
  std::vector<Status> ended;
};

class DeleteCall final : public DeleteOp {
 public:
  void done() override { ended = true; }
  bool ended = false;
};

// One store over one or more fake drives; a crash ends it, open() begins its next life.
class StoreWorld {
 public:
  explicit StoreWorld(uint64_t drive_bytes = 64_MiB, size_t drives = 1, uint64_t slab_bytes = 96_MiB,
                      uint64_t segment_bytes = 0);
  ~StoreWorld();

  Result<std::unique_ptr<Store>> try_open(const StoreOptions& options = {});
  void open(const StoreOptions& options = {});
  void close();
  void crash(uint64_t seed);
  void kill(uint64_t seed);  // the process ends, the power stays
  void run(int turns = 50);

  // The status of a put of the name's pattern; of the bytes a get gives, checked against it.
  Status put(const std::string& name, uint64_t bytes, Durability durability = Durability::durable);
  Status get(const std::string& name);
  Status get_range(const std::string& name, uint64_t offset, uint64_t length);
  Status remove(const std::string& name);
  // … of everything of a name. What the call says besides its kind is set by `shape`.
  Status remove_all(DeleteKind kind, const std::function<void(DeleteCall&)>& shape = {});
  // A put that `shape` says more of.
  Status put(const std::string& name, uint64_t bytes, const std::function<void(PutCall&)>& shape);
  Status get_as(uint32_t tenant, const std::string& name);
  // A new drive, formatted; where it is plugged in is its number in `platters`.
  size_t add_platter(uint64_t bytes);
  // The drive of a platter, as a running store is given it.
  Result<Unit> attach(size_t platter);
  std::string uuid(size_t platter) const;
  // The drive of a platter is pulled out: every request to it ends as ENODEV from now on.
  void vanish(size_t platter);
  // Turns, a millisecond of the clock each, until it holds; false if it never does.
  bool run_until(const std::function<bool()>& holds, int turns = 20'000);
  bool exists(const std::string& name) { return store->exists({key_of(name), 0, 0}); }
  // Of a platter, while the store has it.
  MemoryDrive& drive(size_t index = 0) const;

  VirtualClock clock;
  std::unique_ptr<Slab> slab;
  std::vector<std::shared_ptr<Platter>> platters;
  std::unique_ptr<Store> store;
  uint64_t wrong_bytes = 0;
  uint64_t open_faults_seed = 0;  // given to the drives of the next open
  std::vector<uint64_t> open_unreadable;
  uint64_t formatted_segment_bytes = 0;  // as formatted; 0: the default

 private:
  std::vector<std::weak_ptr<MemoryDrive>> drives_;  // the store owns them
};

}  // namespace cairn
