"""auto://HOST:PORT: by RDMA, by TCP while that cannot be had, and back. `make test-devices` runs this in the testbed."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import deque
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
    mend_rdma,
    serving_both,
    within,
)

import cairnkv
from cairnkv import EventKind, Status, _native
from cairnkv.doctor import examine
from cairnkv.session import Operation

pytestmark = pytest.mark.skipif(
    not (THROWN_AWAY and ADDRESSES and NAMESPACES), reason="there is no testbed: make test-devices"
)
Connect = Callable[..., cairnkv.Client]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    format_drive(NAMESPACES[0])
    with tempfile.TemporaryDirectory(prefix="cairn-") as made, serving_both(Path(made), NAMESPACES[0]) as (_, port):
        yield f"auto://{ADDRESSES[0]}:{port}"


@pytest.fixture
def connect(url: str) -> Iterator[Connect]:
    """RDMA is there before and after each test."""
    opened: list[cairnkv.Client] = []

    def make(**options: object) -> cairnkv.Client:
        opened.append(cairnkv.connect(url, **options))  # type: ignore[arg-type]
        return opened[-1]

    mend_rdma(0)
    yield make
    for client in opened:
        client.close()
    mend_rdma(0)


@pytest.mark.parametrize("lanes", [1, 3])
def test_rdma_is_taken_where_it_is(connect: Connect, lanes: int) -> None:
    client = connect(lanes=lanes)
    with Load(client) as load:
        load.await_rounds()
    assert load.failed() == 0
    info = client.info()
    assert (info["transport"], info["lanes"], info["returns"], info["last_error"]) == ("rdma", lanes, 0, "")


def test_without_rdma_it_is_tcp_and_doctor_says_why(connect: Connect) -> None:
    cut_rdma(0)
    client = connect()
    assert client.info()["transport"] == "tcp"
    assert "cannot connect to rdma://" in client.info()["last_error"]
    with Load(client) as load:
        load.await_rounds()
    assert load.failed() == 0
    found = {finding.name: finding for finding in examine(connect)}
    assert "over tcp" in found["connect"].text and "not over RDMA: cannot connect to rdma://" in found["connect"].text


@pytest.mark.parametrize("lanes", [1, 2])
def test_rdma_goes_away_under_load_and_is_taken_again(connect: Connect, lanes: int) -> None:
    client = connect(lanes=lanes)
    with Load(client) as one, Load(client, block_bytes=2_000_000, together=4) as two:
        for load in (one, two):
            load.await_rounds()
        cut_rdma(0)
        one.await_transport("tcp")
        for load in (one, two):
            load.await_rounds(2)
        assert set(one.seen + two.seen) <= {
            Status.ok,
            Status.disconnected,
            Status.unreachable,
            Status.timeout,
            Status.not_found,
        }
        before = [load.failed() for load in (one, two)]
        mend_rdma(0)
        one.await_transport("rdma")
        for load in (one, two):
            load.await_rounds()
        assert [load.failed() for load in (one, two)] == before, "a call failed for the way back"
    info = client.info()
    assert (info["returns"], info["reconnects"], info["transport"]) == (1, 1, "rdma")


def test_what_was_asked_over_tcp_is_answered_there(connect: Connect) -> None:
    cut_rdma(0)
    client, other = connect(), connect()
    newest = client.watch(deadline_ms=5000).newest
    answers = []
    watching = threading.Thread(
        target=lambda: answers.append(client.watch(after=newest, deadline_ms=50_000)), name="watching"
    )
    watching.start()  # nobody but the watch drives this client
    sessions = other.stats()["sessions"]
    mend_rdma(0)
    assert within(30, lambda: client.info()["transport"] == "rdma")
    assert watching.is_alive(), "a watch ended for the way back"
    assert client.put_one("over rdma", b"seen over tcp").ok
    watching.join(30)
    assert answers and answers[0].status is Status.ok
    assert [event.kind for event in answers[0].items][:1] == [EventKind.stored]
    # The session over TCP has ended by itself: nothing is left of it but one over RDMA, and perhaps the other client's.
    assert client.delete(["over rdma"])[0].ok
    assert within(30, lambda: other.stats()["sessions"] <= sessions)


def test_gets_under_way_at_the_change_end_well(connect: Connect) -> None:
    """32 at any time, of more bytes than sockets hold: whenever the change comes, most are on their way."""
    cut_rdma(0)
    client = connect()
    session = client._connection.session
    key, block = os.urandom(16), bytearray(1_000_000)
    _native.fill_pattern(block, 7)
    put = session.put([key], [block])
    put.wait()
    under_way: deque[tuple[Operation, bytearray]] = deque()
    afterwards = 0
    mend_rdma(0)
    while afterwards < 64:
        memory = bytearray(len(block))
        under_way.append((session.get([key], [memory]), memory))
        if len(under_way) < 32:
            continue
        operation, memory = under_way.popleft()
        operation.wait()
        assert operation.statuses == [Status.ok]
        assert _native.check_pattern(memory, 7) == -1
        afterwards += client.info()["returns"]
    assert client.info()["transport"] == "rdma"


def test_memory_that_was_registered_over_tcp_counts_over_rdma(connect: Connect) -> None:
    cut_rdma(0)
    client = connect()
    source, target = client.register(bytearray(os.urandom(1_000_000))), client.register(bytearray(1_000_000))
    assert client.put_one("by tcp", source).ok
    mend_rdma(0)
    assert within(30, lambda: bool(client.exists(["by tcp"])[0].ok) and client.info()["transport"] == "rdma")
    copied = _native.copied_bytes()
    assert client.put_one("by rdma", source).ok
    for key in ("by tcp", "by rdma"):
        assert client.get_one(key, target).hit
        assert bytes(memoryview(target)) == bytes(memoryview(source))
    assert _native.copied_bytes() == copied, "it went by way of other memory"
    assert client.get_bytes("by tcp")[0].hit
    assert _native.copied_bytes() == copied + 1_000_000, "the counter does not count"


def test_a_lease_is_its_holders_on_either_way(connect: Connect) -> None:
    cut_rdma(0)
    client = connect()
    assert client.put_one("leased", b"x" * 1000).ok
    assert client.lease(["leased"], duration_ms=60_000)[0].ok
    mend_rdma(0)
    assert within(30, lambda: bool(client.exists(["leased"])[0].ok) and client.info()["transport"] == "rdma")
    assert client.release(["leased"])[0].ok
    assert client.delete(["leased"])[0].ok


def test_a_link_that_comes_and_goes_is_left_alone_longer_each_time(connect: Connect) -> None:
    client = connect()
    with Load(client) as warm:
        warm.await_rounds()
    with Load(client, deadline_ms=1000) as load:
        rests = []
        for _ in range(3):
            cut_rdma(0)
            load.await_transport("tcp")
            mend_rdma(0)
            began = time.monotonic()
            load.await_transport("rdma")
            rests.append(time.monotonic() - began)
    # 1, 2 and 4 s, a quarter more or less, less what passed before the link was mended.
    assert rests[0] < rests[1] < rests[2], rests
    assert rests[2] > 2, rests
    assert client.info()["returns"] == 3


@pytest.mark.skipif(len(NAMESPACES) < 3, reason="it needs three namespaces")
def test_another_service_at_the_port_of_rdma_is_not_gone_over_to(short_dir: Path) -> None:
    """Somebody's mistake: its blocks would be misses, and those that are put there be lost to others."""
    for namespace in NAMESPACES[1:3]:
        format_drive(namespace)
    other_dir = short_dir / "other"
    other_dir.mkdir()
    mend_rdma(0)
    with (
        serving_both(short_dir, NAMESPACES[1], ["tcp"]) as (_, port),
        serving_both(other_dir, NAMESPACES[2], ["rdma"], port),
    ):
        cut_rdma(0)
        with cairnkv.connect(f"auto://{ADDRESSES[0]}:{port}") as client, Load(client) as load:
            assert client.put_one("mine", b"here").ok
            mend_rdma(0)
            load.await_until(lambda: "another service than that of tcp://" in client.info()["last_error"])
            load.await_rounds()
            assert client.info()["transport"] == "tcp" and client.info()["returns"] == 0
            assert client.get_bytes("mine")[1] == b"here"
            assert load.failed() == 0
