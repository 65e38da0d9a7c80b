"""What `cairnkv._native.Client` does, on the store of `cairnkv.testing`."""

import contextlib
import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from cairnkv._native import Region, gpu_read, gpu_write, version
from cairnkv.calls import MATCH_KEYS_MOST
from cairnkv.double_store import EVENTS_KEPT, NONE, BlockId, MemoryStore, Terms
from cairnkv.events import FROM_NOW, Event, EventKind
from cairnkv.memory import LIMITS
from cairnkv.status import Status

GROUP, SCOPE, LAYOUT, TENANT = 1, 2, 3, 4
WIDE_KINDS = {SCOPE: EventKind.scope_deleted, LAYOUT: EventKind.layout_deleted, TENANT: EventKind.tenant_deleted}


class Waiting(NamedTuple):
    """How a watch waits."""

    due: Callable[[], bool]
    seconds_most: float


class MemoryRegion(mmap.mmap):
    """A Region of memory of this process alone."""

    shared = False
    device, transfer, reason = None, "streamed", ""

    def __new__(cls, nbytes: int) -> "MemoryRegion":
        """Zeroed and page-aligned."""
        return super().__new__(cls, -1, nbytes)

    @property
    def nbytes(self) -> int:
        """Its length."""
        return len(self)

    @property
    def address(self) -> int:
        """Where it begins."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self))


class RegisteredMemory:
    """A Region over the caller's memory. (From Python one cannot give it the buffer protocol: use the memory itself.)"""

    shared = False
    device, transfer, reason = None, "streamed", ""

    def __init__(self, memory: Any) -> None:
        if isinstance(memory, tuple) and len(memory) == 4:
            self.address, self.nbytes, self.device, _ = memory
            self.transfer, self.reason = "bounced", "the store in memory lies on the host"
        elif isinstance(memory, tuple):
            self.address, self.nbytes = memory
        else:
            view = (ctypes.c_char * memoryview(memory).nbytes).from_buffer(memory)
            self.address, self.nbytes = ctypes.addressof(view), len(view)
        self._keep: Any = memory

    def close(self) -> None:
        """Lets go of the memory."""
        self._keep = None


class MemoryOperation:
    """One batch; done after the store's delay. A watch: when it is due, or its time is over."""

    def __init__(
        self,
        session: "MemorySession",
        number: int,
        work: Callable[["MemoryOperation"], None],
        count: int,
        waiting: Waiting | None = None,
    ) -> None:
        self.id = number
        self.statuses = [int(Status.cancelled)] * count
        self.lengths = [0] * count
        self.sequences = [0] * count
        self.matched = 0
        self.text = ""
        self.events: list[tuple[int, int, int, int, bytes, bytes, int, int]] = []
        self.events_range = (0, 0, "")
        self._session = session
        self._work = work
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._due = waiting.due if waiting is not None else None
        delay = waiting.seconds_most if waiting is not None else session.store.faults.delay_seconds
        if delay > 0:
            self._timer = threading.Timer(delay, self._settle)
            self._timer.daemon = True
            self._timer.start()
        if waiting is not None:
            session.store.when_told(self._look)
            self._look()
        elif delay <= 0:
            self._settle()

    @classmethod
    def unreachable(cls, session: "MemorySession", count: int) -> "MemoryOperation":
        """One that is settled and does nothing."""
        operation = cls.__new__(cls)
        operation.__dict__ = {"id": 0, "matched": 0, "text": "", "events": [], "events_range": (0, 0, "")}
        operation.statuses = [int(Status.unreachable)] * count
        operation.lengths, operation.sequences = [0] * count, [0] * count
        operation._session, operation._lock, operation._due = session, threading.Lock(), None
        operation._settled = threading.Event()
        operation._settled.set()
        return operation

    def _look(self) -> None:
        if self._due is not None and self._due():
            self._settle()

    def _settle(self, cancelled: bool = False) -> None:
        with self._lock:
            if self._settled.is_set():
                return
            if not cancelled:
                self._work(self)
            self._settled.set()
        if self._due is not None:
            self._session.store.forget_watcher(self._look)
            self._timer.cancel()
        self._session.completed(self.id)

    def done(self) -> bool:
        """Whether it is settled."""
        return self._settled.is_set()

    def wait(self) -> None:
        """Returns when it is settled."""
        self._settled.wait()

    def cancel(self) -> None:
        """Settles it now, with nothing done."""
        self._settle(cancelled=True)


