"""A drive fails while its blocks are on their way to memory of clients over RDMA."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hurt_service import RDMA_HOST
from nvme_drives import NAMESPACES, ShallowDrive, controller_of, forgetful, formatted, removable, serving

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


@pytest.fixture
def shallow(tmp_path: Path) -> Iterator[ShallowDrive]:
    drive = ShallowDrive(tmp_path)
    yield drive
    drive.close()


def states(client: cairnkv.Client) -> dict[str, str]:
    return {str(drive["path"]): str(drive["state"]) for drive in client.stats()["store"]["drives"]}


def exact(client: cairnkv.Client, seeds: list[int]) -> list[bool]:
    """Which of these blocks are there; those that are, are right."""
    target = memoryview(bytearray(BLOCK_BYTES))
    hits = []
    for seed in seeds:
        hits.append(client.get([(f"block {seed}", target)])[0].hit)
        assert not hits[-1] or _native.check_pattern(target, seed) == -1, "wrong bytes were got"
    return hits


# What a user would have lost: a block that was acknowledged and is not there, or all that a drive holds because it takes no
# more.
def test_a_drive_that_takes_no_writes(shallow: ShallowDrive, short_dir: Path) -> None:
    drives = [formatted(NAMESPACES[0]), formatted(shallow.namespace)]
    payload = bytearray(BLOCK_BYTES)
    kept: list[int] = []
    failed: list[int] = []

    def put(client: cairnkv.Client, seed: int) -> Status:
        _native.fill_pattern(payload, seed)
        return client.put_one(f"block {seed}", payload).status

    with serving(short_dir, drives, RDMA_HOST) as service, cairnkv.connect(service.urls[1]) as client:
        for seed in range(20):
            assert put(client, seed) == Status.ok
            kept.append(seed)
        with shallow.full():
            for seed in range(20, 60):
                status = put(client, seed)
                assert status in (Status.ok, Status.io_error), "a write that failed cost more than its put"
                (kept if status == Status.ok else failed).append(seed)
                assert exact(client, [seed % 20]) == [True], "a block that was there before is lost"
            assert failed, "no write failed"
            assert states(client) == {drives[0]: "serving", drives[1]: "read_only"}
            assert {put(client, seed) for seed in range(60, 80)} == {Status.ok}, "the other drive does not serve on"
            kept += range(60, 80)
            assert all(exact(client, kept))
            exact(client, failed)
        assert client.info()["reconnects"] == 0
        assert service.running()
    with serving(short_dir, drives, RDMA_HOST) as service, cairnkv.connect(service.urls[1]) as client:
        assert all(exact(client, kept)), "a block that was acknowledged is gone after a restart"
        exact(client, failed)
        assert put(client, 100) == put(client, 101) == Status.ok
