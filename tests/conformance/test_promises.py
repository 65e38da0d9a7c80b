"""DESIGN §3, promise by promise, through the public client and a real service, over every way memory can travel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
from hurt_service import HurtService

import cairnkv
from cairnkv import Status, _native

Memory = Callable[[int], memoryview]
Fresh = Callable[[], bytes]
SIZES = [1, 4095, 4096, 65_537, 1 << 20, 5_000_001]


def filled(memory: Memory, size: int, seed: int) -> memoryview:
    view = memory(size)
    _native.fill_pattern(view, seed)
    return view


# --- 1: never wrong bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_1_the_bytes_that_were_put_come_back(client: cairnkv.Client, memory: Memory, fresh: Fresh, size: int) -> None:
    key = fresh()
    assert client.put([(key, filled(memory, size, 7))])[0].status == Status.ok
    target = memory(size)
    result = client.get([(key, target)])[0]
    assert result.hit and result.nbytes == size
    assert _native.check_pattern(target, 7) == -1


def test_1_several_extents_are_one_block(client: cairnkv.Client, memory: Memory, fresh: Fresh) -> None:
    key, whole = fresh(), memory(100_000)
    _native.fill_pattern(whole, 3)
    parts = [memory(30_000), memory(1), memory(69_999)]
    parts[0][:], parts[1][:], parts[2][:] = whole[:30_000], whole[30_000:30_001], whole[30_001:]
    assert client.put([(key, parts)])[0].status == Status.ok
    back = [memory(50_000), memory(50_000)]
    assert client.get([(key, back)])[0].hit
    assert bytes(back[0]) + bytes(back[1]) == bytes(whole)


def test_1_another_layout_is_a_miss(client: cairnkv.Client, memory: Memory, fresh: Fresh) -> None:
    key = fresh()
    client.put([(key, filled(memory, 5000, 1))], layout=1)
    assert not client.get([(key, memory(5000))], layout=2)[0].hit
    assert client.get([(key, memory(5000))], layout=1)[0].hit


def test_1_rot_on_the_drive_is_a_miss_and_never_wrong_bytes(
    service: HurtService, client: cairnkv.Client, memory: Memory, fresh: Fresh
) -> None:
    keys = [fresh() for _ in range(40)]
    for seed, key in enumerate(keys):
        client.put([(key, filled(memory, 100_000, seed))])
    service.stop()
    with service.drive.open("r+b") as drive:
        size = drive.seek(0, os.SEEK_END)
        for at in range(2 << 20, size, 65_536):
            drive.seek(at)
            drive.write(b"rot")
    service.start()
    with cairnkv.connect(service.urls["tcp"]) as reader:
        target = memoryview(bytearray(100_000))
        hits = 0
        for seed, key in enumerate(keys):
            if reader.get([(key, target)])[0].hit:
                hits += 1
                assert _native.check_pattern(target, seed) == -1, "wrong bytes were served"
        assert hits < len(keys), "the damage hit nothing: the test proves nothing"


def test_1_a_batch_over_several_lanes_is_exact(
    connect: Callable[..., cairnkv.Client], memory: Memory, fresh: Fresh
) -> None:
    client = connect(lanes=4)
    keys = [fresh() for _ in range(40)]
    results = client.put([(key, filled(memory, 150_000, seed)) for seed, key in enumerate(keys)])
    assert {result.status for result in results} == {Status.ok}
    targets = [memory(150_000) for _ in keys]
    assert all(result.hit for result in client.get(zip(keys, targets, strict=True)))
    assert all(_native.check_pattern(target, seed) == -1 for seed, target in enumerate(targets))
    assert client.info()["lanes"] == (1 if client.info()["transport"] == "shm" else 4)


# --- 2: a failure is a miss, for that block only ---------------------------------------------------------


def test_2_every_item_has_its_own_status(client: cairnkv.Client, memory: Memory, fresh: Fresh) -> None:
    here, absent, large = fresh(), fresh(), fresh()
    client.put([(here, filled(memory, 1000, 1)), (large, filled(memory, 9000, 2))])
    target = memory(1000)
    results = client.get([(here, target), (absent, memory(1000)), (large, memory(10)), (here, memory(1000))])
    assert [result.status for result in results] == [Status.ok, Status.not_found, Status.short_buffer, Status.ok]
    assert _native.check_pattern(target, 1) == -1


def test_2_a_service_that_dies_is_a_batch_of_misses(
    service: HurtService, client: cairnkv.Client, memory: Memory, fresh: Fresh
) -> None:
    key = fresh()
    client.put([(key, filled(memory, 1000, 1))])
    service.kill()
    for _ in range(3):
        results = client.get([(key, memory(1000)), (fresh(), memory(10))], deadline_ms=2000)
        assert not any(result.hit for result in results)
        assert {result.status for result in results} <= {Status.disconnected, Status.unreachable}
    service.start()
    # tcp: another port was chosen; the client knows the old one. shm: it finds the way back by itself.
    if service.urls["shm"].startswith("shm") and client.info()["transport"] == "shm":
        deadline = time.monotonic() + 10
        while not client.get([(key, memory(1000))])[0].hit:
            assert time.monotonic() < deadline, "the client never came back"


# --- 3: deadlines with a fence ---------------------------------------------------------------------------


def test_3_a_call_returns_in_time_and_nothing_lands_afterwards(
    service: HurtService, client: cairnkv.Client, memory: Memory, fresh: Fresh
) -> None:
    key, size = fresh(), 4 << 20
    client.put([(key, filled(memory, size, 5))])
    target = memory(size)
    for _ in range(5):
        service.suspend()
        start = time.monotonic()
        result = client.get([(key, target)], deadline_ms=100)[0]
        elapsed = time.monotonic() - start
        assert result.status in (Status.timeout, Status.disconnected, Status.unreachable)
        assert elapsed < 5, "the call did not keep its deadline"
        target[:] = bytes(size)
        service.resume()
        with cairnkv.connect(service.urls["tcp"]) as other:  # by now the service has been through what it had
            other.exists([fresh()])
        assert not any(target[::4096]) and bytes(target) == bytes(size), "a late write landed in the caller's memory"
        deadline = time.monotonic() + 10
        while not client.get([(key, memory(size))])[0].hit:
            assert time.monotonic() < deadline


def test_3_a_put_that_timed_out_is_exact_or_absent_whatever_the_caller_does_next(
    service: HurtService, client: cairnkv.Client, memory: Memory, fresh: Fresh
) -> None:
    for round_ in range(5):
        key, size = fresh(), 2 << 20
        source = filled(memory, size, round_)
        service.suspend()
        assert client.put([(key, source)], deadline_ms=50)[0].status != Status.ok
        source[:] = b"\xee" * size  # the memory is the caller's again
        service.resume()
        deadline = time.monotonic() + 10
        while client.put([(fresh(), memory(10))])[0].status != Status.ok:
            assert time.monotonic() < deadline
        target = memory(size)
        if client.get([(key, target)])[0].hit:
            assert _native.check_pattern(target, round_) == -1, "a put that timed out stored bytes nobody meant"


def test_3_gets_that_race_their_deadline_leave_no_mark(client: cairnkv.Client, memory: Memory, fresh: Fresh) -> None:
    key, size = fresh(), 1 << 20
    client.put([(key, filled(memory, size, 5))])
    target = memory(size)
    canary = bytes(size)
    for _ in range(200):
        target[:] = canary
        result = client.get([(key, target)], deadline_ms=1)[0]
        if result.hit:
            assert _native.check_pattern(target, 5) == -1
            continue
        target[:] = canary
        client.exists([key])
        assert bytes(target) == canary


# --- 4, 5, 8: kept, warm, deleted ------------------------------------------------------------------------


def test_4_5_8_across_kill_9(service: HurtService, client: cairnkv.Client, memory: Memory, fresh: Fresh) -> None:
    keys = [fresh() for _ in range(30)]
    statuses = [client.put([(key, filled(memory, 70_000, seed))])[0].status for seed, key in enumerate(keys)]
    assert statuses == [Status.ok] * 30
    assert [result.status for result in client.delete(keys[:5])] == [Status.ok] * 5
    service.kill()
    service.start()
    with cairnkv.connect(service.urls["shm"]) as reader:
        assert [bool(found) for found in reader.exists(keys)] == [False] * 5 + [True] * 25
        target = memoryview(bytearray(70_000))
        for seed, key in list(enumerate(keys))[5:]:
            assert reader.get([(key, target)])[0].hit and _native.check_pattern(target, seed) == -1


def test_8_what_was_deleted_by_name_stays_deleted_across_kill_9(
    service: HurtService, client: cairnkv.Client, memory: Memory, fresh: Fresh
) -> None:
    """Group, scope, layout and tenant; and what was put under the same names afterwards is there."""
    source, layout = filled(memory, 10_000, 1), int.from_bytes(fresh()[:8], "big")
    tenant = fresh().hex()
    grouped, scoped, laid, owned, later = ([fresh() for _ in range(5)] for _ in range(5))
    with cairnkv.connect(service.urls["shm"], tenant=tenant) as other:
        client.put([(key, source) for key in grouped], group="g", group_members=5, layout=7)
        client.put([(key, source) for key in scoped], scope=tenant)
        client.put([(key, source) for key in laid], layout=layout)
        other.put([(key, source) for key in owned])
        for result in (
            client.delete_group("g", layout=7),
            client.delete_scope(tenant),
            client.delete_layout(layout),
            other.delete_tenant(tenant),
        ):
            assert result.status == Status.ok
        client.put([(key, source) for key in later], scope=tenant, layout=layout)
        other.put([(key, source) for key in later])
    service.kill()
    service.start()
    with cairnkv.connect(service.urls["shm"], tenant=tenant) as other, cairnkv.connect(service.urls["tcp"]) as reader:
        assert not any(reader.exists(grouped, layout=7))
        assert not any(reader.exists(scoped)) and not any(reader.exists(laid, layout=layout))
        assert not any(other.exists(owned))
        assert all(reader.exists(later, layout=layout)) and all(other.exists(later))


def test_5_a_group_is_whole_or_absent_after_kill_9(
    service: HurtService, client: cairnkv.Client, memory: Memory, fresh: Fresh
) -> None:
    source = filled(memory, 10_000, 1)
    whole, part = [fresh() for _ in range(4)], [fresh() for _ in range(3)]
    group = fresh()
    client.put([(key, source) for key in whole], group=group, group_members=4, ttl_ms=600_000)
    client.put([(key, source) for key in part], group=fresh(), group_members=4)
    service.kill()
    service.start()
    with cairnkv.connect(service.urls["tcp"]) as reader:
        assert all(reader.exists(whole)) and not any(reader.exists(part))
        assert reader.delete(whole[:1])[0].status == Status.ok
        assert not any(reader.exists(whole)), "the group was forgotten in the restart"


def test_5_warm_after_a_clean_stop_and_nothing_is_scanned(
    service: HurtService, client: cairnkv.Client, memory: Memory, fresh: Fresh
) -> None:
    keys = [fresh() for _ in range(30)]
    for seed, key in enumerate(keys):
        client.put([(key, filled(memory, 70_000, seed))])
    assert service.stop() == 0
    service.start()
    with cairnkv.connect(service.urls["tcp"]) as reader:
        assert all(reader.exists(keys))
        assert reader.stats()["store"]["scanned_segments"] == 0


# --- 6: immutable ----------------------------------------------------------------------------------------


def test_6_the_first_writer_wins(client: cairnkv.Client, memory: Memory, fresh: Fresh) -> None:
    key = fresh()
    first = client.put([(key, filled(memory, 1000, 1))])[0]
    second = client.put([(key, filled(memory, 1000, 2))])[0]
    assert (first.status, second.status) == (Status.ok, Status.exists)
    assert second.sequence == first.sequence
    target = memory(1000)
    client.get([(key, target)])
    assert _native.check_pattern(target, 1) == -1


# --- 7: tenants ------------------------------------------------------------------------------------------


def test_7_tenants_have_their_own_keys(connect: Callable[..., cairnkv.Client], fresh: Fresh) -> None:
    red, blue = connect(tenant="red"), connect(tenant="blue")
    key = fresh()
    assert red.put([(key, b"red's")])[0].status == Status.ok
    assert not any(blue.exists([key])) and not blue.get([(key, bytearray(5))])[0].hit
    assert blue.put([(key, b"blue's")])[0].status == Status.ok
    assert blue.delete([key])[0].status == Status.ok
    mine = bytearray(5)
    assert red.get([(key, mine)])[0].hit and mine == b"red's"


# --- 9: bad input costs the sender only ------------------------------------------------------------------


class Fewer:
    """A sequence that says it has two members and gives one."""

    def __init__(self, member: object) -> None:
        self.member = member

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> object:
        if index > 0:
            raise IndexError
        return self.member


def test_9_memories_that_are_fewer_than_they_say_are_an_error(service: HurtService) -> None:
    """An engine would have been lost, or a block filled from memory that nobody named: the length alone was believed."""
    session = _native.Client(service.urls["tcp"])
    with pytest.raises(ValueError, match="as many memories as keys"):
        session.put([bytes(16), bytes(16)], Fewer(bytearray(100)))  # type: ignore[arg-type]
    session.close()


def test_9_what_is_too_large_or_empty_is_told(client: cairnkv.Client, fresh: Fresh) -> None:
    assert client.put([]) == [] and client.get([]) == []
    huge = memoryview(bytearray((64 << 20) + 1))
    results = client.put([(fresh(), huge), (fresh(), b"small")])
    assert [result.status for result in results] == [Status.too_large, Status.ok]


def test_9_a_full_drive_makes_room_and_goes_on(client: cairnkv.Client, memory: Memory, fresh: Fresh) -> None:
    source = filled(memory, 4 << 20, 1)
    keys = [fresh() for _ in range(100)]  # 400 MiB into 256
    for key in keys:
        assert client.put([(key, source)])[0].status == Status.ok
    found = [bool(one) for one in client.exists(keys)]
    assert found == sorted(found), "what was put first is evicted first"
    assert found[-1] and not found[0]


def test_a_leased_block_outlives_what_is_evicted_and_watchers_are_told(
    connect: Callable[..., cairnkv.Client], memory: Memory, fresh: Fresh
) -> None:
    client = connect(tenant=fresh().hex())
    source = filled(memory, 4 << 20, 1)
    leased, grouped, keys = fresh(), [fresh() for _ in range(2)], [fresh() for _ in range(100)]
    assert client.put_one(leased, source).status == Status.ok
    client.put([(key, source) for key in grouped], group="g", group_members=2)
    assert client.lease([leased], duration_ms=600_000)[0].status == Status.ok
    told = client.watch()
    for key in keys:  # 400 MiB into 256
        assert client.put_one(key, source).status == Status.ok
    assert client.exists([leased])[0].status == Status.ok, "a leased block was evicted"
    assert len({bool(one) for one in client.exists(grouped)}) == 1, "a group was evicted in part"
    gone = {cairnkv.keys.derive_key(key) for key, one in zip(keys, client.exists(keys), strict=True) if not one}
    events = client.watch(after=told.newest).items
    evicted = {event.key for event in events if event.kind == cairnkv.EventKind.evicted}
    assert gone and gone <= evicted, "a block went and nobody was told"
    assert client.release([leased])[0].status == Status.ok
    assert client.get([(leased, memory(4 << 20))])[0].hit