class MemorySession:
    """What `cairnkv._native.Client` does, on a MemoryStore."""

    def __init__(self, store: MemoryStore, tenant: str = "default") -> None:
        self.store = store
        self.tenant = tenant
        with store.lock:
            store.sessions += 1
            self.holder = store.sessions
        self._life = store.lives
        self._lock = threading.Lock()
        self._number = 0
        self._event = -1
        self._completed: list[int] = []
        self._open: dict[int, MemoryOperation] = {}
        self._closed = False
        self._process = os.getpid()

    def alloc(self, nbytes: int) -> Region:
        """Plain memory."""
        return cast("Region", MemoryRegion(nbytes))

    def register(self, memory: Any) -> Region:
        """Plain memory."""
        return cast("Region", RegisteredMemory(memory))

    def put(
        self,
        keys: Sequence[bytes],
        memories: Sequence[Any],
        layout: int = 0,
        deadline_ms: int = 0,
        relaxed: bool = False,
        ttl_ms: int = 0,
        group: bytes = b"",
        group_members: int = 0,
        scope: int = 0,
    ) -> MemoryOperation:
        """Copies the blocks now, as a socket would."""
        del deadline_ms, relaxed
        payloads = [b"".join(bytes(piece) for piece in _views(memory)) for memory in memories]
        terms = Terms(ttl_ms, group or NONE, group_members, scope)

        def work(operation: MemoryOperation) -> None:
            for at, (key, data) in enumerate(zip(keys, payloads, strict=True)):
                status, sequence = self.store.put(self._id(key, layout), data, terms)
                operation.statuses[at], operation.sequences[at] = status, sequence
                operation.lengths[at] = len(data) if status == Status.ok else 0

        return self._start(work, len(keys))

    def get(
        self,
        keys: Sequence[bytes],
        memories: Sequence[Any],
        layout: int = 0,
        deadline_ms: int = 0,
        ranges: Sequence[tuple[int, int]] | None = None,
    ) -> MemoryOperation:
        """Copies the blocks out."""
        del deadline_ms
        places = [_views(memory) for memory in memories]

        def work(operation: MemoryOperation) -> None:
            for at, (key, place) in enumerate(zip(keys, places, strict=True)):
                found = self.store.find(self._id(key, layout))
                self.store.gets += 1
                fault = self.store.faults.on_get()
                if fault is not None or found is None:
                    operation.statuses[at] = Status.not_found if fault is None else fault
                    continue
                operation.sequences[at] = found.sequence
                status, length = _deliver(found.data, place, ranges[at] if ranges else (0, 0))
                if length > 0:
                    _write_back(memories[at], place)
                operation.statuses[at], operation.lengths[at] = status, length
                if status == Status.bad_range:
                    operation.sequences[at] = 0

        return self._start(work, len(keys))

    def exists(self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0) -> MemoryOperation:
        """From the dictionary."""
        del deadline_ms
        return self._per_key(keys, layout, self._present)

    touch = prefetch = exists

    def delete(self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0) -> MemoryOperation:
        """From the dictionary."""
        del deadline_ms
        return self._per_key(keys, layout, self.store.delete)

    def delete_named(
        self, kind: int, group: bytes = b"", layout: int = 0, scope: int = 0, deadline_ms: int = 0
    ) -> MemoryOperation:
        """kind: as on the wire."""
        del deadline_ms

        def work(operation: MemoryOperation) -> None:
            operation.statuses[0] = Status.ok
            if kind == GROUP:
                self.store.delete_group(self.tenant, layout, group)
            else:
                named = BlockId(NONE, layout if kind == LAYOUT else 0, self.tenant)
                self.store.delete_where(WIDE_KINDS[kind], named, scope)

        return self._start(work, 1)

    def lease(
        self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0, duration_ms: int = 0
    ) -> MemoryOperation:
        """For this session."""
        del deadline_ms
        return self._per_key(keys, layout, lambda block_id: self.store.lease(block_id, self.holder, duration_ms))

    def release(self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0) -> MemoryOperation:
        """Of this session's leases."""
        del deadline_ms
        return self._per_key(keys, layout, lambda block_id: self.store.release(block_id, self.holder))

    def watch(self, after: int, events_most: int = 0, deadline_ms: int = 0) -> MemoryOperation:
        """Answered at once, when something is told, or at the deadline."""
        store = self.store

        def work(operation: MemoryOperation) -> None:
            feed = store.feed_of(self.tenant)
            found = [event for event in feed.kept if after != FROM_NOW and event.number > after]
            operation.events = [
                (event.number, int(event.kind), *_rest(event)) for event in found[: events_most or EVENTS_KEPT]
            ]
            operation.events_range = (feed.newest - len(feed.kept) + 1, feed.newest, store.server_id)
            operation.statuses[0] = Status.ok

        def due() -> bool:
            if after == FROM_NOW or store.faults.unreachable or store.lives != self._life:
                return True
            return store.feed_of(self.tenant).newest > after

        return self._start(work, 1, Waiting(due, (deadline_ms or LIMITS["deadline_ms_default"]) / 1000))

    def match(self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0) -> MemoryOperation:
        """The leading keys that are present."""
        del deadline_ms

        def work(operation: MemoryOperation) -> None:
            if len(keys) > MATCH_KEYS_MOST:
                operation.statuses[0] = Status.too_large
                return
            operation.statuses[0] = Status.ok
            absent = (at for at, key in enumerate(keys) if self.store.find(self._id(key, layout)) is None)
            operation.matched = next(absent, len(keys))

        return self._start(work, 1)

    def stats(self, deadline_ms: int = 0) -> MemoryOperation:
        """The few numbers that mean something here, under their names in docs/metrics.md."""
        del deadline_ms

        def work(operation: MemoryOperation) -> None:
            blocks = self.store.blocks
            payload = sum(len(block.data) for block in blocks.values())
            operation.statuses[0] = Status.ok
            operation.text = (
                f'{{"version":"{version()}","server_id":"{self.store.server_id}","store":{{"blocks":{len(blocks)},"payload_bytes":{payload},'
                f'"puts":{self.store.puts},"gets":{self.store.gets},"drives":[]}}}}'
            )

        return self._start(work, 1)

    def completion_fd(self) -> int:
        """An eventfd."""
        if self._event < 0:
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return self._event

    def completed(self, number: int) -> None:
        """Called by an operation that is settled. Any thread."""
        with self._lock:
            self._open.pop(number, None)
            if self._event >= 0:
                self._completed.append(number)
                os.eventfd_write(self._event, 1)

    def take_completed(self) -> list[int]:
        """Ids settled since the last call."""
        with self._lock:
            if self._event >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._event)
            taken, self._completed = self._completed, []
            return taken

    def info(self) -> dict[str, Any]:
        """What a handshake would have told."""
        return {
            "transport": "memory",
            "server_id": self.store.server_id,
            "connected": os.getpid() == self._process,
            "reconnects": 0,
            "returns": 0,
            "breaker": "closed",
            "last_error": "",
        }

    def close(self) -> None:
        """What is open becomes cancelled."""
        self._closed = True
        for operation in list(self._open.values()):
            operation.cancel()

    def __del__(self) -> None:
        if self._event >= 0:
            os.close(self._event)

    def _id(self, key: bytes, layout: int) -> BlockId:
        return BlockId(key, layout, self.tenant)

    def _present(self, block_id: BlockId) -> Status:
        return Status.not_found if self.store.find(block_id) is None else Status.ok

    def _per_key(self, keys: Sequence[bytes], layout: int, does: Callable[[BlockId], Status]) -> MemoryOperation:
        def work(operation: MemoryOperation) -> None:
            operation.statuses = [int(does(self._id(key, layout))) for key in keys]

        return self._start(work, len(keys))

    def _start(
        self, work: Callable[[MemoryOperation], None], count: int, waiting: Waiting | None = None
    ) -> MemoryOperation:
        def guarded(operation: MemoryOperation) -> None:
            if self._closed:
                return
            lost = self._life != self.store.lives
            self._life = self.store.lives
            if lost or self.store.faults.unreachable:
                operation.statuses = [int(Status.disconnected if lost else Status.unreachable)] * count
                return
            with self.store.lock:
                work(operation)
            if waiting is None:
                self.store.wake_watchers()

        if os.getpid() != self._process:  # a forked child: another thread may have held any lock
            return MemoryOperation.unreachable(self, count)
        with self._lock:
            self._number += 1
            number = self._number
        operation = MemoryOperation(self, number, guarded, count, waiting)
        with self._lock:
            if not operation.done():
                self._open[number] = operation
        return operation


