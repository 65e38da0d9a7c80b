"""For those who test an adapter or an application against Cairn.

    with cairnkv.testing.service(tmp_path) as running:              # a real service over a small file
        client = cairnkv.connect(running.shm_url)

    client = cairnkv.testing.MemoryClient()                         # no service: a dictionary, with the same results
    client.store.faults.fail_get(3, Status.corrupt)                 # the third block that is asked for from now on

`MemoryClient` is a real `Client` over a session kept in memory, so checks, keys and results are the same code; one conformance
suite (tests/cairnkv/test_conformance.py) runs over both.
"""

import contextlib
import ctypes
import mmap
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from cairnkv._native import Region, version
from cairnkv.calls import MATCH_KEYS_MOST
from cairnkv.client import Client
from cairnkv.config import default_deadline_ms
from cairnkv.connecting import Connection
from cairnkv.memory import BLOCK_BYTES_MOST
from cairnkv.process import ServiceProcess
from cairnkv.status import Status

BlockId = tuple[bytes, int]


# --- a real service ------------------------------------------------------------------------------------------


class RunningService:
    """A `cairn-dpu serve` over DIR/drive.cairn, reachable over shm and TCP on this machine only."""

    def __init__(self, folder: Path, size: str, slab: str, admin: str) -> None:
        listen = [f"shm://{folder}/cairn.sock", "tcp://127.0.0.1:0"]
        self.process = ServiceProcess(
            folder, drive=f"{folder}/drive.cairn:{size}", listen=listen, slab=slab, admin=admin
        )
        self.shm_url = self.tcp_url = ""

    def start(self) -> None:
        """Starts it, or starts it again on the same drive. The TCP port is another one then."""
        self.process.start()
        self.shm_url, self.tcp_url = self.process.urls

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        return self.process.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()


@contextlib.contextmanager
def service(
    folder: Path | str, *, size: str = "512MiB", slab: str = "256MiB", admin: str = "off"
) -> Iterator[RunningService]:
    """A real service in `folder`, whose path must be short (a Unix socket lies there). Raises ConnectError when it does not
    come up."""
    running = RunningService(Path(folder).resolve(), size, slab, admin)
    running.start()
    try:
        yield running
    finally:
        running.stop()


# --- a store in memory ---------------------------------------------------------------------------------------


class Block(NamedTuple):
    """What is kept under a key and layout. expires: time.monotonic() seconds, or infinity."""

    data: bytes
    sequence: int
    expires: float


@dataclass
class Faults:
    """What goes wrong, on order. All off at first; `clear` switches all off.

    miss_rate: share of gets that find nothing, drawn from `seed`. delay_seconds: how long every batch takes. unreachable: every
    item of every call fails as if the service were gone.
    """

    miss_rate: float = 0.0
    seed: int = 0
    delay_seconds: float = 0.0
    unreachable: bool = False
    _planned: dict[int, Status] = field(default_factory=dict)
    _gets: int = 0
    _random: random.Random | None = None

    def fail_get(self, nth: int, status: Status) -> None:
        """The nth block asked for from now on (1: the next) gets `status` instead of its bytes."""
        self._planned[self._gets + nth] = status

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self.__init__()  # type: ignore[misc]

    def on_get(self) -> Status | None:
        """What happens to the next block asked for; None: nothing."""
        self._gets += 1
        if self.miss_rate > 0:
            self._random = self._random or random.Random(self.seed)  # noqa: S311
            if self._random.random() < self.miss_rate:
                return Status.not_found
        return self._planned.pop(self._gets, None)


class MemoryStore:
    """Blocks in a dictionary; several MemoryClients may share one. Nothing is ever evicted."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.lock = threading.Lock()
        self.blocks: dict[BlockId, Block] = {}
        self.sequence = 0
        self.puts = self.gets = 0

    def find(self, block_id: BlockId) -> Block | None:
        """The block, unless it is absent or expired."""
        block = self.blocks.get(block_id)
        if block is not None and block.expires <= time.monotonic():
            del self.blocks[block_id]
            return None
        return block

    def corrupt(self) -> None:
        """Flips one bit of every block: what a store must never serve. For testing what looks for wrong bytes."""
        for block_id, block in self.blocks.items():
            self.blocks[block_id] = block._replace(data=bytes([block.data[0] ^ 1]) + block.data[1:])

    def drop(self, count: int) -> None:
        """Forgets the `count` newest blocks: what a store must never do."""
        newest = sorted(self.blocks, key=lambda block_id: self.blocks[block_id].sequence)[-count:]
        for block_id in newest:
            del self.blocks[block_id]


class MemoryClient(Client):
    """A Client whose service is a MemoryStore."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        super().__init__(memory_connection(self.store))


def memory_connection(store: MemoryStore) -> Connection:
    """What a Client or an AsyncClient over the store is made from."""
    return Connection("memory:", MemorySession(store), default_deadline_ms())


class MemoryRegion(mmap.mmap):
    """A Region of memory of this process alone."""

    shared = False

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

    def __init__(self, memory: Any) -> None:
        if isinstance(memory, tuple):
            self.address, self.nbytes = memory
        else:
            view = (ctypes.c_char * memoryview(memory).nbytes).from_buffer(memory)
            self.address, self.nbytes = ctypes.addressof(view), len(view)
        self._keep: Any = memory

    def close(self) -> None:
        """Lets go of the memory."""
        self._keep = None


