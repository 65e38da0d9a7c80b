"""A real service for each test, and ways to hurt it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hurt_service import HurtService

import cairnkv


@pytest.fixture(scope="module")
def one_service() -> Iterator[HurtService]:
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
        started = HurtService(Path(folder), size="256MiB", slab="256MiB", admin="off")
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
MEMORY = ["tcp", "shm-stream", "shm-region"]


@pytest.fixture(params=MEMORY)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connect(service: HurtService, way: str) -> Iterator[Callable[..., cairnkv.Client]]:
    opened: list[cairnkv.Client] = []

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
        if way != "shm-region":
            return memoryview(bytearray(nbytes))
        region = client.alloc(nbytes)
        return memoryview(region)

    return make


@pytest.fixture
def fresh() -> Callable[[], bytes]:
    return lambda: os.urandom(20)
