#!/usr/bin/env python3
"""Runs a command where there is RDMA and NVMe, also on a machine that has neither.

    tools/testbed/run -- ibv_devices
    tools/testbed/run --nvme 2 -- build/native/drive_test --gtest_filter='*Nvme*'
    tools/testbed/run --nvme 4 --nvme-mb 512 --timeout 60 -- bash -c 'nvme list; rdma link'

It boots a second Linux kernel as an ordinary process (User-Mode Linux), in about two seconds, on this machine's own
root file system: the command sees the same files, tools and virtual environments, in the same folder, with the same
environment, and what it writes to disk is written here. In there are an RDMA device (rxe0, at 10.77.0.1) or more and NVMe
namespaces (/dev/nvme0n1, /dev/ng0n1, …) that forget everything when it ends. docs/testbed.md says what it is not.

The command is told what it has:
    CAIRN_TESTBED=1                                    it runs in a testbed
    CAIRN_TESTBED_ADDRESS=10.77.0.1                    the address of the RDMA device
    CAIRN_TESTBED_ADDRESSES="10.77.0.1 10.77.0.2"      of all of them, with --rdma 2
    CAIRN_TESTBED_NAMESPACES="/dev/ng0n1 /dev/ng1n1"   namespaces whose contents it may destroy

On a machine with RDMA of its own, name namespaces, whose contents will be lost, and the command runs right there:
    CAIRN_TESTBED_DRIVES="/dev/ng3n1" tools/testbed/run -- …
A drive that is not named there is never touched.

With --emulated it is QEMU that boots, and Debian's own kernel: --processors of them, and the address space of a real machine,
as AddressSanitizer and ThreadSanitizer need it. Slow, and everything else is the same:
    tools/testbed/run --emulated --nvme 0 -- build/sanitize-address/transport_test --gtest_filter='*/rdma*'
Its kernel is unpacked into build/testbed/emulated at the first run.

The other one's kernel is CAIRN_TESTBED_KERNEL, else build/testbed/linux-uml, which tools/testbed/build-kernel makes, else
../shared/testbed/linux-uml beside the checkout. The exit status is the command's own; 124: it took too
long; 125: the machine did not come up, or ended before the command did.
"""

import argparse
import contextlib
import fcntl
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/

from cairn_guest.building import BuildError
from testbed import emulated
from testbed.machine import Machine, boot, end_of_console

ROOT = Path(__file__).resolve().parents[2]
GUEST = Path(__file__).resolve().parent / "guest.sh"
KERNELS = (ROOT / "build" / "testbed" / "linux-uml", ROOT.parent / "shared" / "testbed" / "linux-uml")
ADDRESSES = "10.77.0.{}"  # the first device has number 1
RDMA_MOST = 8
PROCESSORS_MOST = 64
TIMED_OUT = 124
NOT_BOOTED = 125
BOOT_SECONDS_MOST = 60.0
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NOT_HANDED_ON = {"_", "SHLVL", "PWD", "OLDPWD"}
NEEDED = {"taskset": "util-linux", "ip": "iproute2", "rdma": "iproute2", "losetup": "mount", "stty": "coreutils"}


def say(sentence: str) -> None:
    sys.stderr.write(f"testbed: {sentence}\n")


def stop(sentence: str) -> NoReturn:
    say(sentence)
    raise SystemExit(NOT_BOOTED)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/testbed/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--emulated",
        action="store_true",
        help="in QEMU, for what needs several processors or a whole address space: the sanitizers",
    )
    parser.add_argument(
        "--processors",
        type=int,
        metavar="N",
        help=f"processors of the emulated machine (default: {emulated.PROCESSORS}); the other one has one",
    )
    parser.add_argument(
        "--make-only", action="store_true", help="make the emulated machine, say what it lacks, and end"
    )
    parser.add_argument("--rdma", type=int, default=1, metavar="N", help="RDMA devices (default: %(default)s)")
    parser.add_argument("--nvme", type=int, default=1, metavar="N", help="namespaces (default: %(default)s)")
    parser.add_argument(
        "--nvme-apart",
        action="store_true",
        help="another processor of this machine moves the namespaces' bytes, as a drive's own hardware does",
    )
    parser.add_argument("--nvme-mb", type=int, default=1024, metavar="MB", help="size of each (default: %(default)s)")
    parser.add_argument(
        "--mem",
        type=int,
        default=0,
        metavar="MB",
        help="memory of the machine (default: 3072, and what the namespaces take)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=570,
        metavar="S",
        help="seconds it may take, boot included (default: %(default)s)",
    )
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="and its arguments, behind --")
    arguments = parser.parse_args()
    if arguments.make_only and not arguments.emulated:
        parser.error("--make-only is for --emulated")
    if not arguments.command and not arguments.make_only:
        parser.error("the following arguments are required: COMMAND")
    if not 1 <= arguments.rdma <= RDMA_MOST:
        parser.error(f"--rdma is a number from 1 to {RDMA_MOST}")
    if arguments.processors is not None and not (arguments.emulated and 1 <= arguments.processors <= PROCESSORS_MOST):
        parser.error(f"--processors is a number from 1 to {PROCESSORS_MOST}, and for --emulated only")
    if arguments.emulated and arguments.nvme_apart:
        parser.error(
            "--nvme-apart is not for --emulated: QEMU emulates the processors, so there is no speed to measure"
        )
    arguments.processors = arguments.processors or emulated.PROCESSORS
    inside = 0 if arguments.nvme_apart or arguments.emulated else arguments.nvme * arguments.nvme_mb
    arguments.mem = arguments.mem or 3072 + inside
    return arguments


