// Pages under good seals that no correct service writes. Whoever wrote them was mistaken, or means harm; what lies
// there may be a miss, but the service goes on, and so does what it stored afterwards.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <span>
#include <vector>

#include "store/recovery.h"
#include "testing/store_fixture.h"

namespace cairn {
namespace {

using format::kNumberMost;
using format::kPageBytes;
using testing::ExitedWithCode;

constexpr uint64_t kFirst = format::kFirstSegmentOffset;
constexpr uint64_t kFirstEnd = kFirst + 1_MiB - kPageBytes;

// A world whose first segment is sealed and holds `a`, with its footer, and then its summary, changed.
struct MistakenWorld : StoreWorld {
  MistakenWorld() : StoreWorld(8_MiB, 1, 8_MiB, 1_MiB) {
    EXPECT_EQ(put("a", 5000), Status::ok);
    close();
  }
  void change_summary(const std::function<void(std::vector<format::SummaryEntry>&)>& change) {
    edit_page<format::Footer>(*platters[0], kFirstEnd, [&](format::Footer& footer) {
      std::vector<format::SummaryEntry> entries(footer.entry_count);
      const uint64_t at = kFirst + footer.summary_page * kPageBytes;
      platters[0]->read(at, reinterpret_cast<std::byte*>(entries.data()), entries.size() * sizeof(entries[0]));
      change(entries);
      footer.entry_count = entries.size();
      const auto bytes = std::as_bytes(std::span(entries));
      platters[0]->write(at, bytes.data(), bytes.size());
      footer.summary_crc = crc32c(bytes);
    });
  }
};

// `cairn-dpu check` ended in the middle instead of reporting: a footer's summary began a page before its segment, the
// page's number wrapped, and the check read on beyond the drive.
TEST(MistakenWriter, ASummaryLongerThanItsSegmentIsNotBelieved) {
  MistakenWorld world;
  std::vector<std::byte> all(1_MiB);
  world.platters[0]->read(kFirst - kPageBytes, all.data(), all.size());
  edit_page<format::Footer>(*world.platters[0], kFirstEnd, [&](auto& footer) {
    footer.entry_count = 1_MiB / sizeof(format::SummaryEntry);
    footer.summary_page = 256 - format::summary_pages(footer.entry_count);
    footer.summary_crc = crc32c(std::span(all).first(footer.entry_count * sizeof(format::SummaryEntry)));
  });
  MemoryDrive drive(world.platters[0]);
  EXPECT_EXIT(
      {
        (void)check_drive(drive, nullptr);
        std::_Exit(0);
      },
      ExitedWithCode(0), "");
  world.open();
  EXPECT_EQ(world.store->stats().scanned_segments, 1U);
  EXPECT_EQ(world.get("a"), Status::ok);
}

// The service ended at every start: an entry of a block in one piece named a part that there is not, and its number was
// cut to that of another entry.
TEST(MistakenWriter, AnEntryOfAPartThatThereIsNotIsLeftOut) {
  for (const int part_count : {0, 1}) {
    MistakenWorld world;
    world.change_summary([&](auto& entries) {
      entries.push_back(entries[0]);
      entries[1].part = 16;
      entries[1].part_count = static_cast<uint8_t>(part_count);
    });
    EXPECT_EXIT(
        {
          world.open();
          std::_Exit(world.get("a") == Status::ok ? 0 : 1);
        },
        ExitedWithCode(0), "");
  }
}

// The service ended at the first put: the drive had counted as far as there are numbers, and there was none left for
// it.
TEST(MistakenWriter, ASequenceAtTheEndOfCountingIsServedAndNoMoreIsWritten) {
  MistakenWorld world;
  edit_page<format::SegmentHeader>(*world.platters[0], kFirst,
                                   [](auto& header) { header.first_sequence = kNumberMost; });
  edit_page<format::Footer>(*world.platters[0], kFirstEnd, [](auto& footer) { footer.last_sequence = kNumberMost; });
  world.open();
  EXPECT_EQ(world.put("b", 5000), Status::read_only);
  EXPECT_EQ(world.remove("a"), Status::read_only);
  EXPECT_EQ(world.get("a"), Status::ok);
  EXPECT_EQ(world.store->stats().drives[0].state, "read_only");
}

// An acknowledged block was lost at the next start: its segment had a generation that is taken for damage.
TEST(MistakenWriter, AGenerationAtTheEndOfCountingIsServedAndNoMoreIsWritten) {
  MistakenWorld world;
  edit_page<format::SegmentHeader>(*world.platters[0], kFirst, [](auto& header) { header.generation = kNumberMost; });
  for (int life = 0; life < 2; ++life) {
    world.open();
    EXPECT_EQ(world.put("b", 5000), Status::read_only);
    EXPECT_EQ(world.store->stats().drives[0].state, "read_only");
    world.close();
  }
}

}  // namespace
}  // namespace cairn
