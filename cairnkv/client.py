"""The client for ordinary code: calls wait. `AsyncClient` (aio.py) has the same calls for event loops."""

import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cairnkv import _native, calls
from cairnkv.calls import Durability, Flow, LayoutLike
from cairnkv.connecting import Connection, check_connection, open_connection
from cairnkv.errors import ClosedError
from cairnkv.events import Event, Events, Follower, Missed
from cairnkv.keys import Key, Scope
from cairnkv.memory import BLOCK_BYTES_MOST
from cairnkv.results import GetResult, ItemResult, PutResult
from cairnkv.status import Status

if TYPE_CHECKING:
    from cairnkv.memory import Memory

T = TypeVar("T")


def connect(
    url: str | None = None,
    *,
    tenant: str | None = None,
    token: str | None = None,
    deadline_ms: int | None = None,
    lanes: int = 1,
    verify: bool = True,
    connect_timeout_ms: int = 5000,
    name: str = "",
) -> "Client":
    """A client of the service at `url`: auto://HOST:PORT (RDMA there, TCP while that cannot be had), rdma://HOST:PORT,
    tcp://HOST:PORT, shm:///PATH.sock, or local:DIR (a private service, see local.py).

    What is not given comes from CAIRN_SERVERS, CAIRN_TENANT, CAIRN_TOKEN and CAIRN_DEADLINE_MS, then from the defaults in
    config.py. deadline_ms holds for every call that names none. lanes: connections of the session, over RDMA spread
    over the addresses that HOST has. verify: checksums are computed on this side too. name: what the service's logs call
    this client.

    Raises ConnectError, or UsageError for a setting that is wrong.
    """
    return Client(open_connection(url, tenant, token, deadline_ms, lanes, verify, connect_timeout_ms, name))