class MemoryOperation:
    """One batch; done after the store's delay."""

    def __init__(
        self, session: "MemorySession", number: int, work: Callable[["MemoryOperation"], None], count: int
    ) -> None:
        self.id = number
        self.statuses = [int(Status.cancelled)] * count
        self.lengths = [0] * count
        self.sequences = [0] * count
        self.matched = 0
        self.text = ""
        self._session = session
        self._work = work
        self._lock = threading.Lock()
        self._settled = threading.Event()
        delay = session.store.faults.delay_seconds
        if delay > 0:
            self._timer = threading.Timer(delay, self._settle)
            self._timer.daemon = True
            self._timer.start()
        else:
            self._settle()

    def _settle(self, cancelled: bool = False) -> None:
        with self._lock:
            if self._settled.is_set():
                return
            if not cancelled:
                self._work(self)
            self._settled.set()
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

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._number = 0
        self._event = -1
        self._completed: list[int] = []
        self._open: dict[int, MemoryOperation] = {}
        self._closed = False

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
    ) -> MemoryOperation:
        """Copies the blocks now, as a socket would."""
        del deadline_ms, relaxed, group
        payloads = [b"".join(bytes(piece) for piece in _views(memory)) for memory in memories]

        def work(operation: MemoryOperation) -> None:
            expires = time.monotonic() + ttl_ms / 1000 if ttl_ms else float("inf")
            for at, (key, data) in enumerate(zip(keys, payloads, strict=True)):
                status, sequence = self._put(key, layout, data, expires)
                operation.statuses[at], operation.sequences[at] = status, sequence
                operation.lengths[at] = len(data) if status == Status.ok else 0

        return self._start(work, len(keys))

    def _put(self, key: bytes, layout: int, data: bytes, expires: float) -> tuple[Status, int]:
        store = self.store
        if not 1 <= len(data) <= BLOCK_BYTES_MOST:
            return (Status.too_large if data else Status.invalid), 0
        found = store.find((key, layout))
        if found is not None:
            return Status.exists, found.sequence
        store.sequence += 1
        store.puts += 1
        store.blocks[key, layout] = Block(data, store.sequence, expires)
        return Status.ok, store.sequence

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
                found = self.store.find((key, layout))
                self.store.gets += 1
                fault = self.store.faults.on_get()
                if fault is not None or found is None:
                    operation.statuses[at] = Status.not_found if fault is None else fault
                    continue
                operation.sequences[at] = found.sequence
                status, length = _deliver(found.data, place, ranges[at] if ranges else (0, 0))
                operation.statuses[at], operation.lengths[at] = status, length
                if status == Status.bad_range:
                    operation.sequences[at] = 0

        return self._start(work, len(keys))

    def exists(self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0) -> MemoryOperation:
        """From the dictionary."""
        del deadline_ms
        return self._per_key(keys, lambda key: self.store.find((key, layout)) is not None)

    touch = prefetch = exists

    def delete(self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0) -> MemoryOperation:
        """From the dictionary."""
        del deadline_ms
        return self._per_key(
            keys, lambda key: self.store.find((key, layout)) is not None and bool(self.store.blocks.pop((key, layout)))
        )

    def match(self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0) -> MemoryOperation:
        """The leading keys that are present."""
        del deadline_ms

        def work(operation: MemoryOperation) -> None:
            if len(keys) > MATCH_KEYS_MOST:
                operation.statuses[0] = Status.too_large
                return
            operation.statuses[0] = Status.ok
            absent = (at for at, key in enumerate(keys) if self.store.find((key, layout)) is None)
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
                f'{{"version":"{version()}","server_id":"memory","store":{{"blocks":{len(blocks)},"payload_bytes":{payload},'
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
        return {"transport": "memory", "server_id": "memory", "connected": True, "reconnects": 0, "breaker": "closed"}

    def close(self) -> None:
        """What is open becomes cancelled."""
        self._closed = True
        for operation in list(self._open.values()):
            operation.cancel()

    def __del__(self) -> None:
        if self._event >= 0:
            os.close(self._event)

    def _per_key(self, keys: Sequence[bytes], does: Callable[[bytes], bool]) -> MemoryOperation:
        def work(operation: MemoryOperation) -> None:
            operation.statuses = [int(Status.ok if does(key) else Status.not_found) for key in keys]

        return self._start(work, len(keys))

    def _start(self, work: Callable[[MemoryOperation], None], count: int) -> MemoryOperation:
        def guarded(operation: MemoryOperation) -> None:
            if self._closed:
                return
            if self.store.faults.unreachable:
                operation.statuses = [int(Status.unreachable)] * count
                return
            with self.store.lock:
                work(operation)

        with self._lock:
            self._number += 1
            number = self._number
        operation = MemoryOperation(self, number, guarded, count)
        with self._lock:
            if not operation.done():
                self._open[number] = operation
        return operation


def _views(memory: Any) -> list[memoryview]:
    """The pieces of a block's memory as flat bytes."""
    if isinstance(memory, list):
        return [view for piece in memory for view in _views(piece)]
    if isinstance(memory, tuple):
        address, nbytes = memory
        return [memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B")]
    view = memoryview(memory)
    if view.nbytes == 0:
        return [memoryview(b"")]
    if view.readonly:
        return [memoryview(view.tobytes())]
    return [memoryview((ctypes.c_char * view.nbytes).from_buffer(view)).cast("B")]


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
