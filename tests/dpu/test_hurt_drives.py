"""Drives that fail, fill, take no more writes, and are well again: told in the log and at /healthz, and made to serve again
without a threat to what they hold."""

import json
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from admin_problems import problem_of
from fastapi.testclient import TestClient

from cairn_dpu import lookout
from cairn_dpu.errors import ConflictError, ExitCode, ServiceError

SECONDS_MOST = 40.0
BLOCK = bytes(range(256)) * 256


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS_MOST
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@contextmanager
def writes_fail(process: int) -> Iterator[None]:
    """Every write to a file fails with EFBIG, as those to a volume that is full for a while fail with ENOSPC."""
    before = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, before)


class Story:
    """A service on one drive, and blocks that were acknowledged."""

    def __init__(self, serving: Any, tmp_path: Path) -> None:
        self.serving = serving
        self.ready = serving.wait_ready()
        self.path = f"{tmp_path}/drive"
        self._file = tmp_path / "block"
        self._file.write_bytes(BLOCK)
        self._copy = tmp_path / "copy"

    def cairn(self, *words: str) -> int:
        command = [sys.executable, "-m", "cairnkv", *words, "--server", self.ready["listen"][0]]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode

    def put(self, key: str) -> bool:
        return self.cairn("put", key, str(self._file)) == 0

    def has(self, key: str) -> bool:
        self._copy.unlink(missing_ok=True)
        return self.cairn("get", key, str(self._copy)) == 0 and self._copy.read_bytes() == BLOCK

    def drives(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cairn_dpu", "drives", *words, "--admin", self.ready["admin"]]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def health(self) -> Any:
        return get(self.ready["admin"] + "/healthz")


@pytest.mark.timeout(240)
def test_a_drive_whose_writes_failed_for_a_while_serves_again(serve: Any, tmp_path: Path) -> None:
    """It was read-only until somebody dared `--lose-what-is-left`, and no line told of it."""
    story = Story(serve(), tmp_path)
    assert story.put("before")
    with writes_fail(story.ready["pid"]):
        for number in range(4):
            assert not story.put(f"while-{number}")
        until(lambda: story.health()["state"] == "degraded", "the drive is well although nothing can be written")
        [hurt] = story.health()["hurt"]
        assert (hurt["path"], hurt["state"]) == (story.path, "read_only")
        assert "writes fail, one after another" in hurt["reason"]
        assert hurt["id"] in story.serving.log
        refused = story.drives("resume", story.path)
        assert refused.returncode == ExitCode.CONFLICT, refused.stderr
        assert "as bad as before" in refused.stderr
        assert story.has("before"), "what it has is served"
    resumed = story.drives("resume", story.path)
    assert resumed.returncode == 0, resumed.stderr
    assert story.health()["state"] == "serving"
    assert story.put("after")
    assert story.has("before")
    assert story.has("after")
    log = story.serving.log
    assert log.count("takes no more blocks, and what it has is served: writes fail") == 1
    assert log.count("is well again and takes blocks") == 1
    story.serving.signal(signal.SIGTERM)
    assert story.serving.wait() == 0
    again = Story(serve(), tmp_path)
    assert again.has("before")
    assert again.has("after")


@pytest.mark.timeout(240)
def test_nobody_has_to_ask(serve: Any, tmp_path: Path) -> None:
    story = Story(serve(), tmp_path)
    assert story.put("before")
    with writes_fail(story.ready["pid"]):
        for number in range(4):
            story.put(f"while-{number}")
        until(lambda: story.health()["state"] == "degraded", "it is well")
    until(lambda: story.health()["state"] == "serving", "it was never tried again")
    assert story.put("after")
    assert story.has("before")


def drive(**what: Any) -> dict[str, Any]:
    return {"uuid": "u-7", "path": "/dev/x", "state": "serving", "reason": "", "evicted_segments": 0} | what


@pytest.mark.parametrize(
    ("before", "now", "line"),
    [
        (
            drive(),
            drive(state="failed", reason="reads fail"),
            "the drive /dev/x (u-7) has failed and its blocks are misses: reads fail",
        ),
        (drive(), drive(state="read_only", reason="EIO"), "takes no more blocks, and what it has is served: EIO"),
        (None, drive(state="read_only", reason="EIO"), "takes no more blocks, and what it has is served: EIO"),
        (drive(state="read_only", reason="EIO"), drive(), "is well again and takes blocks"),
        (drive(state="read_only", reason="EIO"), drive(state="read_only", reason="ENOSPC"), "is read_only: ENOSPC"),
        (drive(), drive(state="draining"), "is being emptied"),
        (drive(state="draining"), drive(state="drained"), "is empty and can be let go"),
        (drive(), drive(evicted_segments=1), "is full: from now on its oldest blocks make room for new ones"),
        (drive(), drive(), None),
        (None, drive(), None),
        (None, drive(state="loading"), None),
        (drive(state="loading"), drive(), None),
        (drive(state="loading"), drive(state="read_only"), None),
        (drive(evicted_segments=1), drive(evicted_segments=2), None),
    ],
)
def test_each_change_is_one_line(before: Any, now: Any, line: str | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cairn_dpu.drives")
    lookout.tell(before, now)
    assert [record.getMessage().endswith(line or "?") for record in caplog.records] == ([True] if line else [])
    for record in caplog.records:
        assert "/dev/x (u-7)" in record.getMessage()


def test_a_service_that_does_not_answer_is_not_well() -> None:
    looks: list[Any] = [lookout.Look('{"store": {"drives": [], "members_reason": ""}}', [])]

    def take() -> lookout.Look:
        if not looks:
            raise ServiceError("the reactor did not answer within 2 s")
        one: lookout.Look = looks.pop()
        return one

    watching = lookout.Lookout(take)
    with pytest.raises(ServiceError):
        watching.latest()
    watching.look()
    assert watching.latest().absent == []
    object.__setattr__(watching.latest(), "taken", time.monotonic() - lookout.STALE_SECONDS - 1)
    watching.look()
    with pytest.raises(ServiceError, match="the reactor did not answer"):
        watching.latest()


def test_an_order_to_resume(client: TestClient, service: Any) -> None:
    assert client.post("/api/v1/drives/bbbb/resume").json()["state"] == "serving"
    assert service.asked == [("resume", "bbbb")]
    service.resume_drive = lambda uuid: (_ for _ in ()).throw(ConflictError("it is as bad as before"))
    assert problem_of(client.post("/api/v1/drives/bbbb/resume"), "drive_unwell")["detail"] == "it is as bad as before"
    problem_of(client.post("/api/v1/drives/zzzz/resume"), "no_such_drive")


def test_a_store_that_waits_for_drives_is_alive_and_not_ready(client: TestClient, service: Any) -> None:
    """A balancer sends nothing to a service that would answer with misses only; nobody restarts it for that."""
    for drive in service.raw["store"]["drives"]:
        drive["state"] = "serving"
    assert client.get("/readyz").status_code == 200
    service.raw["store"] |= {"members_state": "waiting", "members_reason": "2 of the 3 drives are missing"}
    health = client.get("/healthz")
    assert (health.status_code, health.json()["state"]) == (200, "degraded")
    assert [one["reason"] for one in health.json()["hurt"]] == ["2 of the 3 drives are missing"]
    assert problem_of(client.get("/readyz"), "unwell")["detail"] == "2 of the 3 drives are missing"