def testbed_environment(addresses: list[str], namespaces: list[str]) -> dict[str, str]:
    return {
        **os.environ,
        "CAIRN_TESTBED": "1",
        "CAIRN_TESTBED_ADDRESS": addresses[0] if addresses else "",
        "CAIRN_TESTBED_ADDRESSES": " ".join(addresses),
        "CAIRN_TESTBED_NAMESPACES": " ".join(namespaces),
    }


def own_rdma_addresses() -> list[str]:
    """One of each RDMA device of this machine that has an address."""
    addresses = []
    for device in sorted(Path("/sys/class/infiniband").glob("*/ports/*/gid_attrs/ndevs/0")):
        try:
            interface = device.read_text().strip()
        except OSError:  # a port that is down
            continue
        found = subprocess.run(
            ["ip", "-json", "-4", "address", "show", "dev", interface], capture_output=True, check=False
        )
        of_device = [info["local"] for link in json.loads(found.stdout or "[]") for info in link.get("addr_info", [])]
        addresses += [str(address) for address in of_device[:1]]
    return addresses


def run_here(arguments: argparse.Namespace, addresses: list[str], namespaces: list[str]) -> int:
    if len(namespaces) < arguments.nvme:
        stop(f"--nvme {arguments.nvme}, but there are only these: {' '.join(namespaces) or 'none'}")
    if len(addresses) < arguments.rdma:
        stop(f"--rdma {arguments.rdma}, but this machine has these addresses: {' '.join(addresses) or 'none'}")
    environment = testbed_environment(addresses, namespaces[: arguments.nvme])
    try:
        return subprocess.run(arguments.command, env=environment, timeout=arguments.timeout, check=False).returncode
    except subprocess.TimeoutExpired:
        say(f"time-out after {arguments.timeout:g} s")
        return TIMED_OUT


def find_kernel() -> Path:
    named = os.environ.get("CAIRN_TESTBED_KERNEL")
    for kernel in [Path(named)] if named else KERNELS:
        if os.access(kernel, os.X_OK):
            return kernel.resolve()
    if named:
        stop(f"CAIRN_TESTBED_KERNEL is {named}, which is no program that can be run")
    stop("there is no kernel for it yet: tools/testbed/build-kernel makes one, in about ten minutes")


def write_command(folder: Path, arguments: argparse.Namespace) -> None:
    namespaces = [f"/dev/ng{number}n1" for number in range(arguments.nvme)]
    addresses = [ADDRESSES.format(number) for number in range(1, arguments.rdma + 1)]
    lines = [f"cd {shlex.quote(os.getcwd())} || exit 125"]
    lines += [
        f"export {name}={shlex.quote(value)}"
        for name, value in testbed_environment(addresses, namespaces).items()
        if NAME.fullmatch(name) and name not in NOT_HANDED_ON
    ]
    (folder / "command").write_text("\n".join([*lines, shlex.join(arguments.command), ""]))
    shutil.copy(GUEST, folder / "guest.sh")
    (folder / "guest.sh").chmod(0o755)


