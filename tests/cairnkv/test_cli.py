"""The command `cairn`: results on stdout, words on stderr, an exit code that says what happened, and never a traceback."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from cairnkv import Status, cli
from cairnkv.commands import output
from cairnkv.commands.options import explain, worst
from cairnkv.errors import ConnectError, InUseError, UsageError, error_for
from cairnkv.keys import derive_key
from cairnkv.process import ServiceProcess
from cairnkv.testing import RunningService
from cairnkv.version import __version__

Fresh = Callable[[], str]
COMMANDS = [
    "put", "get", "exists", "match", "rm", "lease", "release", "events", "stats", "bench", "replay", "doctor", "version",
]  # fmt: skip


class Done(NamedTuple):
    code: int
    out: bytes
    err: bytes


class Cairn:
    """Runs the command: within this process, or (`process`) in one of its own, as from a shell."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder

    def run(self, *words: str, stdin: bytes = b"", **environment: str) -> Done:
        settings = {"CAIRN_SERVERS": self.url, "COLUMNS": "200", **environment}
        done = CliRunner().invoke(cli.app, words, input=stdin, env=settings)
        assert b"Traceback" not in done.stderr_bytes + done.stdout_bytes
        return Done(done.exit_code, done.stdout_bytes, done.stderr_bytes)

    def process(self, *words: str, stdin: bytes = b"", **environment: str) -> Done:
        settings = {**os.environ, "CAIRN_SERVERS": self.url, "COLUMNS": "200", **environment}
        command = [sys.executable, "-m", "cairnkv", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, cwd=self.folder, env=settings, check=False)
        assert b"Traceback" not in done.stderr + done.stdout
        return Done(done.returncode, done.stdout, done.stderr)

    def __call__(self, *words: str, code: int = 0, stdin: bytes = b"", **environment: str) -> bytes:
        done = self.run(*words, stdin=stdin, **environment)
        assert done.code == code, (words, done)
        return done.out

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self(*words, "-o", "json", code=code))

    def told(self, *words: str, code: int, **environment: str) -> str:
        """What a person reads when it goes wrong."""
        done = self.run(*words, **environment)
        assert done.code == code, (words, done)
        return " ".join(done.err.decode().split())


@pytest.fixture
def cairn(running: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_settings: None) -> Cairn:
    monkeypatch.chdir(tmp_path)
    return Cairn(running.tcp_url, tmp_path)


@pytest.fixture
def key(fresh: Callable[[], bytes]) -> str:
    return fresh().hex()


def test_put_and_get_a_file(cairn: Cairn, key: str, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "in").write_bytes(data)
    assert cairn("put", key, "in") == f"stored {key} (300000 bytes)\n".encode()
    assert cairn("get", key, "out") == b""
    assert (tmp_path / "out").read_bytes() == data
    assert cairn("get", key) == cairn("get", key, "-") == data
    assert (tmp_path / "out").stat().st_mode & 0o777 == (tmp_path / "in").stat().st_mode & 0o777


def test_put_and_get_from_a_shell(cairn: Cairn, key: str) -> None:
    assert cairn.process("put", key, "-", stdin=b"through a pipe") == (0, f"stored {key} (14 bytes)\n".encode(), b"")
    assert cairn.process("get", key) == (0, b"through a pipe", b"")
    code, out, err = cairn.process("get", "absent")
    assert (code, out) == (3, b"") and err == b"cairn: absent: No block is stored under this key, tenant and layout.\n"
    assert cairn.process("version") == (0, f"cairn {__version__}\n".encode(), b"")
    assert cairn.process("putt").code == 2


def test_the_first_writer_wins(cairn: Cairn, key: str) -> None:
    cairn("put", key, "-", stdin=b"first")
    done = cairn.run("put", key, "-", stdin=b"second")
    assert done.code == 5 and b"first writer's bytes are kept" in done.err and done.out == b""
    assert b"is there already" in cairn("put", key, "-", "--exist-ok", stdin=b"second")
    assert cairn("get", key) == b"first"


