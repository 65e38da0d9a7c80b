"""The real process: start, ready, signals, drain, and the starts it refuses."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cairn_dpu import _native
from cairn_dpu.errors import ExitCode
from cairn_dpu.snapshot import Snapshot


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_a_service_starts_answers_and_drains(serve: Any, tmp_path: Path) -> None:
    serving = serve("--listen", "tcp://127.0.0.1:0", "--listen", f"shm://{tmp_path}/cairn.sock")
    ready = serving.wait_ready()
    assert ready["pid"] == serving.process.pid
    assert ready["version"] == _native.version()
    assert [url.partition(":")[0] for url in ready["listen"]] == ["tcp", "shm"]
    socket.create_connection(("127.0.0.1", port_of(ready["listen"][0])), 5).close()
    assert get(ready["admin"] + "/healthz")["state"] == "serving"
    assert get(ready["admin"] + "/api/v1/system")["listeners"] == ready["listen"]

    serving.signal(signal.SIGTERM)
    assert serving.wait() == ExitCode.OK
    assert "is serving on tcp://127.0.0.1:" in serving.log
    assert "every drive is sealed" in serving.log
    assert not serving.ready_file.exists()


def test_the_native_statistics_have_the_documented_shape(serve: Any) -> None:
    ready = serve().wait_ready()
    raw = get(ready["admin"] + "/api/v1/stats")
    snapshot = Snapshot.model_validate(raw)
    assert not snapshot.model_extra
    assert not snapshot.store.model_extra
    assert not snapshot.store.drives[0].model_extra
    kinds = {"put", "get", "exists", "match", "touch", "delete", "prefetch", "stats", "lease", "release", "watch"}
    assert set(snapshot.operations) == kinds
    assert raw.keys() == Snapshot.model_fields.keys()
    with urllib.request.urlopen(ready["admin"] + "/metrics", timeout=5) as response:
        assert f'cairn_drive_info{{drive="{snapshot.store.drives[0].uuid}"' in response.read().decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_service_stops_at_once(serve: Any, number: signal.Signals) -> None:
    serving = serve()
    ready = serving.wait_ready()
    get(ready["admin"] + "/healthz")  # an idle keep-alive connection must not hold the stop back
    began = time.monotonic()
    serving.signal(number)
    assert serving.wait() == ExitCode.OK
    assert time.monotonic() - began < 3.0


def test_it_starts_again_on_the_same_drive(serve: Any) -> None:
    uuids = []
    for _ in range(2):
        serving = serve()
        ready = serving.wait_ready()
        uuids.append(get(ready["admin"] + "/api/v1/drives")["items"][0]["id"])
        serving.signal(signal.SIGTERM)
        assert serving.wait() == ExitCode.OK
    assert uuids[0] == uuids[1]


def test_kill_9_and_start_again(serve: Any) -> None:
    first = serve()
    first.wait_ready()
    first.signal(signal.SIGKILL)
    first.wait()
    assert serve().wait_ready()["listen"]


def test_the_lifelines_end_stops_it(serve: Any) -> None:
    reader, writer = os.pipe()
    serving = serve("--lifeline-fd", str(reader), pass_fds=(reader,))
    os.close(reader)
    serving.wait_ready()
    os.close(writer)
    assert serving.wait() == ExitCode.OK
    assert "the lifeline's end" in serving.log


def test_a_lifeline_that_is_not_open(serve: Any) -> None:
    serving = serve("--lifeline-fd", "987")
    assert serving.wait() == ExitCode.USAGE
    assert "lifeline_fd: 987 is not an open" in serving.log


def test_a_signal_while_it_opens_is_heard(serve: Any) -> None:
    serving = serve("--log-level", "debug")
    while "opening" not in serving.log:
        assert serving.process.poll() is None
        time.sleep(0.005)
    serving.signal(signal.SIGTERM)
    assert serving.wait(5) == ExitCode.OK


SLOW_STOP = """
import time
from cairn_dpu import service
from cairn_dpu.cli import main
service.Service.stop = lambda self: time.sleep(60)
main()
"""


def test_a_signal_right_after_ready_drains(serve: Any) -> None:
    """The main thread once took a signal of this moment for one before the start, and left without sealing the drives."""
    for _ in range(5):
        serving = serve()
        serving.wait_ready()
        serving.signal(signal.SIGTERM)
        assert serving.wait() == ExitCode.OK
        assert "every drive is sealed" in serving.log
        assert not serving.ready_file.exists()


def test_a_second_signal_ends_it_at_once(serve: Any) -> None:
    serving = serve(program=("-c", SLOW_STOP))
    serving.wait_ready()
    serving.signal(signal.SIGTERM)
    while "draining" not in serving.log:
        assert serving.process.poll() is None, serving.log
        time.sleep(0.005)
    serving.signal(signal.SIGTERM)
    assert serving.wait(5) == ExitCode.FAILURE
    assert "stopped at once by a second SIGTERM" in serving.log


HUNG_DRIVE = """
import threading
from cairn_dpu.service import Service
Service.stop = lambda self: threading.Event().wait()
Service.unsealed = lambda self: ["/dev/ng9n9"]
from cairn_dpu.cli import main
main()
"""


# What a user would have lost: every restart, to a drive that answers no more.
def test_a_drive_that_does_not_answer_holds_no_shutdown_up(serve: Any) -> None:
    serving = serve("--drain-timeout", "200ms", "--seal-timeout", "300ms", program=("-c", HUNG_DRIVE))
    serving.wait_ready()
    began = time.monotonic()
    serving.signal(signal.SIGTERM)
    assert serving.wait() == ExitCode.OK, "nothing that was acknowledged is lost"
    assert time.monotonic() - began < 10
    assert "the drive /dev/ng9n9 was not sealed in 0.5 s" in serving.log
    assert "stopped all the same" in serving.log


def test_remote_listening_is_refused(serve: Any) -> None:
    for words in (("--listen", "tcp://0.0.0.0:0"), ("--admin", "0.0.0.0:0")):
        serving = serve(*words)
        assert serving.wait() == ExitCode.USAGE
        assert "no credentials yet" in serving.log
    allowed = serve("--listen", "tcp://0.0.0.0:0", "--allow-remote-without-credentials")
    assert allowed.wait_ready()["listen"][0].startswith("tcp://")


def test_a_drive_that_is_missing(serve: Any, tmp_path: Path) -> None:
    serving = serve("--drive", str(tmp_path / "none"))
    assert serving.wait() == ExitCode.NOT_FOUND
    assert f"{tmp_path}/none does not exist" in serving.log
    assert "Traceback" not in serving.log


@pytest.mark.parametrize("content", [b"precious" * 1024, b"\0" * 1024**2])
def test_a_drive_without_a_store_is_refused_and_left_alone(serve: Any, tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "other"
    other.write_bytes(content)
    os.truncate(other, 64 * 1024**2)
    serving = serve("--drive", str(other))
    assert serving.wait() == ExitCode.CONFLICT
    assert str(other) in serving.log
    assert "Traceback" not in serving.log
    with other.open("rb") as file:
        assert file.read(len(content)) == content


def test_a_drive_in_use_is_refused(serve: Any, tmp_path: Path) -> None:
    serve().wait_ready()
    second = serve()
    assert second.wait() == ExitCode.CONFLICT
    assert f"{tmp_path}/drive is in use" in second.log
    assert "Traceback" not in second.log
    for words in (["check"], ["inspect"], ["format", "--yes"], ["format", "--yes", "--overwrite"]):
        command = [sys.executable, "-m", "cairn_dpu", *words, "--drive", f"{tmp_path}/drive"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert done.returncode == ExitCode.CONFLICT
        assert "Stop the service first" in done.stderr or "stop the service first" in done.stderr


def test_ports_in_use(serve: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        admin = serve("--admin", f"127.0.0.1:{port}")
        assert admin.wait() == ExitCode.CONFLICT
        assert f"cannot listen on 127.0.0.1:{port}" in admin.log
        data = serve("--listen", f"tcp://127.0.0.1:{port}")
        assert data.wait() in (ExitCode.FAILURE, ExitCode.CONFLICT)
        assert str(port) in data.log


def test_without_admin(serve: Any) -> None:
    assert serve("--admin", "off").wait_ready()["admin"] is None


def test_json_logs(serve: Any) -> None:
    serving = serve("--log-format", "json")
    serving.wait_ready()
    serving.signal(signal.SIGTERM)
    serving.wait()
    entries = [json.loads(line) for line in serving.log.splitlines()]
    assert {"time", "level", "message"} <= entries[0].keys()
    assert entries[-1]["message"].endswith("every drive is sealed")


def test_systemd_hears_of_it(serve: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(20)
        serving = serve(env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"})
        assert manager.recv(4096).startswith(b"READY=1\nSTATUS=serving on tcp://")
        assert manager.recv(4096) == b"WATCHDOG=1"
        serving.signal(signal.SIGTERM)
        while (heard := manager.recv(4096)) == b"WATCHDOG=1":
            pass
        assert heard == b"STOPPING=1"
        assert serving.wait() == ExitCode.OK
