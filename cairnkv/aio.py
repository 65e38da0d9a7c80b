"""The client for event loops: the calls of `Client`, awaited. No thread is used per call: the native client makes one
descriptor readable when operations are settled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cairnkv import _native, calls
from cairnkv.calls import Durability, Flow, LayoutLike, Start
from cairnkv.connecting import Connection, check_connection, open_connection
from cairnkv.errors import ClosedError, ConnectError, UsageError
from cairnkv.events import Event, Events, Follower, Missed
from cairnkv.keys import Key, Scope
from cairnkv.memory import BLOCK_BYTES_MOST
from cairnkv.results import GetResult, ItemResult, PutResult
from cairnkv.status import Status

if TYPE_CHECKING:
    from cairnkv._native import Region
    from cairnkv.memory import Memory
    from cairnkv.session import Operation

T = TypeVar("T")
BEGIN_ASIDE_BYTES = 4 << 20
"""From so much payload on, its checksums are computed on a helper thread, not on the event loop's."""
LOOK_AGAIN_SECONDS = 0.05
"""Behind a deadline: how often is looked whether the call is over, should the system have lost the event that says so."""


async def aconnect(
    url: str | None = None,
    *,
    tenant: str | None = None,
    token: str | None = None,
    deadline_ms: int | None = None,
    lanes: int = 1,
    verify: bool = True,
    connect_timeout_ms: int = 5000,
    name: str = "",
) -> "AsyncClient":
    """An AsyncClient, connected on a helper thread; arguments and errors are those of `connect`."""
    settings = (url, tenant, token, deadline_ms, lanes, verify, connect_timeout_ms, name)
    return AsyncClient(await asyncio.to_thread(open_connection, *settings))


