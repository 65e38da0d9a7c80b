"""Watches from raw sockets: what the page says of them, and clients that make too much of it."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from raw_wire import (
    CANCEL,
    CANCELLED,
    EVENT,
    EVENTS,
    EVENTS_BODY,
    FROM_NOW,
    REFUSE_T,
    STATS,
    TEXT,
    WATCH,
    WATCH_BODY,
    Frame,
    RawSession,
)

Fresh = Callable[[], bytes]
Addresses = dict[str, tuple[str, int] | str]
BUSY, INVALID = 5, 8
CREDITS = 128


@pytest.fixture(params=["tcp", "shm"])
def address(request: pytest.FixtureRequest, addresses: Addresses) -> tuple[str, int] | str:
    return addresses[request.param]


@pytest.fixture
def tenant() -> bytes:
    return os.urandom(8).hex().encode()


@pytest.fixture
def writer(addresses: Addresses, tenant: bytes) -> Iterator[RawSession]:
    session = RawSession.open(addresses["tcp"], tenant=tenant)
    yield session
    assert session.alive(), "a watching client hurt another one"


def waiting_watches(session: RawSession) -> int:
    import json

    session.request(STATS, b"", 0)
    frame = session.receive()
    assert frame.type == TEXT
    return int(json.loads(frame.body)["requests_in_flight"])


def wait_for_watches(session: RawSession, count: int) -> None:
    until = time.monotonic() + 20
    while waiting_watches(session) != count:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_watch_is_answered_by_an_event(
    address: tuple[str, int] | str, writer: RawSession, tenant: bytes, fresh_key: Fresh
) -> None:
    watcher, key = RawSession.open(address, tenant=tenant), fresh_key()
    watcher.watch(FROM_NOW)
    assert watcher.events() == (1, 0, [])
    watcher.watch(0)
    _, sequence = writer.put(key, b"x" * 10, scope=5)
    oldest, newest, ((number, unix_ms, of, told, group, layout, scope, kind),) = watcher.events()
    assert (oldest, newest, number, of, told, group, layout, scope, kind) == (
        1, 1, 1, sequence, key, bytes(16), 0, 5, 1,
    )  # fmt: skip
    assert abs(unix_ms / 1000 - time.time()) < 60
    watcher.watch(1, deadline_ms=50)
    assert watcher.events() == (1, 1, []), "at its deadline a watch says that there was nothing"


@pytest.mark.parametrize("after", [1, 2**32, 2**63, 2**64 - 2])
def test_numbers_that_are_far_away(address: tuple[str, int] | str, tenant: bytes, after: int) -> None:
    watcher = RawSession.open(address, tenant=tenant)
    began = time.monotonic()
    watcher.watch(after, deadline_ms=60)
    assert watcher.events() == (1, 0, []) and time.monotonic() - began >= 0.05
    watcher.watch(FROM_NOW, deadline_ms=2**32 - 1)
    assert watcher.events() == (1, 0, [])


def test_cancel_ends_a_watch(
    address: tuple[str, int] | str, tenant: bytes, writer: RawSession, fresh_key: Fresh
) -> None:
    watcher = RawSession.open(address, tenant=tenant)
    request = watcher.watch(0)
    watcher.send(Frame(CANCEL, request, tag=watcher.tag))
    assert watcher.receive().type == CANCELLED
    writer.put(fresh_key(), b"x")
    watcher.watch(FROM_NOW)
    assert watcher.events()[1] == 1, "a watch that was cancelled was answered all the same"


def test_a_watch_takes_a_credit_and_a_number(address: tuple[str, int] | str, tenant: bytes) -> None:
    watcher = RawSession.open(address, tenant=tenant)
    for _ in range(2):
        watcher.send(Frame(WATCH, 7, WATCH_BODY.pack(0, 0, 0), tag=watcher.tag))
    assert watcher.ends()[0] == INVALID
    watcher = RawSession.open(address, tenant=tenant)
    for _ in range(CREDITS + 1):
        watcher.watch(0)
    assert watcher.ends()[0] == BUSY


def test_a_thousand_waiting_watches(addresses: Addresses, writer: RawSession, tenant: bytes, fresh_key: Fresh) -> None:
    watchers = [RawSession.open(addresses["tcp"], tenant=tenant) for _ in range(100)]
    for watcher in watchers:
        for _ in range(10):
            watcher.watch(0)
    bystander = RawSession.open(addresses["tcp"])
    wait_for_watches(writer, 1000)
    began = time.monotonic()
    assert bystander.put(fresh_key(), b"x")[0] == 0 and bystander.alive()
    assert time.monotonic() - began < 5
    assert waiting_watches(writer) == 1000, "another tenant's event woke somebody"
    key = fresh_key()
    writer.put(key, b"x")
    for watcher in watchers:
        for _ in range(10):
            assert [event[3] for event in watcher.events()[2]] == [key]
    wait_for_watches(writer, 0)


def test_clients_that_die_while_watching(
    address: tuple[str, int] | str, writer: RawSession, tenant: bytes, fresh_key: Fresh
) -> None:
    for _ in range(20):
        watcher = RawSession.open(address, tenant=tenant)
        for _ in range(50):
            watcher.watch(FROM_NOW - 1)
        watcher.close()
    wait_for_watches(writer, 0)
    assert writer.put(fresh_key(), b"x")[0] == 0


def test_a_lane_that_goes_takes_its_watches_only(addresses: Addresses, tenant: bytes, writer: RawSession) -> None:
    first = RawSession.open(addresses["tcp"], tenant=tenant)
    second = RawSession.open(addresses["tcp"], hello=False)
    second.say_hello(tenant, join=first.tag)
    first.watch(0)
    second.next_id = 100
    second.watch(0)
    wait_for_watches(writer, 2)
    first.close()
    wait_for_watches(writer, 1)
    writer.put(os.urandom(16), b"x")
    assert second.events()[1] == 1


def test_a_client_that_watches_and_reads_later_gets_every_answer(
    address: tuple[str, int] | str, writer: RawSession, tenant: bytes, fresh_key: Fresh
) -> None:
    for _ in range(4096):
        writer.put(fresh_key(), b"x")
    deaf = RawSession.open(address, tenant=tenant)
    for _ in range(CREDITS):
        deaf.watch(0)
    # 128 answers of 320 KiB, which is more than any socket takes: the service reads no more of this link meanwhile.
    assert writer.put(fresh_key(), b"x")[0] == 0
    for _ in range(CREDITS):
        oldest, newest, events = deaf.events()
        assert [event[0] for event in events] == list(range(oldest, newest + 1))
    assert waiting_watches(writer) == 0


def test_events_are_as_the_page_says(addresses: Addresses, tenant: bytes) -> None:
    watcher = RawSession.open(addresses["tcp"], tenant=tenant)
    watcher.watch(FROM_NOW)
    frame = watcher.receive()
    assert (frame.type, frame.item_count, frame.payload) == (EVENTS, 0, b"")
    assert EVENTS_BODY.size == 24 and EVENT.size == 80 and struct.calcsize("<QII") == WATCH_BODY.size == 16
    assert REFUSE_T == 3
