"""The command `cairn-dpu`: what it prints where, and its exit codes. No traceback reaches a person."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cairn_dpu import _native, cli
from cairn_dpu.config import SETTINGS
from cairn_dpu.errors import ExitCode

SIZE = 64 * 1024**2
COMMANDS = ("serve", "format", "inspect", "check", "scrub", "inventory", "version")
DRIVES_COMMANDS = ("list", "attach", "drain", "resume", "detach")


class Outcome:
    """What one run of the command gave."""

    def __init__(self, result: Any) -> None:
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr
        assert "Traceback" not in self.out + self.err or result.exception is None, result.output


def cairn_dpu(*words: str, env: dict[str, str] | None = None) -> Outcome:
    # Wide and plain, so that a sentence is not cut by the terminal's width.
    return Outcome(CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "200", "NO_COLOR": "1", **(env or {})}))


@pytest.fixture
def drive(tmp_path: Path) -> str:
    path = str(tmp_path / "drive")
    _native.format_drive(path, create_bytes=SIZE)
    return path


def test_help_teaches() -> None:
    top = cairn_dpu("--help")
    assert top.code == ExitCode.OK
    for command in COMMANDS:
        assert command in top.out
    for command in set(COMMANDS) - {"version"}:
        text = cairn_dpu(command, "-h").out
        assert "Example" in text, command
        assert f"cairn-dpu {command} --" in text, command


def test_help_on_the_drives_of_a_running_service() -> None:
    assert "drives" in cairn_dpu("--help").out
    top = cairn_dpu("drives", "--help").out
    for command in DRIVES_COMMANDS:
        assert command in top
        assert f"cairn-dpu drives {command}" in cairn_dpu("drives", command, "-h").out


def test_no_words_at_all_shows_the_help() -> None:
    assert "cairn-dpu serve --drive" in cairn_dpu().out + cairn_dpu().err


def test_serve_has_a_flag_for_every_setting() -> None:
    text = cairn_dpu("serve", "--help").out
    for setting in SETTINGS:
        assert setting.flag in text


def test_flags_take_no_value() -> None:
    """Each of them was shown as `<bool>`, as if one had to be given."""
    for words in ([], ["serve"], ["format"], ["drives"], ["drives", "detach"]):
        assert "bool" not in cairn_dpu(*words, "--help").out.lower()


def test_version() -> None:
    assert cairn_dpu("--version").out == f"cairn-dpu {_native.version()}\n"
    assert cairn_dpu("version").out == f"cairn-dpu {_native.version()}\n"


@pytest.mark.parametrize(
    "words", [["serv"], ["serve", "--nope"], ["inspect"], ["inspect", "--drive"], ["format", "--yes"]]
)
def test_usage_errors(words: list[str]) -> None:
    assert cairn_dpu(*words).code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["serve"], "no drive: name at least one"),
        (["serve", "--drive", "/x", "--slab", "huge"], "--slab: 'huge' is not a size"),
        (["serve", "--drive", "/x", "--listen", "tcp://0.0.0.0:9600"], "has no credentials yet"),
        (["serve", "--config", "/nowhere/c.toml"], "cannot read the configuration file /nowhere/c.toml"),
        (["inspect", "--drive", "/x", "-o", "yaml"], "--output: 'yaml' is neither table nor json"),
        (["format", "--drive", "/x", "--size", "big", "--yes"], "--size: 'big' is not a size"),
        (["format", "--drive", "/x:1GiB"], "Nothing was written; add --yes"),
        (["check", "--drive", ""], "--drive: a drive needs a path"),
        (["drives", "list", "--admin", "here"], "--admin: "),
        (["drives", "list", "--admin", "off"], "it cannot be off"),
        (["drives", "list", "-o", "yaml"], "--output: 'yaml' is neither table nor json"),
    ],
)
def test_settings_errors_are_one_sentence(words: list[str], sentence: str) -> None:
    outcome = cairn_dpu(*words)
    assert (outcome.code, outcome.out) == (ExitCode.USAGE, "")
    assert sentence in outcome.err
    assert outcome.err.startswith("cairn-dpu: ")
    assert outcome.err.count("\n") == 1


def test_the_environment_is_read() -> None:
    assert "CAIRN_DPU_SLAB: 'x'" in cairn_dpu("serve", "--drive", "/x", env={"CAIRN_DPU_SLAB": "x"}).err


@pytest.mark.parametrize("command", ["inspect", "check"])
def test_a_missing_drive(command: str, tmp_path: Path) -> None:
    outcome = cairn_dpu(command, "--drive", str(tmp_path / "none"))
    assert outcome.code == ExitCode.NOT_FOUND
    assert str(tmp_path / "none") in outcome.err


def test_format_asks_for_an_order(drive: str, tmp_path: Path) -> None:
    before = Path(drive).read_bytes()[: 1 << 20]
    assert cairn_dpu("format", "--drive", drive).code == ExitCode.USAGE
    refused = cairn_dpu("format", "--drive", drive, "--yes")
    assert refused.code == ExitCode.CONFLICT
    assert "holds a Cairn store" in refused.err
    assert "--overwrite" in refused.err
    assert Path(drive).read_bytes()[: 1 << 20] == before
    done = cairn_dpu("format", "--drive", drive, "--yes", "--overwrite")
    assert (done.code, done.out) == (ExitCode.OK, f"{drive} now holds an empty store, 64 MiB\n")
    assert Path(drive).read_bytes()[: 1 << 20] != before


def test_a_drive_of_another_fleet_is_refused_by_name(tmp_path: Path) -> None:
    # A drive that was moved from another fleet would be emptied, or would bring its blocks into ours.
    ours, theirs = "7c1d3c0e-5f0b-4f5e-9a35-0d7a6a1f2b11", "00000000-0000-4000-8000-000000000001"
    path = str(tmp_path / "drive")
    assert cairn_dpu("format", "--drive", path, "--size", "64MiB", "--yes", "--fleet", "ours").code == ExitCode.USAGE
    assert cairn_dpu("format", "--drive", path, "--size", "64MiB", "--yes", "--fleet", theirs).code == ExitCode.OK
    assert json.loads(cairn_dpu("inspect", "--drive", path, "-o", "json").out)["fleet"] == theirs
    listen = ["--listen", f"shm://{tmp_path}/s.sock", "--admin", "off"]
    words = [sys.executable, "-m", "cairn_dpu", "serve", "--drive", path, *listen, "--fleet", ours]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.CONFLICT
    assert f"belongs to another fleet ({theirs})" in done.stderr


def test_format_creates_a_file(tmp_path: Path) -> None:
    for words in (["--drive", f"{tmp_path}/a:64MiB"], ["--drive", f"{tmp_path}/b", "--size", "64MiB"]):
        assert cairn_dpu("format", *words, "--yes").code == ExitCode.OK
    assert cairn_dpu("format", "--drive", f"{tmp_path}/c", "--yes").code == ExitCode.NOT_FOUND


def test_inspect_prints_the_same_twice_over(drive: str) -> None:
    report = json.loads(cairn_dpu("inspect", "--drive", drive, "-o", "json").out)
    assert report == json.loads(_native.inspect_drive(drive))
    table = cairn_dpu("inspect", "--drive", drive).out
    assert report["uuid"] in table
    assert "64 MiB" in table


@pytest.mark.parametrize("command", ["check", "scrub"])
def test_check_of_a_sound_drive(command: str, drive: str) -> None:
    outcome = cairn_dpu(command, "--drive", drive, "-o", "json")
    assert outcome.code == ExitCode.OK
    assert json.loads(outcome.out)["findings"] == []


@pytest.mark.parametrize("command", ["check", "scrub"])
def test_check_finds_damage(command: str, drive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = "segment 3, offset 4096: the payload does not fit its checksum"
    report = {
        "segments": 7,
        "records": 9,
        "payload_bytes": 0,
        "bad_records": 1,
        "bad_segments": 0,
        "findings": [finding],
    }
    progress: list[bool] = []

    def check(path: str, advance: Any) -> str:
        progress.extend(advance(done, 100) for done in (0, 50, 100))
        return json.dumps(report)

    monkeypatch.setattr(_native, "check_drive", check)
    outcome = cairn_dpu(command, "--drive", drive)
    assert outcome.code == ExitCode.FAILURE
    assert finding in outcome.out
    assert "has damage" in outcome.err
    assert progress == [True, True, True]


def test_damage_to_the_superblock(drive: str) -> None:
    """There are two copies, on the first page and at 64 KiB: one may be lost."""
    with open(drive, "r+b") as file:
        file.write(b"x" * 4096)
    assert cairn_dpu("inspect", "--drive", drive).code == ExitCode.OK
    with open(drive, "r+b") as file:
        file.seek(64 * 1024)
        file.write(b"x" * 4096)
    for command in ("inspect", "check"):
        outcome = cairn_dpu(command, "--drive", drive)
        assert outcome.code == ExitCode.CONFLICT
        assert drive in outcome.err


def test_what_is_no_store(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious".ljust(1 << 20, b"x"))
    outcome = cairn_dpu("inspect", "--drive", str(other))
    assert outcome.code == ExitCode.CONFLICT
    assert str(other) in outcome.err


def test_debug_shows_the_traceback() -> None:
    script = "import sys; from cairn_dpu.cli import main; sys.argv = ['cairn-dpu', 'inspect', '--drive', '/none', *sys.argv[1:]]; main()"
    plain = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    debug = subprocess.run([sys.executable, "-c", script, "--debug"], capture_output=True, text=True)
    assert plain.returncode == debug.returncode == ExitCode.NOT_FOUND
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr
    assert plain.stderr.splitlines()[-1] == debug.stderr.splitlines()[-1]


def test_a_mistake_of_ours_is_a_sentence_too(drive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "inspect_drive", lambda _: "no JSON")
    outcome = cairn_dpu("inspect", "--drive", drive)
    assert outcome.code == ExitCode.FAILURE
    assert "this is a mistake of ours (JSONDecodeError" in outcome.err
    assert outcome.err.count("\n") == 1


def test_ctrl_c_is_one_sentence(drive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: str, advance: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(_native, "check_drive", interrupted)
    outcome = cairn_dpu("check", "--drive", drive)
    assert (outcome.code, outcome.err) == (ExitCode.INTERRUPTED, "cairn-dpu: interrupted\n")