def _views(memory: Any) -> list[memoryview]:
    """The pieces of a block's memory as flat bytes."""
    if isinstance(memory, list):
        return [view for piece in memory for view in _views(piece)]
    if isinstance(memory, tuple) and len(memory) == 4:
        copy = memoryview(bytearray(memory[1]))
        gpu_read(memory[2], memory[0], copy)
        return [copy]
    if isinstance(memory, tuple):
        address, nbytes = memory
        return [memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B")]
    view = memoryview(memory)
    if view.nbytes == 0:
        return [memoryview(b"")]
    if view.readonly:
        return [memoryview(view.tobytes())]
    return [memoryview((ctypes.c_char * view.nbytes).from_buffer(view)).cast("B")]


def _write_back(memory: Any, views: list[memoryview]) -> None:
    """Of memory on a GPU, the views are copies."""
    for piece, view in zip(memory if isinstance(memory, list) else [memory], views, strict=True):
        if isinstance(piece, tuple) and len(piece) == 4:
            gpu_write(piece[2], piece[0], view)


def _deliver(data: bytes, place: list[memoryview], asked: tuple[int, int]) -> tuple[Status, int]:
    offset, length = asked
    if offset >= len(data) or length > len(data) - offset:
        return Status.bad_range, 0
    wanted = memoryview(data)[offset : offset + length if length else None]
    if sum(view.nbytes for view in place) < len(wanted):
        return Status.short_buffer, 0
    at = 0
    for view in place:
        part = wanted[at : at + view.nbytes]
        view[: len(part)] = part
        at += len(part)
    return Status.ok, len(wanted)


def _rest(event: Event) -> tuple[int, int, bytes, bytes, int, int]:
    return event.unix_ms, event.sequence, event.key, event.group, event.layout, event.scope
