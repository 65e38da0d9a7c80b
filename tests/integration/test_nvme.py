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
BLOCK_BYTES = 5_000_000


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
def serving(folder: Path, drive: str) -> Iterator[str]:
    """A service until the block ends, and then kill -9. The URL at which it is."""
    url = f"shm://{socket_for(folder)[0]}"
    service = ServiceProcess(folder, drive=drive, listen=[url])
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
