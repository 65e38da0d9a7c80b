"""Typed face of the native service (native/bindings/cairn_dpu.cc). Translation only: no decisions here."""

from collections.abc import Callable, Sequence
from typing import final

def version() -> str: ...
def status_table() -> list[tuple[int, str, int, str]]:
    """Rows (code, name, HTTP status, sentence): the one list of outcomes, native/wire/status.h."""

def end_when_out_of_memory(exit_status: int) -> None:
    """From now on the process ends with one sentence when the native core finds no memory for its heap. For a process
    that is ours alone."""

class CairnError(Exception):
    """A control call failed; args[0] is a sentence that names the object, the cause and what to do."""

    status: int
    """The code of the outcome in status_table that it stands for; 0: none of them."""
    system_errno: int
    """0 when the system had no part in it."""

def format_drive(
    path: str, *, create_bytes: int = 0, segment_bytes: int = 0, overwrite: bool = False, fleet: bytes = b""
) -> None:
    """Writes an empty store on a device or file; create_bytes > 0 creates or grows a file first."""

def is_formatted(path: str) -> bool:
    """Whether the path holds a Cairn store (damaged or newer ones included). False if the file does not exist or is blank;
    raises CairnError when it cannot be read or holds something else."""

def inspect_drive(path: str) -> str:
    """JSON: superblock, segments, counts. Reads only."""

def describe_nvme(path: str) -> str:
    """JSON: what the namespace behind a character device such as /dev/ng0n1 offers. Reads no block, locks nothing. CairnError
    where it is no namespace, or one that Cairn cannot use."""

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
        absent: Sequence[tuple[str, str]],
        require_all_drives: bool,
        without_missing_drives: bool,
        missing_drives_wait_ms: int,
        wait_until_loaded: bool,
        slab_bytes: int,
        read_only: bool,
        queue_depth: int,
        credits: int,
        session_window_bytes: int,
        shared_window_bytes: int,
        sessions_most: int,
        sessions_per_tenant_most: int,
        sessions_per_peer_most: int,
        idle_timeout_ms: int,
        stall_timeout_ms: int,
        handshake_timeout_ms: int,
        tenants: Sequence[tuple[str, int, int, int, int, int]],
        accept_unknown_tenants: bool,
        reinsert_percent: int,
        reinsert_hits_least: int,
        admission_second_touch: bool,
        admission_bytes_per_day: int,
        lease_ms_most: int,
        scrub_bytes_per_second: int,
        fleet: bytes,
        rdma_dscp: int,
        rdma_service_level: int,
        rdma_mtu_bytes: int,
    ) -> None:
        """Opens the drives and begins to read them; with wait_until_loaded it blocks until the index is whole. A drive that
        cannot be opened is absent: CairnError when there is no other, or with require_all_drives. A store that
        misses half of its drives or more is begun empty, or waits for them: see docs/storage-faults.md. `absent`: (path, reason)
        of drives known to be. `tenants`: as set_tenants. `fleet`: 16 bytes, or none for drives of any.
        sessions_per_tenant_most, sessions_per_peer_most: 0 for three quarters of sessions_most.
        rdma_dscp, rdma_service_level: -1 for what the path has; rdma_mtu_bytes: 0 for that."""
    def listen(self, url: str) -> str:
        """Starts to listen on tcp://HOST:PORT (port 0: any) or shm:///PATH; returns the URL clients use. Before start()."""
    def start(self) -> None:
        """Raises CairnError when no thread can be had."""
    def slab_remark(self) -> str:
        """A sentence when the slab is not of the memory that it could be; else empty."""
    def stop(self, drain_ms: int) -> bool:
        """Refuses new work, lets what is in flight end for up to drain_ms, closes sessions, seals the drives.
        True when everything in flight ended in time."""
    def unsealed(self) -> list[str]:
        """Paths of the drives that stop() has not sealed yet. Any thread, while it runs."""
    def running(self) -> bool: ...
    def stats(self) -> str:
        """A snapshot as JSON: see docs/metrics.md for every field."""
    def absent_drives(self) -> list[tuple[str, str]]:
        """(path, reason) of the drives that the service was told of and does without."""
    def complaints(self) -> list[tuple[str, int, str, int]]:
        """(peer, status, reason, how often) of the links that ended since the last call because of what their peers did.
        The peer is empty where there was no room for more."""
    def attach_drive(self, path: str) -> str:
        """Takes a formatted drive in, and returns its uuid. It is read in the background. Raises CairnError."""
    def resume_drive(self, uuid: str) -> None:
        """Tries at once to write again to a drive that takes no more blocks because writes failed; the statistics say what
        came of it. Raises CairnError."""
    def drain_drive(self, uuid: str) -> None:
        """Begins to move what the drive holds to the others. Raises CairnError."""
    def forget_absent_drive(self, path: str) -> bool:
        """An absent drive is no longer counted, and no delete is kept for it. False: none of that path is absent."""
    def detach_drive(self, uuid: str, *, lose_what_is_left: bool) -> None:
        """Lets a drive go. Unless it is drained, failed or empty, this needs lose_what_is_left. Raises CairnError."""
    def set_tenants(self, tenants: Sequence[tuple[str, int, int, int, int, int]]) -> None:
        """Replaces the configured tenants: (name, number, quota_bytes, weight, in_flight_bytes, sessions_most), 0 for no limit.
        Raises CairnError, and nothing is changed, when names or numbers do not go together."""
