"""Promise 9 over shm: whatever a client writes into the memory that it shares with the service costs that client only."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from raw_rings import CONSUMED, CONSUMER_ASLEEP, CONTROLS, ORIGIN, PRODUCED, PRODUCER_ASLEEP, RingSocket
from raw_wire import EXISTS, GET, STATS, Frame, RawSession, batch, item

from cairnkv.testing import RunningService

Addresses = dict[str, tuple[str, int] | str]
Fresh = Callable[[], bytes]
KEY = bytes(16)
INVALID = 8


@pytest.fixture
def bystander(addresses: Addresses) -> Iterator[RawSession]:
    session = RawSession.open(addresses["tcp"])
    yield session
    assert session.alive()
    session.close()


def rings_of(session: RawSession) -> RingSocket:
    assert isinstance(session.sock, RingSocket) and session.sock.out is not None
    return session.sock


def poke(session: RawSession, ring: str, field: int, value: int) -> None:
    ringed = rings_of(session)
    assert ringed.out is not None
    ctypes.c_uint64.from_buffer(ringed.out.memory, CONTROLS[ring] + field).value = value
    ringed.bell()


@pytest.mark.parametrize("value", [1 << 63, 2**64 - 1, (4 << 20) + 65])
@pytest.mark.parametrize(("ring", "field"), [("to_service", PRODUCED), ("to_client", CONSUMED)])
def test_an_index_that_cannot_be_ends_the_link_and_says_so(
    ring: str, field: int, value: int, addresses: Addresses, bystander: RawSession
) -> None:
    session = RawSession.open(addresses["shm"])
    assert session.alive()
    before = bystander.figure("sessions")
    poke(session, ring, field, value)
    if ring == "to_client":
        # Of the way to the client the service looks at it when it has something to say.
        session.send(Frame(STATS, 1, tag=session.tag))
        bystander.await_figure("sessions", before - 1)
    else:
        status, reason = session.ends()
        assert status == INVALID and "an index in the shared memory" in reason
        bystander.await_figure("sessions", before - 1)


def test_an_index_that_goes_backwards_ends_the_link(addresses: Addresses, bystander: RawSession) -> None:
    session = RawSession.open(addresses["shm"])
    assert session.alive()
    poke(session, "to_service", PRODUCED, 1)
    assert session.ends()[0] == INVALID


# Every word of the control block, any value, again and again while requests are under way: the others are served.
def test_noise_in_the_shared_memory_costs_its_own_session_only(
    addresses: Addresses, bystander: RawSession, fresh_key: Fresh
) -> None:
    key, data = fresh_key(), os.urandom(100_000)
    assert bystander.put(key, data)[0] == 0
    for seed in range(100):
        noise = random.Random(seed)
        session = RawSession.open(addresses["shm"])
        session.request(GET, batch([item(key, 100_000)]), 1)
        ringed = rings_of(session)
        assert ringed.out is not None
        for _ in range(30):
            ring = noise.choice(list(CONTROLS))
            field = noise.choice([PRODUCED, ORIGIN, PRODUCER_ASLEEP, CONSUMED, CONSUMER_ASLEEP])
            value = noise.choice([0, 1, noise.randrange(1 << 13), noise.randrange(1 << 23), noise.randrange(1 << 64)])
            ctypes.c_uint64.from_buffer(ringed.out.memory, CONTROLS[ring] + field).value = value
            at = noise.randrange(len(ringed.out.memory))
            ringed.out.memory[at] = noise.randrange(256)
            try:
                ringed.bell()
            except ConnectionError:
                break
        session.close()
        assert bystander.get(key, len(data)) == (0, data), seed


def test_a_flood_of_bells_slows_nobody(addresses: Addresses, bystander: RawSession, fresh_key: Fresh) -> None:
    floods = [RawSession.open(addresses["shm"]) for _ in range(4)]
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        for flood in floods:
            ringed = rings_of(flood)
            with contextlib.suppress(BlockingIOError):
                ringed.sock.send(bytes(1 << 16))
        assert bystander.alive()
    for flood in floods:
        assert flood.alive()


def test_descriptors_beside_bells_are_not_kept(
    addresses: Addresses, bystander: RawSession, service: RunningService
) -> None:
    folder = f"/proc/{service.process.pid}/fd"
    session = RawSession.open(addresses["shm"])
    assert session.alive()
    before = len(os.listdir(folder))
    with open("/dev/null", "rb") as null:
        for _ in range(50):
            try:
                socket.send_fds(rings_of(session).sock, [b"\0"], [null.fileno()] * 8)
            except BlockingIOError:
                assert session.alive()
    assert session.alive()
    assert len(os.listdir(folder)) <= before + 1


def test_the_memory_can_not_be_made_smaller_under_the_service(addresses: Addresses) -> None:
    session = RawSession.open(addresses["shm"], hello=False)
    ringed = session.sock
    assert isinstance(ringed, RingSocket)
    kept: list[int] = []
    begin = ringed.begin

    def keep() -> None:
        kept.append(os.dup(ringed.descriptors[0]))
        begin()

    ringed.begin = keep  # type: ignore[method-assign]
    session.say_hello()
    for nbytes in (0, 4096):
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(kept[0], nbytes)
    seals = fcntl.fcntl(kept[0], fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_SHRINK and seals & fcntl.F_SEAL_SEAL
    os.close(kept[0])
    assert session.alive()


def resident_bytes(service: RunningService) -> int:
    with open(f"/proc/{service.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_who_never_reads_costs_a_window_of_his_ring(
    addresses: Addresses, bystander: RawSession, service: RunningService, fresh_key: Fresh
) -> None:
    key = fresh_key()
    assert bystander.put(key, os.urandom(4 << 20))[0] == 0
    assert bystander.get(key, 4 << 20)[0] == 0
    before = resident_bytes(service)
    deaf = [RawSession.open(addresses["shm"]) for _ in range(50)]
    for session in deaf:
        session.request(GET, batch([item(key, 4 << 20)]), 1)
    assert bystander.alive()
    grown = resident_bytes(service) - before
    assert grown < len(deaf) * (128 << 10) + (12 << 20), f"{grown / len(deaf):,.0f} bytes each"
    for session in deaf:
        session.send(Frame(EXISTS, 1, magic=1))
        session.close()
