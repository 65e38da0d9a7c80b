"""A client written from docs/wire-format.md alone puts, gets, ranges, matches and deletes, over TCP and the Unix socket."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from raw_wire import (
    BATCH,
    CANCEL,
    CANCELLED,
    EVENT,
    EXISTS,
    EXTENT,
    GET,
    HELLO,
    LAST,
    LEASE,
    PING_T,
    PREFETCH,
    PULL_T,
    PUT,
    RELEASE,
    REMOVE,
    RESULT,
    RESULTS,
    STATS,
    TEXT,
    TOUCH,
    Frame,
    RawSession,
    batch,
    item,
)

OK, EXISTS_ALREADY, NOT_FOUND, INVALID, BAD_REGION, BAD_RANGE, SHORT_BUFFER = 0, 1, 2, 8, 9, 11, 10
LEASED, LEASE_TOO_LONG, GROUP_TOO_LARGE = 23, 24, 25


@pytest.fixture(params=["tcp", "shm"])
def session(request: pytest.FixtureRequest, addresses: dict[str, tuple[str, int] | str]) -> Iterator[RawSession]:
    opened = RawSession.open(addresses[request.param])
    yield opened
    opened.close()


Fresh = Callable[[], bytes]


def test_a_block_comes_back_exactly(session: RawSession, fresh_key: Fresh) -> None:
    for size in (1, 4095, 4096, 4097, 65536, 300_001):
        key, data = fresh_key(), os.urandom(size)
        status, sequence = session.put(key, data)
        assert status == OK and sequence > 0
        assert session.get(key, size) == (OK, data)
        assert session.get(key, size + 100) == (OK, data)


def test_the_first_writer_wins_and_no_byte_moves_for_the_second(session: RawSession, fresh_key: Fresh) -> None:
    key = fresh_key()
    first = session.put(key, b"a" * 5000)
    session.seen.clear()
    assert session.put(key, b"b" * 5000) == (EXISTS_ALREADY, first[1])
    assert [frame.type for frame in session.seen] == [RESULTS], "the service asked for bytes it already has"
    assert session.get(key, 5000) == (OK, b"a" * 5000)


def test_ranges(session: RawSession, fresh_key: Fresh) -> None:
    key, data = fresh_key(), os.urandom(200_000)
    session.put(key, data)
    for offset, count in ((0, 1), (1, 70_000), (65_536, 65_536), (199_999, 1), (100_000, 0)):
        expected = data[offset:] if count == 0 else data[offset : offset + count]
        assert session.get(key, 200_000, offset, count) == (OK, expected)
    assert session.get(key, 200_000, 199_999, 2)[0] == BAD_RANGE
    assert session.get(key, 200_000, 200_001, 0)[0] == BAD_RANGE
    assert session.get(key, 10, 0, 11)[0] == SHORT_BUFFER


def test_another_layout_is_a_miss(session: RawSession, fresh_key: Fresh) -> None:
    key = fresh_key()
    session.put(key, b"x" * 10)
    assert session.get(key, 10, layout=1)[0] == NOT_FOUND


def test_exists_match_touch_delete_prefetch(session: RawSession, fresh_key: Fresh) -> None:
    keys = [fresh_key() for _ in range(4)]
    for key in keys[:3]:
        session.put(key, b"y" * 100)
    assert session.statuses(EXISTS, keys) == [OK, OK, OK, NOT_FOUND]
    assert session.statuses(TOUCH, keys) == [OK, OK, OK, NOT_FOUND]
    assert session.match(keys) == 3
    assert session.statuses(REMOVE, [keys[1], keys[3]]) == [OK, NOT_FOUND]
    assert session.match(keys) == 1
    assert session.get(keys[1], 100)[0] == NOT_FOUND
    statuses = session.results(session.request(PREFETCH, batch([item(key) for key in keys]), 4))
    assert statuses == {0: OK, 1: NOT_FOUND, 2: OK, 3: NOT_FOUND}


def test_groups_scopes_and_deletes_by_name(session: RawSession, fresh_key: Fresh) -> None:
    keys, group, scope = [fresh_key() for _ in range(3)], fresh_key(), int.from_bytes(os.urandom(8)) or 1
    for at, key in enumerate(keys):
        assert session.statuses(EXISTS, keys) == [NOT_FOUND] * 3
        assert session.put(key, b"y" * 100, group=group, members=3)[0] == OK
        assert session.match(keys) == (3 if at == 2 else 0)
    assert session.statuses(REMOVE, [group], kind=1) == [OK]
    assert session.statuses(EXISTS, keys) == [NOT_FOUND] * 3
    assert session.put(keys[0], b"y" * 100, scope=scope)[0] == OK
    assert session.statuses(REMOVE, [bytes(16)], kind=2, scope=scope ^ 1 or 2) == [OK]
    assert session.match(keys) == 1
    assert session.statuses(REMOVE, [bytes(16)], kind=2, scope=scope) == [OK]
    assert session.match(keys) == 0
    assert session.put(keys[0], b"y", members=3)[0] == INVALID, "members of no group"
    assert session.put(keys[0], b"y", group=group, members=10_000)[0] == GROUP_TOO_LARGE


def test_leases(session: RawSession, fresh_key: Fresh, addresses: dict[str, tuple[str, int] | str]) -> None:
    other = RawSession.open(addresses["tcp"], name=b"another")
    key, absent = fresh_key(), fresh_key()
    session.put(key, b"y" * 100)
    assert session.statuses(LEASE, [key, absent], duration_ms=60_000) == [OK, NOT_FOUND]
    assert session.statuses(LEASE, [key], duration_ms=0) == [INVALID]
    assert session.statuses(LEASE, [key], duration_ms=2**64 - 1) == [LEASE_TOO_LONG]
    assert other.statuses(RELEASE, [key]) == [NOT_FOUND]
    assert other.statuses(REMOVE, [key]) == [LEASED]
    nameless = RawSession.open(addresses["tcp"], name=b"")
    assert nameless.statuses(RELEASE, [key]) == [NOT_FOUND], "a session without a name holds its own"
    assert session.statuses(LEASE, [key], duration_ms=60_000) == [OK]
    back = RawSession.open(addresses["tcp"])
    assert back.statuses(RELEASE, [key]) == [OK], "who comes back under its name releases what it leased"
    assert session.statuses(LEASE, [key], duration_ms=60_000) == [OK]
    assert session.statuses(RELEASE, [key, key]) == [OK, NOT_FOUND]
    assert session.statuses(REMOVE, [key]) == [OK]


def test_an_expired_block_is_a_miss(session: RawSession, fresh_key: Fresh) -> None:
    key = fresh_key()
    assert session.put(key, b"z" * 100, ttl_ms=1)[0] == OK
    while session.get(key, 100)[0] == OK:  # a millisecond passes by itself
        pass
    assert session.statuses(EXISTS, [key]) == [NOT_FOUND]


def test_a_wrong_checksum_is_refused_before_it_is_stored(session: RawSession, fresh_key: Fresh) -> None:
    key = fresh_key()
    assert session.put(key, b"w" * 100, crc=1)[0] == 15
    assert session.get(key, 100)[0] == NOT_FOUND
    assert session.put(key, b"w" * 100)[0] == OK, "the failed put left the key unusable"


def test_cancel_is_always_acknowledged(session: RawSession, fresh_key: Fresh) -> None:
    request = session.request(PUT, batch([item(fresh_key(), 1 << 20)]), 1)
    assert session.receive().type == PULL_T
    session.send(Frame(CANCEL, request, tag=session.tag))
    session.send(Frame(CANCEL, 12345, tag=session.tag))
    assert [session.receive().type for _ in range(2)] == [CANCELLED, CANCELLED]
    assert session.alive()


def test_stats_are_json(session: RawSession) -> None:
    import json

    session.request(STATS, b"", 0)
    frame = session.receive()
    assert frame.type == TEXT and frame.flags & LAST
    assert json.loads(frame.body)["sessions"] >= 1


def test_extents_reach_nothing_over_a_stream(session: RawSession, fresh_key: Fresh) -> None:
    key, data = fresh_key(), os.urandom(5000)
    assert session.put(key, data)[0] == OK
    for kind, named in ((GET, key), (PUT, fresh_key())):
        session.request(kind, batch([item(named, 5000, extent=(0, 1))], [EXTENT.pack(0, 5000, 3, 0)]), 1)
        assert RESULT.unpack(session.receive().body)[1] == BAD_REGION
    assert session.get(key, 5000) == (OK, data)


def test_a_second_lane_joins_the_session(addresses: dict[str, tuple[str, int] | str], fresh_key: Fresh) -> None:
    first = RawSession.open(addresses["tcp"])
    second = RawSession.open(addresses["tcp"], hello=False)
    second.say_hello(join=first.tag)
    assert second.tag == first.tag and second.welcome[4] == first.welcome[4]
    key = fresh_key()
    assert first.put(key, b"lane")[0] == OK
    first.close()
    assert second.get(key, 4) == (OK, b"lane"), "the session did not outlive one of its lanes"
    second.close()
    assert HELLO.size == 32 and BATCH.size == 32 and EVENT.size == 80 and PING_T == 5
