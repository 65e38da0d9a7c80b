"""A fake service for the admin plane, and a real `cairn-dpu serve` to send signals to."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from cairn_dpu.admin.app import create_app
from cairn_dpu.lookout import Look
from cairn_dpu.snapshot import Snapshot

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
READY_SECONDS_MOST = 30.0


def example_snapshot() -> dict[str, Any]:
    """The JSON example in docs/metrics.md, with an operation of every kind and numbers that differ from one another."""
    example: dict[str, Any] = json.loads(DOCUMENT.read_text().split("```json")[1].split("```")[0])
    put = example["operations"]["put"]
    kinds = ["put", "get", "exists", "match", "touch", "delete", "prefetch", "stats", "lease", "release", "watch"]
    example["operations"] = {kind: json.loads(json.dumps(put)) for kind in kinds}
    counter = iter(range(1, 10_000))

    def number(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: number(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [number(inner) for inner in value]
        return next(counter) if isinstance(value, int | float) and not isinstance(value, bool) else value

    numbered: dict[str, Any] = number(example)
    numbered["drives_absent"] = 0
    drive = numbered["store"]["drives"][0] | {"loaded_share": 1.0}
    second = {**drive, "uuid": "bbbb", "path": "/data/b", "state": "failed"}
    numbered["store"]["drives"] = [second, {**drive, "uuid": "aaaa", "state": "serving"}]
    return numbered


class FakeService:
    """What the admin plane may see of a service; set the attributes to tell a story."""

    def __init__(self) -> None:
        self.state = "serving"
        self.read_only = False
        self.raw = example_snapshot()
        self.error: Exception | None = None
        self.absent: list[tuple[str, str]] = []
        self.asked: list[tuple[Any, ...]] = []

    def look(self) -> Look:
        return Look(self.stats(), self.absent)

    def absent_drives(self) -> list[tuple[str, str]]:
        return self.absent

    def attach_drive(self, path: str) -> str:
        self.ask("attach", path)
        drives = self.raw["store"]["drives"]
        drives.append({**drives[0], "uuid": "cccc", "path": path, "state": "loading", "loaded_share": 0.0})
        return "cccc"

    def resume_drive(self, uuid: str) -> None:
        self.ask("resume", uuid)
        next(drive for drive in self.raw["store"]["drives"] if drive["uuid"] == uuid)["state"] = "serving"

    def drain_drive(self, uuid: str) -> None:
        self.ask("drain", uuid)
        next(drive for drive in self.raw["store"]["drives"] if drive["uuid"] == uuid)["state"] = "draining"

    def detach_drive(self, uuid: str, *, lose_what_is_left: bool) -> None:
        self.ask("detach", uuid, lose_what_is_left)

    def ask(self, *what: Any) -> None:
        self.asked.append(what)
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def stats(self) -> str:
        if self.error is not None:
            raise self.error
        return json.dumps(self.raw)

    def snapshot(self) -> Snapshot:
        return Snapshot.model_validate_json(self.stats())


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def client(service: FakeService) -> TestClient:
    """The admin API over the fake, as a program on this machine asks it."""
    headers = {"X-Cairn-Request": "1"}
    return TestClient(
        create_app(service), base_url="http://localhost:8600", headers=headers, raise_server_exceptions=False
    )


class Serving:
    """A running `cairn-dpu serve`."""

    def __init__(self, process: subprocess.Popen[str], ready_file: Path, log: Path) -> None:
        self.process = process
        self.ready_file = ready_file
        self.log_file = log

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def wait_ready(self) -> dict[str, Any]:
        until = time.monotonic() + READY_SECONDS_MOST
        while not self.ready_file.exists():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, f"not ready in time:\n{self.log}"
            time.sleep(0.02)
        ready: dict[str, Any] = json.loads(self.ready_file.read_text())
        return ready

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 20.0) -> int:
        return self.process.wait(seconds)


Serve = Callable[..., Serving]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """serve(*arguments, env=…, pass_fds=…) starts the service on a file in tmp_path, on free ports."""
    started: list[Serving] = []

    def start(
        *arguments: str,
        env: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
        program: tuple[str, ...] = ("-m", "cairn_dpu"),
    ) -> Serving:
        ready, log = tmp_path / f"ready-{len(started)}.json", tmp_path / f"log-{len(started)}"
        words = [sys.executable, *program, "serve", "--ready-file", str(ready), "--slab", "256MiB"]
        for flag, value in (("--drive", f"{tmp_path}/drive:64MiB"), ("--listen", "tcp://127.0.0.1:0")):
            if flag not in arguments:
                words += [flag, value]
        if "--admin" not in arguments:
            words += ["--admin", "127.0.0.1:0"]
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [*words, *arguments],
                stderr=stderr,
                text=True,
                env={**os.environ, **(env or {})},
                pass_fds=pass_fds,
                start_new_session=True,
            )
        started.append(Serving(process, ready, log))
        return started[-1]

    start.started = started  # type: ignore[attr-defined]
    yield start
    for serving in started:
        if serving.process.poll() is None:
            serving.process.kill()
            serving.process.wait()
