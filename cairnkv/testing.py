"""For those who test an adapter or an application against Cairn.

    with cairnkv.testing.service(tmp_path) as running:              # a real service over a small file
        client = cairnkv.connect(running.shm_url)

    client = cairnkv.testing.MemoryClient()                         # no service: a dictionary, with the same results
    client.store.faults.fail_get(3, Status.corrupt)                 # the third block that is asked for from now on

`MemoryClient` is a real `Client` over a session kept in memory, so checks, keys and results are the same code; one conformance
suite (tests/cairnkv/test_conformance.py) runs over both.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from cairnkv.arguments import shown, text
from cairnkv.client import Client
from cairnkv.config import default_deadline_ms
from cairnkv.connecting import Connection
from cairnkv.double_session import MemorySession
from cairnkv.double_store import Block, BlockId, Faults, MemoryStore
from cairnkv.errors import UsageError
from cairnkv.process import ServiceProcess

__all__ = [
    "Block",
    "BlockId",
    "Faults",
    "MemoryClient",
    "MemoryStore",
    "RunningService",
    "memory_connection",
    "service",
]


# --- a real service ------------------------------------------------------------------------------------------


class RunningService:
    """A `cairn-dpu serve` over DIR/drive.cairn, reachable over shm and TCP on this machine only, and over RDMA by whoever
    reaches the address of the device that is named."""

    def __init__(
        self,
        folder: Path,
        size: str,
        slab: str,
        admin: str,
        rdma_host: str | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        listen = [f"shm://{folder}/cairn.sock", "tcp://127.0.0.1:0"]
        settings = list(settings)
        if rdma_host is not None:
            listen.append(f"rdma://{rdma_host}:0")
            settings.append("--allow-remote-without-credentials")
        self.process = ServiceProcess(
            folder, drive=f"{folder}/drive.cairn:{size}", listen=listen, slab=slab, admin=admin, settings=settings
        )
        self.shm_url = self.tcp_url = self.rdma_url = ""

    def start(self) -> None:
        """Starts it, or starts it again on the same drive. The TCP port is another one then."""
        self.process.start()
        self.shm_url, self.tcp_url, self.rdma_url = [*self.process.urls, ""][:3]

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
    if not isinstance(folder, str | Path):
        raise UsageError(f"folder is a path, not {shown(folder)}")
    for name, value in (("size", size), ("slab", slab), ("admin", admin)):
        text(name, value)
    running = RunningService(Path(folder).resolve(), size, slab, admin)
    running.start()
    try:
        yield running
    finally:
        running.stop()


# --- a store in memory ---------------------------------------------------------------------------------------


class MemoryClient(Client):
    """A Client whose service is a MemoryStore. Several may share one, as tenants of their own or of one."""

    def __init__(self, store: MemoryStore | None = None, *, tenant: str = "default") -> None:
        if store is not None and not isinstance(store, MemoryStore):
            raise UsageError(f"store is a MemoryStore, or None for a new one, not {shown(store)}")
        self.store = store or MemoryStore()
        super().__init__(memory_connection(self.store, tenant))


def memory_connection(store: MemoryStore, tenant: str = "default") -> Connection:
    """What a Client or an AsyncClient over the store is made from."""
    text("tenant", tenant)
    return Connection("memory:", MemorySession(store, tenant), default_deadline_ms(), tenant=tenant)
