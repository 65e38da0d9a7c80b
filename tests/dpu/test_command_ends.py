"""How both commands end when nobody reads what they print, when there is no room for it, and when somebody presses Ctrl-C.
There were tracebacks, and exit codes that say something else."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cairn_dpu import _native
from cairn_dpu.errors import ExitCode

DPU, CLIENT = [sys.executable, "-m", "cairn_dpu"], [sys.executable, "-m", "cairnkv"]


@pytest.fixture
def drive(tmp_path: Path) -> str:
    _native.format_drive(f"{tmp_path}/drive", create_bytes=64 * 1024**2)
    return f"{tmp_path}/drive"


def commands(drive: str) -> list[list[str]]:
    return [
        [*DPU, "version"],
        [*DPU, "inspect", "--drive", drive],
        [*DPU, "inspect", "--drive", drive, "-o", "json"],
        [*DPU, "--version"],
        [*CLIENT, "version"],
        [*CLIENT, "--version"],
    ]


@pytest.mark.parametrize("which", range(6))
def test_nobody_reads_the_output(drive: str, which: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(commands(drive)[which], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (ExitCode.BROKEN_PIPE, "")


@pytest.mark.parametrize("which", range(6))
def test_there_is_no_room_for_the_output(drive: str, which: int) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(commands(drive)[which], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == ExitCode.FAILURE
    assert "standard output: No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# A child that gets SIGINT when it imports what only the command needs: the earliest moment that is ours.
INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{late}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["{name}", "version"]
from {package}.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("package", "name", "late"), [("cairn_dpu", "cairn-dpu", "typer"), ("cairnkv", "cairn", "typer")]
)
def test_ctrl_c_while_it_still_begins(package: str, name: str, late: str) -> None:
    program = INTERRUPTED.format(package=package, name=name, late=late)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode in (ExitCode.INTERRUPTED, -signal.SIGINT)
    assert "Traceback" not in done.stderr
