"""A service over RDMA, TCP and shm whose device, link and peers fail: one for each file, and it must outlive it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hurt_service import RDMA_HOST, HurtService

import cairnkv

NEEDING_RDMA = [
    "test_drives_over_rdma.py",
    "test_given_up.py",
    "test_many_rdma_sessions.py",
    "test_peers_over_rdma.py",
    "test_rdma_device.py",
    "test_rdma_port.py",
    "test_receives_over_rdma.py",
    "test_windowless_rdma.py",
]
# Where there is a device they fail without pyverbs, and do not skip.
collect_ignore = [] if RDMA_HOST else NEEDING_RDMA


@pytest.fixture(scope="module")
def service(request: pytest.FixtureRequest) -> Iterator[HurtService]:
    settings = getattr(request.module, "SETTINGS", [])
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
        started = HurtService(
            Path(folder), size="512MiB", slab="256MiB", admin="off", rdma_host=RDMA_HOST, settings=settings
        )
        started.start()
        yield started
        assert started.process.running(), "what happened ended the service"
        assert started.stop() == 0


@pytest.fixture
def connect(service: HurtService) -> Iterator[Callable[[str], cairnkv.Client]]:
    """Makes clients; rdma, tcp or shm."""
    opened: list[cairnkv.Client] = []

    def make(kind: str) -> cairnkv.Client:
        client = cairnkv.connect(service.urls[kind])
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()
