#include "testing/torture.h"
namespace cairn {
void torture_fault_sites(const TortureOptions&, TortureReport&) {}
}
