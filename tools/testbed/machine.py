"""A machine that runs one command, from power on to power off; and what it leaves in its folder.

`folder` is this machine's and the guest's: it has `guest.sh` and `command`; the guest makes `up` before it runs the command, and `status`
after it. `console` is what the kernel and the guest said.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CONSOLE_LINES_SHOWN = 60  # a panic is longer than 30, and says first why


@dataclass(frozen=True)
class Machine:
    """words: the command that is the machine. descriptors: what is its own, and is closed here once it runs. out, error: what the command
    writes, as it comes, until the machine is gone. boot_seconds_most: a kernel that panics, or has too little memory, may stand still
    for ever. after_start: gets the number of its process."""

    words: list[str]
    descriptors: tuple[int, ...]
    out: Iterable[bytes]
    error: Iterable[bytes]
    boot_seconds_most: float
    after_start: Callable[[int], None] | None = None


def pump(parts: Iterable[bytes], target: IO[bytes]) -> None:
    """Hands on what comes. If nobody reads it any more, it is taken all the same, so that the machine can end."""
    for part in parts:
        with contextlib.suppress(BrokenPipeError):
            target.write(part)
            target.flush()


def boot(machine: Machine, folder: Path, timeout_seconds: float, lent: tuple[int, ...] = ()) -> bool:
    """Runs it until it switches itself off, or takes too long and is killed: whether it ended by itself. What `folder` holds tells the
    rest. lent: more descriptors that it needs, which stay open here."""
    with (folder / "console").open("ab") as console:
        process = subprocess.Popen(
            machine.words,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            pass_fds=(*machine.descriptors, *lent),
            start_new_session=True,  # a group of its own: User-Mode Linux is several processes
        )
    for descriptor in machine.descriptors:
        os.close(descriptor)
    streams = ((machine.out, sys.stdout.buffer), (machine.error, sys.stderr.buffer))
    pumps = [threading.Thread(target=pump, args=stream, name="pump") for stream in streams]
    for thread in pumps:
        thread.start()
    if machine.after_start is not None:
        threading.Thread(target=machine.after_start, args=(process.pid,), name="after start", daemon=True).start()
    # Whoever ends this process ends the machine, which is nobody's child otherwise and would run on for ever.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        return ended_in_time(process, folder, timeout_seconds, machine.boot_seconds_most)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for thread in pumps:
            thread.join()


def ended_in_time(
    process: subprocess.Popen[bytes], folder: Path, timeout_seconds: float, boot_seconds_most: float
) -> bool:
    begun = time.monotonic()
    try:
        try:
            process.wait(min(timeout_seconds, boot_seconds_most))
        except subprocess.TimeoutExpired:
            if not (folder / "up").exists():
                return False
            process.wait(timeout_seconds - (time.monotonic() - begun))
    except subprocess.TimeoutExpired:
        return False
    return True


def end_of_console(folder: Path) -> str:
    lines = (folder / "console").read_text(errors="replace").replace("\r", "").splitlines()
    return "".join(f"  {line}\n" for line in lines[-CONSOLE_LINES_SHOWN:]) or "  (it wrote nothing)\n"
