"""One service for the whole folder: hostile clients must not be able to end it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from raw_wire import RawSession

from cairnkv.testing import RunningService


@pytest.fixture(scope="session")
def addresses() -> Iterator[dict[str, tuple[str, int] | str]]:
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
        service = RunningService(Path(folder), size="256MiB", slab="256MiB", admin="off")
        service.start()
        tcp = urlsplit(service.tcp_url)
        yield {"tcp": (str(tcp.hostname), int(tcp.port or 0)), "shm": service.shm_url.removeprefix("shm://")}
        assert service.process.running(), "a client ended the service"
        assert service.stop() == 0


@pytest.fixture(autouse=True)
def hang_up() -> Iterator[None]:
    yield
    RawSession.close_all()


@pytest.fixture
def fresh_key() -> Callable[[], bytes]:
    return lambda: os.urandom(16)
