"""A machine made of files: a GPU host on which everything is as it should be. A test takes it, and breaks one thing."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cairnkv.findings import Finding
from cairnkv.hardware.checklist import Libraries, examine
from cairnkv.hardware.machine import Machine
from cairnkv.hardware.qos import Qos
from cairnkv.hardware.verbs import Limits

NIC, DRIVE, GPU, BRIDGE = "0000:03:00.0", "0000:04:00.0", "0000:05:00.0", "0000:00:01.0"
PORT = "sys/class/infiniband/mlx5_0/ports/1"
GOOD_LIMITS = Limits(
    max_qp=131_072,
    max_mr=16_777_216,
    max_mw=16_777_216,
    max_qp_rd_atom=16,
    max_qp_init_rd_atom=16,
    windows=True,
    mtus={1: (4096, 4096)},
)
ACS, ATS = 0x000D, 0x000F

FILES = {
    "proc/sys/kernel/osrelease": "6.8.0-45-generic",
    "proc/sys/kernel/io_uring_disabled": "0",
    "proc/cmdline": "BOOT_IMAGE=/vmlinuz root=/dev/sda1 intel_iommu=on iommu=pt",
    "proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu sse4_1 sse4_2 pclmulqdq avx2\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\nGCC 12",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance",
    "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "4096",
    "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "4000",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "sys/kernel/iommu_groups/0/type": "identity",
    "sys/kernel/iommu_groups/1/type": "identity",
    "sys/kernel/config/rdma_cm/mlx5_0/ports/1/default_roce_tos": "106",
    f"{PORT}/state": "4: ACTIVE",
    f"{PORT}/rate": "400 Gb/sec (4X NDR)",
    f"{PORT}/link_layer": "Ethernet",
    f"{PORT}/gids/0": "fe80:0000:0000:0000:0000:00ff:fe00:0001",
    f"{PORT}/gids/3": "0000:0000:0000:0000:0000:ffff:0a00:0001",
    f"{PORT}/gids/4": "0000:0000:0000:0000:0000:0000:0000:0000",
    f"{PORT}/gid_attrs/types/0": "IB/RoCE v1",
    f"{PORT}/gid_attrs/types/3": "RoCE v2",
    f"{PORT}/gid_attrs/ndevs/0": "eth0",
    f"{PORT}/gid_attrs/ndevs/3": "eth0",
    "sys/class/net/eth0/ecn/roce_np/enable/3": "1",
    "sys/class/net/eth0/ecn/roce_rp/enable/3": "1",
    "sys/class/nvme/nvme0/model": "DRIVE 7T",
    "sys/class/nvme/nvme0/transport": "pcie",
    "sys/class/nvme-generic/ng0n1/dev": "241:0",
    "dev/ng0n1": "",
    "dev/infiniband/rdma_cm": "",
    "dev/infiniband/uverbs0": "",
}
# A bridge below the root complex, with a card and a GPU below it; the drive hangs on the root complex itself.
ROOT_COMPLEX = "sys/devices/pci0000:00"
FOLDERS = {
    BRIDGE: f"{ROOT_COMPLEX}/{BRIDGE}",
    NIC: f"{ROOT_COMPLEX}/{BRIDGE}/{NIC}",
    GPU: f"{ROOT_COMPLEX}/{BRIDGE}/{GPU}",
    DRIVE: f"{ROOT_COMPLEX}/{DRIVE}",
}
PARTS = {NIC: (0x15B3, 0x020000), DRIVE: (0x144D, 0x010802), GPU: (0x10DE, 0x030200), BRIDGE: (0x8086, 0x060400)}


def configuration(*capabilities: tuple[int, int]) -> bytes:
    """A configuration space with these extended capabilities, each with its control register."""
    space = bytearray(4096)
    for number, (capability, control) in enumerate(capabilities):
        at = 0x100 + number * 0x20
        after = at + 0x20 if number + 1 < len(capabilities) else 0
        struct.pack_into("<IHH", space, at, capability | 1 << 16 | after << 20, 0x5F, control)
    return bytes(space)


class MadeMachine:
    """Write what should be otherwise, and ask for the findings."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.libraries = Libraries(
            missing=list,
            limits=lambda _: {"mlx5_0": GOOD_LIMITS},
            qos=lambda _: Qos("dscp", (3,)),
            gpus=lambda: [(True, True)],
            locked_most=lambda: None,
        )
        for name, text in FILES.items():
            self.write(name, text)
        for address, (vendor, kind) in PARTS.items():
            self.write(f"{FOLDERS[address]}/vendor", f"{vendor:#06x}")
            self.write(f"{FOLDERS[address]}/class", f"{kind:#08x}")
            self.point(f"sys/bus/pci/devices/{address}", FOLDERS[address])
            self.link(address, 32.0, 16)
            self.configure(
                address, configuration((ACS, 0x01)) if address == BRIDGE else configuration((0x0001, 0), (ATS, 0))
            )
        self.point("sys/class/infiniband/mlx5_0/device", FOLDERS[NIC])
        self.point("sys/class/nvme/nvme0/device", FOLDERS[DRIVE])
        (root / "sys/module/nvidia_peermem").mkdir(parents=True)

    def point(self, name: str, to: str) -> None:
        """A link to another place below the root, in place of the one that is there."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(os.path.relpath(self.root / to, path.parent))

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    def remove(self, *names: str) -> None:
        for name in names:
            path = self.root / name
            if path.is_symlink() or path.is_file():
                path.unlink()
                continue
            for inner in sorted(path.iterdir()):
                self.remove(str(inner.relative_to(self.root)))
            path.rmdir()

    def configure(self, address: str, space: bytes) -> None:
        (self.root / FOLDERS[address] / "config").write_bytes(space)

    def link(self, address: str, speed: float, width: int, speed_most: float = 32.0, width_most: int = 16) -> None:
        folder = FOLDERS[address]
        self.write(f"{folder}/current_link_speed", f"{speed} GT/s PCIe")
        self.write(f"{folder}/max_link_speed", f"{speed_most} GT/s PCIe")
        self.write(f"{folder}/current_link_width", str(width))
        self.write(f"{folder}/max_link_width", str(width_most))

    def answers(self, **changes: object) -> None:
        """What the libraries say instead."""
        self.libraries = replace(self.libraries, **changes)  # type: ignore[arg-type]

    def limits(self, **changes: object) -> None:
        said = replace(GOOD_LIMITS, **changes)  # type: ignore[arg-type]
        self.answers(limits=lambda _: {"mlx5_0": said})

    def findings(self) -> dict[str, Finding]:
        found = [finding for _, finding in examine(Machine(self.root), self.libraries)]
        names = [finding.name for finding in found]
        assert len(names) == len(set(names)), f"two lines have one name: {names}"
        return {finding.name: finding for finding in found}


def levels(findings: dict[str, Finding], *wanted: str) -> Sequence[str]:
    """The names of the findings with one of these levels."""
    return [name for name, finding in findings.items() if finding.level in wanted]
