// cairn-torture: systematic damage to the store. Each part prints one JSON object as its last line.
//   cairn-torture crash-points [--random N] [--seed S] [--only WORKLOAD] [--stop-at SECONDS]
//   cairn-torture bit-flips [--payload N] [--seed S] [--shard I/N] [--only DRIVE:PAGE:BIT] [--stop-at SECONDS]
//   cairn-torture fault-sites [--only SITE:N:FAULT:once|for_ever] [--stop-at SECONDS]
//   cairn-torture histories [--random N] [--seed S] [--stop-at SECONDS]: drives that come and go while they are used
//   cairn-torture life --file PATH [--size BYTES] [--check]: a store's short life, while somebody makes system calls
//   fail
//     (tests/reliability/syscall_sites.py); --check: whether what its stdout promised, now on stdin, is kept
// Ends with 1 if anything was violated; each violation is a sentence that says how to come to it again, on stderr.
#include "testing/torture.h"

#include <malloc.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

int usage() {
  std::fprintf(stderr,
               "usage: cairn-torture crash-points [--random N] [--seed S] [--only WORKLOAD] [--stop-at SECONDS]\n"
               "       cairn-torture bit-flips [--payload N] [--seed S] [--shard I/N] [--only DRIVE:PAGE:BIT] "
               "[--stop-at SECONDS]\n"
               "       cairn-torture fault-sites [--only SITE:N:FAULT:once|for_ever] [--stop-at SECONDS]\n"
               "       cairn-torture histories [--random N] [--seed S] [--stop-at SECONDS]\n"
               "       cairn-torture life --file PATH [--size BYTES] [--check]\n");
  return 2;
}

bool parse(int count, char** words, cairn::TortureOptions& options) {
  for (int i = 2; i < count; i += 2) {
    const std::string word = words[i];
    if (i + 1 == count) return false;
    const char* value = words[i + 1];
    if (word == "--random") {
      options.random = std::strtoull(value, nullptr, 10);
    } else if (word == "--payload") {
      options.payload = std::strtoull(value, nullptr, 10);
    } else if (word == "--seed") {
      options.seed = std::strtoull(value, nullptr, 10);
    } else if (word == "--stop-at") {
      options.stop_at_s = std::strtod(value, nullptr);
    } else if (word == "--only") {
      options.only = value;
    } else if (word == "--shard") {
      if (std::sscanf(value, "%lu/%lu", &options.shard, &options.shards) != 2) return false;
      if (options.shards == 0 || options.shard >= options.shards) return false;
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int count, char** words) {
  const std::string part = count > 1 ? words[1] : "";
  if (part == "life") {
    if (const int status = cairn::torture_life(count, words); status >= 0) return status;
    return usage();
  }
  // Megabytes are asked for and given back thousands of times a second: not from the kernel each time.
  mallopt(M_MMAP_THRESHOLD, 64 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
  cairn::TortureOptions options;
  const bool known = part == "crash-points" || part == "bit-flips" || part == "fault-sites" || part == "histories";
  if (!known || !parse(count, words, options)) return usage();
  cairn::TortureReport report(options.stop_at_s);
  report.json.text("part", part);
  if (part == "fault-sites") {
    torture_fault_sites(options, report);
  } else if (part == "histories") {
    options.random = options.random > 0 ? options.random : 1000;
    torture_histories(options, report);
  } else if (part == "bit-flips") {
    options.payload > 0 ? torture_damages(options, report) : torture_bit_flips(options, report);
  } else {
    options.random > 0 ? torture_random_crashes(options, report) : torture_crash_points(options, report);
  }
  std::printf("%s\n", report.finish().c_str());
  return report.violations() == 0 ? 0 : 1;
}
