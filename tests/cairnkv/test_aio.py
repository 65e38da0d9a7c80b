"""AsyncClient: the same calls awaited, many at a time, and cancelled without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cairnkv import AsyncClient, Client, ClosedError, ConnectError, Event, Status, UsageError, aconnect, connect
from cairnkv.testing import MemoryStore, RunningService, memory_connection, service

Fresh = Callable[[], bytes]


@pytest.fixture(params=["shm", "tcp"])
def url(request: pytest.FixtureRequest, running: RunningService) -> str:
    return running.shm_url if request.param == "shm" else running.tcp_url


@pytest.fixture
def suspended(short_dir: Path) -> Iterator[tuple[RunningService, Callable[[int], None]]]:
    """A service of its own, to be stopped in its tracks."""
    with service(short_dir, size="256MiB") as started:
        yield started, lambda number: os.kill(started.process.pid, number)
        os.kill(started.process.pid, signal.SIGCONT)


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_process_without_descriptors_is_told_and_lives_on(url: str) -> None:
    # The engine would have ended: the client stopped the process when it could make no event.
    async def run() -> None:
        client = await aconnect(url)
        with no_descriptor_left():
            with pytest.raises(ConnectError, match="open files"):
                await client.exists([b"a"])
            with pytest.raises(ConnectError, match="open files"):
                connect(url)
        assert not (await client.exists([b"a"]))[0]
        await client.close()

    asyncio.run(run())


def test_it_has_the_calls_of_the_client() -> None:
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if name.startswith("_"):
            continue
        other = getattr(AsyncClient, name)
        assert list(inspect.signature(method).parameters.values()) == list(
            inspect.signature(other).parameters.values()
        ), name


async def every_call(client: AsyncClient, key: bytes) -> None:
    assert (await client.put([(key, b"hello")]))[0].status == Status.ok
    assert (await client.put_one(key, b"other")).existed
    target = bytearray(5)
    assert (await client.get([(key, target)]))[0].hit and target == b"hello"
    assert (await client.get_one(key, bytearray(1))).status == Status.short_buffer
    assert (await client.get_bytes(key))[1] == b"hello"
    assert await client.match([key, b"absent"]) == 1
    for call in (client.exists, client.touch, client.prefetch):
        assert [bool(result) for result in await call([key, b"absent"])] == [True, False]
    assert (await client.stats())["store"]["puts"] >= 1
    region = await client.alloc(4096)
    assert (await client.get_one(key, region)).nbytes == 5
    region.close()
    (await client.register(target)).close()
    assert client.info()["connected"]
    assert all(await client.lease([key], duration_ms=60_000))
    assert (await client.delete([key]))[0].status == Status.leased
    assert all(await client.release([key]))
    assert all(await client.delete([key]))
    assert all(await client.put([(key, b"x")], group="g", group_members=1, scope="s", layout=5))
    await client.put_one(key, b"x", layout=6, group="g", group_members=1, scope="s")
    newest = (await client.watch()).newest
    for deleted in (client.delete_group("g", layout=5), client.delete_scope("s"), client.delete_layout(6)):
        assert (await deleted).ok
    assert not any([*await client.exists([key], layout=5), *await client.exists([key], layout=6)])
    told = [await anext(client.events(after=newest + at)) for at in range(2)]
    assert all(isinstance(event, Event) and event.number == newest + 1 + at for at, event in enumerate(told))
    with pytest.raises(UsageError):
        await client.delete_tenant("another")
    assert (await client.delete_tenant(client.tenant)).ok


def test_every_call(url: str, fresh: Fresh) -> None:
    async def main() -> None:
        async with await aconnect(url, tenant=fresh().hex()) as client:
            await every_call(client, fresh())

    asyncio.run(main())


def test_every_call_in_memory(fresh: Fresh) -> None:
    async def main() -> None:
        async with AsyncClient(memory_connection(MemoryStore())) as client:
            await every_call(client, fresh())

    asyncio.run(main())


def test_many_awaits_run_side_by_side(url: str, fresh: Fresh) -> None:
    prefix = fresh()

    async def one(client: AsyncClient, number: int) -> bool:
        key, data = prefix + number.to_bytes(2), number.to_bytes(2) * 3000
        put = await client.put_one(key, data, durability="relaxed")
        return put.ok and (await client.get_bytes(key))[1] == data

    async def main() -> None:
        async with await aconnect(url) as client:
            assert all(await asyncio.gather(*(one(client, number) for number in range(500))))

    asyncio.run(main())


def test_a_large_put_does_not_hold_up_the_loop(url: str, fresh: Fresh) -> None:
    async def main() -> None:
        async with await aconnect(url) as client:
            data, key = bytearray(os.urandom(6 << 20)), fresh()
            assert (await client.put_one(key, data)).ok
            back = bytearray(len(data))
            assert (await client.get_one(key, back)).hit and back == data

    asyncio.run(main())


def test_cancelling_the_task_cancels_the_call(
    suspended: tuple[RunningService, Callable[[int], None]], fresh: Fresh
) -> None:
    started, send = suspended
    size = 1 << 20

    async def main() -> None:
        for address in (started.shm_url, started.tcp_url):
            async with await aconnect(address) as client:
                key = fresh()
                assert (await client.put_one(key, b"\x11" * size)).ok
                region = await client.alloc(size)
                with memoryview(region) as view:
                    send(signal.SIGSTOP)
                    task = asyncio.create_task(client.get_one(key, view))
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    began = time.monotonic()
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    assert time.monotonic() - began < 5
                    view[:] = b"\x22" * size
                    send(signal.SIGCONT)
                    await until_served(client, key)
                    assert view == b"\x22" * size, "a late write landed after the task was cancelled"
                region.close()

    asyncio.run(main())


async def until_served(client: AsyncClient, key: bytes) -> None:
    """The service hangs no longer and has been through what it had."""
    until = time.monotonic() + 10
    while not (await client.exists([key]))[0]:
        assert time.monotonic() < until


def test_a_task_that_times_out_leaves_the_others_alone(fresh: Fresh) -> None:
    store = MemoryStore()

    async def main() -> None:
        async with AsyncClient(memory_connection(store)) as client:
            await client.put([("a", b"x"), ("b", b"y")])
            store.faults.delay_seconds = 0.05
            slow = asyncio.create_task(client.get_bytes("b"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.get_bytes("a"), timeout=0.001)
            assert (await slow)[1] == b"y"

    asyncio.run(main())


def test_closing_settles_what_is_awaited() -> None:
    store = MemoryStore()

    async def main() -> None:
        client = AsyncClient(memory_connection(store))
        await client.put([("a", b"x")])
        store.faults.delay_seconds = 60
        waiting = asyncio.create_task(client.get_one("a", bytearray(1)))
        await asyncio.sleep(0)
        await client.close()
        await client.close()
        assert (await waiting).status == Status.cancelled
        with pytest.raises(ClosedError):
            await client.exists(["a"])

    asyncio.run(main())


def test_a_lost_service_is_a_batch_of_misses_and_comes_back(short_dir: Path, fresh: Fresh) -> None:
    async def main() -> None:
        with service(short_dir, size="256MiB") as started:
            async with await aconnect(started.shm_url) as client:
                key = fresh()
                await client.put_one(key, b"kept")
                started.kill()
                assert not any(await client.exists([key, key]))
                started.start()
                await until_served(client, key)
                assert (await client.get_bytes(key))[1] == b"kept"
                assert client.info()["reconnects"] >= 1

    asyncio.run(main())


def test_it_belongs_to_one_loop(url: str) -> None:
    client = asyncio.run(aconnect(url))
    assert asyncio.run(client.match([])) == 0
    with pytest.raises(UsageError, match="belongs to the event loop"):
        asyncio.run(client.match([b"key"]))
    asyncio.run(client.close())


def test_wrong_calls_raise(url: str) -> None:
    async def main() -> None:
        async with await aconnect(url) as client:
            with pytest.raises(UsageError, match="a key has 1 to 512 bytes"):
                await client.exists([""])
        with pytest.raises(ConnectError):
            await aconnect("tcp://127.0.0.1:1")

    asyncio.run(main())
