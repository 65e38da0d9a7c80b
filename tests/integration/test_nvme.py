"""The service over real NVMe namespaces, by both of their names. They lose what they hold: `make test-devices` runs this
in the testbed; without one (CAIRN_TESTBED_NAMESPACES) there is nothing to run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from nvme_drives import NAMESPACES, block_device, command, controller_of, formatted, removable
from nvme_drives import serving as serving_with

import cairnkv

pytestmark = pytest.mark.skipif(not NAMESPACES, reason="there is no testbed: make test-devices")
BLOCK_BYTES = 5_000_000  # in parts, where there are several drives
WHOLE_BYTES = 2_000_000


@pytest.fixture
def namespace() -> str:
    return formatted(NAMESPACES[0])


@contextlib.contextmanager
def serving(folder: Path, *drives: str) -> Iterator[str]:
    """A service until the block ends, and then kill -9. The URL at which it is."""
    with serving_with(folder, drives) as service:
        yield service.urls[0]


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
def way_out() -> Iterator[Path]:
    """What takes the second namespace away when it is written to; it is there again afterwards."""
    if len(NAMESPACES) < 2:
        pytest.skip("it needs two namespaces")
    controller = controller_of(NAMESPACES[1])
    if controller is None:
        pytest.skip("only the testbed's own drives can be taken away")
    formatted(NAMESPACES[1])
    with removable(controller, NAMESPACES[1]) as delete:
        yield delete


def test_a_drive_that_is_taken_away_costs_its_own_blocks_only(namespace: str, way_out: Path, short_dir: Path) -> None:
    payload = os.urandom(WHOLE_BYTES)
    keys = [f"block {number}" for number in range(24)]
    with serving(short_dir, namespace, NAMESPACES[1]) as url, cairnkv.connect(url) as client:
        for key in keys:
            assert client.put_one(key, payload).ok
    # A service of which nothing is in memory yet.
    with serving(short_dir, namespace, NAMESPACES[1]) as url, cairnkv.connect(url) as client:
        way_out.write_text("1")
        found = [client.get_bytes(key)[1] for key in keys]
        assert found.count(payload) + found.count(b"") == len(keys), "a block is exact or a miss"
        assert 0 < found.count(payload) < len(keys)
        assert client.put_one("later", payload).ok
        assert client.get_bytes("later")[1] == payload