class Client:
    """A session with one service. Any thread may call anything. A context manager: leaving it closes.

    A batched call returns one result per item and never raises for what a service, drive or network can cause: a lost
    connection makes misses, and is re-made by itself. Wrong arguments raise UsageError, before anything is sent.

    `layout` is a Layout, its number, or None. `deadline_ms` limits the whole call. A key is bytes or str (1 to 512 bytes), or
    a `raw_key`. A block's memory is anything that memory.py lists; no byte is copied on the way.
    """

    def __init__(self, connection: Connection) -> None:
        """Use `connect`."""
        self._connection = check_connection(connection)

    def put(
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
        """Stores blocks; one PutResult an item, in order.

        durability: "durable" returns when the blocks survive power loss, "relaxed" when the service has the bytes. ttl_ms:
        after so long the blocks are gone; None: never. A key that holds a block keeps it: no bytes move, and the result says
        `existed`.

        group: names blocks that are useful only together, within the layout; they are evicted and expire as one.
        group_members: how many it has when it is whole; before that none of them is found. scope: a label of yours (a model, a
        conversation) for `delete_scope`.
        """
        deadline = self._connection.deadline(deadline_ms)
        return self._drive(calls.put(items, layout, deadline, durability, ttl_ms, group, group_members, scope))

    def get(
        self,
        items: "Iterable[tuple[Key, Memory]]",
        *,
        layout: LayoutLike = None,
        deadline_ms: int | None = None,
        ranges: Sequence[tuple[int, int]] | None = None,
    ) -> list[GetResult]:
        """Fetches blocks into the memory beside their keys; one GetResult an item, in order.

        A destination may be larger than its block: `nbytes` says how much was written. ranges: per item (offset, length) of
        the block, length 0 meaning to its end. The content of a destination whose result is no hit is undefined.
        """
        return self._drive(calls.get(items, layout, self._connection.deadline(deadline_ms), ranges))

    def exists(
        self, keys: Iterable[Key], *, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> list[ItemResult]:
        """One result a key, true when its block is there."""
        return self._drive(calls.per_key("exists", keys, layout, self._connection.deadline(deadline_ms)))

    def match(self, keys: Iterable[Key], *, layout: LayoutLike = None, deadline_ms: int | None = None) -> int:
        """How many of the leading keys are present: the longest cached prefix. 0 when the service cannot be asked."""
        return self._drive(calls.match(keys, layout, self._connection.deadline(deadline_ms)))

    def touch(
        self, keys: Iterable[Key], *, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> list[ItemResult]:
        """Marks blocks as used, for eviction; one result a key."""
        return self._drive(calls.per_key("touch", keys, layout, self._connection.deadline(deadline_ms)))

    def delete(
        self, keys: Iterable[Key], *, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> list[ItemResult]:
        """Removes blocks, for good: also across a crash. `not_found` for a key without one, `leased` for one that somebody
        holds a lease of."""
        return self._drive(calls.per_key("delete", keys, layout, self._connection.deadline(deadline_ms)))

    def prefetch(
        self, keys: Iterable[Key], *, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> list[ItemResult]:
        """Brings blocks from drive to the service's memory; one result a key."""
        return self._drive(calls.per_key("prefetch", keys, layout, self._connection.deadline(deadline_ms)))

    def lease(
        self, keys: Iterable[Key], *, duration_ms: int, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> list[ItemResult]:
        """Keeps blocks from eviction for so long; one result a key. A later lease of the same client makes it longer, never
        shorter. `lease_too_long` beyond the service's limit (an hour), `quota_exceeded` when the tenant may lease no more.
        Leases belong to the client's `name` within its tenant, or, without one, to its session: a client that goes leaves
        them to run out, and one that comes back under its name can release them."""
        return self._drive(calls.lease(keys, duration_ms, layout, self._connection.deadline(deadline_ms)))

    def release(
        self, keys: Iterable[Key], *, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> list[ItemResult]:
        """Ends this client's leases; `not_found` for a key it has none of. Those of others stand."""
        return self._drive(calls.per_key("release", keys, layout, self._connection.deadline(deadline_ms)))

    def delete_group(self, group: Key, *, layout: LayoutLike = None, deadline_ms: int | None = None) -> ItemResult:
        """Removes all blocks of a group, leased or not; also `ok` when there were none. For good, like `delete`."""
        return self._drive(calls.delete_group(group, layout, self._connection.deadline(deadline_ms)))

    def delete_scope(self, scope: Scope, *, deadline_ms: int | None = None) -> ItemResult:
        """Removes all blocks that were put with the scope, whatever their layout."""
        return self._drive(calls.delete_scope(scope, self._connection.deadline(deadline_ms)))

    def delete_layout(self, layout: LayoutLike, *, deadline_ms: int | None = None) -> ItemResult:
        """Removes all blocks of a layout: a model that is no longer served. None: those that were put without one."""
        return self._drive(calls.delete_layout(layout, self._connection.deadline(deadline_ms)))

    def delete_tenant(self, confirm: str, *, deadline_ms: int | None = None) -> ItemResult:
        """Removes every block of this client's tenant. `confirm` repeats the tenant's name, or nothing happens: UsageError."""
        tenant = self._connection.tenant
        return self._drive(calls.delete_tenant(confirm, tenant, self._connection.deadline(deadline_ms)))

    def watch(
        self, *, after: int | None = None, events_most: int | None = None, deadline_ms: int | None = None
    ) -> Events:
        """Waits until there are events with numbers larger than `after`, at most until the deadline: then with no items. None:
        does not wait, and tells the newest number. `events` is this in a loop."""
        return self._drive(calls.watch(after, events_most, self._connection.deadline(deadline_ms)))

    def events(self, *, after: int | None = None, deadline_ms: int | None = None) -> Iterator[Event | Missed]:
        """The tenant's events as they come, from now on or behind `after`, without end: over lost connections and restarts of
        the service. Missed(count) stands where some were lost. Ends when the client is closed. deadline_ms: of each watch."""
        calls.check_after(after)
        deadline = self._connection.deadline(deadline_ms)
        return self._follow(Follower(after), deadline)

    def put_one(
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
        """`put` of one block."""
        items = [(key, memory)]
        return self.put(
            items,
            layout=layout,
            deadline_ms=deadline_ms,
            durability=durability,
            ttl_ms=ttl_ms,
            group=group,
            group_members=group_members,
            scope=scope,
        )[0]

    def get_one(
        self, key: Key, memory: "Memory", *, layout: LayoutLike = None, deadline_ms: int | None = None
    ) -> GetResult:
        """`get` of one whole block."""
        return self.get([(key, memory)], layout=layout, deadline_ms=deadline_ms)[0]

    def get_bytes(
        self,
        key: Key,
        *,
        layout: LayoutLike = None,
        deadline_ms: int | None = None,
        nbytes_most: int = BLOCK_BYTES_MOST,
    ) -> tuple[GetResult, bytes]:
        """A block of unknown size as bytes (a copy); empty bytes when it is a miss, or larger than nbytes_most
        (`short_buffer`). For scripts and small blocks: `get` moves bytes once less."""
        return self._drive(calls.get_bytes(key, layout, self._connection.deadline(deadline_ms), nbytes_most))

    def stats(self, *, deadline_ms: int | None = None) -> dict[str, Any]:
        """The service's statistics: docs/metrics.md has every field. Raises StatusError when they cannot be had."""
        return self._drive(calls.stats(self._connection.deadline(deadline_ms)))

    def alloc(self, nbytes: int) -> _native.Region:
        """Zeroed memory of whole pages, which the service reads and writes in place over rdma. Supports the buffer protocol:
        slice it with memoryview(region). Freed by its close(), which needs all views of it released. Raises UsageError when
        the machine, or a control group of this process, has less memory left."""
        return self._connection.alloc(nbytes)

    def register(self, memory: "Memory") -> _native.Region:
        """Makes memory known to the device, so that the service reads and writes it in place (rdma; memory that is not
        registered is copied once on its way; tcp and shm gain nothing by it). Register what is used often, once: pinning
        takes time. The region keeps `memory` alive until its close(), which cancels calls that still use it.

        Memory of an NVIDIA GPU is read and written in place over rdma where GPU, kernel and network card can (dma-buf), else
        copied through pinned host memory: `transfer` and `reason` of the region say which and why, and the first time over
        rdma a GpuCopyWarning does. Blocks in it may be named as `(address, nbytes)`. docs/gpu-memory.md."""
        return self._connection.register(memory)

    def info(self) -> dict[str, Any]:
        """What is known of the session: server_id, version, transport (in use now), lanes, limits; connected, reconnects,
        returns (to RDMA, of auto://), breaker, last_error (why a connection failed or ended, the last time one did); and the
        regions that lie on GPUs."""
        return self._connection.info()

    @property
    def url(self) -> str:
        """Where the service is, as it was asked for."""
        return self._connection.url

    @property
    def tenant(self) -> str:
        """Whose keyspace it is."""
        return self._connection.tenant

    def close(self) -> None:
        """Ends the session; what is in flight on other threads becomes `cancelled`. A second close does nothing."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.url}{', closed' if self._connection.closed else ''}>"

    def _follow(self, follower: Follower, deadline_ms: int) -> Iterator[Event | Missed]:
        while True:
            try:
                answer = self.watch(after=follower.ask(self.info()), deadline_ms=deadline_ms)
            except ClosedError:
                return
            if answer.status is Status.cancelled or self._connection.inherited:
                return
            yield from follower.take(answer)
            if follower.pause_seconds > 0:
                time.sleep(follower.pause_seconds)

    def _drive(self, flow: Flow[T]) -> T:
        self._connection.check_open()
        try:
            start = next(flow)
            while True:
                operation = start.begin(self._connection.session)
                operation.wait()
                start = flow.send(operation)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
