// What a process was forked from it does not own: connections, devices, threads, and locks that another thread held.
#pragma once

#include <cstdint>

namespace cairn {

// How many forks lie between this process and the one that loaded us. Whoever remembers it can tell later whether it is
// in a child. Takes no lock and makes no system call; any thread. The first call must come before the fork.
uint64_t fork_generation();

}  // namespace cairn
