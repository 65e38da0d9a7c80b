// Equal states of a model's store. Two states are equal, and gone on from once, if every history from there ends the
// same way. What a state is told by, and why nothing else of it reaches the future:
//
// * Names do not matter, but which are the same. Identities, lines and epochs are told by their place among those that
//   there are. Sequences are only ever compared, with each other and with kSequenceLeap: each is told by its rank, and
//   by how many leaps lie below it.
// * Which drive is which does not matter. Nothing in the store treats drives differently, but that it takes the first
//   of its slots, and a start hands them over in the order in which the state was told (order_). So of all orders of
//   the drives the one with the least words tells the state, and what differs in the names of its drives alone is one
//   state. Slots of a life that runs are told in their order.
// * Within one segment, what a later record takes away whatever happens: an earlier block of the same key and scope, a
//   block under a delete that covers it, a delete under a later one of the same name. Blocks: a read finds the youngest
//   of a key, and a delete that covers that one covers the earlier as well. Deletes: of one name the largest sequence
//   counts. All of a segment is given up at once, and then what counts is the largest sequence that went
//   (given_up_sequence, forgotten_sequence), which is that of the later record. Across segments nothing is left out:
//   there the later record may go first. The model's drives do not rot, so a later record is not lost alone.
// * Of fillers only the youngest of a segment is told, for the same reason. Where in a segment a record lies says
//   nothing: records of keys are so small that they do not fill one in a history.
// * Time does not matter: nothing expires, nothing is leased, and what looks at a drive now and then has looked when a
//   step ends.
// * What the model knows matters as far as it judges by it: versions that may be served, by their sequence; those that
//   must be, and where they lie; who is away.
// * Of the memory of a life that runs the rest follows from its drives, because each step ends at rest: the index, the
//   deletes that are remembered, and the members are what a start would read, apart from blocks of drives that are
//   away, which are told by `away`, and from whose turn the next put is, which is told by how many there were.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "store/loader.h"
#include "store/log_store.h"
#include "store/membership.h"
#include "store/recovery.h"
#include "testing/model_life.h"

