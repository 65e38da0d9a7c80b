"""Clients over RDMA that break their word: the service ends their sessions, says why in its log, and serves everybody else.
What they can say wrong is in tests/protocol; here is what they leave undone."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hurt_service import RDMA_HOST
from raw_rdma import RdmaSession
from raw_wire import GET, Frame, RawSession, batch, item
from rdma_link import BEGINS, ENDS, PREFIX, WRITE, Offer
from traffic import serves

import cairnkv
from cairnkv.process import ServiceProcess

BUSY, INVALID = 5, 8
SECONDS = 30.0
STALL_SECONDS = 8  # longer than it takes to give up one that has no receives


@pytest.fixture(scope="module")
def process() -> Iterator[ServiceProcess]:
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
        service = ServiceProcess(
            Path(folder),
            drive=f"{folder}/drive.cairn:256MiB",
            listen=[f"rdma://{RDMA_HOST}:0", "tcp://127.0.0.1:0"],
            settings=["--allow-remote-without-credentials", "--stall-timeout", f"{STALL_SECONDS}s"],
        )
        service.start()
        yield service
        assert service.running(), "a client ended the service"
        assert service.stop() == 0


@pytest.fixture
def rdma(process: ServiceProcess) -> Iterator[tuple[str, int]]:
    parts = urlsplit(process.urls[0])
    yield str(parts.hostname), int(parts.port or 0)
    RawSession.close_all()


@pytest.fixture
def neighbours(process: ServiceProcess) -> Iterator[Callable[[], None]]:
    """Says whether sessions over RDMA and TCP that do nothing wrong are served; they are at the end."""
    with cairnkv.connect(process.urls[0]) as near, cairnkv.connect(process.urls[1]) as far:

        def served() -> None:
            assert serves(near) and serves(far)
            assert near.info()["reconnects"] == 0, "somebody else's fault cost this session its link"

        served()
        yield served
        served()


def until(happened: Callable[[], bool], what: str, meanwhile: Callable[[], None]) -> None:
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end, what
        meanwhile()


def logged(process: ServiceProcess, reason: str) -> Callable[[], bool]:
    """Whether the log tells of it since now. It tells at once of the first, and of more every ten seconds."""
    before = process.log.read_text().count(reason)
    return lambda: process.log.read_text().count(reason) > before


def only_neighbours(process: ServiceProcess) -> bool:
    """Whether nobody has a session but the two, and the one that asks."""
    with cairnkv.connect(process.urls[1]) as client:
        return int(client.stats()["sessions"]) == 3


# What a user would have lost: the answers of everybody on the device, while the service sends one client again and again
# what it has no room for.
def test_one_that_gives_credit_and_has_no_receives(
    process: ServiceProcess, rdma: tuple[str, int], neighbours: Callable[[], None]
) -> None:
    told = logged(process, "no receives for the messages that it gave credit for")
    for _ in range(3):
        session = RdmaSession.dial(rdma, Offer(credits=4))
        session.link._post_receive = lambda slot: None  # type: ignore[method-assign]
        with contextlib.suppress(ConnectionError):
            while session.alive():  # until the receives that were there at first are spent
                pass
        assert session.link.dead
        neighbours()
    until(told, "the log does not tell of it", neighbours)
    until(lambda: only_neighbours(process), "a session stays", neighbours)


# What a user would have lost: memory and sessions of the service, to everyone whose engine hangs in the middle of a call.
def test_one_that_never_looks_at_its_completions(
    process: ServiceProcess, rdma: tuple[str, int], neighbours: Callable[[], None]
) -> None:
    told = logged(process, "nothing of what is under way has moved for too long")
    deaf = RdmaSession.dial(rdma, Offer(credits=4, features=0))
    key, data = os.urandom(16), os.urandom(1 << 18)
    assert deaf.put(key, data)[0] == 0
    window = deaf.link.open(0, 1 << 18, WRITE)
    for number in range(16):
        body = batch([item(key, 1 << 18, extent=(0, 1))], [deaf.extent(0, 1 << 18, window)])
        raw = Frame(GET, 100 + number, body, item_count=1, tag=deaf.tag).encode()
        deaf.link.post(PREFIX.pack(len(raw), 0, BEGINS | ENDS) + raw)
    assert not only_neighbours(process)
    until(lambda: only_neighbours(process), "its session stays", neighbours)
    until(told, "the log does not tell of it", neighbours)


# What a user would have lost: the fairness of the queue, to whoever opens more requests than its session may.
def test_one_that_opens_more_requests_than_it_may(
    process: ServiceProcess, rdma: tuple[str, int], neighbours: Callable[[], None]
) -> None:
    told = logged(process, "more requests in flight than the session has credits")
    session = RdmaSession.dial(rdma)
    with contextlib.suppress(ConnectionError):
        for _ in range(int(session.welcome[7]) + 1):
            session.watch(after=2**64 - 2, deadline_ms=60_000)
    status, reason = session.ends()
    assert status == BUSY and len(reason) > 8
    until(told, "the log does not tell of it", neighbours)


# What an operator would have lost: which of a thousand hosts it is that sends garbage.
def test_the_log_tells_who_sent_garbage_and_is_not_flooded(
    process: ServiceProcess, rdma: tuple[str, int], neighbours: Callable[[], None]
) -> None:
    told = logged(process, f"a link of {RDMA_HOST} port")
    lines = len(process.log.read_text().splitlines())
    for _ in range(30):
        session = RdmaSession.dial(rdma)
        session.link.post(b"\xff" * 200)
        assert session.ends()[0] == INVALID
    until(told, "the log does not tell of it", neighbours)
    assert len(process.log.read_text().splitlines()) < lines + 10
    with cairnkv.connect(process.urls[1]) as client:
        assert client.stats()["protocol_errors"] >= 30
