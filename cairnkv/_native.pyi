"""Typed face of the native client (native/bindings/cairnkv.cc). Translation only: no decisions here."""

from collections.abc import Sequence
from typing import Any, final

def version() -> str: ...
def status_table() -> list[tuple[int, str, int, str]]:
    """Rows (code, name, HTTP status, sentence): the one list of outcomes, native/wire/status.h."""

def limits() -> dict[str, int]:
    """native/wire/limits.h by name: block_bytes_most, batch_items_most, item_extents_most, region_bytes_most,
    group_members_most, lease_ms_most, events_most, deadline_ms_default, deadline_ms_most, credits_default, session_lanes_most, protocol_version."""

def crc32c(data: Any, previous: int = 0) -> int: ...
def copied_bytes() -> int:
    """All payload that the native clients of this process copied so far: between memory that is not registered and memory that
    is (rdma), what came with the head of a frame (tcp), and into and out of the rings of a link (shm)."""

def fill_pattern(buffer: Any, seed: int) -> None:
    """Fills a writable buffer with the bytes that `seed` (64 bits) stands for. Releases the GIL."""

def check_pattern(buffer: Any, seed: int) -> int:
    """Position of the first byte that differs from the pattern of `seed`, or -1. Releases the GIL."""

def gpu_of(address: int, nbytes: int, gpu: int = -1) -> int:
    """The GPU on which the memory lies; gpu: on which it should, -1 for any. The first call loads NVIDIA's driver. ValueError,
    with a sentence, when there is none, or when any of the memory is not there."""

def gpu_wait(gpu: int, stream: int) -> None:
    """Returns when all work given to the stream (1: the default one, 2: this thread's, else a handle) is done. ValueError."""

def gpu_read(gpu: int, address: int, buffer: Any) -> None:
    """Copies from the GPU into the writable buffer, as much as it holds. ValueError. GIL released."""

def gpu_write(gpu: int, address: int, buffer: Any) -> None:
    """Copies the buffer to the GPU. ValueError. GIL released."""

class ConnectError(Exception):
    """args: (status code, sentence). The first connection could not be made."""

