"""A host with several RDMA devices under one name: the lanes of a session use them all, and one that goes takes nobody's memory
with it. `make test-devices` runs this in the testbed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from both_ways import (
    ADDRESSES,
    NAMESPACES,
    THROWN_AWAY,
    Load,
    cut_rdma,
    format_drive,
    host_names,
    mend_rdma,
    sent_packets,
    serving_both,
    within,
)

import cairnkv
from cairnkv import _native

pytestmark = pytest.mark.skipif(
    not (THROWN_AWAY and len(ADDRESSES) >= 2 and NAMESPACES),
    reason="there is no testbed with --rdma 2: make test-devices",
)
HOST = "store"
PACKET_BYTES_MOST = 4096
Connect = Callable[..., cairnkv.Client]


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    format_drive(NAMESPACES[0])
    with tempfile.TemporaryDirectory(prefix="cairn-") as made:
        folder = Path(made)
        with host_names(folder, **{HOST: ADDRESSES[:2]}), serving_both(folder, NAMESPACES[0]) as (_, port):
            yield f"{HOST}:{port}"


@pytest.fixture(params=["rdma", "auto"])
def connect(place: str, request: pytest.FixtureRequest) -> Iterator[Connect]:
    opened: list[cairnkv.Client] = []

    def make(**options: object) -> cairnkv.Client:
        opened.append(cairnkv.connect(f"{request.param}://{place}", **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for client in opened:
        client.close()
    for number in (0, 1):
        mend_rdma(number)


def sent() -> list[int]:
    return [sent_packets(number) for number in (0, 1)]


def await_sent(before: list[int], nbytes: list[int]) -> None:
    """At least that much payload left by each device since then. What the kernel tells of it is a little old."""

    def enough() -> bool:
        packets = [after - earlier for after, earlier in zip(sent(), before, strict=True)]
        return all(count >= wanted // PACKET_BYTES_MOST for count, wanted in zip(packets, nbytes, strict=True))

    assert within(5, enough), (before, sent(), nbytes)


def exchange(client: cairnkv.Client, source: _native.Region, targets: list[_native.Region]) -> None:
    """Puts fresh blocks of registered memory, one for each target, and gets them back."""
    keys = [os.urandom(16) for _ in targets]
    assert all(result.ok for result in client.put((key, source) for key in keys))
    assert all(result.hit for result in client.get(zip(keys, targets, strict=True)))
    for target in targets:
        assert bytes(memoryview(target)) == bytes(memoryview(source))
    assert all(result.ok for result in client.delete(keys))


def test_the_lanes_of_a_session_use_both_devices_for_registered_memory(connect: Connect) -> None:
    client = connect(lanes=2)
    assert (client.info()["transport"], client.info()["lanes"]) == ("rdma", 2)
    source = client.register(bytearray(os.urandom(500_000)))
    targets = [client.register(bytearray(500_000)) for _ in range(4)]
    copied, before = _native.copied_bytes(), sent()
    exchange(client, source, targets)
    # Two of the four blocks, there and back.
    await_sent(before, [2 * 2 * 500_000, 2 * 2 * 500_000])
    assert _native.copied_bytes() == copied, "memory is registered with one of the devices only"


def test_memory_that_is_not_registered_goes_by_both_devices(connect: Connect) -> None:
    client, before = connect(lanes=2), sent()
    with Load(client, block_bytes=300_000) as load:
        load.await_rounds()
    assert load.failed() == 0
    await_sent(before, [3 * 4 * 2 * 300_000, 3 * 4 * 2 * 300_000])


@pytest.mark.parametrize("gone", [0, 1])
def test_a_device_that_goes_ends_the_session_and_the_other_goes_on(connect: Connect, gone: int) -> None:
    client = connect(lanes=2)
    source = client.register(bytearray(os.urandom(200_000)))
    targets = [client.register(bytearray(200_000)) for _ in range(4)]
    with Load(client) as load:
        load.await_rounds()
        cut_rdma(gone)
        load.await_until(lambda: client.info()["reconnects"] >= 1)
        load.await_transport("rdma")
        load.await_rounds()
    before, copied = sent(), _native.copied_bytes()
    exchange(client, source, targets)
    await_sent(before, [4 * 2 * 200_000 if number != gone else 0 for number in (0, 1)])
    assert client.info()["lanes"] == 2
    assert _native.copied_bytes() == copied
