"""A client written from docs/wire-format.md alone puts, gets and cancels over RDMA, with memory windows and without."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from raw_rdma import RdmaSession
from raw_wire import (
    CANCEL,
    CANCELLED,
    EXISTS,
    GET,
    HELLO,
    HELLO_T,
    LAST,
    PING_T,
    PONG_T,
    PUT,
    REMOVE,
    RESULT,
    RESULTS,
    STATUSES,
    Frame,
    batch,
    crc32c,
    item,
)
from rdma_link import PREFIX, READ, WINDOWS, WRITE, Offer, fnv1a

TIMEOUT = 3
OK, EXISTS_ALREADY, NOT_FOUND, BAD_REGION, SHORT_BUFFER, BAD_RANGE, BAD_CHECKSUM, DENIED = 0, 1, 2, 9, 10, 11, 15, 16
Fresh = Callable[[], bytes]
Address = tuple[str, int]


@pytest.fixture(params=["windows", "regions"])
def session(request: pytest.FixtureRequest, rdma: Address) -> RdmaSession:
    features = WINDOWS if request.param == "windows" else 0
    opened = RdmaSession.dial(rdma, Offer(features=features))
    assert opened.link.features == features
    return opened


def test_the_page_gives_the_hash_of_default() -> None:
    assert fnv1a(b"default") == 0xEBADA5168620C5FE


def test_a_block_comes_back_exactly(session: RdmaSession, fresh_key: Fresh) -> None:
    for size in (1, 4095, 4096, 4097, 65536, 300_001):
        key, data = fresh_key(), os.urandom(size)
        status, sequence = session.put(key, data)
        assert status == OK and sequence > 0
        session.link.memory.write(bytes(size), size)
        assert session.get(key, size) == (OK, data)
        assert session.get(key, size + 100) == (OK, data)
    assert session.get(fresh_key(), 10)[0] == NOT_FOUND


def test_the_first_writer_wins(session: RdmaSession, fresh_key: Fresh) -> None:
    key = fresh_key()
    first = session.put(key, b"a" * 5000)
    assert session.put(key, b"b" * 5000) == (EXISTS_ALREADY, first[1])
    assert session.get(key, 5000) == (OK, b"a" * 5000)


def test_ranges(session: RdmaSession, fresh_key: Fresh) -> None:
    key, data = fresh_key(), os.urandom(200_000)
    session.put(key, data)
    for offset, count in ((0, 1), (1, 70_000), (65_536, 65_536), (199_999, 1), (100_000, 0)):
        expected = data[offset:] if count == 0 else data[offset : offset + count]
        assert session.get(key, 200_000, offset, count) == (OK, expected)
    assert session.get(key, 200_000, 199_999, 2)[0] == BAD_RANGE
    assert session.get(key, 10, 0, 11)[0] == SHORT_BUFFER


def test_bytes_that_do_not_match_their_checksum_are_not_stored(session: RdmaSession, fresh_key: Fresh) -> None:
    key, data = fresh_key(), os.urandom(5000)
    assert session.put(key, data, crc=crc32c(data) ^ 1)[0] == BAD_CHECKSUM
    assert session.get(key, 5000)[0] == NOT_FOUND
    assert session.put(key, data, crc=crc32c(data))[0] == OK


def test_exists_match_and_remove(session: RdmaSession, fresh_key: Fresh) -> None:
    keys = [fresh_key() for _ in range(4)]
    for key in keys[:3]:
        session.put(key, b"y" * 100)
    assert session.statuses(EXISTS, keys) == [OK, OK, OK, NOT_FOUND]
    assert session.match(keys) == 3
    assert session.statuses(REMOVE, [keys[1], keys[3]]) == [OK, NOT_FOUND]
    assert session.match(keys) == 1
    assert session.get(keys[1], 100)[0] == NOT_FOUND


def test_extents_are_joined_in_order_and_no_byte_beside_them_is_written(session: RdmaSession, fresh_key: Fresh) -> None:
    memory, data = session.link.memory, os.urandom(70_000)
    places = [(200_000, 30_000), (1, 9_999), (100_003, 30_001)]  # where in the memory, and how much
    memory.write(bytes(300_000), 300_000)
    at = 0
    for place, length in places:
        memory.write(data[at : at + length], length, place)
        at += length
    key = fresh_key()
    assert _with_extents(session, PUT, key, places, READ) == (OK, 70_000)
    assert session.get(key, 70_000) == (OK, data)
    memory.write(b"\x5a" * 300_000, 300_000)
    assert _with_extents(session, GET, key, places, WRITE) == (OK, 70_000)
    expected, at = bytearray(b"\x5a" * 300_000), 0
    for place, length in places:
        expected[place : place + length] = data[at : at + length]
        at += length
    assert memory.read(300_000, 0) == bytes(expected)


def _with_extents(
    session: RdmaSession, kind: int, key: bytes, places: list[tuple[int, int]], access: int
) -> tuple[int, int]:
    with session.lent_all(places, access) as extents:
        length = sum(length for _, length in places)
        body = batch([item(key, length, extent=(0, len(extents)))], extents)
        status, delivered, _, _ = session.result(session.request(kind, body, 1))
    return status, delivered or length


def test_an_item_without_room_for_it_in_extents_is_a_bad_region(session: RdmaSession, fresh_key: Fresh) -> None:
    key = fresh_key()
    assert session.put(key, b"z" * 1000)[0] == OK
    for kind, access in ((PUT, READ), (GET, WRITE)):
        wanted = fresh_key() if kind == PUT else key
        assert session.result(session.request(kind, batch([item(wanted, 1000)]), 1))[0] == BAD_REGION
        with session.lent(999, access) as extent:
            body = batch([item(wanted, 1000, extent=(0, 1))], [extent])
            assert session.result(session.request(kind, body, 1))[0] == BAD_REGION
    assert session.alive()


def test_frames_longer_than_a_message_in_both_directions(rdma: Address, fresh_key: Fresh) -> None:
    session = RdmaSession.dial(rdma, Offer(credits=4, message_bytes=512))
    keys = [fresh_key() for _ in range(1000)]
    request = Frame(EXISTS, body=batch(keys)).encode()
    assert len(request) > 3 * session.link.message_bytes
    assert session.statuses(EXISTS, keys) == [NOT_FOUND] * 1000
    assert len(session.seen[-1].body) > 3 * 512
    assert session.put(keys[999], b"x")[0] == OK
    assert session.statuses(EXISTS, keys) == [NOT_FOUND] * 999 + [OK]


def test_a_frame_in_pieces_is_longer_than_all_credit(rdma: Address, fresh_key: Fresh) -> None:
    session = RdmaSession.dial(rdma)
    keys = [fresh_key()] * 4096
    assert len(keys) * 16 > session.link.granted * session.link.message_bytes
    assert session.statuses(EXISTS, keys) == [NOT_FOUND] * 4096


@pytest.mark.parametrize("credits", [4, 16, 1024])
def test_five_hundred_requests_in_sequence(credits: int, rdma: Address, fresh_key: Fresh) -> None:
    session = RdmaSession.dial(rdma, Offer(credits=credits, message_bytes=512))
    key = fresh_key()
    assert session.put(key, b"x" * 3000)[0] == OK
    for number in range(500):
        assert session.statuses(EXISTS, [key, fresh_key()]) == [OK, NOT_FOUND], number
    assert session.get(key, 3000) == (OK, b"x" * 3000)


def test_five_hundred_puts_and_gets_in_sequence(session: RdmaSession, fresh_key: Fresh) -> None:
    for number in range(250):
        key, data = fresh_key(), os.urandom(1 + number * 37)
        assert session.put(key, data)[0] == OK
        assert session.get(key, len(data)) == (OK, data)


def test_many_requests_at_once(rdma: Address, fresh_key: Fresh) -> None:
    session = RdmaSession.dial(rdma)
    key = fresh_key()
    asked = {session.request(EXISTS, batch([key]), 1) for _ in range(int(session.welcome[7]))}
    answered = [session.receive() for _ in asked]
    assert {frame.type for frame in answered} == {STATUSES} and {frame.request_id for frame in answered} == asked


def test_the_service_shuts_the_window_of_a_request(rdma: Address, fresh_key: Fresh) -> None:
    session = RdmaSession.dial(rdma)
    link, key = session.link, fresh_key()
    for kind, access in ((PUT, READ), (GET, WRITE)):
        link.invalidated.clear()
        window = link.open(0, 5000, access)
        extent = session.extent(0, 5000, window)
        session.result(session.request(kind, batch([item(key, 5000, extent=(0, 1))], [extent]), 1))
        assert link.invalidated == [window]
        # And it is shut: using it again costs the link.
    session.request(GET, batch([item(key, 5000, extent=(0, 1))], [extent]), 1)
    session.ends()
    assert link.dead


def test_a_window_that_was_not_used_is_left_to_the_client(rdma: Address, fresh_key: Fresh) -> None:
    session = RdmaSession.dial(rdma)
    assert session.get(fresh_key(), 5000)[0] == NOT_FOUND
    assert session.link.invalidated == []
    assert session.alive()


def test_of_several_windows_the_first_that_was_used_is_shut(rdma: Address, fresh_key: Fresh) -> None:
    session = RdmaSession.dial(rdma)
    link, keys = session.link, [fresh_key() for _ in range(3)]
    for key in keys[1:]:
        assert session.put(key, b"w" * 100)[0] == OK
    link.invalidated.clear()
    windows = [link.open(at * 100, 100, WRITE) for at in range(3)]
    extents = [session.extent(at * 100, 100, window) for at, window in enumerate(windows)]
    items = [item(key, 100, extent=(at, 1)) for at, key in enumerate(keys)]
    statuses = session.results(session.request(GET, batch(items, extents), 3))
    assert statuses == {0: NOT_FOUND, 1: OK, 2: OK}
    assert len(link.invalidated) == 1 and link.invalidated[0] in windows[1:]
    assert session.alive()


def test_a_last_frame_in_many_messages_shuts_the_window_too(rdma: Address, fresh_key: Fresh) -> None:
    session = RdmaSession.dial(rdma, Offer(message_bytes=512, credits=8))
    key = fresh_key()
    assert session.put(key, b"m" * 50)[0] == OK
    window = session.link.open(0, 5000, WRITE)
    session.link.invalidated.clear()
    items = [item(key, 50, extent=(at, 1)) for at in range(100)]
    extents = [session.extent(at * 50, 50, window) for at in range(100)]
    assert session.results(session.request(GET, batch(items, extents), 100)) == dict.fromkeys(range(100), OK)
    assert session.link.invalidated == [window]
    assert session.link.memory.read(5000, 0) == b"m" * 5000


def test_cancel(session: RdmaSession, fresh_key: Fresh) -> None:
    waiting = session.watch(after=2**64 - 2, deadline_ms=60_000)
    session.send(Frame(CANCEL, waiting, tag=session.tag))
    frame = session.receive()
    assert (frame.type, frame.request_id) == (CANCELLED, waiting)
    session.send(Frame(CANCEL, 4711, tag=session.tag))
    frame = session.receive()
    assert (frame.type, frame.request_id) == (CANCELLED, 4711), "a request that was never open is answered too"
    assert session.alive()


def still(session: RdmaSession, size: int) -> bool:
    """Nobody writes the memory any more: what is written now is there after another round trip."""
    session.link.memory.write(b"\x11" * size, size)
    alive = session.alive()
    return alive and session.link.memory.read(size, 0) == b"\x11" * size


def test_after_cancelled_the_memory_is_touched_no_more(session: RdmaSession, fresh_key: Fresh) -> None:
    size, key = 1 << 20, fresh_key()
    assert session.put(key, os.urandom(size))[0] == OK
    for number in range(40):
        kind, access, wanted = ((GET, WRITE, key), (PUT, READ, fresh_key()))[number % 2]
        with session.lent(size, access) as extent:
            request_id = session.request(kind, batch([item(wanted, size, extent=(0, 1))], [extent]), 1)
            if number % 4 > 1:
                session.send(Frame(PING_T, 1, tag=session.tag))
            session.send(Frame(CANCEL, request_id, tag=session.tag))
            frame = session.receive()
            while frame.type != CANCELLED:
                assert frame.type == PONG_T or (frame.type, frame.request_id) == (RESULTS, request_id)
                frame = session.receive()
            assert frame.request_id == request_id
            assert still(session, size)


@pytest.mark.parametrize("deadline_ms", [1, 5, 20])
def test_after_a_deadline_the_memory_is_touched_no_more(
    deadline_ms: int, session: RdmaSession, fresh_key: Fresh
) -> None:
    size, key = 1 << 20, fresh_key()
    assert session.put(key, os.urandom(size))[0] == OK
    for number in range(10):
        kind, access, wanted = ((GET, WRITE, key), (PUT, READ, fresh_key()))[number % 2]
        with session.lent(size, access) as extent:
            body = batch([item(wanted, size, extent=(0, 1))], [extent])
            assert session.result(session.request(kind, body, 1, deadline_ms))[0] in (OK, TIMEOUT)
            assert still(session, size)


def test_who_cannot_wait_breaks_off_and_nothing_reaches_the_memory(rdma: Address, fresh_key: Fresh) -> None:
    size, key = 1 << 20, fresh_key()
    other = RdmaSession.dial(rdma)
    assert other.put(key, os.urandom(size))[0] == OK
    for features in (0, WINDOWS) * 5:
        session = RdmaSession.dial(rdma, Offer(features=features))
        window = session.link.open(0, size, WRITE)
        session.request(GET, batch([item(key, size, extent=(0, 1))], [session.extent(0, size, window)]), 1)
        session.link.break_off()
        session.link.memory.write(b"\x22" * size, size)
        assert other.alive() and other.alive()
        assert session.link.memory.read(size, 0) == b"\x22" * size
        session.close()


def test_many_transfers_at_once(session: RdmaSession, fresh_key: Fresh) -> None:
    blocks = [(fresh_key(), os.urandom(1 + number * 911)) for number in range(40)]
    for kind, access in ((PUT, READ), (GET, WRITE)):
        session.link.memory.write(bytes(1 << 20), 1 << 20)
        places, at = [], 0
        for _, data in blocks:
            places.append((at, len(data)))
            at += len(data)
        if kind == PUT:
            session.link.memory.write(b"".join(data for _, data in blocks), at)
        with session.lent_all(places, access) as extents:
            asked = {
                session.request(kind, batch([item(key, len(data), extent=(0, 1))], [extent]), 1)
                for (key, data), extent in zip(blocks, extents, strict=True)
            }
            for _ in blocks:
                frame = session.receive()
                asked.remove(frame.request_id)
                assert frame.type == RESULTS and RESULT.unpack(frame.body)[1] == OK
    assert session.link.memory.read(at, 0) == b"".join(data for _, data in blocks)


def test_two_tenants_do_not_see_each_other(rdma: Address, fresh_key: Fresh) -> None:
    first, second = (RdmaSession.dial(rdma, Offer(tenant=name)) for name in (b"first", b"second"))
    key = fresh_key()
    assert first.put(key, b"1" * 5000)[0] == OK
    assert second.statuses(EXISTS, [key]) == [NOT_FOUND]
    assert second.get(key, 5000)[0] == NOT_FOUND
    assert second.put(key, b"2" * 5000)[0] == OK
    assert first.get(key, 5000) == (OK, b"1" * 5000)
    assert second.get(key, 5000) == (OK, b"2" * 5000)


def test_a_hello_of_another_tenant_than_the_connections_is_denied(rdma: Address) -> None:
    session = RdmaSession(rdma, Offer(tenant=b"first"))
    session.send(Frame(HELLO_T, body=HELLO.pack(1, 1, 0, bytes(16), 6, 0, 0, 0) + b"second"))
    status, reason = session.ends()
    assert status == DENIED and len(reason) > 8


def test_a_lane_over_rdma_joins_its_session_or_is_told_why_not(rdma: Address) -> None:
    session = RdmaSession.dial(rdma)
    lane = RdmaSession(rdma)
    lane.send(Frame(HELLO_T, body=HELLO.pack(1, 1, 0, session.tag, 7, 0, 0, 0) + b"default"))
    if int(session.welcome[1]) > 1:
        assert lane.receive().tag == session.tag
    else:
        assert lane.ends()[0] >= 0
    assert session.alive()


def test_a_frame_may_come_in_more_messages_than_it_needs(rdma: Address, fresh_key: Fresh) -> None:
    session = RdmaSession.dial(rdma)
    whole = session.link.message_bytes
    for size in (64, 100, 500):
        session.link.message_bytes = size + PREFIX.size
        assert session.statuses(EXISTS, [fresh_key() for _ in range(200)]) == [NOT_FOUND] * 200
    session.link.message_bytes = whole
    assert session.alive()


def test_reserved_fields_of_a_prefix_are_ignored(rdma: Address) -> None:
    session = RdmaSession.dial(rdma)
    ping = Frame(PING_T, 7, tag=session.tag).encode()
    session.link.credit -= 1
    session.link.post(PREFIX.pack(len(ping), 0, 0xFFFF)[:8] + b"\xff" * 8 + ping)
    assert session.receive().type == PONG_T


def test_a_message_of_the_least_size_holds_a_header(rdma: Address) -> None:
    session = RdmaSession.dial(rdma, Offer(message_bytes=512, credits=4))
    assert session.link.message_bytes >= 64 + PREFIX.size
    assert session.seen[0].flags & LAST == 0 and session.alive()


def test_a_result_names_the_bytes_that_were_delivered(session: RdmaSession, fresh_key: Fresh) -> None:
    key, data = fresh_key(), os.urandom(9000)
    session.put(key, data)
    with session.lent(9000, WRITE) as extent:
        request_id = session.request(GET, batch([item(key, 9000, extent=(0, 1))], [extent]), 1)
        frame = session.receive()
    index, status, flags, length, _, _, zero = RESULT.unpack(frame.body)
    assert (frame.request_id, index, status, flags & 1, length, zero) == (request_id, 0, OK, 0, 9000, 0)
