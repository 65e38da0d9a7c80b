"""Processor and kernel: what the data path takes for granted of them."""

import os
import re
from collections.abc import Iterator

from cairnkv.findings import NOT_CHECKED, OK, WARN, Finding
from cairnkv.hardware.machine import Machine

CPUS = "/sys/devices/system/cpu"
CLOCK = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
IO_URING_DISABLED = "/proc/sys/kernel/io_uring_disabled"
PASSTHROUGH_LEAST = (5, 19)  # io_uring_cmd on /dev/ng*
UNPRIVILEGED_LEAST = (6, 2)  # … without CAP_SYS_ADMIN
QUICK_CLOCKS = {"tsc", "arch_sys_counter", "kvm-clock"}  # read without a system call


def kernel_release(machine: Machine) -> tuple[int, int] | None:
    """Major and minor number of the running kernel."""
    found = re.match(r"(\d+)\.(\d+)", machine.text("/proc/sys/kernel/osrelease") or "")
    return (int(found.group(1)), int(found.group(2))) if found else None


def examine(machine: Machine) -> Iterator[Finding]:
    """Kernel, io_uring, page size, checksums, clock, frequency."""
    yield _kernel(machine)
    yield _io_uring(machine)
    yield _page_size()
    yield _checksums(machine)
    yield _clock(machine)
    yield _governor(machine)


def _kernel(machine: Machine) -> Finding:
    release = kernel_release(machine)
    if release is None:
        return Finding("kernel", NOT_CHECKED, "its release cannot be read", "type: uname -r")
    shown = f"Linux {machine.text('/proc/sys/kernel/osrelease')}"
    if release < PASSTHROUGH_LEAST:
        advice = "use 5.19 or newer, or name drives by their block devices (/dev/nvme0n1)"
        return Finding("kernel", WARN, f"{shown} has no NVMe pass-through by io_uring", advice)
    if release < UNPRIVILEGED_LEAST:
        advice = "use 6.2 or newer, or give the service CAP_SYS_ADMIN where it uses /dev/ng*"
        return Finding("kernel", WARN, f"{shown}: NVMe pass-through needs CAP_SYS_ADMIN before 6.2", advice)
    return Finding("kernel", OK, f"{shown}: NVMe pass-through by io_uring, without special rights")


def _io_uring(machine: Machine) -> Finding:
    """Of 6.6 and newer: 0 for everybody, 1 for a group, 2 for nobody."""
    disabled = machine.number(IO_URING_DISABLED)
    if not disabled:
        return Finding("io_uring setting", OK, "no sysctl switches io_uring off")
    who = "everybody" if disabled == 2 else "all but root and the group kernel.io_uring_group"
    return Finding("io_uring setting", WARN, f"io_uring is off for {who}", "sysctl -w kernel.io_uring_disabled=0")


def _page_size() -> Finding:
    size = os.sysconf("SC_PAGESIZE")
    note = "" if size == 4096 else "; regions and drives are aligned to it"
    return Finding("page size", OK, f"{size >> 10} KiB{note}")


def _checksums(machine: Machine) -> Finding:
    """CRC32C goes over every byte that is put, and every byte that is read from a drive."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", machine.text("/proc/cpuinfo") or "", re.MULTILINE)
    if found is None:
        return Finding("crc32c", NOT_CHECKED, "/proc/cpuinfo lists no features", "type: lscpu | grep -i crc32")
    words = set(found.group(1).split())
    for wanted in ({"sse4_2", "pclmulqdq"}, {"crc32", "pmull"}):
        if wanted <= words:
            return Finding("crc32c", OK, f"in hardware ({', '.join(sorted(wanted))})")
    advice = (
        "use a processor with sse4_2 and pclmulqdq, or crc32 and pmull: this one pays several times as much for a byte"
    )
    return Finding("crc32c", WARN, "the processor has no instructions for it", advice)


def _clock(machine: Machine) -> Finding:
    source = machine.text(CLOCK)
    if source is None:
        return Finding("clock source", NOT_CHECKED, "the kernel does not tell it", f"type: cat {CLOCK}")
    if source in QUICK_CLOCKS:
        return Finding("clock source", OK, source)
    advice = f"every look at the time is a system call: see available_clocksource in {CLOCK.rpartition('/')[0]}"
    return Finding("clock source", WARN, f"{source} is slow to read", advice)


def _governor(machine: Machine) -> Finding:
    governors = {
        name: governor
        for name in machine.names(CPUS)
        if re.fullmatch(r"cpu\d+", name) and (governor := machine.text(f"{CPUS}/{name}/cpufreq/scaling_governor"))
    }
    if not governors:
        return Finding(
            "cpu governor", NOT_CHECKED, "the frequency is not the kernel's to choose here (a virtual machine?)"
        )
    slow = {name: governor for name, governor in governors.items() if governor != "performance"}
    if not slow:
        return Finding("cpu governor", OK, f"performance on {len(governors)} processors")
    kinds = ", ".join(sorted(set(slow.values())))
    advice = "cpupower frequency-set -g performance: latencies of microseconds end in a clock that is raised too late"
    return Finding("cpu governor", WARN, f"{kinds} on {len(slow)} of {len(governors)} processors", advice)
