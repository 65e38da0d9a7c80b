"""The processors that there is a machine for. Everything that differs between them stands here."""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """name: as uname says it. triple: of the cross-compiler, and of the library folders in the guest. console: the serial port that
    the kernel writes to."""

    name: str
    debian: str
    triple: str
    emulator: str
    machine: str
    processor: str
    console: str

    @property
    def compiler(self) -> str:
        """The C++ compiler that makes programs for it."""
        return f"{self.triple}-g++"

    @property
    def platforms(self) -> tuple[str, ...]:
        """The names of what wheels that run there were made for."""
        return tuple(f"{kind}_{self.name}" for kind in ("manylinux_2_28", "manylinux_2_17", "manylinux2014"))

    @property
    def can_use_kvm(self) -> bool:
        """Whether this machine's own processor is of the kind."""
        return platform.machine() == self.name


ARCHITECTURES = {
    "arm64": Architecture(
        name="aarch64",
        debian="arm64",
        triple="aarch64-linux-gnu",
        emulator="qemu-system-aarch64",
        machine="virt,gic-version=max",
        # The nearest that QEMU 7.2 has to the Cortex-A78 of a BlueField-3: the same instructions, without pointer authentication,
        # which costs an emulator much.
        processor="cortex-a76",
        console="ttyAMA0",
    ),
    "x86_64": Architecture(
        name="x86_64",
        debian="amd64",
        triple="x86_64-linux-gnu",
        emulator="qemu-system-x86_64",
        machine="q35",
        processor="max",
        console="ttyS0",
    ),
}
