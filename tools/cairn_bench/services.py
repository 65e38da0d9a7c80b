"""Services of our own over drives that are files, and what they say of themselves."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cairnkv import _native
from cairnkv.process import ServiceProcess

MIB = 1 << 20


@contextlib.contextmanager
def serving(
    folder: Path,
    drives: Sequence[Path],
    slab: str,
    settings: Sequence[str] = (),
    name: str = "s",
    listen: Sequence[str] = (),
    admin: str = "off",
) -> Iterator[ServiceProcess]:
    """A `cairn-dpu serve` of our own, reachable over shm and tcp (urls[0], urls[1]) and at what `listen` adds. Two at once need two
    names. `admin`: where its operator asks."""
    own = folder / name
    own.mkdir(exist_ok=True)
    more = [word for drive in drives[1:] for word in ("--drive", str(drive))]
    process = ServiceProcess(
        own,
        drive=str(drives[0]),
        listen=[f"shm://{own}/sock", "tcp://127.0.0.1:0", *listen],
        slab=slab,
        admin=admin,
        # Nothing but what is measured reads the drives.
        settings=[*more, "--scrub-bytes-per-second", "0", *settings],
    )
    process.start()
    try:
        yield process
    finally:
        process.stop()


def make_drive(path: Path, size_bytes: int) -> None:
    """A file that is written from end to end: no figure pays for the file system's first allocation."""
    piece = os.urandom(16 * MIB)
    with path.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)
        for at in range(0, size_bytes, len(piece)):
            file.write(piece[: size_bytes - at])
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def format_drive(*paths: Path, segment: str = "") -> None:
    more = ["--segment-size", segment] if segment else []
    for path in paths:
        command = [sys.executable, "-m", "cairn_dpu", "format", "--drive", str(path), "--yes", "--overwrite"]
        subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stats_of(client: _native.Client) -> dict[str, Any]:
    """What a client is told: the figures of its own tenant."""
    operation = client.stats()
    operation.wait()
    stats: dict[str, Any] = json.loads(operation.text)
    return stats


def operators_stats_of(service: ServiceProcess) -> dict[str, Any]:
    """Those of all tenants and drives. The service was started with `admin`."""
    with urllib.request.urlopen(f"{service.admin_url}/api/v1/stats", timeout=10) as answer:
        stats: dict[str, Any] = json.load(answer)
    return stats