namespace cairn {

namespace {

struct Word {
  bool is_sequence;
  uint64_t value;
};
using Words = std::vector<Word>;

void tell(Words& words, uint64_t value) {
  words.push_back({false, value});
}
void tell_sequence(Words& words, uint64_t sequence) {
  words.push_back({true, sequence});
}

uint64_t key_number(const format::SummaryEntry& entry) {
  uint64_t key = 0;
  std::memcpy(&key, entry.key.bytes.data(), sizeof(key));
  return key;
}

// Whether `later` takes `one` away whatever happens, where both lie in one segment.
bool takes_away(const format::SummaryEntry& later, const format::SummaryEntry& one) {
  if (later.sequence <= one.sequence) return false;
  const bool same_key = later.key == one.key;
  const bool deletes = later.type == format::RecordType::tombstones;
  if (one.type == format::RecordType::tombstones) {
    return deletes && later.kind == one.kind && same_key && later.scope == one.scope && later.layout == one.layout;
  }
  if (!deletes) return same_key && later.scope == one.scope;
  return later.kind == format::Buried::key && same_key;
}

struct DriveWords {
  Words words;  // without what names other drives
  std::optional<format::Membership> record;
};

void say_segment(Words& words, const FoundSegment& segment) {
  tell(words, 0x5E0 + static_cast<uint64_t>(segment.segment.state));
  uint64_t filler = 0;
  std::vector<std::pair<uint64_t, uint64_t>> told;
  for (const format::SummaryEntry& entry : segment.entries) {
    const uint64_t key = key_number(entry);
    if (entry.type == format::RecordType::block && key >= kModelKeys) {
      filler = std::max(filler, entry.sequence);
      continue;
    }
    const bool gone = std::any_of(segment.entries.begin(), segment.entries.end(),
                                  [&](const format::SummaryEntry& other) { return takes_away(other, entry); });
    if (gone) continue;
    const uint64_t scoped = entry.scope != 0 ? 1 : 0;
    told.emplace_back(entry.sequence, static_cast<uint64_t>(entry.type) << 16 ^ static_cast<uint64_t>(entry.kind) << 8 ^
                                          key << 1 ^ scoped);
  }
  std::sort(told.begin(), told.end());
  if (filler > 0) {
    tell(words, 0xF111);
    tell_sequence(words, filler);
  }
  for (const auto& [sequence, what] : told) {
    tell(words, what);
    tell_sequence(words, sequence);
  }
}

// Each sequence by its rank, and by the leaps below it.
std::map<uint64_t, uint64_t> ranks_of(const std::vector<const Words*>& all) {
  std::map<uint64_t, uint64_t> ranks;
  for (const Words* words : all) {
    for (const Word& one : *words) {
      if (one.is_sequence) ranks[one.value] = 0;
    }
  }
  uint64_t rank = 1'000'000, before = 0;
  for (auto& [sequence, place] : ranks) {
    rank += sequence - before > kSequenceLeap / 2 ? 1'000 : 1;
    before = sequence;
    place = rank;
  }
  return ranks;
}

template <class T>
uint64_t number_of(std::vector<T>& known, const T& one) {
  const auto at = static_cast<uint64_t>(std::find(known.begin(), known.end(), one) - known.begin());
  if (at == known.size()) known.push_back(one);
  return at;
}

std::pair<uint64_t, uint64_t> hash_of_words(const std::vector<uint64_t>& words) {
  uint64_t a = 0xCBF29CE484222325ULL, b = 0x9E3779B97F4A7C15ULL;
  for (const uint64_t value : words) {
    a = (a ^ value) * 0x100000001B3ULL;
    a ^= a >> 31;
    b = (b + value) * 0xBF58476D1CE4E5B9ULL;
    b ^= b >> 29;
  }
  return {a, b};
}

}  // namespace

// The state, if the drives stood in this order.
class ModelLife::Telling {
 public:
  Telling(const ModelLife& life, std::vector<DriveWords>& drives) : life_(life), drives_(drives) {
    for (size_t i = 0; i < life.count_; ++i) {
      identities_.push_back(life.superblock_of(i).drive);
      if (drives[i].record) epochs_[drives[i].record->store].insert(drives[i].record->epoch);
    }
  }

  Words in(const std::array<size_t, kModelDrivesMost>& order) const {
    Words words;
    std::array<size_t, kModelDrivesMost> place{};
    for (size_t i = 0; i < life_.count_; ++i) place[order[i]] = i;
    std::vector<format::Uuid> lines;
    for (size_t i = 0; i < life_.count_; ++i) say_drive(words, drives_[order[i]], place, lines);
    say_knowledge(words, place, lines);
    say_life(words, place);
    return words;
  }

 private:
  using Places = std::array<size_t, kModelDrivesMost>;

  uint64_t bits_of(const std::vector<format::Uuid>& set, const Places& place) const {
    uint64_t bits = 0;
    for (size_t i = 0; i < life_.count_; ++i) bits |= contains(set, identities_[i]) ? uint64_t{1} << place[i] : 0;
    return bits;
  }
  uint64_t bits_of(uint32_t set, const Places& place) const {
    uint64_t bits = 0;
    for (size_t i = 0; i < life_.count_; ++i) bits |= (set >> i & 1) != 0 ? uint64_t{1} << place[i] : 0;
    return bits;
  }

  void say_drive(Words& words, const DriveWords& drive, const Places& place, std::vector<format::Uuid>& lines) const {
    tell(words, 0xD0);
    if (drive.record) {
      const format::Membership& record = *drive.record;
      const std::set<uint64_t>& of_line = epochs_.at(record.store);
      tell(words, number_of(lines, record.store));
      tell(words, static_cast<uint64_t>(std::distance(of_line.begin(), of_line.find(record.epoch))));
      tell(words, record.left);
      tell(words, bits_of(members_of(record), place));
      tell(words, bits_of(base_of(record), place));
      tell_sequence(words, record.lost_sequence);
      std::array<uint64_t, kModelDrivesMost> departed{};
      for (size_t one = 0; one < record.departed_count; ++one) {
        for (size_t i = 0; i < life_.count_; ++i) {
          if (record.departed[one].drive == identities_[i]) departed[place[i]] = record.departed[one].sequence;
        }
      }
      for (size_t i = 0; i < life_.count_; ++i) tell_sequence(words, departed[i]);
    }
    words.insert(words.end(), drive.words.begin(), drive.words.end());
  }

