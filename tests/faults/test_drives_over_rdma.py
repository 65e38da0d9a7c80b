"""A drive fails while its blocks are on their way to memory of clients over RDMA."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hurt_service import RDMA_HOST
from nvme_drives import NAMESPACES, controller_of, forgetful, formatted, removable, serving

import cairnkv
from cairnkv import Status, _native

BLOCK_BYTES = 2_000_000
KEYS = [f"block {number}" for number in range(40)]


def hurtable() -> Path | None:
    return controller_of(NAMESPACES[1]) if len(NAMESPACES) > 1 else None


pytestmark = pytest.mark.skipif(hurtable() is None, reason="it needs two namespaces of the testbed's own")


@pytest.fixture
def controller() -> Iterator[Path]:
    """Of the second drive, which is there again when the service that had it open is gone."""
    found = hurtable()
    assert found is not None
    with removable(found, NAMESPACES[1]):
        yield found


@pytest.fixture
def cold(controller: Path, short_dir: Path) -> Iterator[cairnkv.Client]:
    """A client over RDMA of a service over two drives, of whose 40 blocks nothing is in memory yet."""
    drives = [formatted(path) for path in NAMESPACES[:2]]
    payload = bytearray(BLOCK_BYTES)
    with serving(short_dir, drives) as service, cairnkv.connect(service.urls[0]) as client:
        for seed, key in enumerate(KEYS):
            _native.fill_pattern(payload, seed)
            assert client.put_one(key, payload).ok
    with serving(short_dir, drives, RDMA_HOST) as service, cairnkv.connect(service.urls[1]) as client:
        yield client
        assert service.running(), "a drive ended the service"


def got(client: cairnkv.Client, meanwhile: Callable[[], None] = lambda: None) -> list[Status]:
    """The status of each block, of one call; `meanwhile` happens while it is under way. What was got is exact."""
    memory = [memoryview(client.register(bytearray(BLOCK_BYTES))) for _ in KEYS]
    results: list[cairnkv.GetResult] = []
    call = threading.Thread(
        target=lambda: results.extend(client.get(list(zip(KEYS, memory, strict=True)))), name="call"
    )
    call.start()
    meanwhile()
    call.join(60)
    assert len(results) == len(KEYS), "the call did not return"
    for seed, (result, view) in enumerate(zip(results, memory, strict=True)):
        assert not result.hit or _native.check_pattern(view, seed) == -1, "wrong bytes were got"
    return [result.status for result in results]


# What a user would have lost: one drive that is pulled in the middle of reads costs the blocks of all, or hands out what lay
# in the service's memory before.
def test_a_drive_that_is_taken_away_in_mid_read(cold: cairnkv.Client, controller: Path) -> None:
    def take_away() -> None:
        (controller / "delete_controller").write_text("1")

    first = got(cold, take_away)
    second = got(cold)
    for statuses in (first, second):
        assert 0 < statuses.count(Status.ok) < len(KEYS)
        assert Status.disconnected not in statuses, "a drive's failure cost a session"
    assert second.count(Status.ok) <= first.count(Status.ok)
    assert cold.put_one("later", b"l" * BLOCK_BYTES).ok
    assert cold.get_bytes("later")[1] == b"l" * BLOCK_BYTES


# What a user would have lost: silently wrong attention. The drive answers every read with success, and with zeros.
def test_a_drive_that_answers_with_zeros(cold: cairnkv.Client, controller: Path) -> None:
    with forgetful(controller):
        statuses = got(cold)
        assert 0 < statuses.count(Status.ok) < len(KEYS)
        assert sum(drive["checksum_errors"] for drive in cold.stats()["store"]["drives"]) > 0
