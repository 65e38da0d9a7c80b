"""Promise 7: neither a tenant nor a host takes all the sessions that there are. A service with small limits of its own."""

from __future__ import annotations

import socket
import struct
import time
from urllib.parse import urlsplit

import pytest
from limited_service import BUSY, FEW_MOST, PEER_FULL, PEER_MOST, ROOMY_MOST, SILENT_FULL, TENANT_MOST, told_off
from observer import Observer
from raw_wire import (
    AWAITED_SECONDS_MOST,
    EXISTS,
    FEATURE_RINGS,
    GOODBYE_T,
    HELLO,
    HELLO_T,
    WELCOME_T,
    Frame,
    RawSession,
)

import cairnkv
from cairnkv import ConnectError, Status
from cairnkv.testing import RunningService

ANOTHER_HOST = "127.0.0.2"


@pytest.fixture
def tcp(limited: RunningService) -> tuple[str, int]:
    parts = urlsplit(limited.tcp_url)
    return str(parts.hostname), int(parts.port or 0)


def test_a_host_has_its_sessions_and_leaves_the_others_to_others(
    tcp: tuple[str, int], limited_shm: str, observer: Observer
) -> None:
    refused = observer.figure("sessions_refused")
    for _ in range(PEER_MOST):
        RawSession.open(tcp)
    assert told_off(RawSession.open(tcp, hello=False)) == PEER_FULL
    assert observer.figure("sessions_refused") == refused + 1
    assert RawSession.open(tcp, source=ANOTHER_HOST).alive()
    assert RawSession.open(limited_shm).alive(), "who comes over shm has no address"


def test_lanes_are_no_sessions(tcp: tuple[str, int], observer: Observer) -> None:
    sessions = [RawSession.open(tcp) for _ in range(PEER_MOST)]
    for session in sessions:
        lane = RawSession.open(tcp, hello=False)
        lane.say_hello(join=session.tag)
        assert lane.alive()
    assert observer.figure("sessions") == PEER_MOST + 1
    assert told_off(RawSession.open(tcp, hello=False)) == PEER_FULL


def test_connections_that_say_nothing_count_as_well(tcp: tuple[str, int], observer: Observer) -> None:
    silent = [RawSession.open(tcp, hello=False) for _ in range(PEER_MOST)]
    assert RawSession.open(tcp, hello=False).ends() == (BUSY, SILENT_FULL), "it is refused before it says anything"
    assert RawSession.open(tcp, source=ANOTHER_HOST).alive()
    silent[0].say_hello()
    assert silent[0].alive()
    silent.pop().close()
    until = time.monotonic() + AWAITED_SECONDS_MOST
    while not admitted(tcp):
        assert time.monotonic() < until, "the place of a connection that left is not given to another"


def admitted(address: tuple[str, int] | str, tenant: bytes = b"default") -> bool:
    """Whether one session more is; it stays open."""
    session = RawSession.open(address, hello=False)
    session.send(Frame(HELLO_T, body=HELLO.pack(1, 1, FEATURE_RINGS, bytes(16), len(tenant), 0, 0, 0) + tenant))
    if session.receive().type == WELCOME_T:
        return True
    session.close()
    return False


@pytest.mark.parametrize(
    ("tenant", "most", "named"),
    [
        (b"default", TENANT_MOST, "sessions_per_tenant_most"),
        (b"unknown", TENANT_MOST, "sessions_per_tenant_most"),
        (b"roomy", ROOMY_MOST, "sessions, in the setting tenant"),
        (b"few", FEW_MOST, "sessions, in the setting tenant"),
    ],
)
@pytest.mark.usefixtures("observer")
def test_a_tenant_has_its_sessions_and_leaves_the_others_to_others(
    tenant: bytes, most: int, named: str, limited_shm: str, tcp: tuple[str, int]
) -> None:
    for number in range(most):
        assert admitted(limited_shm, tenant), number
    reason = f"the tenant has as many sessions as it may: {most} ({named})"
    assert told_off(RawSession.open(limited_shm, hello=False), tenant) == reason
    assert told_off(RawSession.open(tcp, hello=False), tenant) == reason, "the limit is of all transports together"
    assert RawSession.open(limited_shm, tenant=b"another").alive()


# What an operator would have lost: places that are not given back are gone until the service starts again.
def test_every_place_comes_back_whatever_way_sessions_end(tcp: tuple[str, int], observer: Observer) -> None:
    reset = struct.pack("ii", 1, 0)
    for number in range(60):
        session = RawSession.open(tcp)
        if number % 4 == 0:
            session.send(Frame(EXISTS, 1, magic=1))
        elif number % 4 == 1:
            session.send(Frame(GOODBYE_T, tag=session.tag))
        elif number % 4 == 2:
            session.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        if number % 4 < 2:
            session.ends()
        session.close()
        RawSession.open(tcp, hello=False).close()
        if number % 4 >= 2:
            observer.await_figure("sessions", 1)
    observer.await_figure("sessions", 1)
    assert [admitted(tcp) for _ in range(PEER_MOST + 1)] == [True] * PEER_MOST + [False]


@pytest.mark.usefixtures("observer")
def test_a_client_is_told_which_limit_it_is_and_comes_in_when_there_is_room(limited: RunningService) -> None:
    clients = [cairnkv.connect(limited.tcp_url) for _ in range(PEER_MOST)]
    with pytest.raises(
        ConnectError, match=r"this address has as many sessions as one may: 8 \(sessions_per_peer_most\)"
    ) as caught:
        cairnkv.connect(limited.tcp_url)
    assert caught.value.status == Status.busy
    for client in clients:
        client.close()
    until = time.monotonic() + AWAITED_SECONDS_MOST
    while not comes_in(limited.tcp_url):
        assert time.monotonic() < until, "there is room, and nobody is let in"


def comes_in(url: str) -> bool:
    try:
        cairnkv.connect(url).close()
    except ConnectError:
        return False
    return True
