// What the programs that measure share (testing/*_bench.cc).
#pragma once

#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>

#include "base/result.h"

namespace cairn {

// The value; where there is none the program says why, and ends.
template <class T>
T must(Result<T> result) {
  if (result.ok()) return result.take();
  std::fprintf(stderr, "%s\n", result.error().message.c_str());
  std::exit(1);
}

// Of the whole process so far, the kernel's time for it included.
inline double processor_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace cairn
