"""Typed face of the native service (native/bindings/cairn_dpu.cc). Translation only: no decisions here."""

from collections.abc import Callable, Sequence
from typing import final

def version() -> str: ...
def status_table() -> list[tuple[int, str, int, str]]:
    """Rows (code, name, HTTP status, sentence): the one list of outcomes, native/wire/status.h."""

class CairnError(Exception):
    """A control call failed; args[0] is a sentence that names the object, the cause and what to do."""

def format_drive(path: str, *, create_bytes: int = 0, segment_bytes: int = 0, overwrite: bool = False) -> None:
    """Writes an empty store on a device or file; create_bytes > 0 creates or grows a file first."""

def is_formatted(path: str) -> bool:
    """Whether the path holds a Cairn store (damaged or newer ones included). False if the file does not exist or is blank;
    raises CairnError when it cannot be read or holds something else."""

def inspect_drive(path: str) -> str:
    """JSON: superblock, segments, counts. Reads only."""

def check_drive(path: str, progress: Callable[[int, int], bool] | None = None) -> str:
    """JSON: segments, records, payload_bytes, bad_records, bad_segments, findings. Verifies every checksum, reads only.
    progress(done_bytes, total_bytes) is called a few times a second and may return False to stop."""

@final
class Server:
    """The native service: one reactor thread over the store. Methods may be called from any Python thread; they release
    the GIL while they wait. The reactor never takes the GIL."""

    def __init__(
        self,
        drives: Sequence[str],
        *,
        slab_bytes: int,
        credits: int,
        session_window_bytes: int,
        sessions_most: int,
        idle_timeout_ms: int,
        stall_timeout_ms: int,
        handshake_timeout_ms: int,
        read_only: bool = False,
        queue_depth: int = 128,
    ) -> None:
        """Opens the store and rebuilds the index (blocks; raises CairnError)."""
    def listen(self, url: str) -> str:
        """Starts to listen on tcp://HOST:PORT (port 0: any) or shm:///PATH; returns the URL clients use. Before start()."""
    def start(self) -> None: ...
    def stop(self, drain_ms: int) -> bool:
        """Refuses new work, lets what is in flight end for up to drain_ms, closes sessions, seals the drives.
        True when everything in flight ended in time."""
    def running(self) -> bool: ...
    def stats(self) -> str:
        """A snapshot as JSON: see docs/metrics.md for every field."""
