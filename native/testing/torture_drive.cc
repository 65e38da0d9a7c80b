#include "testing/torture_drive.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "store/format.h"

namespace cairn {

namespace {

using Kind = TortureStep::Kind;

// What lies on the pages, by their magic numbers.
class PageWalk {
 public:
  PageWalk(TortureDrive& drive, uint64_t segment_bytes)
      : drive_(drive), per_segment_(segment_bytes / format::kPageBytes) {}

  void walk() {
    for (const uint64_t offset : format::kSuperblockOffsets) note(offset / format::kPageBytes, "superblock");
    for (const uint64_t offset : format::kStateOffsets) note(offset / format::kPageBytes, "state");
    for (const uint64_t offset : format::kMembershipOffsets) note(offset / format::kPageBytes, "membership");
    const uint64_t first = format::kFirstSegmentOffset / format::kPageBytes;
    const uint64_t all = drive_.platter.bytes() / format::kPageBytes;
    for (uint64_t at = first; at + per_segment_ <= all; at += per_segment_) walk_segment(at);
  }

 private:
  void walk_segment(uint64_t base) {
    const uint64_t last = base + per_segment_ - 1;
    const uint64_t magic = magic_at(base);
    if (magic == format::kFreedMagic) {
      note(base, "first page of a freed segment");
      note(last, "last page of a freed segment");
    }
    if (magic != format::kSegmentMagic) return;
    note(base, "segment header");
    const bool sealed = magic_at(last) == format::kFooterMagic;
    uint64_t end = last;
    if (sealed) {
      const auto footer = read<format::Footer>(last);
      for (end = base + footer.summary_page; end < last; ++end) note(end, "summary");
      end = base + footer.summary_page;
    }
    note(last, sealed ? "footer" : "copy of a segment header");
    const uint64_t nonce = read<format::SegmentHeader>(base).nonce;
    for (uint64_t page = base + 1; page < end;) {
      const auto record = read<format::RecordHeader>(page);
      if (record.magic != format::kRecordMagic || record.nonce != nonce) break;
      page = walk_record(page, record);
    }
  }

  uint64_t walk_record(uint64_t page, const format::RecordHeader& record) {
    const bool tombstones = record.type == format::RecordType::tombstones;
    const uint64_t end = page + format::record_pages(record.length);
    note(page, tombstones ? "header of tombstones" : "record header");
    for (uint64_t at = page + 1; at < end; ++at) note(at, tombstones ? "tombstones" : "payload", tombstones);
    return end;
  }

  void note(uint64_t page, const std::string& what, bool metadata = true) {
    const bool deletes = what.find("tombstones") != std::string::npos || what == "summary" || what == "footer";
    drive_.pages.push_back({page, what, metadata, deletes});
  }
  template <class T>
  T read(uint64_t page) const {
    T body;
    drive_.platter.read(page * format::kPageBytes, reinterpret_cast<std::byte*>(&body), sizeof(T));
    return body;
  }
  uint64_t magic_at(uint64_t page) const { return read<uint64_t>(page); }

  TortureDrive& drive_;
  uint64_t per_segment_;
};

void live(TortureWorld& world, TortureDrive& drive, const std::vector<TortureStep>& steps, bool seal) {
  const std::string why = world.open(nullptr);
  CAIRN_CHECK(why.empty(), "a good drive cannot be opened");
  for (const TortureStep& step : steps) {
    world.begin(step);
    world.until_answered();
  }
  world.until_idle();
  seal ? world.close() : world.stop();
  world.platters[0]->flush();
  drive.earlier.push_back(world.platters[0]->copy());
}

void finish(TortureWorld& world, TortureDrive& drive, uint64_t segment_bytes) {
  drive.platter = world.platters[0]->copy();
  const std::string why = world.open(nullptr);
  CAIRN_CHECK(why.empty(), "a good drive cannot be opened");
  drive.present = world.check();
  world.stop();
  drive.oracle = world.oracle;
  PageWalk(drive, segment_bytes).walk();
}

}  // namespace

void make_small_drive(TortureReport& report, Slab& slab, VirtualClock& clock, TortureDrive& drive) {
  report.at("building the small drive");
  TortureBlocks& blocks = drive.blocks;
  const auto add = [&](const TortureBlock& block) { return blocks.add(block); };
  const size_t old = add({.name = "old", .bytes = 700}), older = add({.name = "older", .bytes = 800});
  const size_t kept = add({.name = "kept", .bytes = 300}), longer = add({.name = "longer", .bytes = 9000});
  const size_t first = add({.name = "first", .bytes = 500, .group = 1, .group_members = 2});
  const size_t second = add({.name = "second", .bytes = 600, .group = 1, .group_members = 2});
  const size_t scoped = add({.name = "scoped", .bytes = 400, .scope = 7});
  const size_t other = add({.name = "other layout", .bytes = 400, .layout = 7});
  const size_t tenant = add({.name = "other tenant", .bytes = 400, .tenant = 2});
  const size_t by_key = add({.name = "deleted by key", .bytes = 300});
  const size_t by_group = add({.name = "deleted by group", .bytes = 300, .group = 2, .group_members = 1});
  const size_t by_scope = add({.name = "deleted by scope", .bytes = 300, .scope = 9});
  const size_t by_layout = add({.name = "deleted by layout", .bytes = 300, .layout = 9});
  const size_t by_tenant = add({.name = "deleted by tenant", .bytes = 300, .tenant = 3});
  const size_t late = add({.name = "late", .bytes = 5000}), gone_late = add({.name = "deleted late", .bytes = 300});
  const size_t again = add({.name = "put again", .bytes = 1000});

  TortureWorld world(report, blocks, slab, clock);
  world.platters.push_back(TortureWorld::formatted(7 * kMiB + 4096, kMiB, clock));
  // These two segments are given up when the last one is opened.
  live(world, drive, {{Kind::put, {older}}}, true);
  live(world, drive, {{Kind::put, {old}}}, true);
  live(world, drive,
       {{Kind::put, {kept, longer, first, second, scoped, other, tenant}},
        {Kind::put, {by_key, by_group, by_scope, by_layout, by_tenant, gone_late, again}}},
       true);
  live(world, drive,
       {{Kind::remove, {by_key}},
        {Kind::remove_group, {by_group}},
        {Kind::remove_scope, {by_scope}},
        {Kind::remove_layout, {by_layout}},
        {Kind::remove_tenant, {by_tenant}},
        {Kind::remove, {again}},
        {Kind::put, {again}}},
       true);
  live(world, drive, {{Kind::put, {late}}, {Kind::remove, {gone_late}}}, false);
  finish(world, drive, kMiB);
}

void make_striped_drive(TortureReport& report, Slab& slab, VirtualClock& clock, TortureDrive& drive) {
  report.at("building the drive with a striped block");
  const size_t striped = drive.blocks.add({.name = "striped", .bytes = 4 * kMiB + 5000});
  const size_t gone = drive.blocks.add({.name = "deleted striped", .bytes = 4 * kMiB + 100});
  const size_t beside = drive.blocks.add({.name = "beside", .bytes = 300});
  TortureWorld world(report, drive.blocks, slab, clock);
  world.platters.push_back(TortureWorld::formatted(49 * kMiB, 8 * kMiB, clock));
  live(world, drive, {{Kind::put, {gone}}, {Kind::put, {beside}}}, true);
  live(world, drive, {{Kind::remove, {gone}}, {Kind::put, {striped}}}, true);
  finish(world, drive, 8 * kMiB);
}

}  // namespace cairn
