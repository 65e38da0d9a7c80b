"""`local:DIR`: a private service that comes with its first client and goes with its last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cairnkv
from cairnkv import ConnectError, InUseError, UsageError, local, process
from cairnkv.local import LocalUrl, parse_local

SIZE = "?size=256MiB"


def pids_of_services(folder: Path) -> list[int]:
    """Processes of cairn-dpu that own the directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"serve" in words and any(word.startswith(f"{folder}/drive.cairn".encode()) for word in words):
                found.append(int(entry.name))
    return found


def await_gone(pid: int, seconds: float = 20) -> None:
    """Until no such process is left."""
    until = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists() and b"Z (zombie)" not in Path(f"/proc/{pid}/status").read_bytes():
        assert time.monotonic() < until, f"process {pid} did not end"
        time.sleep(0.01)


def test_it_starts_keeps_and_stops(short_dir: Path) -> None:
    folder = short_dir / "made" / "on the way"
    with cairnkv.connect(f"local:{folder}{SIZE}") as client:
        assert client.put_one("key", b"kept").ok
        assert client.info()["transport"] == "shm"
        [pid] = pids_of_services(folder)
    assert pids_of_services(folder) == [] and not Path(f"/proc/{pid}").exists()
    assert (folder / "drive.cairn").stat().st_size == 256 << 20
    with cairnkv.connect(f"local:{folder}") as client:
        assert client.get_bytes("key")[1] == b"kept"
        assert client.stats()["store"]["scanned_segments"] == 0, "it was not stopped cleanly"


def test_clients_of_one_process_share_it(short_dir: Path) -> None:
    first = cairnkv.connect(f"local:{short_dir}{SIZE}")
    second = cairnkv.connect(f"local:{short_dir}/../{short_dir.name}")
    first.put_one("key", b"x")
    assert len(pids_of_services(short_dir)) == 1
    first.close()
    assert second.exists(["key"])[0]
    second.close()
    assert pids_of_services(short_dir) == []


def test_another_process_is_refused(short_dir: Path) -> None:
    script = f"import cairnkv; cairnkv.connect('local:{short_dir}')"
    with cairnkv.connect(f"local:{short_dir}{SIZE}"):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"InUseError: {short_dir} is in use by process {os.getpid()}" in done.stderr
    assert "cairn-dpu serve" in done.stderr


def test_a_killed_parent_takes_it_along(short_dir: Path) -> None:
    script = f"import cairnkv, sys; c = cairnkv.connect('local:{short_dir}{SIZE}'); c.put_one('key', b'x'); print('up', flush=True); sys.stdin.read()"
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None and parent.stdout.readline() == b"up\n"
    [pid] = pids_of_services(short_dir)
    parent.kill()
    parent.communicate()
    # Connecting while the old service is still leaving waits for it.
    with cairnkv.connect(f"local:{short_dir}") as client:
        assert client.exists(["key"])[0]
    await_gone(pid)


def test_a_script_that_forgets_to_close_stops_it_all_the_same(short_dir: Path) -> None:
    script = f"import cairnkv; c = cairnkv.connect('local:{short_dir}{SIZE}'); c.put_one('key', b'x')"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert pids_of_services(short_dir) == []


def test_a_forked_child_leaves_it_alone(short_dir: Path) -> None:
    script = f"""
import cairnkv, os
client = cairnkv.connect('local:{short_dir}{SIZE}')
client.put_one('key', b'x')
child = os.fork()
if child == 0:
    assert client.exists(['key'])[0].status is cairnkv.Status.unreachable
    try:
        client.alloc(1)
    except cairnkv.ClosedError as error:
        assert 'connect again here' in str(error)
        raise SystemExit(0)  # runs the exit handlers
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert client.exists(['key'])[0], 'the child hung up for its parent'
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_long_path_gets_a_short_socket(short_dir: Path) -> None:
    folder = short_dir / ("long-" * 20)
    with cairnkv.connect(f"local:{folder}{SIZE}") as client:
        [service] = local._services.values()
        path = Path(service.url.removeprefix("shm://"))
        assert len(str(path)) <= 107 and path.parent != folder
        assert path.parent.stat().st_mode & 0o077 == 0
        assert client.put_one("key", b"x").ok
    assert not path.parent.exists()


def test_a_service_that_died_is_told(short_dir: Path) -> None:
    with cairnkv.connect(f"local:{short_dir}{SIZE}") as client:
        [pid] = pids_of_services(short_dir)
        os.kill(pid, signal.SIGKILL)
        assert not client.put_one("key", b"x").ok
        until = time.monotonic() + 10
        while local._services[short_dir.resolve()].process.running():
            assert time.monotonic() < until
        with pytest.raises(ConnectError, match="has ended by itself"):
            cairnkv.connect(f"local:{short_dir}")
    with cairnkv.connect(f"local:{short_dir}") as again:
        assert again.put_one("key", b"x").ok


def test_a_service_that_cannot_start_says_why_in_its_own_words(short_dir: Path) -> None:
    (short_dir / "drive.cairn").write_bytes(b"somebody's thesis" * 1000)
    with pytest.raises(ConnectError, match="(?s)ended with exit status .*drive.cairn"):
        cairnkv.connect(f"local:{short_dir}")
    assert (short_dir / "drive.cairn").read_bytes().startswith(b"somebody's thesis")
    (short_dir / "drive.cairn").unlink()
    cairnkv.connect(f"local:{short_dir}{SIZE}").close()


def test_a_service_that_is_not_installed(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "COMMAND", "cairn-dpu-that-nobody-installed")
    with pytest.raises(
        ConnectError, match="install the package cairn-dpu, or connect to a service that runs elsewhere"
    ):
        cairnkv.connect(f"local:{short_dir}")


def test_a_service_that_does_not_come_up_in_time(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = short_dir / "sleeper"
    sleeper.write_text("#!/bin/sh\necho 'still thinking' >&2\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(process, "find_command", lambda: str(sleeper))
    service = process.ServiceProcess(short_dir, drive="x:1GiB", listen=["shm:///x"])
    with pytest.raises(ConnectError, match="was not ready after 0 s"):
        service.start(seconds=0.1)
    assert not service.running()


def test_settings_of_another_service_do_not_leak_in(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAIRN_DPU_CONFIG", "/nonexistent/cairn.toml")
    monkeypatch.setenv("CAIRN_DPU_READ_ONLY", "true")
    with cairnkv.connect(f"local:{short_dir}{SIZE}") as client:
        assert client.put_one("key", b"x").ok


def test_a_directory_that_cannot_be_made(short_dir: Path) -> None:
    (short_dir / "file").write_text("")
    with pytest.raises(ConnectError, match="cannot use the directory"):
        cairnkv.connect(f"local:{short_dir}/file/inside")


def test_what_the_url_says() -> None:
    assert parse_local("local:/a/b") == LocalUrl(Path("/a/b"), "8GiB", "256MiB")
    assert parse_local("local:a?slab=1GiB&size=1.5TB") == LocalUrl(Path("a"), "1.5TB", "1GiB")
    assert parse_local("local:~/x").folder == Path.home() / "x"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("local:", "names no directory"),
        ("local:/a?colour=red", "'colour' is unknown; a local: URL takes size and slab"),
        ("local:/a?size=8", "'8' is no size; write a number with a unit, such as size=8GiB"),
        ("local:/a?size=", "is no size"),
        ("local:/a?size=8GiB --yes", "is no size"),
    ],
)
def test_what_the_url_may_not_say(url: str, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("?", "\\?")):
        parse_local(url)


def test_in_use_is_a_connect_error() -> None:
    assert issubclass(InUseError, ConnectError)
