"""Watching: numbers without gaps, nobody else's events, and a loss that shows; over every transport and the double."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable

import pytest
from hurt_service import HurtService

import cairnkv
from cairnkv import Event, EventKind, Missed, Status, aconnect
from cairnkv.events import Events, Follower
from cairnkv.keys import derive_group, derive_key, derive_scope
from cairnkv.testing import MemoryClient, MemoryStore

Anyone = Callable[..., cairnkv.Client]
Fresh = Callable[[], bytes]
FreshTenant = Callable[[], str]


def all_events(client: cairnkv.Client, after: int = 0) -> list[Event]:
    newest, found = client.watch().newest, list[Event]()
    while after < newest:
        answer = client.watch(after=after).raise_for_status()
        found += answer.items
        assert answer.next_after is not None and answer.next_after > after
        after = answer.next_after
    return found


def test_what_happens_is_told_in_order(anyone: Anyone, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    client, key = anyone(fresh_tenant()), fresh()
    began_ms = time.time_ns() // 1_000_000
    assert client.watch() == Events(Status.ok, (), 1, 0, 0, 0, client.info()["server_id"])
    sequence = client.put_one(key, b"x", layout=3, group="g", scope="s").sequence
    client.delete([key], layout=3)
    told = all_events(client)
    assert [(event.number, event.kind) for event in told] == [(1, EventKind.stored), (2, EventKind.deleted)]
    for event in told:
        assert (event.key, event.layout, event.sequence) == (derive_key(key, 3), 3, sequence)
        assert (event.group, event.scope) == (derive_group("g", 3), derive_scope("s"))
        assert began_ms <= event.unix_ms <= time.time_ns() // 1_000_000 + 1000


def test_numbers_have_no_gaps_whatever_other_tenants_do(
    anyone: Anyone, fresh: Fresh, fresh_tenant: FreshTenant
) -> None:
    red, blue = anyone(fresh_tenant()), anyone(fresh_tenant())
    keys = [fresh() for _ in range(50)]
    for at, key in enumerate(keys):
        (red if at % 2 else blue).put_one(key, b"x", durability="relaxed")
    for client, mine in ((red, keys[1::2]), (blue, keys[::2])):
        told = all_events(client)
        assert [event.number for event in told] == list(range(1, 26))
        assert [event.key for event in told] == [derive_key(key) for key in mine]
    nobody = anyone(fresh_tenant())
    assert nobody.watch().newest == 0


def test_names_are_told_once(anyone: Anyone, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    client = anyone(fresh_tenant())
    client.put_one(fresh(), b"x", scope="s", layout=5, group="g", group_members=1)
    client.delete_group("g", layout=5)
    client.put_one(fresh(), b"x", scope="s", layout=5)
    client.delete_scope("s")
    client.put_one(fresh(), b"x", layout=5)
    client.delete_layout(5)
    client.put_one(fresh(), b"x")
    client.delete_tenant(client.tenant)
    wide = [event for event in all_events(client) if event.kind >= EventKind.group_deleted]
    assert [event.kind for event in wide] == [
        EventKind.group_deleted, EventKind.scope_deleted, EventKind.layout_deleted, EventKind.tenant_deleted,
    ]  # fmt: skip
    assert [event.layout for event in wide] == [5, 0, 5, 0]
    assert wide[0].group == derive_group("g", 5) and wide[1].scope == derive_scope("s")
    assert all(event.key == bytes(16) for event in wide)


def test_a_watch_waits_for_what_is_to_come(anyone: Anyone, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    tenant = fresh_tenant()
    watcher, writer, key = anyone(tenant), anyone(tenant), fresh()
    answers = list[Events]()
    waiting = threading.Thread(target=lambda: answers.append(watcher.watch(after=0, deadline_ms=20_000)), name="watch")
    began = time.monotonic()
    waiting.start()
    time.sleep(0.1)
    assert not answers
    writer.put_one(key, b"x")
    waiting.join()
    assert time.monotonic() - began < 10
    assert [(event.number, event.key) for event in answers[0].items] == [(1, derive_key(key))]


def test_a_watch_in_which_nothing_happens(anyone: Anyone, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    client, other = anyone(fresh_tenant()), anyone(fresh_tenant())
    client.put_one(fresh(), b"x")
    began = time.monotonic()
    stop = threading.Event()

    def noise() -> None:
        while not stop.is_set():
            other.put_one(fresh(), b"x", durability="relaxed")

    busy = threading.Thread(target=noise, name="noise")
    busy.start()
    answer = client.watch(after=1, deadline_ms=600)
    stop.set()
    busy.join()
    assert (answer.status, answer.items, answer.newest, answer.next_after) == (Status.ok, (), 1, 1)
    assert 0.2 < time.monotonic() - began < 10


def test_at_most_so_many_and_behind_a_number(anyone: Anyone, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    client = anyone(fresh_tenant())
    for _ in range(10):
        client.put_one(fresh(), b"x", durability="relaxed")
    answer = client.watch(after=3, events_most=4)
    assert [event.number for event in answer.items] == [4, 5, 6, 7]
    assert (answer.oldest, answer.newest, answer.missed, answer.next_after) == (1, 10, 0, 7)


def test_who_is_late_is_told_how_many_were_missed(anyone: Anyone, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    client, prefix = anyone(fresh_tenant()), fresh()
    client.put([(prefix + at.to_bytes(2), b"x") for at in range(5000)], durability="relaxed")
    answer = client.watch(after=10)
    assert (answer.oldest, answer.newest, answer.missed) == (5000 - 4096 + 1, 5000, 894)
    assert [event.number for event in answer.items] == list(range(905, 5001))
    told = list(itertools.islice(client.events(after=10), 3))
    assert told[0] == Missed(894) and isinstance(told[1], Event) and told[1].number == 905


def test_events_go_on_and_end_with_the_client(anyone: Anyone, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    tenant = fresh_tenant()
    watcher, writer = anyone(tenant), anyone(tenant)
    writer.put_one(fresh(), b"before")
    told, begun = list[Event | Missed](), threading.Event()

    def follow() -> None:
        stream = watcher.events(deadline_ms=400)
        begun.set()
        for event in stream:
            told.append(event)

    following = threading.Thread(target=follow, name="follow")
    following.start()
    begun.wait()
    until = time.monotonic() + 20
    while not told and time.monotonic() < until:
        writer.put_one(fresh(), b"x", durability="relaxed")  # until one comes behind "from now on"
        time.sleep(0.05)
    watcher.close()
    following.join(20)
    assert not following.is_alive()
    numbers = [event.number for event in told if isinstance(event, Event)]
    assert numbers and numbers[0] > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    with pytest.raises(cairnkv.ClosedError):
        watcher.watch()


def test_closing_ends_a_watch(anyone: Anyone, fresh_tenant: FreshTenant) -> None:
    client, answers = anyone(fresh_tenant()), list[Events]()
    waiting = threading.Thread(target=lambda: answers.append(client.watch(after=0, deadline_ms=60_000)), name="watch")
    waiting.start()
    time.sleep(0.1)
    client.close()
    waiting.join(20)
    assert answers[0].status == Status.cancelled and answers[0].next_after == 0


def test_many_watches_beside_other_calls(anyone: Anyone, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    client, answers = anyone(fresh_tenant()), list[Events]()
    threads = [
        threading.Thread(target=lambda: answers.append(client.watch(after=0, deadline_ms=20_000)), name=f"watch-{at}")
        for at in range(20)
    ]
    for thread in threads:
        thread.start()
    assert client.exists([fresh()])[0].status == Status.not_found
    client.put_one(fresh(), b"x")
    for thread in threads:
        thread.join()
    assert len(answers) == 20 and all(len(answer.items) == 1 for answer in answers)


# --- a service that is gone for a while --------------------------------------------------------------------


def test_events_over_a_restart(service: HurtService, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    tenant, told = fresh_tenant(), list[Event | Missed]()
    with cairnkv.connect(service.urls["shm"], tenant=tenant) as watcher:
        stream = watcher.events(after=0, deadline_ms=1000)
        with cairnkv.connect(service.urls["shm"], tenant=tenant) as writer:
            writer.put_one(fresh(), b"x")
            told.append(next(stream))
        service.kill()
        service.start()
        with cairnkv.connect(service.urls["shm"], tenant=tenant) as writer:
            writer.put_one(fresh(), b"x")
            told += [next(stream), next(stream)]
    assert told[1] == Missed(None)
    assert [event.number for event in (told[0], told[2]) if isinstance(event, Event)] == [1, 1]


def test_events_awaited(service: HurtService, fresh: Fresh, fresh_tenant: FreshTenant) -> None:
    async def main() -> None:
        async with await aconnect(service.urls["tcp"], tenant=fresh_tenant()) as client:
            stream = client.events(after=0)
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.05)
            await client.put_one(b"key", b"x")
            first = await waiting
            assert isinstance(first, Event) and first.kind == EventKind.stored
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert all(await client.lease([b"key"], duration_ms=1000))
            assert all(await client.release([b"key"]))

    asyncio.run(main())


def test_the_double_can_be_started_again(fresh: Fresh) -> None:
    store = MemoryStore()
    with MemoryClient(store) as client:
        stream = client.events(after=0)
        client.put_one(fresh(), b"x")
        assert isinstance(next(stream), Event)
        store.restart()
        assert client.put_one(fresh(), b"x").status == Status.disconnected
        client.put_one(fresh(), b"x")
        assert next(stream) == Missed(None)
        again = next(stream)
        assert isinstance(again, Event) and again.number == 1


def test_a_service_that_shuts_down_does_not_wait_for_watches(service: HurtService, fresh_tenant: FreshTenant) -> None:
    with cairnkv.connect(service.urls["tcp"], tenant=fresh_tenant()) as client:
        answers = list[Events]()
        waiting = threading.Thread(target=lambda: answers.append(client.watch(after=0, deadline_ms=60_000)), name="w")
        waiting.start()
        while client.stats()["requests_in_flight"] == 0:
            time.sleep(0.01)
        began = time.monotonic()
        assert service.stop() == 0
        waiting.join()
        assert time.monotonic() - began < 10
        assert answers[0].status in (Status.draining, Status.disconnected)


def test_what_a_follower_makes_of_answers() -> None:
    here, elsewhere = ({"connected": True, "server_id": name} for name in "ab")
    follower = Follower(7)
    assert follower.ask(here) is None, "first it looks whether that number can be"
    assert follower.take(Events(Status.ok, newest=9, server_id="a")) == []
    assert follower.ask(here) == 7
    event = Event(9, EventKind.stored, 0, 0, b"", b"", 0, 0)
    assert follower.take(Events(Status.ok, (event,), 9, 9, 1, 9, "a")) == [Missed(1), event]
    assert follower.ask(here) == 9
    assert follower.take(Events(Status.timeout)) == [] and follower.ask(here) == 9
    assert follower.take(Events(Status.disconnected)) == [] and follower.ask(here) is None
    assert 0 < follower.pause_seconds <= 1
    assert follower.take(Events(Status.unreachable)) == [] and follower.pause_seconds <= 1
    assert follower.take(Events(Status.ok, newest=9, server_id="a")) == [] and follower.ask(here) == 9
    assert follower.pause_seconds == 0
    assert follower.ask({"connected": False, "server_id": "a"}) is None, "lost in another call"
    assert follower.take(Events(Status.ok, newest=9, server_id="a")) == [] and follower.ask(here) == 9
    assert follower.take(Events(Status.ok, (event,), 1, 9, 0, 9, "b")) == [Missed(None)]
    assert follower.ask(elsewhere) == 0
    assert Follower(7).take(Events(Status.ok, newest=3, server_id="a")) == [Missed(None)]
    with pytest.raises(cairnkv.StatusError):
        follower.take(Events(Status.denied))
