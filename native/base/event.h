// An eventfd of our own: one side writes, the other sleeps until it is readable. What the system refuses is told, never
// checked: in somebody else's process anything may be forbidden at any time.
#pragma once

namespace cairn {

// Non-blocking and closed on exec; -1 and errno.
int make_event();
// Whether it is readable now.
bool write_event(int event);
// Makes it unreadable.
void drain_event(int event);

}  // namespace cairn
