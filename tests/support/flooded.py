"""What a flood of one kind of frame does to a service, and to another tenant: memory, the time of its gets, `/healthz`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import cairnkv
from cairnkv.testing import RunningService

FLOODS = Path(__file__).with_name("floods.py")
MIB = 1 << 20
WINDOWS = 5
GIVEN_BACK_SECONDS = 20.0


@dataclass
class Seen:
    """Of one flood. Times in milliseconds: the median of what the worst hundredth took in each of some windows."""

    kind: str
    transport: str
    sessions: int
    grown_mib: float = 0.0
    kept_mib: float = 0.0  # after they hung up
    get_ms: float = 0.0
    healthz_ms: float = 0.0
    sent_mib: float = 0.0
    lost: list[str] = field(default_factory=list)  # what the other tenant was refused

    def wrong(self, quiet_get_ms: float, slack: float) -> list[str]:
        """What it broke, as sentences. `slack`: how much slower than promised a busy machine may be."""
        said = f"{self.sessions} sessions of {self.kind} over {self.transport}"
        found = [f"{said}: another tenant's get was {status}" for status in self.lost[:1]]
        if self.grown_mib > 32:
            found.append(f"{said}: the service grew by {self.grown_mib:.0f} MiB")
        if self.kept_mib > 16:
            found.append(f"{said}: {self.kept_mib:.0f} MiB are not given back")
        if self.get_ms > slack * max(10.0, 5 * quiet_get_ms):
            found.append(f"{said}: another tenant's get took {self.get_ms:.1f} ms, {quiet_get_ms:.1f} when it is quiet")
        if self.healthz_ms > slack * 100:
            found.append(f"{said}: /healthz took {self.healthz_ms:.0f} ms")
        return found


class Flooded:
    """A service, and a tenant that has a block in it."""

    def __init__(self, running: RunningService) -> None:
        self.running = running
        self.victim = cairnkv.connect(running.tcp_url, tenant="victim", deadline_ms=30_000)
        assert self.victim.put_one("block", b"v" * 4096).ok
        self.memory = bytearray(4096)
        self.quiet_get_ms = statistics.median(self._window(0.3)[0] for _ in range(WINDOWS))

    def rss_mib(self) -> float:
        """Of memory of the service's own. A ring over shm, 4 MiB at most, is memory that its client fills, and that is charged to it."""
        pages, shared = map(int, Path(f"/proc/{self.running.process.pid}/statm").read_text().split()[1:3])
        return (pages - shared) * os.sysconf("SC_PAGE_SIZE") / MIB

    def _address(self, transport: str) -> str:
        if transport == "shm":
            return self.running.shm_url.removeprefix("shm://")
        parts = urlsplit(self.running.tcp_url if transport == "tcp" else self.running.rdma_url)
        return f"{parts.hostname}:{parts.port}"

    def _window(self, seconds: float, seen: Seen | None = None) -> tuple[float, float]:
        """The time of gets, and that of /healthz."""
        gets: list[float] = []
        began = time.monotonic()
        try:
            with urllib.request.urlopen(f"{self.running.process.admin_url}/healthz", timeout=30) as answer:
                answer.read()
            healthz = time.monotonic() - began
        except OSError:  # not well, or no answer
            healthz = 30.0
        until = time.monotonic() + seconds
        while time.monotonic() < until or not gets:
            began = time.monotonic()
            result = self.victim.get_one("block", self.memory)
            gets.append(time.monotonic() - began)
            if not result.hit and seen is not None:
                seen.lost.append(result.status.name)
            time.sleep(0.0005)
        gets.sort()
        return gets[int(len(gets) * 0.99)] * 1000, healthz * 1000

    def flood(self, kind: str, transport: str, sessions: int, seconds: float) -> Seen:
        seen = Seen(kind, transport, sessions)
        before = self.rss_mib()
        words = [sys.executable, str(FLOODS), self._address(transport), kind, str(sessions), str(seconds + 120)]
        flooding = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert flooding.stdout is not None
            assert flooding.stdout.readline() == "begun\n", f"{kind} did not begin"
            windows = []
            for _ in range(WINDOWS):
                windows.append(self._window(seconds / WINDOWS, seen))
                seen.grown_mib = max(seen.grown_mib, self.rss_mib() - before)
        finally:
            flooding.kill()
            flooding.communicate()
        seen.get_ms = statistics.median(get for get, _ in windows)
        seen.healthz_ms = statistics.median(healthz for _, healthz in windows)
        until = time.monotonic() + GIVEN_BACK_SECONDS
        while (kept := self.rss_mib() - before) > 16 and time.monotonic() < until:
            time.sleep(0.05)
        seen.kept_mib = kept
        return seen


@contextmanager
def flooded_service() -> Iterator[Flooded]:
    # Each side takes as many sessions from one address as there are in the largest flood.
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
        running = RunningService(Path(folder), size="512MiB", slab="256MiB", admin="127.0.0.1:0")
        running.start()
        try:
            flooded = Flooded(running)
            yield flooded
            flooded.victim.close()
        finally:
            with suppress(ProcessLookupError):
                running.stop()
