"""Over shm: what a link costs, and what becomes of it where the process or the machine has no more to give."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hurt_service import HurtService

import cairnkv
from cairnkv.errors import ConnectError, UsageError
from cairnkv.testing import RunningService

CLIENTS = 1000
BYTES_OF_AN_IDLE_CLIENT = 100_000
FENCE_SECONDS = 0.25
SLACK_SECONDS = 1.5  # of a machine that runs the tests of others as well


@pytest.fixture
def running() -> Iterator[HurtService]:
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
        started = HurtService(Path(folder), size="256MiB", slab="256MiB", admin="off")
        started.start()
        yield started
        if started.process.running():
            started.resume()
            started.kill()


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """This process can open so many more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(count + 1)]
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def test_a_client_without_a_descriptor_for_the_shared_memory_is_told(running: HurtService) -> None:
    # One for its event, one for its socket; the third comes with the welcome.
    with descriptors_left(2), pytest.raises(ConnectError, match="at its limit of open files; raise it"):
        cairnkv.connect(running.shm_url)
    with cairnkv.connect(running.shm_url) as client:
        assert client.put_one("after", b"that").ok


def test_calls_at_the_limit_of_descriptors_are_back_in_time_and_misses_where_there_is_no_session(
    running: HurtService,
) -> None:
    with cairnkv.connect(running.shm_url) as client:
        assert client.put_one("key", b"x" * 65_536).ok
        memory = memoryview(client.alloc(65_536))
        with descriptors_left(0):
            assert client.get_one("key", memory, deadline_ms=5000).hit
        running.suspend()
        with descriptors_left(0):
            began = time.monotonic()
            assert not client.get_one("key", memory, deadline_ms=200).hit
            assert time.monotonic() - began < 0.2 + FENCE_SECONDS + SLACK_SECONDS
        running.resume()
        with descriptors_left(0):
            until = time.monotonic() + 30
            while not client.get_one("key", memory, deadline_ms=2000).hit:
                assert time.monotonic() < until
        running.kill()
        with descriptors_left(0):
            began = time.monotonic()
            assert not client.get_one("key", memory, deadline_ms=200).hit
            assert time.monotonic() - began < 0.2 + FENCE_SECONDS + SLACK_SECONDS


def test_memory_that_the_machine_has_not_is_an_error_and_no_kill(running: HurtService) -> None:
    with cairnkv.connect(running.shm_url) as client:
        with pytest.raises(UsageError, match=r"bytes of memory left; ask for less"):
            client.alloc(1 << 40)
        region = client.alloc(1 << 20)
        assert bytes(region) == bytes(1 << 20)


def test_a_thousand_idle_clients_cost_little(short_dir: Path) -> None:
    """Each has put and got a small block, and is silent since."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * CLIENTS + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.fail(f"the test needs {wanted} descriptors, and the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    settings = [f"--sessions-most={CLIENTS + 10}", f"--sessions-per-tenant-most={CLIENTS + 10}"]
    started = RunningService(short_dir, size="256MiB", slab="256MiB", admin="off", settings=settings)
    started.start()
    clients: list[cairnkv.Client] = []
    try:
        with cairnkv.connect(started.tcp_url) as first:  # what is made once is made
            assert first.put_one("first", b"x" * 4096).ok and first.get_bytes("first")[0].hit
        before, own_before = resident_bytes(started.process.pid), resident_bytes(os.getpid())
        memory = bytearray(4096)
        for number in range(CLIENTS):
            client = cairnkv.connect(started.shm_url)
            clients.append(client)
            assert client.put_one(f"key {number}", b"y" * 4096).ok
            assert client.get_one(f"key {number}", memory).hit
        grown = (resident_bytes(started.process.pid) - before) / CLIENTS
        own = (resident_bytes(os.getpid()) - own_before) / CLIENTS
        print(f"an idle client costs the service {grown:,.0f} bytes and its own process {own:,.0f}")
        # The blocks themselves are in the slab, which was there before.
        assert grown < BYTES_OF_AN_IDLE_CLIENT
        assert own < BYTES_OF_AN_IDLE_CLIENT
    finally:
        for client in clients:
            client.close()
        started.kill()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_session_that_moved_much_gives_the_memory_of_its_ring_back(running: HurtService) -> None:
    blocks = {f"k{number}": os.urandom(4 << 20) for number in range(8)}
    with cairnkv.connect(running.shm_url) as client:
        for key, block in blocks.items():
            assert client.put_one(key, block).ok
        memory = bytearray(4 << 20)
        for key, block in blocks.items():
            assert client.get_one(key, memory).hit and memory == block

        def shared_bytes() -> int:
            status = Path(f"/proc/{running.process.pid}/status").read_text(encoding="ascii")
            return int(status.partition("RssShmem:")[2].split()[0]) * 1024

        until = time.monotonic() + 30
        # The way to the client is the service's to give back; the other is the client's.
        while shared_bytes() > (4 << 20) + (256 << 10):
            assert time.monotonic() < until, f"{shared_bytes()} bytes are still held"
            time.sleep(0.1)
        for key, block in blocks.items():
            assert client.get_one(key, memory).hit and memory == block