class AsyncClient:
    """`Client`, awaited. Belongs to the event loop that first awaits a call. Many awaits may run side by side.

    Cancelling a task that awaits a call cancels the call: CancelledError comes out only when nothing will touch the memory
    of the call any more.
    """

    def __init__(self, connection: Connection) -> None:
        """Use `aconnect`."""
        self._connection = check_connection(connection)
        self._session = connection.session
        self._loop: asyncio.AbstractEventLoop | None = None
        self._descriptor = -1
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._late: dict[int, asyncio.TimerHandle] = {}

    async def put(
        self,
        items: "Iterable[tuple[Key, Memory]]",
        *,
        layout: LayoutLike = None,
        deadline_ms: int | None = None,
        durability: Durability = "durable",
        ttl_ms: int | None = None,
        group: Key | None = None,
        group_members: int | None = None,
        scope: Scope | None = None,
    ) -> list[PutResult]:
        """See Client.put."""
        deadline = self._connection.deadline(deadline_ms)
        return await self._drive(calls.put(items, layout, deadline, durability, ttl_ms, group, group_members, scope))

    async def get(
        self,
        items: "Iterable[tuple[Key, Memory]]",
        *,
        layout: LayoutLike = None,
        deadline_ms: int | None = None,
        ranges: Sequence[tuple[int, int]] | None = None,
    ) -> list[GetResult]:
        """See Client.get."""
        return await self._drive(calls.get(items, layout, self._connection.deadline(deadline_ms), ranges))

    async def exists(
        self, keys: Iterable[Key], *, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> list[ItemResult]:
        """See Client.exists."""
        return await self._drive(calls.per_key("exists", keys, layout, self._connection.deadline(deadline_ms)))

    async def match(self, keys: Iterable[Key], *, layout: LayoutLike = None, deadline_ms: int | None = None) -> int:
        """See Client.match."""
        return await self._drive(calls.match(keys, layout, self._connection.deadline(deadline_ms)))

    async def touch(
        self, keys: Iterable[Key], *, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> list[ItemResult]:
        """See Client.touch."""
        return await self._drive(calls.per_key("touch", keys, layout, self._connection.deadline(deadline_ms)))

    async def delete(
        self, keys: Iterable[Key], *, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> list[ItemResult]:
        """See Client.delete."""
        return await self._drive(calls.per_key("delete", keys, layout, self._connection.deadline(deadline_ms)))

    async def prefetch(
        self, keys: Iterable[Key], *, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> list[ItemResult]:
        """See Client.prefetch."""
        return await self._drive(calls.per_key("prefetch", keys, layout, self._connection.deadline(deadline_ms)))

    async def lease(
        self, keys: Iterable[Key], *, duration_ms: int, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> list[ItemResult]:
        """See Client.lease."""
        return await self._drive(calls.lease(keys, duration_ms, layout, self._connection.deadline(deadline_ms)))

    async def release(
        self, keys: Iterable[Key], *, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> list[ItemResult]:
        """See Client.release."""
        return await self._drive(calls.per_key("release", keys, layout, self._connection.deadline(deadline_ms)))

    async def delete_group(
        self, group: Key, *, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> ItemResult:
        """See Client.delete_group."""
        return await self._drive(calls.delete_group(group, layout, self._connection.deadline(deadline_ms)))

    async def delete_scope(self, scope: Scope, *, deadline_ms: int | None = None) -> ItemResult:
        """See Client.delete_scope."""
        return await self._drive(calls.delete_scope(scope, self._connection.deadline(deadline_ms)))

    async def delete_layout(self, layout: LayoutLike, *, deadline_ms: int | None = None) -> ItemResult:
        """See Client.delete_layout."""
        return await self._drive(calls.delete_layout(layout, self._connection.deadline(deadline_ms)))

    async def delete_tenant(self, confirm: str, *, deadline_ms: int | None = None) -> ItemResult:
        """See Client.delete_tenant."""
        tenant = self._connection.tenant
        return await self._drive(calls.delete_tenant(confirm, tenant, self._connection.deadline(deadline_ms)))

    async def watch(
        self, *, after: int | None = None, events_most: int | None = None, deadline_ms: int | None = None
    ) -> Events:
        """See Client.watch."""
        return await self._drive(calls.watch(after, events_most, self._connection.deadline(deadline_ms)))

    def events(self, *, after: int | None = None, deadline_ms: int | None = None) -> AsyncIterator[Event | Missed]:
        """See Client.events."""
        calls.check_after(after)
        deadline = self._connection.deadline(deadline_ms)
        return self._follow(Follower(after), deadline)

    async def put_one(
        self,
        key: Key,
        memory: "Memory",
        *,
        layout: LayoutLike = None,
        deadline_ms: int | None = None,
        durability: Durability = "durable",
        ttl_ms: int | None = None,
        group: Key | None = None,
        group_members: int | None = None,
        scope: Scope | None = None,
    ) -> PutResult:
        """See Client.put_one."""
        results = await self.put(
            [(key, memory)],
            layout=layout,
            deadline_ms=deadline_ms,
            durability=durability,
            ttl_ms=ttl_ms,
            group=group,
            group_members=group_members,
            scope=scope,
        )
        return results[0]

    async def get_one(
        self, key: Key, memory: "Memory", *, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> GetResult:
        """See Client.get_one."""
        return (await self.get([(key, memory)], layout=layout, deadline_ms=deadline_ms))[0]

    async def get_bytes(
        self,
        key: Key,
        *,
        layout: LayoutLike = None,
        deadline_ms: int | None = None,
        nbytes_most: int = BLOCK_BYTES_MOST,
    ) -> tuple[GetResult, bytes]:
        """See Client.get_bytes."""
        return await self._drive(calls.get_bytes(key, layout, self._connection.deadline(deadline_ms), nbytes_most))

    async def stats(self, *, deadline_ms: int | None = None) -> dict[str, Any]:
        """See Client.stats."""
        return await self._drive(calls.stats(self._connection.deadline(deadline_ms)))

    async def alloc(self, nbytes: int) -> "Region":
        """See Client.alloc."""
        return await asyncio.to_thread(self._connection.alloc, nbytes)

    async def register(self, memory: "Memory") -> "Region":
        """See Client.register."""
        return await asyncio.to_thread(self._connection.register, memory)

    def info(self) -> dict[str, Any]:
        """See Client.info."""
        return self._connection.info()

    @property
    def url(self) -> str:
        """Where the service is, as it was asked for."""
        return self._connection.url

    @property
    def tenant(self) -> str:
        """Whose keyspace it is."""
        return self._connection.tenant

    async def close(self) -> None:
        """Ends the session; calls still awaited get `cancelled` results. A second close does nothing."""
        loop = asyncio.get_running_loop()
        closing = loop.run_in_executor(None, self._connection.close)
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await _finish(closing)
            raise
        finally:
            if self._loop is loop and self._descriptor >= 0:
                self._settle()
                loop.remove_reader(self._descriptor)
                self._descriptor = -1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.url}>"

    async def _follow(self, follower: Follower, deadline_ms: int) -> AsyncIterator[Event | Missed]:
        while True:
            try:
                answer = await self.watch(after=follower.ask(self.info()), deadline_ms=deadline_ms)
            except ClosedError:
                return
            if answer.status is Status.cancelled or self._connection.inherited:
                return
            for told in follower.take(answer):
                yield told
            if follower.pause_seconds > 0:
                await asyncio.sleep(follower.pause_seconds)

    def _bind(self) -> asyncio.AbstractEventLoop:
        """The event loop, which hears of settled operations from the first call on."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            try:
                self._descriptor = self._session.completion_fd()
            except _native.ConnectError as error:
                code, sentence = error.args
                raise ConnectError(str(sentence), Status(code)) from None
            self._loop = loop
            loop.add_reader(self._descriptor, self._settle)
        elif self._loop is not loop:
            raise UsageError("an AsyncClient belongs to the event loop that used it first; connect one in this loop")
        return loop

    def _settle(self) -> None:
        for number in self._session.take_completed():
            waiting = self._waiting.pop(number, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    async def _drive(self, flow: Flow[T]) -> T:
        self._connection.check_open()
        # In a forked child nobody would tell when a call is settled, and it is at once.
        loop = None if self._connection.inherited else self._bind()
        start: Start | None = None
        try:
            start = next(flow)
            while True:
                operation = start.begin(self._session) if loop is None else await self._run(loop, start)
                start = flow.send(operation)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            # A traceback keeps this frame, and would keep the caller's memory in use with it.
            start = None
            flow.close()

    async def _run(self, loop: asyncio.AbstractEventLoop, start: Start) -> "Operation":
        deadline_ms = start.deadline_ms
        try:
            operation = await self._begin(loop, start)
        finally:
            del start  # as in _drive()
        await self._settled(loop, operation, deadline_ms)
        return operation

    async def _begin(self, loop: asyncio.AbstractEventLoop, start: Start) -> "Operation":
        """Starts on the loop's own thread, unless that could hold up the loop: much to checksum, or a lost connection."""
        if start.nbytes < BEGIN_ASIDE_BYTES and self._session.info()["connected"]:
            return start.begin(self._session)
        beginning = loop.run_in_executor(None, start.begin, self._session)
        del start  # as in _drive()
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            operation = await _finish(beginning)
            await _finish(loop.run_in_executor(None, operation.cancel))
            raise

    async def _settled(self, loop: asyncio.AbstractEventLoop, operation: "Operation", deadline_ms: int) -> None:
        waiting = loop.create_future()
        self._waiting[operation.id] = waiting
        self._look_later(loop, operation, deadline_ms / 1000 + LOOK_AGAIN_SECONDS)
        try:
            if not operation.done():  # it may have been settled before anybody waited for it
                await waiting
        except asyncio.CancelledError:
            await _finish(loop.run_in_executor(None, operation.cancel))
            raise
        finally:
            self._waiting.pop(operation.id, None)
            self._late.pop(operation.id).cancel()
        operation.wait()

    def _look_later(self, loop: asyncio.AbstractEventLoop, operation: "Operation", seconds: float) -> None:
        self._late[operation.id] = loop.call_later(seconds, self._look, loop, operation)

    def _look(self, loop: asyncio.AbstractEventLoop, operation: "Operation") -> None:
        waiting = self._waiting.get(operation.id)
        if waiting is None or waiting.done():
            return
        if operation.done():
            waiting.set_result(None)
        else:
            self._look_later(loop, operation, LOOK_AGAIN_SECONDS)


async def _finish(work: "asyncio.Future[T]") -> T:
    """The result of work that must not be left half done, for a task that is being cancelled: being cancelled again
    meanwhile changes nothing."""
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(work)
    return work.result()
