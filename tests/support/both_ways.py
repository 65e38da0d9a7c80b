"""A service that listens for RDMA and TCP on one port, and RDMA devices that go and come back, in the testbed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cairnkv
from cairnkv import Status
from cairnkv.process import ServiceProcess

ADDRESSES = os.environ.get("CAIRN_TESTBED_ADDRESSES", "").split()
NAMESPACES = os.environ.get("CAIRN_TESTBED_NAMESPACES", "").split()
# Addresses are moved and names of hosts are changed: only on a machine that is thrown away afterwards.
THROWN_AWAY = "User Mode Linux" in Path("/proc/cpuinfo").read_text()
SECONDS_MOST = 60.0
DEADLINE_MS = 8000


def system(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def free_port() -> int:
    """Of TCP. RDMA counts its own, of which the testbed has none in use."""
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


def format_drive(path: str) -> None:
    words = ("format", "--drive", path, "--yes", "--overwrite")
    subprocess.run([sys.executable, "-m", "cairn_dpu", *words], check=True, capture_output=True)


@contextlib.contextmanager
def host_names(folder: Path, **names: list[str]) -> Iterator[None]:
    """Names of hosts and their addresses, until the block ends."""
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, all_of in names.items() for address in all_of)]
    (folder / "hosts").write_text("\n".join([*lines, ""]))
    system("mount", "--bind", str(folder / "hosts"), "/etc/hosts")
    try:
        yield
    finally:
        system("umount", "/etc/hosts")


def has_address(interface: str, address: str) -> bool:
    shown = subprocess.run(
        ["ip", "-o", "address", "show", "dev", interface], check=True, capture_output=True, text=True
    )
    return f" {address}/" in shown.stdout


def cut_rdma(number: int) -> None:
    """Whatever is on its way over this device is lost from now on, and nothing tells. Its address stays with the machine: TCP to
    it goes on. (When its link goes down instead, Soft-RoCE of Linux 6.1 never makes a connection again.)"""
    address = ADDRESSES[number]
    if has_address(f"dummy{number}", address):
        system("ip", "address", "add", f"{address}/32", "dev", "lo")
        system("ip", "address", "del", f"{address}/24", "dev", f"dummy{number}")


def mend_rdma(number: int) -> None:
    address = ADDRESSES[number]
    if not has_address(f"dummy{number}", address):
        system("ip", "address", "add", f"{address}/24", "dev", f"dummy{number}")
        system("ip", "address", "del", f"{address}/32", "dev", "lo")


def sent_packets(number: int) -> int:
    return int(Path(f"/sys/class/infiniband/rxe{number}/ports/1/hw_counters/sent_pkts").read_text())


@contextlib.contextmanager
def serving_both(
    folder: Path, drive: str, schemes: Sequence[str] = ("rdma", "tcp"), port: int = 0
) -> Iterator[tuple[ServiceProcess, int]]:
    """A service at every address of the machine, and its port, which is one for RDMA and for TCP."""
    port = port or free_port()
    listen = [f"{scheme}://0.0.0.0:{port}" for scheme in schemes]
    settings = ["--allow-remote-without-credentials"]
    service = ServiceProcess(folder, drive=drive, listen=listen, admin="127.0.0.1:0", settings=settings)
    service.start()
    try:
        yield service, port
    finally:
        service.kill()


class Load:
    """Puts and gets without a pause, of fresh blocks and of all the ones before, until the block ends. Wrong bytes and raised
    errors are kept for await_more() and the end to raise."""

    def __init__(
        self, client: cairnkv.Client, block_bytes: int = 100_000, together: int = 8, deadline_ms: int = DEADLINE_MS
    ) -> None:
        self.client = client
        self.seen: Counter[Status] = Counter()
        self._name = os.urandom(8).hex()  # what others left behind is not in the way
        self._block_bytes, self._together, self._deadline_ms = block_bytes, together, deadline_ms
        self._changed = threading.Condition()
        self._rounds = 0
        self._error: BaseException | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._thread.join(SECONDS_MOST)
        assert not self._thread.is_alive(), "a call does not end"
        self._raise()

    def failed(self) -> int:
        """Items that did not go as without a fault."""
        with self._changed:
            return self.seen.total() - self.seen[Status.ok]

    def await_rounds(self, count: int = 3) -> None:
        """Returns when that many more rounds ended."""
        until = self._rounds + count
        self.await_until(lambda: self._rounds >= until)

    def await_until(self, wanted: Callable[[], bool], seconds: float = SECONDS_MOST) -> None:
        """Looks after every round."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._error is not None or wanted(), seconds)
        self._raise()
        assert found, f"it did not come to pass in {seconds:.0f} s; {self.client.info()}, {self.seen}"

    def await_transport(self, name: str) -> None:
        self.await_until(lambda: self.client.info()["transport"] == name and self.client.info()["connected"])

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._ending:
                self._round(self._rounds)
                with self._changed:
                    self._rounds += 1
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _round(self, number: int) -> None:
        keys = [f"{self._name} {number} {index}" for index in range(self._together)]
        blocks = [os.urandom(self._block_bytes) for _ in keys]
        puts = self.client.put(zip(keys, blocks, strict=True), deadline_ms=self._deadline_ms)
        memory = [bytearray(self._block_bytes) for _ in keys]
        gets = self.client.get(zip(keys, memory, strict=True), deadline_ms=self._deadline_ms)
        for put, get, block, found in zip(puts, gets, blocks, memory, strict=True):
            assert not get.hit or bytes(found) == block, "wrong bytes"
            assert get.hit or not put.ok or get.status is not Status.not_found, "a block that was kept is gone"
        deleted = self.client.delete(keys, deadline_ms=self._deadline_ms)
        with self._changed:
            self.seen.update(result.status for results in (puts, gets, deleted) for result in results)


def within(seconds: float, wanted: Callable[[], bool]) -> bool:
    """For what no event tells of: asks until it is so."""
    until = time.monotonic() + seconds
    while not wanted():
        if time.monotonic() > until:
            return False
        os.sched_yield()
    return True
