"""A real service on several drive files, started to be killed. It serves while it still reads its drives."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cairnkv import _native

START_SECONDS_MOST = 60.0
STOP_SECONDS_MOST = 60.0
# Small, so that a drive has many, and reading them takes a while.
SEGMENT_SIZE = "8MiB"


class CrashService:
    """`cairn-dpu serve` over DIR/drive-N, reachable at `url` once it is ready."""

    def __init__(self, folder: Path, drives: int, drive_bytes: int) -> None:
        self.folder = folder
        self.url = f"shm://{folder}/cairn.sock"
        self.drives = [folder / f"drive-{number}" for number in range(drives)]
        self._ready = folder / "ready.json"
        self._process: subprocess.Popen[bytes] | None = None
        for drive in self.drives:
            self._command("format", "--drive", f"{drive}:{drive_bytes}B", "--segment-size", SEGMENT_SIZE, "--yes")

    def _command(self, *words: str) -> None:
        done = subprocess.run([sys.executable, "-m", "cairn_dpu", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def launch(self) -> None:
        """Starts the process, and returns at once."""
        self._ready.unlink(missing_ok=True)
        (self.folder / "cairn.sock").unlink(missing_ok=True)
        words = ["serve", "--slab", "256MiB", "--admin", "off", "--listen", self.url, "--ready-file", str(self._ready)]
        for drive in self.drives:
            words += ["--drive", str(drive)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "cairn_dpu", *words], stdout=log, stderr=log)

    @property
    def log(self) -> Path:
        return self.folder / "service.log"

    def wait_ready(self) -> None:
        """Until it serves, however much of the index there is."""
        assert self._process is not None
        end = time.monotonic() + START_SECONDS_MOST
        while not self._ready.exists():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.001)

    def wait_loaded(self) -> None:
        """Until the index is whole."""
        end = time.monotonic() + START_SECONDS_MOST
        with contextlib.closing(_native.Client(self.url)) as client:
            while not stats_of(client)["loaded"]:
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.005)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(STOP_SECONDS_MOST)


def stats_of(client: _native.Client) -> dict[str, Any]:
    """Empty when the service did not answer."""
    operation = client.stats()
    operation.wait()
    return json.loads(operation.text) if operation.text else {"loaded": False}
