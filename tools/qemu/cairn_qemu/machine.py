"""One machine in QEMU, from power on to power off or to the moment when its power is cut; and the line to the agent in it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn_qemu.architectures import Architecture

MEMORY_MB = 1536
PROCESSORS = 2
END_SECONDS_MOST = 60.0
CONSOLE_LINES_SHOWN = 25


class MachineError(Exception):
    """It did not answer, or what was asked for could not be done there."""


class NotUpError(MachineError):
    """It did not come so far that anything could be asked for."""


@dataclass(frozen=True)
class Parts:
    """What a machine is made of. drive: the words that give QEMU a block device of the name `drive`."""

    architecture: Architecture
    kernel: Path
    initramfs: Path
    images: tuple[Path, ...]
    drive: tuple[str, ...]
    logical_block_bytes: int
    accelerator: str

    def command(self, console: Path, port: int) -> list[str]:
        words = [self.architecture.emulator, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
        processor = "host" if self.accelerator == "kvm" else self.architecture.processor
        words += ["-machine", self.architecture.machine, "-cpu", processor]
        words += ["-accel", self.accelerator, "-m", str(MEMORY_MB), "-smp", str(PROCESSORS)]
        words += ["-kernel", str(self.kernel), "-initrd", str(self.initramfs)]
        # A kernel that panics, or whose first process ends, starts again at once, which ends QEMU.
        words += ["-append", f"console={self.architecture.console} panic=-1 quiet loglevel=4"]
        words += ["-serial", f"file:{console}", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
        words += ["-chardev", f"socket,id=cairn,fd={port}", "-device", "virtserialport,chardev=cairn,name=cairn"]
        for number, image in enumerate(self.images):
            words += ["-blockdev", f"driver=file,node-name=image{number},filename={image},read-only=on"]
            words += ["-device", f"virtio-blk-pci,drive=image{number}"]
        blocks = f"logical_block_size={self.logical_block_bytes},physical_block_size=4096"
        words += [*self.drive, "-device", f"nvme,serial=cairn,drive=drive,{blocks}"]
        return words


class Machine:
    """Switched on when it is made; a context manager: leaving it ends it at once."""

    def __init__(self, parts: Parts, folder: Path) -> None:
        self._console = folder / "console.log"
        ours, theirs = socket.socketpair()
        self._line = ours
        self._read = b""
        self.cut = False
        self._killing = threading.Lock()
        self.begun = time.monotonic()
        with theirs:
            self._process = subprocess.Popen(
                # QEMU must not outlive this program, however that ends.
                ["setpriv", "--pdeathsig", "KILL", *parts.command(self._console, theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._line.close()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def cut_power(self) -> None:
        """SIGKILL to QEMU: whatever it was doing, it does no more of it. Any thread may do it."""
        self.cut = True
        self._kill()

    def _kill(self) -> None:
        with self._killing:  # one at a time: the number of a process that was waited for may be another's
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def come_up(self, seconds: float) -> dict[str, Any]:
        """Until the agent is there: what it says of its machine."""
        try:
            up: dict[str, Any] = self.heard(seconds)["up"]
        except (MachineError, KeyError) as error:
            raise NotUpError(str(error)) from None
        return up

    def ask(self, word: str, **details: Any) -> None:
        """Gives the agent an order. What it says of it comes by `heard`."""
        try:
            self._line.sendall(json.dumps({"do": word, **details}).encode() + b"\n")
        except OSError as error:
            raise MachineError(self._why_gone(f"could not be told to {word} ({error.strerror})")) from None

    def heard(self, seconds: float) -> dict[str, Any]:
        """The next thing that the agent said. Raises MachineError when there is none in time, and when it says that it failed."""
        end = time.monotonic() + seconds
        while (said := self._next_said()) is None:
            part = self._receive(end - time.monotonic())
            if part is None:
                raise MachineError(self._why_gone(f"said nothing for {seconds:g} s"))
            if not part:
                raise MachineError(self._why_gone("ended"))
        return said

    def heard_within(self, seconds: float) -> Iterator[dict[str, Any]]:
        """What the agent says in the next so many seconds, or until the power is cut."""
        end = time.monotonic() + seconds
        while not self.cut:
            if (said := self._next_said()) is not None:
                yield said
                continue
            part = self._receive(end - time.monotonic())
            if part is None:
                return
            if not part and not self.cut:
                raise MachineError(self._why_gone("ended"))

    def heard_before_the_cut(self) -> Iterator[dict[str, Any]]:
        """After `cut_power`: what was said, and was on its way to us."""
        while self._receive(END_SECONDS_MOST):
            pass
        while (said := self._next_said()) is not None:
            yield said

    def result(self, word: str, seconds: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Until the order `word` is done: its answer, and what was said before it. seconds: the longest silence."""
        said: list[dict[str, Any]] = []
        while True:
            latest = self.heard(seconds)
            if latest.get("done") == word:
                return latest, said
            said.append(latest)

    def do(self, word: str, seconds: float, **details: Any) -> dict[str, Any]:
        self.ask(word, **details)
        return self.result(word, seconds)[0]

    def end(self) -> None:
        """The agent ends, and the guest switches itself off."""
        self.ask("end")
        try:
            status = self._process.wait(END_SECONDS_MOST)
        except subprocess.TimeoutExpired:
            raise MachineError(self._why_gone(f"did not switch itself off in {END_SECONDS_MOST:.0f} s")) from None
        if status != 0:
            raise MachineError(self._why_gone("did not end well"))

    def _receive(self, seconds: float) -> bytes | None:
        """Empty at the end, None when nothing came in time."""
        if not select.select([self._line], [], [], max(0.0, seconds))[0]:
            return None
        part = self._line.recv(1 << 16)
        self._read += part
        return part

    def _next_said(self) -> dict[str, Any] | None:
        line, ended, rest = self._read.partition(b"\n")
        if not ended:
            return None
        self._read = rest
        said: dict[str, Any] = json.loads(line)
        if "failed" in said:
            log = "".join(f"\n    {line}" for line in said["log"].splitlines())
            raise MachineError(f"in the guest: {said['failed']} ({said['kind']}). The end of the service's log:{log}")
        return said

    def _why_gone(self, what: str) -> str:
        self._kill()
        status = self._process.returncode
        error = self._process.stderr.read().decode(errors="replace").strip() if self._process.stderr else ""
        lines = (
            self._console.read_text(errors="replace").replace("\r", "").splitlines() if self._console.exists() else []
        )
        console = "".join(f"\n    {line}" for line in lines[-CONSOLE_LINES_SHOWN:]) or " (it wrote nothing)"
        return f"the machine {what}; QEMU ended with {status}. {error}\n  The end of its console:{console}"
