// The end of a process to which the machine does not give what nothing can go on without. Nothing is broken then, so it
// is an exit with a sentence, and no abort.
#pragma once

namespace cairn {

// Writes the sentence to stderr and ends the process at once, as kill -9 would: what was acknowledged as durable is
// kept. Allocates nothing. The status is 1, or what end_when_out_of_memory() was told. Any thread.
[[noreturn]] void end_for_want(const char* sentence) noexcept;

// From now on `new` that finds no memory ends the process that way, on any thread, instead of throwing std::bad_alloc
// through callers that cannot undo what they began. For a process that is ours: never called in a client's.
void end_when_out_of_memory(int exit_status);

}  // namespace cairn
