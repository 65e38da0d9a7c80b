"""What an adapter author may rely on, held against the fake in memory and a real service over shm and TCP alike. (The
promises themselves: tests/conformance.)"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cairnkv
from cairnkv import Client, GetResult, Layout, Status, UsageError, raw_key
from cairnkv.memory import BLOCK_BYTES_MOST

Fresh = Callable[[], bytes]


def test_a_block_comes_back(client: Client, fresh: Fresh) -> None:
    key = fresh()
    put = client.put([(key, b"hello")])[0]
    assert (put.status, put.nbytes, put.existed) == (Status.ok, 5, False) and put.sequence > 0
    target = bytearray(10)
    assert client.get([(key, target)]) == [GetResult(Status.ok, 5, put.sequence)]
    assert target == b"hello" + bytes(5)


def test_the_first_writer_wins(client: Client, fresh: Fresh) -> None:
    key = fresh()
    first = client.put_one(key, b"first")
    second = client.put_one(key, b"second, longer")
    assert (second.status, second.nbytes, second.sequence) == (Status.exists, 0, first.sequence)
    assert second and second.existed
    assert client.get_bytes(key)[1] == b"first"


def test_sequences_grow(client: Client, fresh: Fresh) -> None:
    sequences = [client.put_one(fresh(), b"x").sequence for _ in range(5)]
    assert sequences == sorted(set(sequences))


def test_every_item_has_its_own_status(client: Client, fresh: Fresh) -> None:
    here, absent = fresh(), fresh()
    client.put_one(here, b"0123456789")
    places = [bytearray(10), bytearray(10), bytearray(9), bytearray(10)]
    results = client.get(list(zip([here, absent, here, here], places, strict=True)))
    assert [result.status for result in results] == [Status.ok, Status.not_found, Status.short_buffer, Status.ok]
    assert [result.nbytes for result in results] == [10, 0, 0, 10]
    assert places[0] == places[3] == b"0123456789"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [((0, 0), b"0123456789"), ((3, 4), b"3456"), ((9, 1), b"9"), ((4, 0), b"456789"), ((0, 10), b"0123456789")],
)
def test_ranges(client: Client, fresh: Fresh, asked: tuple[int, int], expected: bytes) -> None:
    key = fresh()
    client.put_one(key, b"0123456789")
    target = bytearray(len(expected))
    result = client.get([(key, target)], ranges=[asked])[0]
    assert (result.status, result.nbytes, bytes(target)) == (Status.ok, len(expected), expected)


@pytest.mark.parametrize("asked", [(10, 0), (10, 1), (9, 2), (0, 11)])
def test_ranges_beyond_the_block(client: Client, fresh: Fresh, asked: tuple[int, int]) -> None:
    key = fresh()
    client.put_one(key, b"0123456789")
    assert client.get([(key, bytearray(20))], ranges=[asked])[0].status == Status.bad_range


def test_several_extents_are_one_block(client: Client, fresh: Fresh) -> None:
    key = fresh()
    keys_, values = np.arange(1000, dtype=np.float32), np.arange(7, dtype=np.int64)
    assert client.put_one(key, [keys_, b"between", values]).nbytes == 4000 + 7 + 56
    back = [np.zeros_like(keys_), bytearray(7), np.zeros_like(values)]
    assert client.get_one(key, back).hit
    assert np.array_equal(back[0], keys_) and back[1] == b"between" and np.array_equal(back[2], values)


def test_exists_touch_prefetch_delete(client: Client, fresh: Fresh) -> None:
    here, absent = fresh(), fresh()
    client.put_one(here, b"x")
    for call in (client.exists, client.touch, client.prefetch, client.delete):
        assert [result.status for result in call([here, absent])] == [Status.ok, Status.not_found]
    assert not any(client.exists([here]))
    assert client.put_one(here, b"again").status == Status.ok


def test_match_counts_the_leading_keys(client: Client, fresh: Fresh) -> None:
    keys = [fresh() for _ in range(5)]
    for key in (keys[0], keys[1], keys[3]):
        client.put_one(key, b"x")
    assert client.match(keys) == 2
    assert client.match(keys[2:]) == 0
    assert client.match([]) == 0


def test_batches_larger_than_the_wire_takes(client: Client, fresh: Fresh) -> None:
    prefix = fresh()
    keys = [prefix + number.to_bytes(4) for number in range(9000)]
    results = client.put([(key, b"x") for key in keys[:8999]], durability="relaxed")
    assert len(results) == 8999 and all(results)
    assert [bool(result) for result in client.exists(keys)] == [True] * 8999 + [False]
    assert client.match(keys) == 8999
    target = bytearray(9000)
    view = memoryview(target)
    results_got = client.get([(key, view[at : at + 1]) for at, key in enumerate(keys)])
    assert [result.hit for result in results_got] == [True] * 8999 + [False]
    assert target == b"x" * 8999 + b"\0"


def test_another_layout_is_another_block(client: Client, fresh: Fresh) -> None:
    key, raw = fresh(), raw_key(fresh()[:16])
    one, two = Layout(model="m", tp_rank=0, tp_size=2), Layout(model="m", tp_rank=1, tp_size=2)
    for name in (key, raw):
        assert client.put_one(name, b"one", layout=one).status == Status.ok
        assert client.put_one(name, b"two", layout=two).status == Status.ok
        assert client.get_bytes(name, layout=one.id)[1] == b"one"
        assert client.get_bytes(name, layout=two)[1] == b"two"
        assert client.get_bytes(name)[0].status == Status.not_found


def test_a_time_to_live(client: Client, fresh: Fresh) -> None:
    short, long = fresh(), fresh()
    client.put([(short, b"x")], ttl_ms=30)
    client.put([(long, b"x")], ttl_ms=60_000, group="a group", durability="relaxed")
    until = time.monotonic() + 10
    while client.exists([short])[0]:
        assert time.monotonic() < until
    assert client.get_bytes(short)[0].status == Status.not_found
    assert client.get_bytes(long)[0].hit


def test_get_bytes_of_any_size(client: Client, fresh: Fresh) -> None:
    for size in (1, 1 << 20, (1 << 20) + 1, 5_000_001):
        key = fresh()
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        client.put_one(key, data)
        result, back = client.get_bytes(key)
        assert result.nbytes == size and back == data
    assert client.get_bytes(key, nbytes_most=5_000_000) == (GetResult(Status.short_buffer, 0, result.sequence), b"")


def test_what_a_block_may_not_be(client: Client, fresh: Fresh) -> None:
    assert client.put_one(fresh(), b"").status == Status.invalid
    assert client.put_one(fresh(), bytes(BLOCK_BYTES_MOST + 1)).status == Status.too_large


def test_nothing_asked_is_nothing_answered(client: Client) -> None:
    assert client.put([]) == [] and client.get([]) == [] and client.exists([]) == []


def test_regions(client: Client, fresh: Fresh) -> None:
    region = client.alloc(100_000)
    assert region.nbytes == 100_000 and region.address > 0
    with memoryview(region) as view:
        assert not view.readonly and view[:100] == bytes(100)
        view[:5] = b"hello"
        key = fresh()
        assert client.put_one(key, view[:5]).ok
        assert client.get_one(key, view[50:60]).nbytes == 5
        assert view[50:55] == b"hello"
        assert client.get_one(key, (region.address + 70, 5)).hit and view[70:75] == b"hello"
        with pytest.raises(BufferError):
            region.close()
    region.close()
    kept = np.zeros(100, np.uint8)
    registered = client.register(kept)
    assert (registered.address, registered.nbytes) == (kept.ctypes.data, 100)
    registered.close()


def test_stats_and_info(client: Client, fresh: Fresh) -> None:
    before = client.stats()["store"]["puts"]
    client.put_one(fresh(), b"x")
    assert client.stats()["store"]["puts"] == before + 1
    info = client.info()
    assert info["connected"] is True and info["breaker"] == "closed" and info["url"] == client.url


def test_wrong_calls_raise_before_anything_is_sent(client: Client, fresh: Fresh) -> None:
    good = (fresh(), b"x")
    wrong: list[Callable[[], object]] = [
        lambda: client.put([good, ("", b"x")]),
        lambda: client.put([good, ("key", 5)]),
        lambda: client.put([good, ("key", "text")]),  # type: ignore[list-item]
        lambda: client.put([good, "key"]),  # type: ignore[list-item]
        lambda: client.put([good], durability="sometimes"),  # type: ignore[arg-type]
        lambda: client.put([good], ttl_ms=0),
        lambda: client.put([good], deadline_ms=0),
        lambda: client.put([good], layout="x"),  # type: ignore[arg-type]
        lambda: client.put([good], group=""),
        lambda: client.get([("key", b"read-only")]),
        lambda: client.get([("key", bytearray(1))], ranges=[]),
        lambda: client.get([("key", bytearray(1))], ranges=[(-1, 0)]),
        lambda: client.get_bytes("key", nbytes_most=0),
        lambda: client.exists("one key, not a list"),
        lambda: client.exists(5),  # type: ignore[arg-type]
        lambda: client.alloc(0),
        lambda: client.register([bytearray(1), bytearray(1)]),
        lambda: client.register(bytearray()),
    ]
    for call in wrong:
        with pytest.raises(UsageError):
            call()
    assert not any(client.exists([good[0]])), "a call that raised stored something"


def test_a_closed_client_says_so(client: Client) -> None:
    client.close()
    client.close()
    calls: list[Callable[[], object]] = [
        lambda: client.put([]), lambda: client.match([]), client.stats, client.info, lambda: client.alloc(5),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(cairnkv.ClosedError, match="closed"):
            call()
    assert "closed" in repr(client)


def test_many_threads_share_a_client(client: Client, fresh: Fresh) -> None:
    prefix, wrong = fresh(), list[object]()

    def work(number: int) -> None:
        for round_ in range(30):
            key, data = prefix + bytes([number, round_]), bytes([number, round_]) * 500
            put, got = client.put_one(key, data), client.get_bytes(key)
            if not put.ok or got[1] != data:
                wrong.append((put, got))

    threads = [threading.Thread(target=work, args=(number,), name=f"test-{number}") for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["put", "get", "delete", "exists"])), max_size=30))
def test_any_sequence_of_calls_is_a_dictionary(client: Client, fresh: Fresh, steps: list[tuple[int, str]]) -> None:
    prefix, model = fresh(), dict[int, bytes]()
    for number, (name, step) in enumerate(steps):
        key = prefix + bytes([name])
        if step == "put":
            data = f"{number}".encode()
            assert client.put_one(key, data).existed is (name in model)
            model.setdefault(name, data)
        elif step == "get":
            assert client.get_bytes(key)[1] == model.get(name, b"")
        elif step == "delete":
            assert bool(client.delete([key])[0]) is (model.pop(name, None) is not None)
        else:
            assert bool(client.exists([key])[0]) is (name in model)
