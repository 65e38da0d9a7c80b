"""`make demo`, in small: it ends well, says so, and leaves nothing behind."""

from __future__ import annotations

import json
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 1 << 30
DEMO = Path(__file__).parents[2] / "tools" / "demo.py"


def run_demo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEMO), "--dir", str(folder), "--drive-size", "1GiB", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_kill_in_the_middle_over_both_transports(short_dir: Path) -> None:
    done = run_demo(short_dir, "--requests", "150", "--trace", "synthetic", "-o", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["requests"] == 150 and report["wrong_bytes"] == report["lost_acknowledged"] == 0
    assert report["disruption"]["at_request"] == 75 and report["disruption"]["recovered_blocks"] > 0
    assert [url.partition(":")[0] for url in report["urls"]] == ["shm", "tcp"]
    assert list(short_dir.iterdir()) == [], "something was left behind"


def test_a_table_a_person_can_read(short_dir: Path) -> None:
    done = run_demo(short_dir, "--requests", "40", "--trace", "synthetic", "--transport", "shm", "--clients", "1")
    assert done.returncode == 0, done.stderr
    for words in (
        "hit ratio",
        "infinite cache",
        "wrong bytes",
        "acknowledged blocks lost",
        "warm again",
        "Where to look next",
    ):
        assert words in done.stdout
    assert "demo: killed" in done.stderr and "\x1b[" not in done.stdout + done.stderr


def test_ctrl_c_cleans_up(short_dir: Path) -> None:
    command = [sys.executable, str(DEMO), "--dir", str(short_dir), "--drive-size", "1GiB", "--trace", "synthetic"]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stderr is not None
    while "replaying," not in demo.stderr.readline():
        assert demo.poll() is None
    demo.send_signal(signal.SIGINT)
    _, errors = demo.communicate()
    assert demo.returncode == 130 and "Traceback" not in errors
    assert list(short_dir.iterdir()) == []


@pytest.mark.parametrize(("free_gib", "chosen_gib"), [(100, 4), (5, 4), (4.9, 3.75), (2, 1)])
def test_a_disk_with_little_room_gets_a_smaller_drive(
    free_gib: float, chosen_gib: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    choose = runpy.run_path(str(DEMO))["choose_drive_bytes"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, int(free_gib * GIB)))  # type: ignore[attr-defined]
    assert choose(Path("/somewhere"), 4 * GIB) == chosen_gib * GIB
    assert ("taking a drive of" in capsys.readouterr().err) is (chosen_gib < 4)


def test_a_disk_without_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = runpy.run_path(str(DEMO))["choose_drive_bytes"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, GIB))  # type: ignore[attr-defined]
    with pytest.raises(SystemExit, match="/somewhere has 1 GiB free, and the demo needs 1.5 GiB.*--dir"):
        choose(Path("/somewhere"), 4 * GIB)
