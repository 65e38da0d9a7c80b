"""One service for the whole folder: hostile clients must not be able to end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest


@pytest.fixture(scope="session")
def addresses() -> Iterator[dict[str, tuple[str, int] | str]]:
    with tempfile.TemporaryDirectory(prefix="cairn-") as name:
        folder = Path(name)
        ready = folder / "ready.json"
        command = [sys.executable, "-m", "cairn_dpu", "serve", "--drive", f"{folder}/drive:256MiB", "--listen", "tcp://127.0.0.1:0"]
        command += ["--listen", f"shm://{folder}/s.sock", "--admin", "off", "--slab", "256MiB", "--ready-file", str(ready), "--log-level", "error"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        while not ready.exists():
            assert process.poll() is None, "the service did not start"
            time.sleep(0.005)
        tcp = urlsplit(next(url for url in json.loads(ready.read_text())["listen"] if url.startswith("tcp")))
        yield {"tcp": (str(tcp.hostname), int(tcp.port or 0)), "shm": f"{folder}/s.sock"}
        assert process.poll() is None, "a client ended the service"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


@pytest.fixture
def fresh_key() -> Callable[[], bytes]:
    return lambda: os.urandom(16)
