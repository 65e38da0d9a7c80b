"""What the system lets the service have: a limit that bites is named for what it is, and costs nobody else."""

import json
import os
import resource
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cairn_dpu import limits
from cairn_dpu.config import default_slab
from cairn_dpu.errors import ConfigError, ExitCode

GIB = 1024**3
MIB = 1024**2
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "33 23 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n34 23 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
HYBRID = V1 + "35 23 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
IN_POD = "33 23 0:29 /kubepods/pod7 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def machine(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text(mounts)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


CASES: list[tuple[str, str, dict[str, str], int | None]] = [
    ("0::/a/b\n", V2, {"a/b/memory.max": "max", "a/memory.max": "max"}, None),
    ("0::/a/b\n", V2, {"a/b/memory.max": str(GIB)}, GIB),
    ("0::/a/b\n", V2, {"a/b/memory.max": "max", "a/memory.max": str(GIB)}, GIB),
    ("0::/a/b\n", V2, {"a/b/memory.max": str(2 * GIB), "a/memory.max": str(GIB)}, GIB),
    ("0::/\n", V2, {"memory.max": str(GIB)}, GIB),
    ("5:memory:/a/b\n1:cpu:/\n", V1, {"memory/a/memory.limit_in_bytes": str(GIB)}, GIB),
    ("5:memory:/a\n", V1, {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, None),
    ("5:memory:/a\n0::/a\n", HYBRID, {"memory/a/memory.limit_in_bytes": str(GIB)}, GIB),
    ("5:memory:/kubepods/pod7\n", IN_POD, {"memory/memory.limit_in_bytes": str(GIB)}, GIB),
    ("5:memory:/kubepods/pod7/c\n", IN_POD, {"memory/c/memory.limit_in_bytes": str(GIB)}, GIB),
    ("", "", {}, None),
]


@pytest.mark.parametrize(("groups", "mounts", "files", "expected"), CASES)
def test_the_control_groups_limit(
    tmp_path: Path, groups: str, mounts: str, files: dict[str, str], expected: int | None
) -> None:
    found = limits.memory_limit(machine(tmp_path, groups, mounts, files))
    assert (None if found is None else found[0]) == expected


def test_a_slab_that_does_not_fit_is_told_before_the_kernel_kills(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/a\n", V2, {"a/memory.max": str(300 * MIB)})
    with pytest.raises(
        ConfigError, match=r"do not fit the memory limit of its control group, 300 MiB.*sys/fs/cgroup/a"
    ):
        limits.check_memory(256 * MIB, root)
    limits.check_memory(64 * MIB, root)


def test_the_default_slab_is_a_part_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairn_dpu.config.usable_memory", lambda: 2 * GIB)
    assert default_slab() == 512 * MIB


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


def limited(serve: Any, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, *words: str) -> Any:
    """A service that starts with those limits of descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    popen = subprocess.Popen

    def start(*arguments: Any, **named: Any) -> Any:
        return popen(*arguments, **named, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))

    monkeypatch.setattr("subprocess.Popen", start)
    serving = serve(*words)
    monkeypatch.undo()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    return serving


def test_the_soft_limit_of_descriptors_is_raised(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = limited(serve, monkeypatch, 128, 2048).wait_ready()
    line = next(row for row in Path(f"/proc/{ready['pid']}/limits").read_text().splitlines() if "open files" in row)
    assert line.split()[3:5] == ["2048", "2048"]


@pytest.mark.timeout(120)
def test_connections_that_take_every_descriptor_keep_no_operator_out(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its limit the admin API was dead, and the log had thousands of tracebacks."""
    serving = limited(serve, monkeypatch, 200, 200)
    ready = serving.wait_ready()
    port = int(ready["listen"][0].rpartition(":")[2])
    assert get(ready["admin"] + "/healthz")["state"] == "serving"
    held = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(300)]
    until = time.monotonic() + 20
    while "descriptors have run out" not in serving.log:
        assert time.monotonic() < until, serving.log
        time.sleep(0.05)
    assert len(os.listdir(f"/proc/{ready['pid']}/fd")) < 200
    for _ in range(20):
        assert get(ready["admin"] + "/healthz")["state"] == "serving"
    assert "sessions_most = 1024" in serving.log
    assert "Traceback" not in serving.log
    assert len(serving.log.splitlines()) < 60
    for connection in held:
        connection.close()
    until = time.monotonic() + 20
    while True:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.settimeout(0.5)
            try:
                if connection.recv(1) == b"":  # hung up at once
                    continue
            except TimeoutError:
                break
        assert time.monotonic() < until


def test_threads_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    program = (
        "import threading\n"
        "from cairn_dpu import cli\n"
        'def refuse(self): raise RuntimeError("can\'t start new thread")\n'
        "threading.Thread.start = refuse\n"
        "cli.main()\n"
    )
    words = ["serve", "--drive", f"{tmp_path}/drive:64MiB", "--listen", "tcp://127.0.0.1:0", "--admin", "off"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == ExitCode.FAILURE
    assert "pids.max" in done.stderr
    assert "Traceback" not in done.stderr
