"""A real service for each test, and ways to hurt it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hurt_service import RDMA_HOST, HurtService

import cairnkv
from cairnkv.testing import MemoryClient, MemoryStore


@pytest.fixture(scope="module")
def one_service() -> Iterator[HurtService]:
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
        started = HurtService(Path(folder), size="256MiB", slab="256MiB", admin="off", rdma_host=RDMA_HOST)
        yield started
        if started.process.running():
            started.kill()


@pytest.fixture
def service(one_service: HurtService) -> HurtService:
    """Serving, whatever the test before did to it; blocks of earlier tests are still there."""
    if one_service.process.running():
        one_service.resume()
    else:
        one_service.start()
    return one_service


# How a caller's memory reaches the service: what must not make a difference.
MEMORY = ["tcp", "tcp-region", "shm", "shm-region"]
if RDMA_HOST is not None:
    # rdma-windowless-region: a region registered for each request, as on a device that has no memory windows.
    MEMORY += ["rdma-copied", "rdma-region", "rdma-registered", "rdma-windowless-region"]


@pytest.fixture(params=MEMORY)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connect(service: HurtService, way: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., cairnkv.Client]]:
    opened: list[cairnkv.Client] = []
    if "windowless" in way:
        monkeypatch.setenv("CAIRN_RDMA_WINDOWS", "off")

    def make(**options: object) -> cairnkv.Client:
        client = cairnkv.connect(service.urls[way.split("-", maxsplit=1)[0]], **options)  # type: ignore[arg-type]
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def client(connect: Callable[..., cairnkv.Client]) -> cairnkv.Client:
    return connect()


@pytest.fixture
def memory(client: cairnkv.Client, way: str) -> Callable[[int], memoryview]:
    """Memory of the kind under test."""

    def make(nbytes: int) -> memoryview:
        if way.endswith("-region"):
            return memoryview(client.alloc(nbytes))
        if way.endswith("-registered"):
            return memoryview(client.register(bytearray(nbytes)))
        return memoryview(bytearray(nbytes))

    return make


# … and the store in memory that adapters are tested against: what it says must be what a service says.
EVERYWHERE = [*MEMORY, "double"]
Anyone = Callable[..., cairnkv.Client]


@pytest.fixture(params=EVERYWHERE)
def anyone(request: pytest.FixtureRequest) -> Iterator[Anyone]:
    """Makes clients of one store, wherever that is."""
    opened: list[cairnkv.Client] = []
    store = MemoryStore()
    service = None if request.param == "double" else request.getfixturevalue("service")

    def make(tenant: str = "default") -> cairnkv.Client:
        if service is None:
            client: cairnkv.Client = MemoryClient(store, tenant=tenant)
        else:
            client = cairnkv.connect(service.urls[request.param.split("-", maxsplit=1)[0]], tenant=tenant)
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def fresh_tenant() -> Callable[[], str]:
    """The name of a tenant that nobody has used."""
    return lambda: os.urandom(8).hex()


@pytest.fixture
def fresh() -> Callable[[], bytes]:
    return lambda: os.urandom(20)