def take_processor(stack: contextlib.ExitStack) -> int:
    """A processor for the machine, which has one: on two it would spend half of its time in going from the one to the other. Machines
    that run at once take different ones, while there are enough; whoever takes one keeps a lock on a file of its name."""
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    for processor in allowed:
        file = os.open(f"/tmp/cairn-testbed.processor{processor}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, file)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return processor
    return allowed[0]


def memory_apart(stack: contextlib.ExitStack, arguments: argparse.Namespace) -> list[int]:
    """Descriptors of this machine's memory, one for each namespace with --nvme-apart. Nothing is left of it when they are closed."""
    files = [os.memfd_create(f"cairn-testbed-nvme{number}") for number in range(arguments.nvme * arguments.nvme_apart)]
    for file in files:
        stack.callback(os.close, file)
        os.ftruncate(file, arguments.nvme_mb << 20)
    return files


def let_drives_go(machine: int, folder: Path) -> None:
    """Once it is up, the threads that read and write files for it leave its processor for any other one. Its programs are traced by it,
    and those threads are not."""
    while not (folder / "up").exists():
        if not Path(f"/proc/{machine}").exists():
            return
        time.sleep(0.05)
    others = os.sched_getaffinity(0) - os.sched_getaffinity(machine)
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            facts = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            if facts["PPid"] == str(machine) and facts["TracerPid"] == "0" and others:
                os.sched_setaffinity(int(facts["Pid"]), others)


def user_mode(arguments: argparse.Namespace, kernel: Path, folder: Path, processor: int, drives: list[int]) -> Machine:
    """The machine that is User-Mode Linux. Its first process's lines are the console; the command's are two more."""
    out_read, out_write = os.pipe()
    error_read, error_write = os.pipe()
    console = os.open(folder / "console", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return Machine(
        [
            *("taskset", "--cpu-list", str(processor)),
            *(str(kernel), f"mem={arguments.mem}M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw"),
            *(f"init={folder}/guest.sh", "quiet", "loglevel=4", "con=null", f"con0=null,fd:{console}"),
            *(f"con1=null,fd:{out_write}", f"con2=null,fd:{error_write}"),
            *(f"testbed_folder={folder}", f"testbed_rdma={arguments.rdma}"),
            *(f"testbed_nvme={arguments.nvme}", f"testbed_nvme_mb={arguments.nvme_mb}"),
            *(f"ubd{number}=/proc/self/fd/{file}" for number, file in enumerate(drives)),
        ],
        descriptors=(console, out_write, error_write),
        out=iter(functools.partial(os.read, out_read, 1 << 16), b""),
        error=iter(functools.partial(os.read, error_read, 1 << 16), b""),
        boot_seconds_most=BOOT_SECONDS_MOST,
        after_start=functools.partial(let_drives_go, folder=folder) if drives else None,
    )


def be_ready_for(arguments: argparse.Namespace) -> Path:
    """The kernel of the machine; the end, with a sentence, when anything is missing for it."""
    kernel = emulated.KERNEL if arguments.emulated else find_kernel()
    if os.geteuid() != 0:
        stop("it needs root: the machine's first process works on this machine's files")
    needed = NEEDED | (emulated.NEEDED if arguments.emulated else {})
    missing = sorted({package for program, package in needed.items() if shutil.which(program) is None})
    if missing:
        stop(f"these are missing: sudo apt-get install -y --no-install-recommends {' '.join(missing)}")
    if arguments.emulated:
        try:
            emulated.make()
        except BuildError as error:
            stop(f"the emulated machine could not be made: {error}")
    return kernel


def run_in_machine(arguments: argparse.Namespace) -> int:
    kernel = be_ready_for(arguments)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-testbed.", dir="/tmp")))
        write_command(folder, arguments)
        if arguments.emulated:
            ended = boot(emulated.machine_for(arguments, folder), folder, arguments.timeout)
        else:
            drives = memory_apart(stack, arguments)
            machine = user_mode(arguments, kernel, folder, take_processor(stack), drives)
            ended = boot(machine, folder, arguments.timeout, tuple(drives))
        status = (folder / "status").read_text().strip() if (folder / "status").exists() else ""
        if status:
            return int(status)
        up = (folder / "up").exists()
        if up and not ended:
            say(f"time-out after {arguments.timeout:g} s")
            return TIMED_OUT
        what = "ended before the command did" if up else "did not come up"
        sys.stderr.write(f"testbed: the machine {what}. The end of its console:\n{end_of_console(folder)}")
        return NOT_BOOTED


def main() -> int:
    arguments = parse_arguments()
    if os.environ.get("CAIRN_TESTBED"):
        return run_here(
            arguments,
            os.environ.get("CAIRN_TESTBED_ADDRESSES", "").split(),
            os.environ.get("CAIRN_TESTBED_NAMESPACES", "").split(),
        )
    if arguments.make_only:
        be_ready_for(arguments)
        return 0
    if arguments.emulated:
        return run_in_machine(arguments)
    drives = os.environ.get("CAIRN_TESTBED_DRIVES", "").split()
    addresses = own_rdma_addresses()
    if addresses and (drives or arguments.nvme == 0):
        return run_here(arguments, addresses, drives)
    return run_in_machine(arguments)


if __name__ == "__main__":
    sys.exit(main())
