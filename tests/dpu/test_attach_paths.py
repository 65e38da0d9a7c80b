"""Paths that are no drives, at the admin API of a running service. Each of them could hold the service up for ever, or start
something by being opened."""

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairn_dpu.admin.visible import everybody_sees
from cairn_dpu.drives import attachable
from cairn_dpu.errors import ConfigError, ConflictError, NotFoundError

SIZE = 64 * 1024**2


@pytest.fixture
def leased(tmp_path: Path) -> Iterator[str]:
    """A file that nobody can open without its holder's leave, for 45 s at least."""
    path = tmp_path / "leased"
    path.write_bytes(bytes(4096))
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    with path.open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield str(path)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    signal.signal(signal.SIGIO, before)


def test_what_is_no_drive_is_told_at_once(tmp_path: Path, leased: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConflictError, match="locked by another process"):
        attachable(leased)
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null"), Path("/dev/tty")):
        with pytest.raises(ConfigError, match="neither a file nor a drive"):
            attachable(str(path))
    with pytest.raises(NotFoundError):
        attachable(str(tmp_path / "none"))
    with pytest.raises(ConfigError):
        attachable(str(tmp_path / ("x" * 300)))


def test_a_namespace_is_known_by_its_class(tmp_path: Path) -> None:
    status = os.stat("/dev/null")
    assert stat.S_ISCHR(status.st_mode)
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    (tmp_path / "class" / "nvme-generic").mkdir(parents=True)
    (tmp_path / "dev" / "char" / number).mkdir(parents=True)
    (tmp_path / "dev" / "char" / number / "subsystem").symlink_to(tmp_path / "class" / "nvme-generic")
    assert attachable("/dev/null", tmp_path) == "/dev/null"


def test_who_sees_what(tmp_path: Path) -> None:
    public = Path("/")
    assert everybody_sees("/dev/null")
    assert everybody_sees("/no such folder/at all")
    private = tmp_path / "private"
    private.mkdir(0o700)
    assert not everybody_sees(f"{private}/x")
    assert not everybody_sees(f"{private}/deeper/x")
    (tmp_path / "link").symlink_to(private)
    assert not everybody_sees(f"{tmp_path}/link/x")
    assert everybody_sees(str(public))


def order(admin: str, path: str) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"path": path}).encode()
    headers = {"Content-Type": "application/json", "X-Request-Id": "order-7"}
    request = urllib.request.Request(f"{admin}/api/v1/drives", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_service_tells_no_stranger_what_it_sees(serve: Any, tmp_path: Path, leased: str) -> None:
    """The answers to what is missing, forbidden, locked and something else were four different ones."""
    serving = serve()
    ready = serving.wait_ready()
    hidden = tmp_path / "hidden"
    (hidden / "folder").mkdir(parents=True)
    os.mkfifo(hidden / "pipe")
    (hidden / "else").write_bytes(b"precious" * 4096)
    os.link(leased, hidden / "leased")
    hidden.chmod(0o700)
    answers = set()
    for path in (hidden / "none", hidden / "pipe", hidden / "else", hidden / "folder", hidden / "leased"):
        code, problem = order(ready["admin"], str(path))
        assert problem.pop("request_id") == "order-7"
        answers.add((code, json.dumps(problem).replace(str(path), "PATH")))
        assert f"the drive {path} was not attached: " in serving.log, "its log does say why"
    assert len(answers) == 1
    assert "(request_id=order-7)" in serving.log


def test_relative_paths_are_those_of_the_caller(serve: Any, tmp_path: Path) -> None:
    serving = serve()
    admin = serving.wait_ready()["admin"].removeprefix("http://")

    def drives(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cairn_dpu", "drives", *words, "--admin", admin]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    formatted = [sys.executable, "-m", "cairn_dpu", "format", "--drive", "second", "--size", "64MiB", "--yes"]
    subprocess.run(formatted, cwd=tmp_path, check=True, capture_output=True)
    attached = drives("attach", "second")
    assert attached.returncode == 0, attached.stderr
    assert f"{tmp_path}/second" in attached.stdout
    assert drives("detach", "second", "--lose-what-is-left").returncode == 0
    advice = drives("attach", "third:64MiB")
    assert advice.returncode != 0
    assert "cairn-dpu format" in advice.stderr
