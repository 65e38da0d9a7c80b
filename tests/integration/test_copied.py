"""How much payload the service's own processor copies on its way between a client and a drive: over RDMA, none."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from both_ways import ADDRESSES, NAMESPACES, THROWN_AWAY, format_drive, serving_both
from observer import Observer

import cairnkv
from cairnkv.testing import RunningService, service

in_testbed = pytest.mark.skipif(not (ADDRESSES and NAMESPACES), reason="there is no testbed: make test-devices")
STAGED_BYTES = 4096  # that may arrive with the head of a frame (transport/stream_io.cc)
# Aligned and not, of one page or less, of one record and in parts over several.
SIZES = [1, 4095, 65_536, 100_001, 1 << 20, (4 << 20) + 5]


def copied(observer: Observer) -> int:
    return observer.figure("copied_bytes")


def of_drive(observer: Observer, name: str) -> int:
    return int(observer.stats()["store"]["drives"][0][name])


def blocks(name: str) -> dict[str, bytes]:
    return {f"{name} {size}": os.urandom(size) for size in SIZES}


def put_all(client: cairnkv.Client, wanted: dict[str, bytes]) -> None:
    for key, block in wanted.items():
        assert client.put_one(key, block).ok


def get_all(client: cairnkv.Client, wanted: dict[str, bytes]) -> None:
    for key, block in wanted.items():
        assert client.get_bytes(key)[1] == block


@contextlib.contextmanager
def clients(folder: Path) -> Iterator[tuple[dict[str, cairnkv.Client], Observer]]:
    """Of one life of a service over the namespace."""
    with serving_both(folder, NAMESPACES[0]) as (process, port), contextlib.ExitStack() as stack:
        found = {
            scheme: stack.enter_context(cairnkv.connect(f"{scheme}://{ADDRESSES[0]}:{port}"))
            for scheme in ("rdma", "tcp")
        }
        yield found, Observer(str(process.admin_url))


@in_testbed
def test_over_rdma_no_byte_is_copied_between_client_and_drive(short_dir: Path) -> None:
    """Pass-through both ways: puts are written to the namespace, gets of the next life are read from it."""
    format_drive(NAMESPACES[0])
    wanted = blocks("rdma")
    payload_bytes = sum(len(block) for block in wanted.values())
    with clients(short_dir) as (found, observer):
        put_all(found["rdma"], wanted)
        get_all(found["rdma"], wanted)  # from memory
        assert of_drive(observer, "put_bytes") >= payload_bytes
        assert copied(observer) == 0
    with clients(short_dir) as (found, observer):
        get_all(found["rdma"], wanted)
        assert of_drive(observer, "read_bytes") >= payload_bytes
        assert copied(observer) == 0
        put_all(found["tcp"], blocks("tcp"))  # and the counter is one that counts
        assert copied(observer) > 0


on_files = pytest.mark.skipif(THROWN_AWAY, reason="files in the testbed know no direct I/O")


@pytest.fixture
def running() -> Iterator[RunningService]:
    with (
        tempfile.TemporaryDirectory(prefix="cairn-") as folder,
        service(folder, size="256MiB", admin="127.0.0.1:0") as started,
    ):
        yield started


@on_files
def test_over_tcp_only_what_came_with_a_frames_head_is_copied(running: RunningService) -> None:
    observer = Observer(str(running.process.admin_url))
    with cairnkv.connect(running.tcp_url) as client:
        wanted = blocks("tcp")
        put_all(client, wanted)
        after_puts = copied(observer)
        assert 0 < after_puts <= len(wanted) * STAGED_BYTES
        get_all(client, wanted)
        assert copied(observer) == after_puts


@on_files
def test_over_shm_every_byte_is_copied_once_on_this_side_each_way(running: RunningService) -> None:
    observer = Observer(str(running.process.admin_url))
    with cairnkv.connect(running.shm_url) as client:
        sizes = 0
        for key, block in blocks("shm").items():
            region = client.alloc(len(block))
            memory = memoryview(region)[: len(block)]
            memory[:] = block
            assert client.put_one(key, memory).ok
            memory[:] = bytes(len(block))
            assert client.get_one(key, memory).hit
            assert memory == block
            memory.release()
            sizes += len(block)
        # Frames pass through the rings as well, and what came with a head is copied once more.
        assert 2 * sizes <= copied(observer) <= 2 * sizes + len(SIZES) * 3 * STAGED_BYTES