def test_exists_rm_and_match(cairn: Cairn, key: str) -> None:
    cairn("put", key, "-", stdin=b"x")
    assert cairn("exists", key) == f"{key}  yes\n".encode()
    assert cairn("exists", key, "absent", code=3) == f"{key}  yes\nabsent  no\n".encode()
    assert cairn("match", key, key, "absent", key) == b"2\n"
    assert cairn("rm", key) == f"{key}  deleted\n".encode()
    assert cairn("rm", key, code=3) == f"{key}  not found\n".encode()
    assert "No block is stored" in cairn.told("get", key, code=3)


def test_json(cairn: Cairn, key: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"hello")
    put = cairn.json("put", key, "in")
    assert put == {"key": key, "status": "ok", "nbytes": 5, "sequence": put["sequence"]}
    assert cairn.json("put", key, "in", code=5)["status"] == "exists"
    assert cairn.json("get", key, "out") == {"key": key, "status": "ok", "nbytes": 5, "file": "out"}
    assert cairn.json("get", "absent", "out", code=3)["status"] == "not_found"
    assert cairn.json("exists", key, "absent", code=3) == [
        {"key": key, "exists": True, "status": "ok"},
        {"key": "absent", "exists": False, "status": "not_found"},
    ]
    assert cairn.json("match", key) == {"matched": 1, "keys": 1}
    assert cairn.json("rm", key) == [{"key": key, "deleted": True, "status": "ok"}]
    assert cairn.json("stats")["store"]["drives"][0]["state"] == "serving"


def test_options_stand_anywhere(cairn: Cairn, running: RunningService, key: str) -> None:
    assert cairn(
        "put", "--server", running.shm_url, key, "-", "--ttl", "600000", "--relaxed", stdin=b"x", CAIRN_SERVERS=""
    )
    assert cairn("exists", key, "-s", running.shm_url, CAIRN_SERVERS="")
    assert cairn("exists", key, "--layout", "7", code=3)
    assert cairn("exists", key, "--tenant", "other", code=3)
    assert cairn("exists", key, "--deadline", "5000")


def test_get_replaces_a_file_whole_or_not_at_all(cairn: Cairn, key: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("before")
    kept.chmod(0o640)
    cairn("get", key, "kept", code=3)
    assert kept.read_text() == "before"
    cairn("put", key, "-", stdin=b"after")
    cairn("get", key, "kept")
    assert kept.read_text() == "after" and kept.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert cairn("get", key, "/dev/null") == b""
    assert "No such file" in cairn.told("get", key, "nowhere/file", code=1)


def test_a_terminal_is_spared_what_is_not_text(cairn: Cairn, key: str, running: RunningService) -> None:
    def on_terminal(*words: str) -> tuple[int, bytes]:
        master, slave = pty.openpty()
        environment = {**os.environ, "CAIRN_SERVERS": running.tcp_url}
        done = subprocess.run(
            [sys.executable, "-m", "cairnkv", *words],
            stdout=slave,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
        )
        os.close(slave)
        try:
            seen = os.read(master, 4096)
        except OSError:
            seen = b""
        os.close(master)
        return done.returncode, seen or done.stderr

    cairn("put", key, "-", stdin=b"\x1b[31m\x00binary")
    code, seen = on_terminal("get", key)
    assert code == 2 and b"is not text" in seen
    assert on_terminal("get", key, "--force") == (0, b"\x1b[31m\x00binary")
    cairn("put", key + "-text", "-", stdin="größe\n".encode())
    assert on_terminal("get", key + "-text") == (0, "größe\r\n".encode())


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["put", "key"], 2, "Missing argument 'FILE'"),
        (["putt", "key"], 2, "No such command 'putt'"),
        (["put", "key", "absent-file"], 3, "absent-file: No such file or directory"),
        (["put", "key", "."], 2, ". is a directory; a block is one file"),
        (["put", "key", "-"], 2, "standard input is empty; a block has at least 1 byte"),
        (["put", "x" * 513, "-"], 2, ""),
        (["get", "key", "-o", "json"], 2, "cairn get KEY FILE -o json"),
        (["get", "key", "-o", "yaml"], 2, "yaml"),
        (["stats", "--deadline", "0"], 2, "deadline"),
        (["exists"], 2, "Missing argument 'KEY"),
        (["stats", "-s", "rdma://host:port"], 2, "rdma://HOST:PORT"),
        (["stats", "-s", "host:9600"], 2, "is no URL of a service; forms: auto://HOST:PORT, rdma://HOST:PORT"),
        (["stats", "-s", "tcp://127.0.0.1:1"], 1, "is the service running"),
        (["bench", "--block-size", "64"], 2, "write a number with a unit, such as 64KiB"),
        (["bench", "--block-size", "65MiB"], 2, "a block has 1 B to 64 MiB, not 65MiB"),
        (["replay", "absent.jsonl"], 2, "cannot read the trace absent.jsonl: No such file"),
        (["replay", "synthetic", "--start", "99999"], 1, "nothing to replay"),
        (["replay", "synthetic", "--block-size", "big"], 2, "'big' is no size"),
    ],
)
def test_mistakes_are_told_what_to_type_instead(cairn: Cairn, words: list[str], code: int, told: str) -> None:
    assert told in cairn.told(*words, code=code)


