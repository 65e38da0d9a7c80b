#include "testing/store_fixture.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/crc32c.h"
#include "store/recovery.h"

namespace cairn {

Key key_of(const std::string& name) {
  Key key;
  const uint64_t seed = seed_of(name);
  fill_pattern(std::as_writable_bytes(std::span(key.bytes)), seed);
  return key;
}

uint64_t seed_of(const std::string& name) {
  return std::hash<std::string>{}(name);
}

PutCall::PutCall(const std::string& name, uint64_t bytes) : content(name) {
  id.key = key_of(name);
  length = bytes;
}

void PutCall::ready() {
  granted = true;
  if (fill_at_once) fill_and_commit();
}

void PutCall::fill_and_commit() {
  std::vector<std::byte> bytes(length);
  fill_pattern(bytes, seed_of(content));
  std::vector<iovec> parts;
  buffer.slice(0, length, parts);
  const std::byte* from = bytes.data();
  for (const iovec& part : parts) {
    std::memcpy(part.iov_base, from, part.iov_len);
    from += part.iov_len;
  }
  store->commit(*this);
}

std::vector<std::byte> GetCall::bytes() const {
  std::vector<std::byte> all;
  std::vector<iovec> parts;
  buffer.slice(buffer_offset, length, parts);
  for (const iovec& part : parts) {
    const auto* base = static_cast<const std::byte*>(part.iov_base);
    all.insert(all.end(), base, base + part.iov_len);
  }
  return all;
}

StoreWorld::StoreWorld(uint64_t drive_bytes, size_t drives, uint64_t slab_bytes, uint64_t segment_bytes)
    : slab(Slab::create(slab_bytes).take()), formatted_segment_bytes(segment_bytes) {
  for (size_t i = 0; i < drives; ++i) add_platter(drive_bytes);
  open();
}

size_t StoreWorld::add_platter(uint64_t bytes) {
  platters.push_back(std::make_shared<Platter>(bytes));
  MemoryDrive drive(platters.back());
  FormatOptions options;
  options.segment_bytes = formatted_segment_bytes;
  const auto formatted = format_drive(drive, options, clock);
  CAIRN_CHECK(formatted.ok(), "the test's drive cannot be formatted");
  return platters.size() - 1;
}

Result<Unit> StoreWorld::attach(size_t platter) {
  auto drive = std::make_unique<MemoryDrive>(platters.at(platter));
  if (drives_.size() <= platter) drives_.resize(platter + 1);
  const auto known = drive->watch();
  auto identified = Store::identify(std::move(drive));
  if (!identified) return identified.error();
  auto attached = store->attach(identified.take());
  if (attached.ok()) drives_[platter] = known;
  return attached;
}

std::string StoreWorld::uuid(size_t platter) const {
  format::Page<format::Superblock> page;
  platters.at(platter)->read(0, reinterpret_cast<std::byte*>(&page), sizeof(page));
  return uuid_text(page.body.drive);
}

void StoreWorld::vanish(size_t platter) {
  DriveFaults& faults = drive(platter).faults;
  faults.error = ENODEV;
  faults.fail_read = faults.fail_write = faults.fail_flush = faults.fail_discard = 1;
  faults.for_ever = true;
}

bool StoreWorld::run_until(const std::function<bool()>& holds, int turns) {
  for (int i = 0; i < turns; ++i) {
    if (holds()) return true;
    clock.advance_ms(1);
    store->poll();
  }
  return holds();
}

MemoryDrive& StoreWorld::drive(size_t index) const {
  const auto drive = drives_.at(index).lock();
  CAIRN_CHECK(drive != nullptr, "a test asks for a drive that the store has let go");
  return *drive;
}

StoreWorld::~StoreWorld() {
  store.reset();
}

Result<std::unique_ptr<Store>> StoreWorld::try_open(const StoreOptions& options) {
  std::vector<std::unique_ptr<Drive>> owned;
  drives_.clear();
  for (const auto& platter : platters) {
    auto drive = std::make_unique<MemoryDrive>(platter, true, options.read_only);
    drive->faults.seed = open_faults_seed;
    drive->faults.unreadable = open_unreadable;
    drives_.push_back(drive->watch());
    owned.push_back(std::move(drive));
  }
  return Store::open(std::move(owned), *slab, clock, options);
}

void StoreWorld::open(const StoreOptions& options) {
  auto opened = try_open(options);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  store = opened.take();
}

void StoreWorld::close() {
  store->close();
  store.reset();
}

void StoreWorld::crash(uint64_t seed) {
  for (const auto& one : drives_) {
    if (const auto drive = one.lock()) drive->crash(seed);
    ++seed;
  }
  store.reset();
}

void StoreWorld::run(int turns) {
  for (int i = 0; i < turns; ++i) store->poll();
}

void StoreWorld::kill(uint64_t seed) {
  for (const auto& one : drives_) {
    if (const auto drive = one.lock()) drive->kill(seed);
    ++seed;
  }
  store.reset();
}

Status StoreWorld::put(const std::string& name, uint64_t bytes, Durability durability) {
  return put(name, bytes, [&](PutCall& call) { call.durability = durability; });
}

Status StoreWorld::put(const std::string& name, uint64_t bytes, const std::function<void(PutCall&)>& shape) {
  PutCall call(name, bytes);
  call.store = store.get();
  shape(call);
  store->begin_put(call);
  for (int i = 0; i < 10'000 && call.ended.empty(); ++i) store->poll();
  EXPECT_EQ(call.ended.size(), 1U) << name;
  return call.ended.empty() ? Status::timeout : call.ended[0];
}

Status StoreWorld::get(const std::string& name) {
  return get_range(name, 0, 0);
}

Status StoreWorld::get_as(uint32_t tenant, const std::string& name) {
  GetCall call(name);
  call.id.tenant = tenant;
  store->get(call);
  for (int i = 0; i < 10'000 && call.ended.empty(); ++i) store->poll();
  return call.ended.empty() ? Status::timeout : call.ended[0];
}

Status StoreWorld::remove_all(DeleteKind kind, const std::function<void(DeleteCall&)>& shape) {
  DeleteCall call;
  call.kind = kind;
  call.ids.push_back({});
  if (shape) shape(call);
  store->remove(call);
  EXPECT_TRUE(run_until([&] { return call.ended; }));
  return call.ended ? call.statuses[0] : Status::timeout;
}

Status StoreWorld::get_range(const std::string& name, uint64_t offset, uint64_t length) {
  GetCall call(name);
  call.offset = offset;
  call.length = length;
  store->get(call);
  for (int i = 0; i < 10'000 && call.ended.empty(); ++i) store->poll();
  EXPECT_EQ(call.ended.size(), 1U) << name;
  if (call.ended.empty()) return Status::timeout;
  if (call.ended[0] != Status::ok) return call.ended[0];
  const std::vector<std::byte> got = call.bytes();
  std::vector<std::byte> whole(call.block_length);
  fill_pattern(whole, seed_of(name));
  const bool right = got.size() == (length == 0 ? call.block_length - offset : length) &&
                     std::equal(got.begin(), got.end(), whole.begin() + static_cast<long>(offset));
  EXPECT_TRUE(right) << "wrong bytes under " << name;
  EXPECT_EQ(call.crc, crc32c(got));
  if (!right) ++wrong_bytes;
  return Status::ok;
}

Status StoreWorld::remove(const std::string& name) {
  DeleteCall call;
  call.ids.push_back({key_of(name), 0, 0});
  store->remove(call);
  for (int i = 0; i < 10'000 && !call.ended; ++i) store->poll();
  EXPECT_TRUE(call.ended);
  return call.statuses[0];
}

}  // namespace cairn
