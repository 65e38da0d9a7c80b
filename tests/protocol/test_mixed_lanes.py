"""Lanes of one session that travel differently: some over RDMA, some over TCP or the Unix socket."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hurt_service import RDMA_HOST
from raw_rdma import RdmaSession
from raw_wire import (
    CANCEL,
    CANCELLED,
    EXISTS,
    EXTENT,
    GET,
    PUT,
    RESULT,
    Frame,
    RawSession,
    batch,
    item,
)
from rdma_link import WRITE

from cairnkv.testing import RunningService

Addresses = dict[str, tuple[str, int] | str]
Fresh = Callable[[], bytes]
BAD_REGION = 9


def connect(addresses: Addresses, kind: str) -> RawSession:
    """Without a hello."""
    address = addresses[kind]
    if kind != "rdma":
        return RawSession.open(address, hello=False)
    assert isinstance(address, tuple)
    return RdmaSession(address)


def mixed(addresses: Addresses, first: str, second: str) -> tuple[RawSession, RawSession]:
    """Both lanes of a session. The second numbers its requests differently."""
    session, lane = connect(addresses, first), connect(addresses, second)
    session.say_hello()
    lane.say_hello(join=session.tag)
    lane.next_id = 1000
    return session, lane


PAIRS = [("rdma", "tcp"), ("tcp", "rdma"), ("rdma", "shm"), ("shm", "rdma"), ("rdma", "rdma")]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_lane_puts_and_gets_in_its_own_way(
    first: str, second: str, addresses: Addresses, fresh_key: Fresh
) -> None:
    session, lane = mixed(addresses, first, second)
    for one, other in ((session, lane), (lane, session)):
        key, data = fresh_key(), os.urandom(50_000)
        assert one.put(key, data)[0] == 0
        assert other.get(key, 50_000) == (0, data)
        assert other.statuses(EXISTS, [key]) == [0]
    lane.close()
    assert session.alive()


@pytest.mark.parametrize("second", ["tcp", "rdma"])
def test_a_request_is_cancelled_by_another_lane(second: str, addresses: Addresses, fresh_key: Fresh) -> None:
    size, key = 1 << 20, fresh_key()
    for _ in range(5):
        session, lane = mixed(addresses, "rdma", second)
        assert isinstance(session, RdmaSession)
        session.put(key, b"c" * size)
        window = session.link.open(0, size, WRITE)
        body = batch([item(key, size, extent=(0, 1))], [session.extent(0, size, window)])
        lane.send(Frame(CANCEL, session.request(GET, body, 1), tag=lane.tag))
        assert lane.receive().type == CANCELLED
        session.link.memory.write(b"\x11" * size, size)
        assert lane.alive() and lane.alive()
        assert session.link.memory.read(size, 0) == b"\x11" * size
        session.close()
        lane.close()


# --- what a lane of one kind does with the memory of another ------------------------------------------------


@pytest.fixture
def doomed(short_dir: Path) -> Iterator[Addresses]:
    """A service of its own: these end it."""
    service = RunningService(short_dir, size="64MiB", slab="256MiB", admin="off", rdma_host=RDMA_HOST)
    service.start()
    found: Addresses = {"shm": service.shm_url.removeprefix("shm://")}
    for url in (service.tcp_url, service.rdma_url):
        parts = urlsplit(url)
        found[parts.scheme] = (str(parts.hostname), int(parts.port or 0))
    yield found
    RawSession.close_all()
    service.kill()


def extents_of_another_kind(lane: RawSession, kind: int) -> None:
    """Of memory that this lane cannot reach."""
    key = os.urandom(16)
    if kind == GET:
        assert lane.put(key, b"q" * 5000)[0] == 0
    lane.request(kind, batch([item(key, 5000, extent=(0, 1))], [EXTENT.pack(0, 5000, 3, 0)]), 1)
    assert RESULT.unpack(lane.receive().body)[1] == BAD_REGION


ATTACKS: dict[str, tuple[str, Callable[[RawSession], None]]] = {
    "get over tcp": ("tcp", lambda lane: extents_of_another_kind(lane, GET)),
    "put over shm": ("shm", lambda lane: extents_of_another_kind(lane, PUT)),
    "get over shm": ("shm", lambda lane: extents_of_another_kind(lane, GET)),
    "put over tcp": ("tcp", lambda lane: extents_of_another_kind(lane, PUT)),
}


# Any client that may connect ended the service: extents that only RDMA knows were looked up in a table that a session begun
# over RDMA did not have.
@pytest.mark.parametrize("name", ATTACKS)
def test_a_stream_lane_of_a_session_over_rdma_does_not_end_the_service(name: str, doomed: Addresses) -> None:
    honest = connect(doomed, "tcp")
    honest.say_hello()
    second, attack = ATTACKS[name]
    session, lane = mixed(doomed, "rdma", second)
    attack(lane)
    assert session.alive()
    assert honest.alive()
