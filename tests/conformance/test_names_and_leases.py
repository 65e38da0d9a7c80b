"""Groups, scopes, leases and deletes by name: over every way memory can travel, and the store in memory alike."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

import cairnkv
from cairnkv import Layout, Status, UsageError

Anyone = Callable[..., cairnkv.Client]
Fresh = Callable[[], bytes]
FreshTenant = Callable[[], str]


@pytest.fixture
def client(anyone: Anyone) -> cairnkv.Client:
    return anyone()


def found(client: cairnkv.Client, keys: list[bytes], layout: Layout | int | None = None) -> list[bool]:
    """Which keys are found; every call that can say so has to agree."""
    exists = [bool(one) for one in client.exists(keys, layout=layout)]
    assert [client.get_bytes(key, layout=layout)[0].hit for key in keys] == exists
    assert [bool(one) for one in client.touch(keys, layout=layout)] == exists
    leading = next((at for at, there in enumerate(exists) if not there), len(keys))
    assert client.match(keys, layout=layout) == leading
    return exists


# --- groups ----------------------------------------------------------------------------------------------


def test_no_member_is_found_before_the_group_is_whole(client: cairnkv.Client, fresh: Fresh) -> None:
    keys, group = [fresh() for _ in range(4)], fresh()
    for key in keys[:3]:
        assert client.put_one(key, b"x", group=group, group_members=4).status == Status.ok
        assert found(client, keys) == [False] * 4
        assert client.lease([key], duration_ms=1000)[0].status == Status.not_found
        assert client.put_one(key, b"y", group=group, group_members=4).status == Status.exists
    assert client.put_one(keys[3], b"x", group=group, group_members=4).status == Status.ok
    assert found(client, keys) == [True] * 4


def test_a_group_put_in_one_batch_is_found_at_once(client: cairnkv.Client, fresh: Fresh) -> None:
    keys, group = [fresh() for _ in range(8)], fresh()
    results = client.put([(key, b"x" * 5000) for key in keys], group=group, group_members=8)
    assert all(result.status == Status.ok for result in results)
    assert found(client, keys) == [True] * 8


def test_when_one_member_goes_all_go(client: cairnkv.Client, fresh: Fresh) -> None:
    keys, group = [fresh() for _ in range(3)], fresh()
    client.put([(key, b"old") for key in keys], group=group, group_members=3)
    assert client.delete(keys[:1])[0].status == Status.ok
    assert found(client, keys) == [False] * 3
    for at, key in enumerate(keys):
        assert client.put_one(key, b"new", group=group, group_members=3).status == Status.ok
        assert found(client, keys) == [at == 2] * 3
    assert client.get_bytes(keys[1])[1] == b"new"


def test_a_group_expires_as_one(client: cairnkv.Client, fresh: Fresh) -> None:
    keys, group = [fresh(), fresh()], fresh()
    client.put_one(keys[0], b"x", group=group, group_members=2, ttl_ms=60_000)
    client.put_one(keys[1], b"x", group=group, group_members=2, ttl_ms=300)
    until = time.monotonic() + 10
    while any(client.exists(keys)):
        assert time.monotonic() < until
    assert found(client, keys) == [False, False]


def test_a_group_is_named_within_tenant_and_layout(anyone: Anyone, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    client, other, key, group = anyone(), anyone(fresh_tenant()), fresh(), fresh()
    client.put_one(key, b"x", group=group, group_members=2)
    client.put_one(fresh(), b"x", group=group, group_members=2, layout=5)
    other.put_one(fresh(), b"x", group=group, group_members=2)
    assert found(client, [key]) == [False]


def test_members_without_a_number_stand_for_themselves(client: cairnkv.Client, fresh: Fresh) -> None:
    keys, group = [fresh(), fresh()], fresh()
    client.put_one(keys[0], b"x", group=group)
    assert found(client, keys) == [True, False]


@pytest.mark.parametrize("members", [1025, 10_000, 1 << 40])
def test_a_group_may_be_too_large(client: cairnkv.Client, fresh: Fresh, members: int) -> None:
    key, group = fresh(), fresh()
    assert client.put_one(key, b"x", group=group, group_members=members).status == Status.group_too_large
    assert client.put_one(key, b"x", group=group, group_members=1024).status == Status.ok, "nothing was left behind"


# --- leases ----------------------------------------------------------------------------------------------


def test_a_leased_block_is_not_deleted(client: cairnkv.Client, fresh: Fresh) -> None:
    leased, free, absent = fresh(), fresh(), fresh()
    client.put([(leased, b"x"), (free, b"x")])
    results = client.lease([leased, absent], duration_ms=60_000)
    assert [result.status for result in results] == [Status.ok, Status.not_found]
    deleted = client.delete([leased, free, absent])
    assert [result.status for result in deleted] == [Status.leased, Status.ok, Status.not_found]
    assert found(client, [leased]) == [True]
    assert [result.status for result in client.release([leased, free])] == [Status.ok, Status.not_found]
    assert client.release([leased])[0].status == Status.not_found, "a lease is released once"
    assert client.delete([leased])[0].status == Status.ok


def test_leases_of_two_clients_are_independent(anyone: Anyone, fresh: Fresh) -> None:
    one, other, key = anyone(), anyone(), fresh()
    one.put_one(key, b"x")
    one.lease([key], duration_ms=60_000)
    assert other.release([key])[0].status == Status.not_found
    assert other.lease([key], duration_ms=60_000)[0].status == Status.ok
    assert one.release([key])[0].status == Status.ok
    assert one.delete([key])[0].status == Status.leased, "the other's lease stands"
    assert other.release([key])[0].status == Status.ok
    assert one.delete([key])[0].status == Status.ok


def test_a_lease_outlives_its_session_and_ends_by_itself(anyone: Anyone, fresh: Fresh) -> None:
    one, other, key = anyone(), anyone(), fresh()
    one.put_one(key, b"x")
    one.lease([key], duration_ms=1000)
    began = time.monotonic()
    one.close()
    assert other.delete([key])[0].status == Status.leased
    while other.delete([key])[0].status == Status.leased:
        assert time.monotonic() - began < 20
    assert time.monotonic() - began >= 0.9
    assert found(other, [key]) == [False]


def test_a_shorter_lease_takes_nothing_away(client: cairnkv.Client, fresh: Fresh) -> None:
    key = fresh()
    client.put_one(key, b"x")
    client.lease([key], duration_ms=60_000)
    client.lease([key], duration_ms=1)
    time.sleep(0.02)
    assert client.delete([key])[0].status == Status.leased


def test_a_lease_may_be_too_long(client: cairnkv.Client, fresh: Fresh) -> None:
    key = fresh()
    client.put_one(key, b"x")
    assert client.lease([key], duration_ms=3_600_001)[0].status == Status.lease_too_long
    assert client.lease([key], duration_ms=2**62)[0].status == Status.lease_too_long
    assert client.delete([key])[0].status == Status.ok
    for wrong in (0, -1, 1.5, None):
        with pytest.raises(UsageError, match="duration_ms is a number from 1"):
            client.lease([key], duration_ms=wrong)  # type: ignore[arg-type]


def test_another_layout_or_tenant_is_another_block(anyone: Anyone, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    client, other, key = anyone(), anyone(fresh_tenant()), fresh()
    client.put_one(key, b"x", layout=1)
    assert client.lease([key], duration_ms=1000, layout=2)[0].status == Status.not_found
    assert other.lease([key], duration_ms=1000, layout=1)[0].status == Status.not_found
    assert client.delete([key], layout=2)[0].status == Status.not_found
    assert other.delete([key], layout=1)[0].status == Status.not_found
    assert found(client, [key], layout=1) == [True]


# --- deletes by name -------------------------------------------------------------------------------------


def test_delete_of_a_group(client: cairnkv.Client, fresh: Fresh) -> None:
    keys, alone, group = [fresh() for _ in range(3)], fresh(), fresh()
    client.put([(key, b"x") for key in keys], group=group, group_members=3)
    client.put_one(alone, b"x")
    client.lease(keys[:1], duration_ms=60_000)
    assert client.delete_group(fresh()).status == Status.ok, "a name without blocks is no error"
    assert client.delete_group(group, layout=9).status == Status.ok
    assert found(client, keys) == [True] * 3
    assert client.delete_group(group).status == Status.ok, "a lease of a member does not stop it"
    assert found(client, [*keys, alone]) == [False] * 3 + [True]
    client.put([(key, b"x") for key in keys], group=group, group_members=3)
    assert found(client, keys) == [True] * 3
    assert client.delete(keys[:1])[0].status == Status.ok, "the lease went with the block"


def test_delete_of_a_group_that_is_not_whole(client: cairnkv.Client, fresh: Fresh) -> None:
    keys, group = [fresh(), fresh()], fresh()
    client.put_one(keys[0], b"x", group=group, group_members=2)
    assert client.delete_group(group).status == Status.ok
    client.put_one(keys[1], b"x", group=group, group_members=2)
    assert found(client, keys) == [False, False], "a member came back"
    assert client.put_one(keys[0], b"x", group=group, group_members=2).status == Status.ok
    assert found(client, keys) == [True, True]


@pytest.mark.parametrize("scope", ["a conversation", b"\x00bytes", 7])
def test_delete_of_a_scope(client: cairnkv.Client, fresh: Fresh, scope: str | bytes | int) -> None:
    keys, others = [fresh() for _ in range(3)], [fresh() for _ in range(3)]
    client.put_one(keys[0], b"x", scope=scope)
    client.put_one(keys[1], b"x", scope=scope)
    client.put_one(keys[2], b"x", scope=scope, layout=3)
    client.put([(key, b"x") for key in others[:2]], scope="another")
    client.put_one(others[2], b"x")
    assert client.delete_scope(scope).status == Status.ok
    assert found(client, keys[:2]) == [False, False] and found(client, keys[2:], layout=3) == [False]
    assert found(client, others) == [True] * 3
    assert client.put_one(keys[0], b"again", scope=scope).status == Status.ok
    assert found(client, keys[:1]) == [True]


def test_delete_of_a_layout(client: cairnkv.Client, fresh: Fresh) -> None:
    keys, gone, kept = [fresh(), fresh()], Layout(model=fresh().hex()), Layout(model=fresh().hex())
    for layout in (gone, kept, None):
        client.put([(key, b"x") for key in keys], layout=layout)
    assert client.delete_layout(gone).status == Status.ok
    assert found(client, keys, gone) == [False, False]
    assert found(client, keys, kept) == [True, True] and found(client, keys) == [True, True]
    assert client.delete_layout(gone.id).status == Status.ok, "again is no error"


def test_delete_of_a_tenant(anyone: Anyone, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    red, blue, keys = anyone(fresh_tenant()), anyone(fresh_tenant()), [fresh(), fresh()]
    for client in (red, blue):
        client.put_one(keys[0], b"x", scope="s")
        client.put_one(keys[0], b"x", layout=4, group="g", group_members=1)
    for wrong in ("", blue.tenant, "default"):
        with pytest.raises(UsageError, match=f"repeat its name, not str '{wrong}'"):
            red.delete_tenant(wrong)
    assert found(red, keys) == [True, False]
    assert red.delete_tenant(red.tenant).status == Status.ok
    assert found(red, keys) == [False, False] and found(red, keys, 4) == [False, False]
    assert found(blue, keys) == [True, False] and found(blue, keys, 4) == [True, False]


def test_names_of_one_tenant_delete_nothing_of_another(anyone: Anyone, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    red, blue, key = anyone(fresh_tenant()), anyone(fresh_tenant()), fresh()
    for client in (red, blue):
        client.put_one(key, b"x", scope="s", layout=4, group="g", group_members=1)
    for result in (red.delete_scope("s"), red.delete_group("g", layout=4), red.delete_layout(4)):
        assert result.status == Status.ok
    assert found(red, [key], 4) == [False] and found(blue, [key], 4) == [True]


# --- edges -----------------------------------------------------------------------------------------------


def test_a_time_to_live_of_nothing(client: cairnkv.Client, fresh: Fresh) -> None:
    key = fresh()
    for wrong in (0, -1):
        with pytest.raises(UsageError, match="ttl_ms"):
            client.put_one(key, b"x", ttl_ms=wrong)
    assert client.put_one(key, b"x", ttl_ms=1).status in (Status.ok, Status.expired)
    until = time.monotonic() + 10
    while client.exists([key])[0]:
        assert time.monotonic() < until
    assert found(client, [key]) == [False]
    assert client.put_one(key, b"x", ttl_ms=2**63 - 1).status == Status.ok, "beyond what a clock can count: for ever"
    assert found(client, [key]) == [True]


def test_nothing_asked_is_nothing_answered(client: cairnkv.Client) -> None:
    assert client.lease([], duration_ms=5) == client.release([]) == client.delete([]) == []
    assert client.put([], group="g", group_members=3, scope="s") == []


def test_batches_over_the_limit_of_the_wire(client: cairnkv.Client, fresh: Fresh) -> None:
    prefix = fresh()
    keys = [prefix + at.to_bytes(2) for at in range(5000)]
    client.put([(key, b"x") for key in keys[:4999]], durability="relaxed", scope=prefix)
    leased = [result.status for result in client.lease(keys, duration_ms=60_000)]
    assert leased == [Status.ok] * 4999 + [Status.not_found]
    released = [result.status for result in client.release(keys)]
    assert released == leased
    assert client.delete_scope(prefix).status == Status.ok
    assert not any(client.exists(keys))


def test_a_range_beyond_the_end(client: cairnkv.Client, fresh: Fresh) -> None:
    key = fresh()
    client.put_one(key, b"0123456789", group="g", group_members=1)
    for asked in ((10, 0), (10, 1), (9, 2), (2**62, 1)):
        assert client.get([(key, bytearray(20))], ranges=[asked])[0].status == Status.bad_range
    assert client.get([(key, bytearray(20))], ranges=[(9, 1)])[0].hit


def test_wrong_calls_raise_before_anything_is_sent(client: cairnkv.Client, fresh: Fresh) -> None:
    key = fresh()
    wrong: list[Callable[[], object]] = [
        lambda: client.put_one(key, b"x", group_members=2),
        lambda: client.put_one(key, b"x", group="g", group_members=0),
        lambda: client.put_one(key, b"x", group="g", group_members=2.0),  # type: ignore[arg-type]
        lambda: client.put_one(key, b"x", scope=""),
        lambda: client.put_one(key, b"x", scope=0),
        lambda: client.put_one(key, b"x", scope=2**64),
        lambda: client.put_one(key, b"x", scope=1.5),  # type: ignore[arg-type]
        lambda: client.delete_group(None),  # type: ignore[arg-type]
        lambda: client.delete_scope(None),  # type: ignore[arg-type]
        lambda: client.delete_layout("seven"),  # type: ignore[arg-type]
        lambda: client.lease("one key, not a list", duration_ms=5),
        lambda: client.watch(after=-1),
        lambda: client.watch(after=2**64 - 1),
        lambda: client.watch(after=0, events_most=0),
        lambda: client.watch(after=0, events_most=4097),
        lambda: client.events(after=-1),
    ]
    for call in wrong:
        with pytest.raises(UsageError):
            call()
    assert not any(client.exists([key]))
