"""Promise 9: what a client sends costs only that client. After each attack a bystander's session still works."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from raw_wire import (
    DATA,
    DATA_T,
    EVENTS,
    EVENTS_BODY,
    EXISTS,
    FEATURE_RINGS,
    GET,
    HELLO,
    HELLO_T,
    LEASE,
    PING_T,
    PULL_T,
    PUT,
    REFUSE_T,
    RELEASE,
    REMOVE,
    RESULT,
    RESULTS,
    STATS,
    TRAILER,
    WATCH,
    WATCH_BODY,
    WELCOME_T,
    Frame,
    RawSession,
    batch,
    item,
)

from cairnkv.testing import RunningService

Fresh = Callable[[], bytes]
Addresses = dict[str, tuple[str, int] | str]
LOGGED_SECONDS_MOST = 30.0  # it is told of every ten
BUSY, TOO_LARGE, INVALID, DENIED, BAD_VERSION, TIMEOUT = 5, 7, 8, 16, 17, 3


@pytest.fixture(params=["tcp", "shm"])
def address(request: pytest.FixtureRequest, addresses: Addresses) -> tuple[str, int] | str:
    return addresses[request.param]


@pytest.fixture
def bystander(addresses: Addresses, fresh_key: Fresh) -> Iterator[RawSession]:
    """A session with a block of its own; checked when the test ends."""
    session = RawSession.open(addresses["tcp"])
    key, data = fresh_key(), os.urandom(50_000)
    assert session.put(key, data)[0] == 0
    yield session
    assert session.get(key, len(data)) == (0, data), "an attack on another session hurt this one"
    session.close()


KEY, NAME = bytes(16), b"n" * 16
GOOD = {"body": batch([KEY]), "item_count": 1}
BAD_FRAMES: dict[str, tuple[Frame, int]] = {
    "wrong magic": (Frame(EXISTS, 1, magic=1), INVALID),
    "newer version": (Frame(EXISTS, 1, version=2, **GOOD), BAD_VERSION),
    "version 0": (Frame(EXISTS, 1, version=0, **GOOD), BAD_VERSION),
    "unknown type": (Frame(199, 1), INVALID),
    "type 0": (Frame(0, 1), INVALID),
    "reserved type": (Frame(27, 1, **GOOD), INVALID),
    "header crc": (Frame(EXISTS, 1, header_crc=1, **GOOD), INVALID),
    "body crc": (Frame(EXISTS, 1, body_crc=1, **GOOD), INVALID),
    "body of 4 GiB": (Frame(PUT, 1, body_bytes=0xFFFFFFFF), INVALID),
    "body one over": (Frame(PUT, 1, body_bytes=(1 << 20) + 1), INVALID),
    "payload of 16 EiB": (Frame(DATA_T, 1, DATA.pack(0, 0, 0, 1), payload_bytes=0xFFFFFFFFFFFFFFFF), INVALID),
    "payload behind a get": (Frame(GET, 1, batch([item(KEY)]), b"x" * 100, item_count=1), INVALID),
    "items over the limit": (Frame(EXISTS, 1, batch([KEY] * 4097), item_count=4097), INVALID),
    "more items than body": (Frame(EXISTS, 1, batch([KEY]), item_count=2), INVALID),
    "fewer items than body": (Frame(EXISTS, 1, batch([KEY, KEY]), item_count=1), INVALID),
    "empty batch": (Frame(EXISTS, 1, batch([]), item_count=0), INVALID),
    "batch cut short": (Frame(EXISTS, 1, batch([KEY])[:20], item_count=1), INVALID),
    "extents that are not there": (Frame(GET, 1, batch([item(KEY, 10, extent=(5, 1))]), item_count=1), INVALID),
    "extents in a key batch": (Frame(EXISTS, 1, batch([KEY], [bytes(24)]), item_count=1), INVALID),
    "unknown durability": (Frame(PUT, 1, batch([item(KEY, 10)], durability=9), item_count=1), INVALID),
    "a kind of delete that is none": (Frame(REMOVE, 1, batch([KEY], kind=5), item_count=1), INVALID),
    "a kind of delete without a delete": (Frame(EXISTS, 1, batch([KEY], kind=4), item_count=1), INVALID),
    "delete of a group that names none": (Frame(REMOVE, 1, batch([KEY], kind=1), item_count=1), INVALID),
    "delete of two groups": (Frame(REMOVE, 1, batch([NAME, NAME], kind=1), item_count=2), INVALID),
    "delete of a scope that names none": (Frame(REMOVE, 1, batch([KEY], kind=2), item_count=1), INVALID),
    "delete of a layout with a key": (Frame(REMOVE, 1, batch([NAME], kind=3), item_count=1), INVALID),
    "delete of a tenant with a key": (Frame(REMOVE, 1, batch([NAME], kind=4), item_count=1), INVALID),
    "delete of a tenant with two keys": (Frame(REMOVE, 1, batch([KEY, KEY], kind=4), item_count=2), INVALID),
    "delete of a tenant without a key": (Frame(REMOVE, 1, batch([], kind=4), item_count=0), INVALID),
    "a scope beside keys": (Frame(REMOVE, 1, batch([KEY], scope=7), item_count=1), INVALID),
    "a scope in a get": (Frame(GET, 1, batch([item(KEY, 5)], scope=7), item_count=1), INVALID),
    "a duration without a lease": (Frame(RELEASE, 1, batch([KEY], duration_ms=5), item_count=1), INVALID),
    "extents in a lease": (Frame(LEASE, 1, batch([KEY], [bytes(24)], duration_ms=5), item_count=1), INVALID),
    "leases over the limit": (Frame(LEASE, 1, batch([KEY] * 4097, duration_ms=5), item_count=4097), INVALID),
    "watch cut short": (Frame(WATCH, 1, bytes(15)), INVALID),
    "watch with more": (Frame(WATCH, 1, bytes(17)), INVALID),
    "watch of 1 MiB": (Frame(WATCH, 1, body_bytes=1 << 20), INVALID),
    "watch with payload": (Frame(WATCH, 1, WATCH_BODY.pack(0, 0, 0), b"x" * 10), INVALID),
    "watch for too many": (Frame(WATCH, 1, WATCH_BODY.pack(0, 4097, 0)), INVALID),
    "watch for 4 billion": (Frame(WATCH, 1, WATCH_BODY.pack(0, 2**32 - 1, 0)), INVALID),
    "events from a client": (Frame(EVENTS, 1, EVENTS_BODY.pack(1, 0, 0)), INVALID),
    "second hello": (Frame(HELLO_T, 0, HELLO.pack(1, 1, 0, bytes(16), 0, 0, 0, 0)), INVALID),
    "a service's frame": (Frame(WELCOME_T, 0, bytes(64)), INVALID),
    "results from a client": (Frame(RESULTS, 1, bytes(32), item_count=1), INVALID),
    "a number that is used no more": (Frame(32, 1, bytes(16)), INVALID),
    "… and the other": (Frame(33, 1, bytes(16)), INVALID),
    "data lengths disagree": (Frame(DATA_T, 1, DATA.pack(0, 0, 0, 100), b"x" * 50), INVALID),
    "data without trailer": (Frame(DATA_T, 1, DATA.pack(0, 0, 0, 0)), INVALID),
}


# What the sender of a bad frame would have lost: why his link ended. Of half of these the service's log alone knew.
@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_is_told_why_and_ends_its_own_session_only(
    name: str, address: tuple[str, int] | str, bystander: RawSession
) -> None:
    frame, status = BAD_FRAMES[name]
    session = RawSession.open(address)
    frame.tag = session.tag
    session.send(frame)
    told, reason = session.ends()
    assert told == status and len(reason) > 8, reason
    session.close()
    assert bystander.alive()


@pytest.mark.parametrize("name", ["wrong magic", "empty batch"])
def test_who_hangs_up_behind_a_bad_frame_is_told_as_well(name: str, address: tuple[str, int] | str) -> None:
    frame, status = BAD_FRAMES[name]
    session = RawSession.open(address)
    frame.tag = session.tag
    session.send(frame)
    session.sock.shutdown(socket.SHUT_WR)
    assert session.ends()[0] == status


def test_a_bad_frame_is_answered_behind_what_was_asked_before(address: tuple[str, int] | str, fresh_key: Fresh) -> None:
    session = RawSession.open(address)
    key, data = fresh_key(), os.urandom(3 << 20)
    assert session.put(key, data)[0] == 0
    frames = [Frame(EXISTS, 70 + i, tag=session.tag, **GOOD).encode() for i in range(9)]
    session.sock.sendall(b"".join(frames) + Frame(EXISTS, 1, magic=1).encode())
    assert session.ends()[0] == INVALID
    assert [frame.request_id for frame in session.seen[-10:-1]] == list(range(70, 79))


# A stream that is closed before everything was read from it is reset, and the reason is lost with it.
def test_who_goes_on_sending_is_told_all_the_same(address: tuple[str, int] | str, bystander: RawSession) -> None:
    session = RawSession.open(address)
    session.sock.sendall(Frame(EXISTS, 1, magic=1).encode() + os.urandom(4 << 20))
    assert session.ends()[0] == INVALID
    assert bystander.alive()


def test_one_that_breaks_a_rule_and_never_reads_is_hung_up_on(
    service: RunningService, addresses: Addresses, fresh_key: Fresh, bystander: RawSession
) -> None:
    """Its answers fill its connection, and the reason finds no room behind them. All that it held is given back."""
    key, data = fresh_key(), os.urandom(4 << 20)
    assert bystander.put(key, data)[0] == 0
    before = bystander.figure("sessions")
    deaf = [RawSession.open(addresses["tcp"]) for _ in range(2)]
    for session in deaf:
        for _ in range(8):
            session.request(GET, batch([item(key, 4 << 20)]), 1)
    bystander.await_figure("requests_in_flight", 0)
    for session in deaf:
        session.send(Frame(EXISTS, 1, magic=1))
    bystander.await_figure("sessions", before)
    for session in deaf:
        with contextlib.suppress(ConnectionError):
            while session.receive():
                pass
        assert REFUSE_T not in [frame.type for frame in session.seen]


def test_every_truncation_of_a_request_then_silence(address: tuple[str, int] | str, bystander: RawSession) -> None:
    whole = RawSession.open(address)
    request = Frame(PUT, 1, batch([item(KEY, 100)]), item_count=1, tag=whole.tag).encode()
    whole.close()
    for length in range(0, len(request), 7):
        session = RawSession.open(address)
        session.sock.sendall(request[:length])
        session.close()
    assert bystander.alive()


def test_a_frame_that_dribbles_in_byte_by_byte_is_served(address: tuple[str, int] | str) -> None:
    session = RawSession.open(address)
    for byte in Frame(EXISTS, 1, tag=session.tag, **GOOD).encode():
        session.sock.sendall(bytes([byte]))
    assert session.receive().request_id == 1


@pytest.mark.parametrize("first", [Frame(PING_T), Frame(EXISTS, 1, **GOOD), Frame(HELLO_T, 0, b"short")])
def test_a_first_frame_that_is_no_hello_is_refused(first: Frame, address: tuple[str, int] | str) -> None:
    session = RawSession.open(address, hello=False)
    session.send(first)
    assert session.ends()[0] == INVALID


def test_a_hello_of_another_version_is_refused(address: tuple[str, int] | str) -> None:
    session = RawSession.open(address, hello=False)
    session.send(Frame(HELLO_T, 0, HELLO.pack(2, 9, FEATURE_RINGS, bytes(16), 0, 0, 0, 0)))
    assert session.ends()[0] == BAD_VERSION


# It would wait for answers that go where it does not look.
def test_over_shm_a_client_that_does_not_know_rings_is_told_to_be_upgraded(addresses: Addresses) -> None:
    session = RawSession.open(addresses["shm"], hello=False)
    session.send(Frame(HELLO_T, 0, HELLO.pack(1, 1, 0, bytes(16), 0, 0, 0, 0)))
    status, reason = session.ends()
    assert status == BAD_VERSION and "upgrade it" in reason


def test_joining_a_session_that_is_not_there_is_denied(address: tuple[str, int] | str) -> None:
    session = RawSession.open(address, hello=False)
    session.send(Frame(HELLO_T, 0, HELLO.pack(1, 1, FEATURE_RINGS, b"\x55" * 16, 0, 0, 0, 0)))
    assert session.ends()[0] == DENIED


def test_joining_anothers_session_as_another_tenant_is_denied(addresses: Addresses) -> None:
    victim = RawSession.open(addresses["tcp"])
    thief = RawSession.open(addresses["tcp"], hello=False)
    thief.send(Frame(HELLO_T, 0, HELLO.pack(1, 1, FEATURE_RINGS, victim.tag, 5, 0, 0, 0) + b"thief"))
    assert thief.ends()[0] == DENIED
    assert victim.alive()


def test_a_wrong_tag_ends_the_session(address: tuple[str, int] | str, bystander: RawSession) -> None:
    session = RawSession.open(address)
    session.send(Frame(EXISTS, 1, tag=b"\x01" * 16, **GOOD))
    assert session.ends() == (DENIED, "a frame without the session's tag")
    assert bystander.alive()


def test_a_request_number_in_use_and_one_request_too_many_end_the_session(
    address: tuple[str, int] | str, fresh_key: Fresh
) -> None:
    session = RawSession.open(address)
    for _ in range(2):
        session.send(Frame(PUT, 7, batch([item(fresh_key(), 1000)]), item_count=1, tag=session.tag))
    assert session.ends()[0] == INVALID
    session = RawSession.open(address)
    granted = int(session.welcome[7])
    for _ in range(granted + 1):
        session.request(PUT, batch([item(fresh_key(), 1000)]), 1)
    assert session.ends()[0] == BUSY


def test_sizes_at_and_over_the_limit_are_told_per_item(address: tuple[str, int] | str, fresh_key: Fresh) -> None:
    session = RawSession.open(address)
    sizes = [0, (64 << 20) + 1, 1 << 62]
    statuses = session.results(session.request(PUT, batch([item(fresh_key(), size) for size in sizes]), 3))
    assert statuses == {0: INVALID, 1: TOO_LARGE, 2: TOO_LARGE}
    session.request(GET, batch([item(KEY, 1 << 62, offset=1 << 63, count=1 << 63)]), 1)
    assert RESULT.unpack(session.receive().body)[1] != 0
    assert session.alive()


def test_the_same_key_twice_in_one_batch_is_stored_once(address: tuple[str, int] | str, fresh_key: Fresh) -> None:
    session = RawSession.open(address)
    key, data = fresh_key(), os.urandom(3000)
    session.request(PUT, batch([item(key, 3000), item(key, 3000)]), 2)
    statuses: dict[int, int] = {}
    while len(statuses) < 2:
        frame = session.receive()
        if frame.type == PULL_T:
            assert frame.item_count == 1, "the second of two equal keys was pulled as well"
            payload = data + TRAILER.pack(0)
            session.send(
                Frame(
                    DATA_T,
                    frame.request_id,
                    DATA.pack(struct.unpack_from("<I", frame.body)[0], 0, 0, 3000),
                    payload,
                    tag=session.tag,
                )
            )
        else:
            for at in range(0, len(frame.body), 32):
                index, status, *_ = RESULT.unpack_from(frame.body, at)
                statuses[index] = status
    assert statuses == {0: 0, 1: 1}


def test_a_client_killed_in_mid_transfer_leaves_no_block_and_no_debt(
    address: tuple[str, int] | str, fresh_key: Fresh, bystander: RawSession
) -> None:
    for _ in range(20):
        key = fresh_key()
        session = RawSession.open(address)
        request = session.request(PUT, batch([item(key, 1 << 20)]), 1)
        assert session.receive().type == PULL_T
        header = Frame(
            DATA_T, request, DATA.pack(0, 0, 0, 1 << 20), tag=session.tag, payload_bytes=(1 << 20) + 8
        ).encode()
        session.sock.sendall(header + b"half of it" * 1000)
        session.close()
        assert bystander.get(key, 1 << 20)[0] == 2, "half a block was served"
    key, data = fresh_key(), os.urandom(100)
    assert bystander.put(key, data)[0] == 0


def test_a_put_given_up_in_the_middle_is_not_stored(address: tuple[str, int] | str, fresh_key: Fresh) -> None:
    session = RawSession.open(address)
    key = fresh_key()
    request = session.request(PUT, batch([item(key, 5000)]), 1)
    assert session.receive().type == PULL_T
    session.send(Frame(DATA_T, request, DATA.pack(0, 0, 0, 5000), b"f" * 5000 + TRAILER.pack(4), tag=session.tag))
    assert RESULT.unpack(session.receive().body)[1] == 4
    assert session.get(key, 5000)[0] == 2
    assert session.put(key, b"g" * 5000)[0] == 0


def test_data_of_the_wrong_length_is_not_stored(
    address: tuple[str, int] | str, fresh_key: Fresh, bystander: RawSession
) -> None:
    session = RawSession.open(address)
    key = fresh_key()
    request = session.request(PUT, batch([item(key, 5000)]), 1)
    assert session.receive().type == PULL_T
    session.send(Frame(DATA_T, request, DATA.pack(0, 0, 0, 4000), b"f" * 4000 + TRAILER.pack(0), tag=session.tag))
    assert session.ends()[0] == INVALID
    assert bystander.get(key, 5000)[0] == 2


def test_a_deadline_settles_a_put_whose_client_never_sends(address: tuple[str, int] | str, fresh_key: Fresh) -> None:
    session = RawSession.open(address)
    key = fresh_key()
    session.request(PUT, batch([item(key, 5000)]), 1, deadline_ms=50)
    assert session.receive().type == PULL_T
    frame = session.receive()
    assert frame.type == RESULTS and RESULT.unpack(frame.body)[1] == TIMEOUT
    assert session.put(key, b"h" * 5000)[0] == 0, "the key stayed locked by a writer that gave up"


def test_a_client_that_never_reads_does_not_stop_the_others(
    address: tuple[str, int] | str, fresh_key: Fresh, bystander: RawSession
) -> None:
    key, data = fresh_key(), os.urandom(1 << 20)
    assert bystander.put(key, data)[0] == 0
    deaf = RawSession.open(address)
    for _ in range(100):
        deaf.request(GET, batch([item(key, 1 << 20)]), 1)
    for _ in range(20):
        assert bystander.get(key, 1 << 20) == (0, data)
    deaf.close()


def test_many_half_open_connections(addresses: Addresses, bystander: RawSession) -> None:
    silent = [RawSession.open(addresses["tcp"], hello=False) for _ in range(200)]
    assert bystander.alive()
    for session in silent:
        session.close()


def test_many_sessions_come_and_go_at_once(address: tuple[str, int] | str, bystander: RawSession) -> None:
    def visit(_: int) -> bool:
        session = RawSession.open(address)
        alive = session.alive()
        session.close()
        return alive

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(visit, range(400)))


def test_random_bytes_of_two_hundred_seeds(address: tuple[str, int] | str, bystander: RawSession) -> None:
    import random

    for seed in range(200):
        noise = random.Random(seed)
        session = RawSession.open(address, hello=seed % 2 == 0)
        frame = bytearray(
            Frame(
                noise.choice([PUT, GET, EXISTS, STATS, DATA_T, 32]),
                seed,
                batch([item(KEY, 100)]),
                item_count=1,
                tag=session.tag,
            ).encode()
        )
        for _ in range(noise.randrange(1, 6)):
            frame[noise.randrange(len(frame))] = noise.randrange(256)
        session.sock.sendall(frame)
        session.close()
    assert bystander.alive()


# What an operator would have lost: which of a thousand hosts it is that sends garbage. The log did not mention it.
def test_the_log_tells_who_sent_garbage(service: RunningService, addresses: Addresses, bystander: RawSession) -> None:
    before = service.process.log.read_text().count("a link of 127.0.0.1:")
    address = addresses["tcp"]
    until = time.monotonic() + LOGGED_SECONDS_MOST
    while service.process.log.read_text().count("a link of 127.0.0.1:") == before:
        assert time.monotonic() < until, service.process.log.read_text()
        # Again and again: for what the tests before this one did, it may be one of the "others" until they are told of.
        with socket.create_connection(address) as garbage:  # type: ignore[arg-type]
            garbage.sendall(os.urandom(64))
            while garbage.recv(1 << 16):
                pass
        assert bystander.alive()
