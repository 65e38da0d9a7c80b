// Threads of our own inside somebody else's process.
#pragma once

#include <functional>
#include <thread>

#include "base/result.h"

namespace cairn {

// Starts a thread that no signal is delivered to, so that the process's own threads are interrupted by them, and in
// which an exception ends nothing but the thread. `name`: 15 bytes at most. The Error tells the cause.
Result<std::thread> start_thread(const char* name, std::function<void()> body);

}  // namespace cairn
