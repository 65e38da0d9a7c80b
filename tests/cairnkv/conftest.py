"""One real service for the folder, and a client of each kind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator

import pytest

import cairnkv
from cairnkv.testing import MemoryClient, RunningService, service


@pytest.fixture(scope="session")
def running() -> Iterator[RunningService]:
    """Shared by all tests: use fresh keys."""
    with tempfile.TemporaryDirectory(prefix="cairn-") as folder, service(folder, size="512MiB") as started:
        yield started


@pytest.fixture(params=["memory", "shm", "tcp"])
def client(request: pytest.FixtureRequest) -> Iterator[cairnkv.Client]:
    """The fake and the real one: what is written for one must hold for the other."""
    if request.param == "memory":
        opened: cairnkv.Client = MemoryClient()
    else:
        started: RunningService = request.getfixturevalue("running")
        opened = cairnkv.connect(started.shm_url if request.param == "shm" else started.tcp_url)
    with opened:
        yield opened


@pytest.fixture
def fresh() -> Callable[[], bytes]:
    """A key nobody has used."""
    return lambda: os.urandom(20)


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes from the environment of whoever runs the tests."""
    for name in ("CAIRN_SERVERS", "CAIRN_TENANT", "CAIRN_TOKEN", "CAIRN_DEADLINE_MS", "CAIRN_DEBUG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def trace_path() -> str:
    """The conversation trace, which is part of the package: a checkout that lost it fails here."""
    from cairnkv.traces import shipped

    assert shipped("conversation"), "the conversation trace is not in cairnkv/data: see tools/pack_trace.py"
    return "conversation"
