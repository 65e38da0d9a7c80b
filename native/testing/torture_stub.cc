#include "testing/torture.h"
namespace cairn {
void torture_crash_points(const TortureOptions&, TortureReport&) {}
void torture_random_crashes(const TortureOptions&, TortureReport&) {}
void torture_fault_sites(const TortureOptions&, TortureReport&) {}
}