  void say_knowledge(Words& words, const Places& place, std::vector<format::Uuid>& lines) const {
    const ModelKnowledge& known = life_.knowledge_;
    tell(words, number_of(lines, known.line));
    tell(words, bits_of(known.members, place));
    tell(words, known.certain ? 1 : 0);
    tell(words, bits_of(known.away, place));
    for (const format::Uuid& one : lines) {
      const auto belief = known.lines.find(one);
      for (size_t key = 0; key < kModelKeys; ++key) {
        tell(words, 0xBE11EF);
        if (belief == known.lines.end()) continue;
        for (const uint32_t version : belief->second.may[key]) {
          const auto sequence = known.sequences[key].find(version);
          if (sequence != known.sequences[key].end()) tell_sequence(words, sequence->second);
        }
      }
    }
    for (size_t key = 0; key < kModelKeys; ++key) {
      // Where it lies is asked of what must be there alone.
      const bool owed = known.owed[key];
      tell(words, owed ? 1 : 0);
      tell(words, owed && known.lies_on[key] >= 0 ? place[static_cast<size_t>(known.lies_on[key])] + 1 : 0);
      // Every other version of the second key has the scope.
      tell(words, key == 1 ? known.last_version[key] % 2 : 0);
    }
  }

  void say_life(Words& words, const Places& place) const {
    tell(words, life_.off() ? 1 : 0);
    if (life_.off()) return;
    const StoreStats stats = life_.store_->stats();
    for (const char letter : stats.members_state) tell(words, static_cast<uint64_t>(letter));
    uint64_t turns = stats.puts;
    for (const DriveStats& one : stats.drives) {
      for (size_t i = 0; i < life_.count_; ++i) {
        if (life_.uuid_of(i) == one.uuid) tell(words, place[i]);
      }
      tell(words, static_cast<uint64_t>(one.state[0]) << 8 ^ static_cast<uint64_t>(one.state[3]));
      tell(words, one.blocks);
      tell(words, one.segments_free);
      tell(words, one.distrusted ? 1 : 0);
      turns += one.moved_blocks;
    }
    tell(words, stats.drives.empty() ? 0 : turns % stats.drives.size());
  }

  const ModelLife& life_;
  const std::vector<DriveWords>& drives_;
  std::vector<format::Uuid> identities_;
  std::map<format::Uuid, std::set<uint64_t>> epochs_;
};

std::pair<uint64_t, uint64_t> ModelLife::fingerprint() {
  std::vector<DriveWords> drives(count_);
  for (size_t i = 0; i < count_; ++i) {
    drives[i].record = record_of(i);
    const uint64_t void_generation = drives[i].record ? drives[i].record->void_generation : 0;
    Words& words = drives[i].words;
    MemoryDrive drive(platters_[i], false, true);
    const FoundDrive found =
        load_now(drive, superblock_of(i), void_generation, [&](FoundSegment& segment) { say_segment(words, segment); });
    tell_sequence(words, found.given_up_sequence);
    tell_sequence(words, found.forgotten_sequence);
    tell_sequence(words, found.last_sequence);
  }
  const Telling telling(*this, drives);
  std::array<size_t, kModelDrivesMost> order{};
  std::iota(order.begin(), order.end(), size_t{0});
  std::vector<uint64_t> least;
  std::map<uint64_t, uint64_t> ranks;
  std::array<size_t, kModelDrivesMost> least_order = order;
  do {
    const Words words = telling.in(order);
    if (ranks.empty()) ranks = ranks_of({&words});
    std::vector<uint64_t> told;
    told.reserve(words.size());
    for (const Word& one : words) told.push_back(one.is_sequence ? ranks.at(one.value) : one.value);
    if (least.empty() || told < least) {
      least = std::move(told);
      least_order = order;
    }
  } while (std::next_permutation(order.begin(), order.begin() + static_cast<long>(count_)));
  if (off()) order_ = least_order;
  return hash_of_words(least);
}

}  // namespace cairn
