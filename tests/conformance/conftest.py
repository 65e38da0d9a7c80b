"""A real service for each test module, and ways to hurt it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cairnkv

DRIVE_BYTES = 256 << 20


class RunningService:
    """`cairn-dpu serve` as a process: stopped, killed, suspended and started again on the same drive."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drive = folder / "drive"
        self.ready = folder / "ready.json"
        self.urls: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> RunningService:
        self.ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "cairn_dpu", "serve", "--drive", f"{self.drive}:{DRIVE_BYTES >> 20}MiB", "--listen", "tcp://127.0.0.1:0"]
        command += ["--listen", f"shm://{self.folder}/s.sock", "--admin", "off", "--slab", "256MiB", "--ready-file", str(self.ready)]
        self.process = subprocess.Popen([*command, "--log-level", "error"], stdin=subprocess.DEVNULL)
        while not self.ready.exists():
            assert self.process.poll() is None, "the service did not start"
            time.sleep(0.005)
        listening = json.loads(self.ready.read_text())["listen"]
        self.urls = {"tcp": next(u for u in listening if u.startswith("tcp")), "shm": next(u for u in listening if u.startswith("shm"))}
        return self

    def _signal(self, number: int) -> subprocess.Popen[bytes]:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process

    def kill(self) -> None:
        self._signal(signal.SIGKILL).wait()

    def stop(self) -> int:
        return self._signal(signal.SIGTERM).wait()

    def suspend(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


@pytest.fixture
def service(short_dir: Path) -> Iterator[RunningService]:
    started = RunningService(short_dir).start()
    yield started
    if started.running():
        started.resume()
        started.kill()


# How a caller's memory reaches the service: what must not make a difference.
MEMORY = ["tcp", "shm-stream", "shm-region"]


@pytest.fixture(params=MEMORY)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connect(service: RunningService, way: str) -> Iterator[Callable[..., cairnkv.Client]]:
    opened: list[cairnkv.Client] = []

    def make(**options: object) -> cairnkv.Client:
        client = cairnkv.connect(service.urls[way.split("-")[0]], **options)  # type: ignore[arg-type]
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def client(connect: Callable[..., cairnkv.Client]) -> cairnkv.Client:
    return connect()


@pytest.fixture
def memory(client: cairnkv.Client, way: str) -> Callable[[int], memoryview]:
    """Memory of the kind under test."""

    def make(nbytes: int) -> memoryview:
        if way != "shm-region":
            return memoryview(bytearray(nbytes))
        region = client.alloc(nbytes)
        return memoryview(region)

    return make


@pytest.fixture
def fresh() -> Callable[[], bytes]:
    return lambda: os.urandom(20)
