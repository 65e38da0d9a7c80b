// A kernel that refuses a system call, as a container's seccomp profile makes it do. For the child of a death test: it
// holds for the rest of the process.
#pragma once

#include <cstdint>

namespace cairn {

// From now on the call with that number ends with the errno on this thread, and on those that it starts. False where
// the machine does not allow it.
bool refuse_call(long number, int error);
// … but only those whose fourth argument is this.
bool refuse_call(long number, int error, uint32_t fourth_argument);

}  // namespace cairn
