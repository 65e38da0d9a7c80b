// Any bytes as what a drive holds: a small formatted drive with a few blocks is patched as the input says, its pages
// sealed again if the input wants that (so that fields are reached behind their checksums), then opened and read.
// Nothing may crash, hang or be answered twice. (Bytes are not compared: a patch may seal its own.)
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "store/format.h"
#include "store/tenant_table.h"
#include "testing/store_fixture.h"

using namespace cairn;

namespace {

constexpr uint64_t kDriveBytes = 5 * kMiB + 4096;
const std::vector<std::string> kNames = {"a", "b", "c", "d"};

// A drive with a sealed segment, a tombstone and an open segment.
const Platter& template_drive() {
  static const Platter whole = [] {
    StoreWorld world(kDriveBytes, 1, 4 * kMiB, 1 * kMiB);
    for (const auto& name : kNames) (void)world.put(name, 6000);
    (void)world.remove("d");
    const uint32_t tenant = world.store->number_of("team").value();
    (void)world.put("theirs", 3000, [tenant](PutCall& put) { put.id.tenant = tenant; });
    world.close();
    world.open();
    (void)world.put("late", 3000);
    world.crash(3);
    return world.platters[0]->copy();
  }();
  return whole;
}

template <class T>
void seal_page(Platter& platter, uint64_t offset) {
  edit_page<T>(platter, offset, [](T&) {});
}

// A footer of the entries that lie before it.
void seal_summary(Platter& platter, uint64_t offset) {
  edit_page<format::Footer>(platter, offset, [&](format::Footer& footer) {
    // A count that no platter of this size holds has no summary to seal, and its bytes would not fit 64 bits.
    if (footer.entry_count > offset / sizeof(format::SummaryEntry)) return;
    const uint64_t before = (format::summary_pages(footer.entry_count) - 1) * format::kPageBytes;
    if (before > offset) return;
    std::vector<std::byte> entries(footer.entry_count * sizeof(format::SummaryEntry));
    platter.read(offset - before, entries.data(), entries.size());
    footer.summary_crc = crc32c(entries);
  });
}

// [flags: 1][page: 2][offset: 2][length: 1] bytes …, again and again.
void patch(Platter& platter, ConstByteSpan input) {
  while (input.size() >= 6) {
    const auto flags = load<uint8_t>(input.data());
    const uint64_t page = load<uint16_t>(input.data() + 1) % (kDriveBytes / format::kPageBytes);
    const uint64_t offset = load<uint16_t>(input.data() + 3) % format::kPageBytes;
    const size_t length =
        std::min<size_t>({load<uint8_t>(input.data() + 5), input.size() - 6, format::kPageBytes - offset});
    const uint64_t at = page * format::kPageBytes;
    platter.write(at + offset, input.data() + 6, length);
    input = input.subspan(6 + length);
    if ((flags & 7) == 1) seal_page<format::Superblock>(platter, at);
    if ((flags & 7) == 2) seal_page<format::SegmentHeader>(platter, at);
    if ((flags & 7) == 3) seal_page<format::RecordHeader>(platter, at);
    if ((flags & 7) == 4) seal_page<format::Footer>(platter, at);
    if ((flags & 7) == 5) seal_summary(platter, at);
    if ((flags & 7) == 6) seal_page<format::Membership>(platter, at);
    if ((flags & 7) == 7) seal_page<format::TenantPage>(platter, at);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::unique_ptr<Slab> slab = Slab::create(4 * kMiB).take();
  static const VirtualClock clock;
  const auto platter = std::make_shared<Platter>(template_drive().copy());
  patch(*platter, {reinterpret_cast<const std::byte*>(data), size});
  std::vector<std::unique_ptr<Drive>> drives;
  drives.push_back(std::make_unique<MemoryDrive>(platter));
  auto opened = Store::open(std::move(drives), *slab, clock, {});
  if (!opened.ok()) return 0;
  const auto store = opened.take();
  for (const std::string& name : kNames) {
    GetCall get(name);
    store->get(get);
    for (int turn = 0; turn < 100 && get.ended.empty(); ++turn) store->poll();
    CAIRN_CHECK(get.ended.size() == 1, "a get was not answered once");
    // A patched record may claim another length under a good checksum of its own; the bytes are then the patch's.
    if (get.ended[0] == Status::ok) (void)get.bytes();
  }
  PutCall put("fresh", 5000);
  put.store = store.get();
  store->begin_put(put);
  for (int turn = 0; turn < 100 && put.ended.empty(); ++turn) store->poll();
  CAIRN_CHECK(put.ended.size() == 1, "a put was not answered once");
  store->close();
  return 0;
}
