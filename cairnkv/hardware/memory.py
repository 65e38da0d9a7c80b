"""Memory: what may be locked for a device, and what the slab is made of."""

import re
import resource
from collections.abc import Iterator

from cairnkv.findings import FAIL, NOT_CHECKED, OK, WARN, Finding
from cairnkv.hardware.machine import Machine

LOCKED_BYTES_LEAST = 1 << 30
HUGE_PAGE_KIB = 2048
HUGE_PAGES = f"/sys/kernel/mm/hugepages/hugepages-{HUGE_PAGE_KIB}kB"
TRANSPARENT = "/sys/kernel/mm/transparent_hugepage/enabled"


def locked_bytes_most() -> int | None:
    """What this process may lock; None: as much as it likes."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def examine(machine: Machine, locked_most: int | None, rdma: bool) -> Iterator[Finding]:
    """locked_most: as of locked_bytes_most(). rdma: whether there is a device that memory would be registered with."""
    yield _locked(locked_most, rdma)
    yield _huge_pages(machine)


def _locked(most: int | None, rdma: bool) -> Finding:
    if most is None:
        return Finding("locked memory", OK, "RLIMIT_MEMLOCK is unlimited")
    shown = f"RLIMIT_MEMLOCK is {most >> 10} KiB"
    if most >= LOCKED_BYTES_LEAST:
        return Finding("locked memory", OK, f"{shown}; what is registered at once has to fit in it")
    advice = "ulimit -l unlimited; LimitMEMLOCK=infinity in systemd; --ulimit memlock=-1 for a container"
    if rdma:
        return Finding("locked memory", FAIL, f"{shown}: no memory worth the name can be registered for RDMA", advice)
    return Finding("locked memory", WARN, f"{shown}: too little, should this machine get an RDMA device", advice)


def _huge_pages(machine: Machine) -> Finding:
    """The service's slab takes reserved ones where there are, else transparent ones."""
    reserved, free = machine.number(f"{HUGE_PAGES}/nr_hugepages"), machine.number(f"{HUGE_PAGES}/free_hugepages")
    chosen = re.search(r"\[(\w+)\]", machine.text(TRANSPARENT) or "")
    transparent = chosen.group(1) if chosen else "absent"
    if reserved:
        return Finding("huge pages", OK, f"{reserved} of 2 MiB reserved, {free or 0} of them free")
    if reserved is None and chosen is None:
        advice = "type: grep -i huge /proc/meminfo"
        return Finding("huge pages", NOT_CHECKED, "the kernel tells of neither reserved nor transparent ones", advice)
    if transparent in ("always", "madvise"):
        advice = (
            "for a slab that is there for certain: sysctl -w vm.nr_hugepages=N, 2 MiB each, at least the slab's size"
        )
        return Finding("huge pages", OK, f"none of 2 MiB reserved; transparent ones: {transparent}", advice)
    advice = "sysctl -w vm.nr_hugepages=N, or: echo madvise > " + TRANSPARENT
    return Finding("huge pages", WARN, f"none of 2 MiB reserved, and transparent ones are {transparent}", advice)
