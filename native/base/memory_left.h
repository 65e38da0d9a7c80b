// How much memory this process can still have before the kernel kills something for it.
#pragma once

#include <cstdint>
#include <string>

namespace cairn {

struct MemoryLeft {
  uint64_t bytes = UINT64_MAX;  // what is known to be left; UINT64_MAX: nothing is known
  std::string whose;            // whose limit that is, as in "the machine"
};

// The least of what the machine has, swap included, and what each control group of this process leaves it (versions 1
// and 2, and all groups above). Memory that the kernel gives back on demand, such as its cache of files, counts as
// left. It is a look at this moment: others take memory too. `root` stands before every path that is read: for tests.
MemoryLeft memory_left(const std::string& root = "");

}  // namespace cairn
