"""`tools/testbed/run`: what its command sees and how it ends. The machine itself is met only where its kernel is there."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
import verbs

ROOT = Path(__file__).parents[2]
RUN = ROOT / "tools" / "testbed" / "run"
KERNELS = (
    Path(os.environ.get("CAIRN_TESTBED_KERNEL", "/nowhere")),
    ROOT.parent / "shared" / "testbed" / "linux-uml",
    ROOT / "build" / "testbed" / "linux-uml",
)

boots = pytest.mark.skipif(
    os.geteuid() != 0 or not any(kernel.exists() for kernel in KERNELS),
    reason="it needs root and a kernel: tools/testbed/build-kernel makes one",
)


def run(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CAIRN_TESTBED_N")}
    return subprocess.run(
        [str(RUN), *words], capture_output=True, text=True, check=False, env={**environment, **settings}
    )


def test_help_teaches() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("CAIRN_TESTBED_DRIVES", "CAIRN_TESTBED_KERNEL", "build-kernel", "--nvme-mb", "124", "125"):
        assert word in done.stdout


def test_a_kernel_that_is_none_is_named() -> None:
    done = run("--", "true", CAIRN_TESTBED_KERNEL="/nowhere/linux-uml")
    assert done.returncode == 125
    assert "/nowhere/linux-uml" in done.stderr


def test_a_kernel_that_does_not_boot_shows_its_console(tmp_path: Path) -> None:
    kernel = tmp_path / "linux-uml"
    kernel.write_text("#!/bin/sh\necho no such luck\n")
    kernel.chmod(0o755)
    if os.geteuid() != 0:
        pytest.skip("it needs root")
    done = run("--", "true", CAIRN_TESTBED_KERNEL=str(kernel))
    assert done.returncode == 125
    assert "did not come up" in done.stderr and "no such luck" in done.stderr


@boots
def test_the_command_finds_devices_its_folder_and_its_environment() -> None:
    script = 'ls /sys/class/infiniband; ls $CAIRN_TESTBED_NAMESPACES; pwd; echo "$ODD"; echo to stderr >&2; exit 7'
    done = run("--nvme", "2", "--nvme-mb", "64", "--", "sh", "-c", script, ODD="two\nlines and a '\"$")
    assert done.returncode == 7, done.stderr
    assert done.stdout.split("\n") == ["rxe0", "/dev/ng0n1", "/dev/ng1n1", os.getcwd(), "two", "lines and a '\"$", ""]
    assert done.stderr == "to stderr\n"


# What an engineer would have lost: the truth about overlap, where a drive's copies are taken from the processor that is measured.
@boots
def test_drives_apart_keep_what_is_written_and_cost_the_machine_little() -> None:
    script = (
        "cat /sys/kernel/config/nvmet/subsystems/*/namespaces/1/device_path; "
        "head -c 16777216 /dev/urandom >$FOLDER/bytes; dd if=$FOLDER/bytes of=/dev/nvme1n1 bs=1M oflag=direct; "
        "dd if=/dev/nvme1n1 bs=1M count=16 iflag=direct | cmp - $FOLDER/bytes && free -m | awk '/^Mem/ {print $2}'"
    )
    with tempfile.TemporaryDirectory() as folder:
        done = run(
            *("--nvme", "2", "--nvme-mb", "8192", "--nvme-apart", "--mem", "1024"),
            *("--", "sh", "-c", script),
            FOLDER=folder,
        )
    assert done.returncode == 0, done.stderr
    *backing, memory_mb = done.stdout.split()
    assert backing == ["/dev/ubda", "/dev/ubdb"]
    assert int(memory_mb) <= 1024, "the namespaces lie in the machine's own memory"


@boots
def test_a_command_that_takes_too_long_is_ended() -> None:
    done = run("--nvme", "0", "--timeout", "5", "--", "sleep", "600")
    assert done.returncode == 124
    assert "time-out after 5 s" in done.stderr


# What a developer would have lost: an hour on a module that is installed and is not found.
def test_pyverbs_for_another_python_is_told(tmp_path: Path) -> None:
    assert "apt-get install python3-pyverbs" in verbs.why_not("3.13", str(tmp_path))
    (tmp_path / "pyverbs").mkdir()
    (tmp_path / "pyverbs" / "enums.cpython-312-x86_64-linux-gnu.so").touch()
    told = verbs.why_not("3.13", str(tmp_path))
    assert "3.13" in told and "is for 3.12" in told and "PYTHON=/usr/bin/python3.12" in told
    assert "does not load" in verbs.why_not("3.12", str(tmp_path))
