"""The IOMMU: whether every access of a device is translated, and what that would cost."""

import re

from cairnkv.findings import OK, WARN, Finding
from cairnkv.hardware.machine import Machine

GROUPS = "/sys/kernel/iommu_groups"


def examine(machine: Machine) -> Finding:
    """Whether there is one, and whether it lets devices through."""
    groups = machine.names(GROUPS)
    if not groups:
        return Finding("iommu", OK, "none is in use: devices address memory as it is")
    kinds = {machine.text(f"{GROUPS}/{group}/type") or "unknown" for group in groups}
    if kinds == {"identity"}:
        return Finding("iommu", OK, f"on, in pass-through ({len(groups)} groups, all identity)")
    asked = re.findall(r"\b(?:intel_iommu|amd_iommu|iommu(?:\.\w+)?)=\S+", machine.text("/proc/cmdline") or "")
    shown = f"translating ({', '.join(sorted(kinds))}; {' '.join(asked) or 'nothing on the kernel command line'})"
    advice = (
        "add iommu=pt to the kernel command line, unless guests use these devices: every transfer is translated now"
    )
    return Finding("iommu", WARN, shown, advice)