@final
class Region:
    """Memory known to a session; supports the buffer protocol (writable, flat bytes), unless it lies on a GPU."""

    @property
    def address(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def shared(self) -> bool:
        """True when the service reads and writes it directly (rdma); False when bytes are sent or bounced."""
    @property
    def device(self) -> int | None:
        """The GPU on which it lies; None: it is host memory."""
    @property
    def transfer(self) -> str:
        """'direct': the service reads and writes it itself. 'bounced': memory of a GPU that is copied through host memory.
        'streamed': host memory whose bytes are sent."""
    @property
    def reason(self) -> str:
        """Why memory of a GPU is bounced; else empty."""
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def close(self) -> None: ...

@final
class Operation:
    """One batch in flight. Keeps the caller's buffers alive until it is settled."""

    @property
    def id(self) -> int: ...
    def done(self) -> bool: ...
    def wait(self) -> None:
        """Returns when every item is settled, at the latest shortly after the deadline. GIL released; signals are handled
        every 100 ms, so Ctrl-C cancels the operation (fenced) and raises KeyboardInterrupt."""
    def cancel(self) -> None:
        """Unsettled items become `cancelled`. When it returns, nothing will touch the caller's memory any more."""
    @property
    def statuses(self) -> list[int]: ...
    @property
    def lengths(self) -> list[int]:
        """get: bytes delivered. put: block length. Otherwise 0."""
    @property
    def sequences(self) -> list[int]:
        """put (ok, exists) and get: the store's sequence number of the block; 0 if unknown."""
    @property
    def matched(self) -> int:
        """match: how many leading keys are present."""
    @property
    def events(self) -> list[tuple[int, int, int, int, bytes, bytes, int, int]]:
        """watch: (number, kind, unix_ms, sequence, key, group, layout, scope) of each."""
    @property
    def events_range(self) -> tuple[int, int, str]:
        """watch: (oldest, newest, server_id of the life of the service that answered)."""
    @property
    def text(self) -> str:
        """stats: a JSON object."""

@final
class Client:
    """A session with one service over one URL. Any thread may call any method; calls run side by side.

    url: auto://HOST:PORT, rdma://HOST:PORT, tcp://HOST:PORT or shm:///PATH. Connects in the constructor (raises ConnectError); afterwards a lost
    connection is re-made in the background of calls with back-off behind a circuit breaker, and what was outstanding
    is settled as `disconnected`, what comes while the breaker is open as `unreachable`.

    auto: RDMA at HOST:PORT, TCP at the same HOST:PORT while RDMA cannot be had. RDMA is tried again after 1 s to 30 s, twice as
    long each time, on a thread of the client's own; when it is there, new calls go that way and those under way end the old way.
    No call fails for that.

    An item's memory ("Memory") is: an object with the buffer protocol (C-contiguous), an (address, nbytes) tuple whose memory the
    caller keeps alive, (address, nbytes, gpu, owner) as gpu_of() found it (the owner, any object, is kept alive), or a sequence
    of these (extents, joined in order). What an (address, nbytes) names inside a registered region of a GPU is on that GPU.
    Keys are bytes objects of 16.
    """

    def __init__(
        self,
        url: str,
        *,
        tenant: str = "default",
        token: str = "",
        name: str = "",
        lanes: int = 1,
        connect_timeout_ms: int = 5000,
        verify: bool = True,
    ) -> None:
        """verify: CRC32C is computed here too: sent with every put and checked on every get (end to end)."""
    def alloc(self, nbytes: int) -> Region:
        """Zeroed memory that the service can reach without a copy where the transport can (rdma)."""
    def register(self, memory: Any) -> Region:
        """Makes caller's memory known, for transports that need it. On tcp and shm it changes nothing. On auto it counts whenever
        the session goes by RDMA. Memory of a GPU is registered on every transport, and copied through pinned
        host memory where the network card does not reach it (Region.reason). Keeps `memory` alive until close()."""
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
    ) -> Operation: ...
    def get(
        self,
        keys: Sequence[bytes],
        memories: Sequence[Any],
        layout: int = 0,
        deadline_ms: int = 0,
        ranges: Sequence[tuple[int, int]] | None = None,
    ) -> Operation:
        """ranges: per item (offset, length), length 0 meaning to the end. The destination must be at least as large as
        what is asked for (`short_buffer` otherwise)."""
    def exists(self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0) -> Operation: ...
    def match(self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0) -> Operation: ...
    def touch(self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0) -> Operation: ...
    def delete(self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0) -> Operation: ...
    def delete_named(
        self, kind: int, group: bytes = b"", layout: int = 0, scope: int = 0, deadline_ms: int = 0
    ) -> Operation:
        """kind: 1 group (which), 2 scope (which), 3 layout (which), 4 tenant. One status."""
    def lease(
        self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0, duration_ms: int = 0
    ) -> Operation: ...
    def release(self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0) -> Operation: ...
    def watch(self, after: int, events_most: int = 0, deadline_ms: int = 0) -> Operation:
        """after: 2^64-1 asks for the newest number only. events_most: 0 for as many as there may be. The service answers a
        little before the deadline when nothing happened."""
    def prefetch(self, keys: Sequence[bytes], layout: int = 0, deadline_ms: int = 0) -> Operation: ...
    def stats(self, deadline_ms: int = 0) -> Operation: ...
    def completion_fd(self) -> int:
        """An eventfd for event loops. From the first call on a native thread drives the session and makes the fd readable
        when operations settle; take_completed() clears it."""
    def take_completed(self) -> list[int]:
        """Ids of operations settled since the last call (only after completion_fd() was asked for)."""
    def info(self) -> dict[str, Any]:
        """What the handshake told: server_id, version, transport, lanes, limits; and connected, reconnects, returns, breaker,
        last_error; gpu_regions: address, nbytes, device, transfer and reason of each."""
    def close(self) -> None: ...
