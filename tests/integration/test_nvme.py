"""The service over real NVMe namespaces, by both of their names. They lose what they hold: `make test-devices` runs this
in the testbed; without one (CAIRN_TESTBED_NAMESPACES) there is nothing to run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.process import ServiceProcess, socket_for

NAMESPACES = os.environ.get("CAIRN_TESTBED_NAMESPACES", "").split()
pytestmark = pytest.mark.skipif(not NAMESPACES, reason="there is no testbed: make test-devices")
BLOCK_BYTES = 5_000_000  # in parts, where there are several drives
WHOLE_BYTES = 2_000_000


def block_device(namespace: str) -> str:
    return namespace.replace("/dev/ng", "/dev/nvme")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "cairn_dpu", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def namespace() -> str:
    done = command("format", "--drive", NAMESPACES[0], "--yes", "--overwrite")
    assert done.returncode == 0, done.stderr
    return NAMESPACES[0]


@contextlib.contextmanager
def serving(folder: Path, drive: str, *more: str) -> Iterator[str]:
    """A service until the block ends, and then kill -9. The URL at which it is."""
    url = f"shm://{socket_for(folder)[0]}"
    settings = [word for path in more for word in ("--drive", path)]
    service = ServiceProcess(folder, drive=drive, listen=[url], settings=settings)
    service.start()
    try:
        yield url
    finally:
        service.kill()


def test_what_was_put_by_one_name_is_got_by_the_other(namespace: str, short_dir: Path) -> None:
    payload = os.urandom(BLOCK_BYTES)
    for number, name in enumerate([namespace, block_device(namespace), namespace]):
        with serving(short_dir, name) as url, cairnkv.connect(url) as client:
            assert client.put_one(f"block {number}", payload).ok
            for earlier in range(number + 1):
                assert client.get_bytes(f"block {earlier}")[1] == payload


def test_foreign_data_is_kept_until_an_order_says_otherwise(namespace: str) -> None:
    with open(block_device(namespace), "r+b") as drive:
        drive.write(b"precious" * (1 << 17))
    for name in (namespace, block_device(namespace)):
        done = command("format", "--drive", name, "--yes")
        assert done.returncode == 5
        assert "holds data that is no Cairn store" in done.stderr and "--overwrite" in done.stderr
    assert command("format", "--drive", namespace, "--yes", "--overwrite").returncode == 0


def test_a_drive_in_use_is_refused_by_both_names(namespace: str, short_dir: Path) -> None:
    with serving(short_dir, namespace):
        for name in (namespace, block_device(namespace)):
            done = command("format", "--drive", name, "--yes", "--overwrite")
            assert done.returncode == 5
            assert "in use" in done.stderr


@pytest.fixture
def removable() -> Iterator[Path]:
    """The controller of the second namespace, which is there again afterwards."""
    if len(NAMESPACES) < 2:
        pytest.skip("it needs two namespaces")
    controller = Path("/sys/class/nvme-generic", Path(NAMESPACES[1]).name).resolve().parent
    if (controller / "transport").read_text() != "loop\n":
        pytest.skip("only the testbed's own drives can be taken away")
    subsystem = (controller / "subsysnqn").read_text().strip()
    done = command("format", "--drive", NAMESPACES[1], "--yes", "--overwrite")
    assert done.returncode == 0, done.stderr
    yield controller
    Path("/dev/nvme-fabrics").write_text(f"transport=loop,nqn={subsystem}")
    while not Path(NAMESPACES[1]).exists():
        os.sched_yield()


def test_a_drive_that_is_taken_away_costs_its_own_blocks_only(namespace: str, removable: Path, short_dir: Path) -> None:
    payload = os.urandom(WHOLE_BYTES)
    keys = [f"block {number}" for number in range(24)]
    with serving(short_dir, namespace, NAMESPACES[1]) as url, cairnkv.connect(url) as client:
        for key in keys:
            assert client.put_one(key, payload).ok
    # A service of which nothing is in memory yet.
    with serving(short_dir, namespace, NAMESPACES[1]) as url, cairnkv.connect(url) as client:
        (removable / "delete_controller").write_text("1")
        found = [client.get_bytes(key)[1] for key in keys]
        assert found.count(payload) + found.count(b"") == len(keys), "a block is exact or a miss"
        assert 0 < found.count(payload) < len(keys)
        assert client.put_one("later", payload).ok
        assert client.get_bytes("later")[1] == payload
