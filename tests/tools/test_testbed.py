"""`tools/testbed/run`: what its command sees and how it ends. The machine itself is met only where its kernel is there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import verbs

from testbed import emulated
from testbed.run import NEEDED

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
    # A machine that boots needs these programs. One that does not never comes to them; they are asked for all the same.
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in NEEDED:
        (programs / name).symlink_to("/bin/true")
    path = f"{os.environ['PATH']}:{programs}"  # behind those that are really there
    done = run("--", "true", CAIRN_TESTBED_KERNEL=str(kernel), PATH=path)
    assert done.returncode == 125, done.stderr
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


emulates = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, emulated.NEEDED)) or not emulated.INITRAMFS.exists(),
    reason="it needs root and a machine: tools/testbed/run --emulated --make-only makes it, or says what is missing",
)


@emulates
def test_the_emulated_machine_is_the_same_to_its_command_and_keeps_streams_apart_and_whole() -> None:
    script = (
        "ls /sys/class/infiniband; ls $CAIRN_TESTBED_NAMESPACES; nproc; pwd; "
        "seq 200000; seq 100000 >&2; printf 'x\\0'; exit 7"
    )
    done = run(
        *("--emulated", "--processors", "3", "--rdma", "2", "--nvme", "2", "--nvme-mb", "64"), "--", "sh", "-c", script
    )
    first = ["rxe0", "rxe1", "/dev/ng0n1", "/dev/ng1n1", "3", os.getcwd()]
    assert done.returncode == 7, done.stderr[-2000:]
    assert done.stdout == "\n".join([*first, *map(str, range(1, 200_001)), "x\0"])
    assert done.stderr == "".join(f"{number}\n" for number in range(1, 100_001))


@emulates
def test_an_emulated_machine_that_panics_shows_its_console() -> None:
    done = run("--emulated", "--nvme", "0", "--", "sh", "-c", "echo begun; echo c >/proc/sysrq-trigger; sleep 600")
    assert done.returncode == 125
    assert done.stdout == "begun\n", "the console's lines are not the command's"
    assert "ended before the command did" in done.stderr and "sysrq" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--emulated", "--nvme-apart"), "--nvme-apart is not for --emulated"),
        (("--processors", "2"), "for --emulated only"),
        (("--emulated", "--processors", "0"), "a number from 1"),
        (("--make-only",), "is for --emulated"),
    ],
)
def test_what_the_emulated_machine_cannot_do_is_refused(words: tuple[str, ...], told: str) -> None:
    done = run(*words, "--", "true")
    assert done.returncode == 2
    assert told in done.stderr


def test_programs_that_the_emulated_machine_lacks_are_named_with_what_to_type(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("it needs root")
    (tmp_path / "python3").symlink_to(Path(sys.executable).resolve())
    done = run("--emulated", "--", "true", PATH=str(tmp_path))
    assert done.returncode == 125
    assert "sudo apt-get install" in done.stderr and "qemu-system-x86" in done.stderr and "mmdebstrap" in done.stderr


# What a tester would have lost: the last lines of a test that failed, and with them why.
@pytest.mark.parametrize("cuts", [(1,), (3, 4, 5), (4, 9), (5, 6, 7, 8, 9, 10)])
def test_the_end_of_a_stream_is_answered_and_not_handed_on(cuts: tuple[int, ...]) -> None:
    end = b"\0cairn"
    sent = b"ab\0\0c\0cairn"
    ours, guests = socket.socketpair()
    parts = emulated.received(ours, end)
    whole = b""
    with guests:
        for begin, until in zip((0, *cuts), (*cuts, len(sent)), strict=True):
            guests.sendall(sent[begin:until])
            whole += next(parts)
        assert whole == b"ab\0\0c"
        guests.shutdown(socket.SHUT_WR)
        assert b"".join(parts) == b""
        assert guests.recv(1) == b"\n"


# What a developer would have lost: an hour on a module that is installed and is not found.
def test_pyverbs_for_another_python_is_told(tmp_path: Path) -> None:
    assert "apt-get install python3-pyverbs" in verbs.why_not("3.13", str(tmp_path))
    (tmp_path / "pyverbs").mkdir()
    (tmp_path / "pyverbs" / "enums.cpython-312-x86_64-linux-gnu.so").touch()
    told = verbs.why_not("3.13", str(tmp_path))
    assert "3.13" in told and "is for 3.12" in told and "PYTHON=/usr/bin/python3.12" in told
    assert "does not load" in verbs.why_not("3.12", str(tmp_path))
