"""One service for the whole folder: hostile clients must not be able to end it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hurt_service import RDMA_HOST
from limited_service import LIMITS
from observer import Observer
from raw_wire import RawSession

from cairnkv.testing import RunningService

NEEDING_RDMA = [
    "test_hostile_rdma.py",
    "test_hostile_rdma_memory.py",
    "test_mixed_lanes.py",
    "test_raw_rdma.py",
    "test_session_limits_rdma.py",
]
# These need a device. Where there is one, they fail without pyverbs, and do not skip.
collect_ignore = [] if RDMA_HOST else NEEDING_RDMA


@pytest.fixture(scope="session")
def service() -> Iterator[RunningService]:
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
        service = RunningService(Path(folder), size="256MiB", slab="256MiB", admin="off", rdma_host=RDMA_HOST)
        service.start()
        yield service
        assert service.process.running(), "a client ended the service"
        assert service.stop() == 0


@pytest.fixture(scope="session")
def addresses(service: RunningService) -> dict[str, tuple[str, int] | str]:
    found: dict[str, tuple[str, int] | str] = {"shm": service.shm_url.removeprefix("shm://")}
    for url in filter(None, (service.tcp_url, service.rdma_url)):
        parts = urlsplit(url)
        found[parts.scheme] = (str(parts.hostname), int(parts.port or 0))
    return found


@pytest.fixture(scope="module")
def limited() -> Iterator[RunningService]:
    """Another service, which lets few in."""
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
        service = RunningService(
            Path(folder), size="64MiB", slab="256MiB", admin="127.0.0.1:0", rdma_host=RDMA_HOST, settings=LIMITS
        )
        service.start()
        yield service
        assert service.process.running(), "a client ended the service"
        assert service.stop() == 0


@pytest.fixture
def limited_shm(limited: RunningService) -> str:
    return limited.shm_url.removeprefix("shm://")


@pytest.fixture
def observer(limited: RunningService, limited_shm: str) -> Observer:
    """Has a session of a tenant of its own, on this machine, when nobody else is there."""
    RawSession.open(limited_shm, tenant=b"observer")
    observer = Observer(str(limited.process.admin_url))
    observer.await_figure("sessions", 1)
    return observer


@pytest.fixture
def service_pid(service: RunningService) -> int:
    return service.process.pid


@pytest.fixture
def rdma(addresses: dict[str, tuple[str, int] | str]) -> tuple[str, int]:
    address = addresses["rdma"]
    assert isinstance(address, tuple)
    return address


@pytest.fixture(autouse=True)
def hang_up() -> Iterator[None]:
    yield
    RawSession.close_all()


@pytest.fixture
def fresh_key() -> Callable[[], bytes]:
    return lambda: os.urandom(16)


@pytest.fixture
def honest(rdma: tuple[str, int], fresh_key: Callable[[], bytes]) -> Iterator[RawSession]:
    """A session with a block of its own; it works while the other one misbehaves, and afterwards."""
    from raw_rdma import RdmaSession

    session = RdmaSession.dial(rdma)
    key, data = fresh_key(), os.urandom(50_000)
    assert session.put(key, data)[0] == 0
    yield session
    assert session.get(key, len(data)) == (0, data), "an attack on another session hurt this one"
    assert session.put(fresh_key(), data)[0] == 0
    late = RdmaSession.dial(rdma)
    assert late.get(key, len(data)) == (0, data), "the service takes no new session in"