def test_no_service_is_named(cairn: Cairn) -> None:
    assert "add --server URL or set CAIRN_SERVERS" in cairn.told("stats", code=2, CAIRN_SERVERS="")
    assert "CAIRN_DEADLINE_MS is a number" in cairn.told("stats", code=2, CAIRN_DEADLINE_MS="soon")


def test_a_file_larger_than_a_block(cairn: Cairn, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as large:
        large.truncate((64 << 20) + 1)
    assert "is larger than a block may be (64 MiB)" in cairn.told("put", "key", "large", code=2)


def test_a_broken_pipe_is_quiet(cairn: Cairn, key: str, running: RunningService) -> None:
    cairn("put", key, "-", stdin=os.urandom(2_000_000))
    line = f"{sys.executable} -m cairnkv get {key} -s {running.tcp_url} | head -c 10 | wc -c"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("10", "")


def test_colour_only_where_it_is_wanted(cairn: Cairn) -> None:
    for words in (["stats"], ["doctor"], ["--help"]):
        assert b"\x1b[" not in cairn(*words, NO_COLOR="1")


def test_stats_for_a_person(cairn: Cairn, key: str) -> None:
    cairn("put", key, "-", stdin=b"x")
    shown = cairn("stats").decode()
    for word in ("version", "listens on", "hit ratio", "operation", "drive.cairn", "serving"):
        assert word in shown


def test_bench(cairn: Cairn) -> None:
    words = ["bench", "--block-size", "4KiB", "--count", "50", "--depth", "7", "--threads", "2"]
    found = cairn.json(*words)
    assert [phase["name"] for phase in found["phases"]] == ["put", "exists", "get"]
    assert all(
        phase["items"] == 50 and phase["failed"] == {} and phase["wrong_blocks"] == 0 for phase in found["phases"]
    )
    assert found["phases"][2]["gb_per_s"] > 0 and found["phases"][1]["gb_per_s"] == 0
    assert b"GB/s" in cairn(*words, "--no-verify", "--relaxed")


def test_replay(cairn: Cairn, tmp_path: Path) -> None:
    rows = [{"timestamp": at, "input_length": 1024, "output_length": 1, "hash_ids": [0, at % 3]} for at in range(20)]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = cairn.json("replay", "trace.jsonl", "--block-size", "4KiB", "--clients", "1")
    assert found["requests"] == 20 and found["wrong_bytes"] == 0 and found["lost_acknowledged"] == 0
    assert found["prefix_hit_ratio"] == found["infinite_cache_hit_ratio"]
    part = cairn.json(
        "replay", "trace.jsonl", "--block-size", "4KiB", "--start", "5", "--count", "3", "--speed", "1000"
    )
    assert part["requests"] == 3
    shown = cairn("replay", "-", "--duration", "0.004", stdin=(tmp_path / "trace.jsonl").read_bytes()).decode()
    assert "5 requests" in shown and "wrong bytes" in shown


def test_doctor(cairn: Cairn, running: RunningService) -> None:
    findings = cairn.json("doctor")
    levels = {finding["name"]: finding["level"] for finding in findings}
    assert levels["round trip"] == levels["connect"] == levels["native module"] == levels["drive"] == "ok"
    assert all(finding["advice"] for finding in findings if finding["level"] != "ok")
    shown = cairn("doctor").decode()
    assert re.search(r"^ok +round trip: 64 KiB, every byte checked", shown, re.MULTILINE)
    without = cairn("doctor", CAIRN_SERVERS="").decode()
    assert "warn  service: none is named — add --server URL" in without
    automatic = cairn("doctor", "-s", running.tcp_url.replace("tcp:", "auto:")).decode()
    assert re.search(
        r"^warn +connect: auto://.* over tcp, .*; not over RDMA: .+ — if RDMA should work", automatic, re.MULTILINE
    )
    failing = cairn("doctor", "-s", "tcp://127.0.0.1:1", code=1).decode()
    assert "fail  connect: cannot reach the service at tcp://127.0.0.1:1" in failing


# What somebody lost who pasted the README into a shell: the first put came before the service listened.
def test_doctor_waits_for_a_service_that_is_on_its_way(cairn: Cairn, short_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as early:
        port = early.getsockname()[1]
        command = [sys.executable, "-m", "cairnkv", "doctor", "--wait", "100", "-s", f"tcp://127.0.0.1:{port}"]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE)
        early.accept()[0].close()  # it has tried
    service = ServiceProcess(short_dir, drive=f"{short_dir}/drive:64MiB", listen=[f"tcp://127.0.0.1:{port}"])
    try:
        service.start()
        shown, _ = waiting.communicate(timeout=100)
    finally:
        waiting.kill()
        service.kill()
    assert waiting.returncode == 0, shown
    assert b"round trip: 64 KiB, every byte checked" in shown


def test_doctor_waits_no_longer_than_it_was_told(cairn: Cairn) -> None:
    failing = cairn("doctor", "-s", "tcp://127.0.0.1:1", "--wait", "0.2", code=1).decode()
    assert "fail  connect: cannot reach the service at tcp://127.0.0.1:1" in failing
    assert "no service is named" in cairn.told("doctor", "--wait", "1", code=2, CAIRN_SERVERS="")
    assert "leave --server" in cairn.told("doctor", "--hardware", "--wait", "1", code=2)


def test_a_private_service(cairn: Cairn, short_dir: Path) -> None:
    url = f"local:{short_dir}?size=256MiB"
    cairn("put", "key", "-", "-s", url, stdin=b"kept")
    assert cairn("get", "key", "-s", url) == b"kept"


def test_version_and_help(cairn: Cairn) -> None:
    assert cairn("version") == f"cairn {__version__}\n".encode()
    shown = cairn("--help").decode()
    for command in COMMANDS:
        assert re.search(rf"^│ {command}\b", shown, re.MULTILINE), command
        helped = cairn(command, "--help").decode()
        assert "Example" in helped or command == "version", command
    assert b"Usage" in cairn.run().out + cairn.run().err


def test_the_documented_commands_are_these() -> None:
    registered = [info.name or getattr(info.callback, "__name__", "") for info in cli.app.registered_commands]
    assert registered == COMMANDS
    document = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for command in COMMANDS:
        assert f"## cairn {command}" in document, command


def test_exit_codes() -> None:
    told = {status: explain(error_for(status))[1] for status in Status if status != Status.ok}
    assert told[Status.not_found] == told[Status.corrupt] == 3
    assert (told[Status.denied], told[Status.exists], told[Status.timeout], told[Status.busy]) == (4, 5, 6, 1)
    assert explain(ConnectError("x", Status.denied)) == ("x", 4)
    assert explain(InUseError("x"))[1] == 5 and explain(UsageError("x"))[1] == 2
    assert explain(PermissionError(13, "Permission denied", "/x")) == ("/x: Permission denied", 4)
    assert explain(KeyboardInterrupt()) == ("interrupted", 130)
    assert explain(ZeroDivisionError("oh")) == ("internal error, please report it: ZeroDivisionError: oh", 1)
    assert worst([Status.ok, Status.not_found]) == 3 and worst([Status.not_found, Status.timeout]) == 6
    assert (told[Status.leased], told[Status.lease_too_long], told[Status.group_too_large]) == (5, 2, 2)
    assert worst([]) == worst([Status.ok]) == 0


def test_an_internal_error_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("cairnkv.commands.stats.open_client", broken)
    done = CliRunner().invoke(cli.app, ["stats"])
    assert done.exit_code == 1
    assert done.stderr == "cairn: internal error, please report it: ZeroDivisionError: oh\n"
    monkeypatch.setenv("CAIRN_DEBUG", "1")
    assert "Traceback" in CliRunner().invoke(cli.app, ["stats"]).stderr


@pytest.mark.parametrize("columns", ["80", "200"])
def test_statistics_are_whole_in_a_pipe(cairn: Cairn, columns: str) -> None:
    """At 80 columns, which a pipe has as well, the table of drives was cut to dots."""
    shown = cairn("stats", COLUMNS=columns).decode()
    assert "…" not in shown
    drive = json.loads(cairn("stats", "-o", "json"))["store"]["drives"][0]["path"]
    [line] = [row for row in shown.splitlines() if row.startswith(drive)]
    assert "serving" in line and "512 MiB" in line and line.endswith(" 0")


def test_statistics_are_whole_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    monkeypatch.setattr(output.OwnConsole, "is_terminal", True)
    monkeypatch.setattr(output.OwnConsole, "width", 80)
    output.print_table(("drive", "state", "size"), [("/var/lib/" + "x" * 60, "serving", "64 GiB free of 128 GiB")])
    assert "…" not in written.getvalue()
    assert "x" * 60 in written.getvalue() and "64 GiB free of 128 GiB" in written.getvalue()


def test_flags_take_no_value_and_the_version_is_one(cairn: Cairn) -> None:
    for words in ([], ["put"], ["bench"]):
        assert b"bool" not in cairn(*words, "--help").lower()
    assert cairn("--version") == f"cairn {__version__}\n".encode()


def test_a_file_that_cannot_be_written_is_no_miss(cairn: Cairn, key: str) -> None:
    """Exit code 3 says that there is no block."""
    cairn("put", key, "-", stdin=b"x")
    done = cairn.run("get", key, "/nodir/x")
    assert (done.code, done.out) == (1, b"")
    assert done.err == b"cairn: cannot write /nodir/x: No such file or directory\n"
    assert cairn.run("put", f"{key}-2", "/nodir/x").code == 3
    full = cairn.run("get", key, "/dev/full")
    assert (full.code, b"No space left" in full.err) == (1, True)


def test_groups_scopes_and_deletes_by_name(cairn: Cairn, key: str) -> None:
    group = ["--group", f"{key}-group", "--group-members", "2"]
    cairn("put", f"{key}-0", "-", *group, stdin=b"x")
    cairn("exists", f"{key}-0", code=3)
    cairn("put", f"{key}-1", "-", *group, stdin=b"x")
    assert cairn("match", f"{key}-0", f"{key}-1") == b"2\n"
    assert cairn("rm", "--group", f"{key}-group") == f"group {key}-group  deleted\n".encode()
    cairn("exists", f"{key}-0", f"{key}-1", code=3)
    cairn("put", key, "-", "--scope", f"{key}-scope", "--ttl", "1h", stdin=b"x")
    assert cairn.json("rm", "--scope", f"{key}-scope") == {
        "deleted": True, "what": f"scope {key}-scope", "status": "ok",
    }  # fmt: skip
    cairn("exists", key, code=3)
    cairn("put", key, "-", "--layout", "77", "--tenant", key, stdin=b"x")
    cairn("put", key, "-", "--layout", "78", "--tenant", key, stdin=b"x")
    assert "add --yes" in cairn.told("rm", "--layout-all", "--layout", "77", "--tenant", key, code=2)
    cairn("rm", "--layout-all", "--layout", "77", "--tenant", key, "--yes")
    cairn("exists", key, "--layout", "77", "--tenant", key, code=3)
    cairn("exists", key, "--layout", "78", "--tenant", key)
    assert f"every block of the tenant of '{key}'" in cairn.told("rm", "--tenant-all", "--tenant", key, code=2)
    assert cairn("rm", "--tenant-all", "--tenant", key, "--yes") == f"tenant {key}  deleted\n".encode()
    cairn("exists", key, "--layout", "78", "--tenant", key, code=3)
    assert "name what to delete" in cairn.told("rm", code=2)
    assert "name what to delete" in cairn.told("rm", key, "--scope", "s", code=2)


def test_a_lease_outlives_its_command(cairn: Cairn, key: str) -> None:
    cairn("put", key, "-", stdin=b"x")
    assert cairn("lease", key, "--for", "30s") == f"{key}  leased\n".encode()
    assert "is leased" in cairn.told("rm", key, code=5)
    assert cairn("release", key) == f"{key}  released\n".encode()
    assert cairn("release", key, code=3) == f"{key}  no lease\n".encode()
    assert cairn.json("lease", key, "absent", code=3) == [
        {"key": key, "leased": True, "status": "ok"},
        {"key": "absent", "leased": False, "status": "not_found"},
    ]
    assert "longer than the service grants" in cairn.told("lease", key, "--for", "2h", code=2)
    assert "write a positive whole number with a unit" in cairn.told("lease", key, "--for", "soon", code=2)


def test_events(cairn: Cairn, key: str) -> None:
    mine = ["--tenant", key]
    assert cairn("events", *mine) == b""
    cairn("put", key, "-", *mine, stdin=b"x")
    cairn("rm", key, *mine)
    lines = [json.loads(line) for line in cairn("events", *mine, "-o", "json").splitlines()]
    assert [(line["number"], line["kind"]) for line in lines] == [(1, "stored"), (2, "deleted")]
    assert {line["key"] for line in lines} == {derive_key(key).hex()}
    assert re.match(
        rf"2  \d{{4}}-.*Z  deleted   key={derive_key(key).hex()}", cairn("events", "--after", "1", *mine).decode()
    )


def test_events_are_followed_until_interrupted(cairn: Cairn, key: str) -> None:
    mine = ["--tenant", key, "-o", "json"]
    command = [sys.executable, "-m", "cairnkv", "events", "--follow", "--after", "0", *mine, "-s", cairn.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:
        assert following.stdout is not None
        cairn("put", key, "-", "--tenant", key, stdin=b"x")
        assert json.loads(following.stdout.readline())["kind"] == "stored"
        cairn("rm", key, "--tenant", key)
        assert json.loads(following.stdout.readline())["kind"] == "deleted"
        following.send_signal(signal.SIGINT)
        _, told = following.communicate(timeout=20)
        assert (following.returncode, told) == (130, b"cairn: interrupted\n")
