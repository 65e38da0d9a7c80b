#!/usr/bin/env python3
"""Boots the service in a machine of its own, cuts the power while it writes, and looks for what it lost.

    tools/qemu/run                                arm64, two power cuts; minutes
    tools/qemu/run --arch x86_64 --cycles 10
    tools/qemu/run --self-check                   on a drive that lies about flushes: the check must notice

In QEMU runs Debian's own kernel of that processor, with RDMA in software (rdma_rxe) and an NVMe drive, which the service opens by
pass-through (/dev/ng0n1). A client in there puts blocks over rdma:// and tells the host of every one that was acknowledged. Then
QEMU gets SIGKILL; the drive loses or tears, by dice, whatever was not flushed; the machine boots again from the same drive. Every
acknowledged block must be there, and nothing may have other bytes than its own, or be back after its delete was acknowledged.

The last line is one JSON object. The exit status is 0 if all was right; 1 if anything was lost, wrong or back, or the
service did not serve; 2 if the machine could not be made or did not come up, which says nothing about the store. docs/qemu.md says what this shows, and what it does not.

The first run makes the guest in build/qemu, in a few minutes; no program of the guest's processor runs for that. It needs the packages
that `tools/setup.sh system qemu` names. CAIRN_QEMU_SOURCES=FILE: lists of Debian packages to use instead of this machine's.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/, for what both machines in QEMU are made from

from cairn_guest.building import ROOT, BuildError, NoProgramError
from cairn_qemu.architectures import ARCHITECTURES
from cairn_qemu.base_image import BaseImage
from cairn_qemu.building import BUILD, say, stop
from cairn_qemu.machine import NotUpError, Parts
from cairn_qemu.power_cuts import DRIVE_AT_THE_CUT, PowerCuts, Tally
from cairn_qemu.product_image import ProductImage
from cairn_qemu.volatile_drive import VolatileDrive

DRIVE_MB = 512
DRIVE_MB_A_CYCLE = 160  # so that nothing has to be evicted, and whatever is missing is lost
VIOLATIONS_SHOWN = 20


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/qemu/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=ARCHITECTURES, default="arm64", help="the processor (default: %(default)s)")
    parser.add_argument("--cycles", type=int, default=2, metavar="N", help="power cuts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of all that is drawn (default: drawn, and told)")
    parser.add_argument(
        "--logical-block",
        type=int,
        choices=(512, 4096),
        default=512,
        help="bytes of a logical block (default: %(default)s)",
    )
    parser.add_argument("--kvm", action="store_true", help="use this machine's own processor, where it is of the kind")
    parser.add_argument(
        "--timeout",
        type=int,
        metavar="S",
        help="seconds it may take, building left out (default: 600, and 300 a cycle)",
    )
    parser.add_argument("--build-only", action="store_true", help="make the guest, and end")
    parser.add_argument(
        "--self-check", action="store_true", help="one power cut on a drive that lies; 0 if that was noticed"
    )
    arguments = parser.parse_args()
    if arguments.cycles < 1:
        parser.error("--cycles: at least 1")
    if arguments.self_check:
        arguments.cycles = 1
    if arguments.timeout is None:
        arguments.timeout = 600 + 300 * arguments.cycles
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().getrandbits(32)
    return arguments


def use_own_python() -> None:
    """Goes on in .venv, which has what builds the guest."""
    python = ROOT / ".venv" / "bin" / "python"
    if Path(sys.prefix) == ROOT / ".venv":
        os.environ["PATH"] = f"{python.parent}:{os.environ['PATH']}"
        return
    if not python.exists():
        stop("there is no .venv, which builds the guest: make build makes it")
    os.execv(python, [str(python), *sys.argv])


def accelerator(arguments: argparse.Namespace) -> str:
    if not arguments.kvm:
        return "tcg,thread=multi"
    if not ARCHITECTURES[arguments.arch].can_use_kvm:
        stop(f"--kvm: this machine's processor is not {arguments.arch}; leave it out, and it is emulated")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        stop("--kvm: /dev/kvm cannot be opened; leave it out, and the processor is emulated")
    return "kvm"


def end_on_signals(timeout_seconds: int) -> None:
    """So that the machine is ended whatever ends us."""

    def ended(number: int, _: object) -> NoReturn:
        stop(
            f"time-out after {timeout_seconds} s"
            if number == signal.SIGALRM
            else f"ended by {signal.strsignal(number)}"
        )

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, ended)
    signal.alarm(timeout_seconds)


def report(arguments: argparse.Namespace, tally: Tally, seconds: float) -> None:
    for violation in tally.violations[:VIOLATIONS_SHOWN]:
        say(violation)
    facts = dataclasses.asdict(tally)
    for name in [name for name, value in facts.items() if name.endswith(("second", "seconds"))]:
        facts[name] = round(statistics.median(facts[name]), 1) if facts[name] else None
    facts |= {"arch": arguments.arch, "seed": arguments.seed, "seconds": round(seconds)}
    facts["violations"] = len(tally.violations)
    sys.stdout.write(json.dumps(facts) + "\n")


def check(arguments: argparse.Namespace, base: BaseImage, product: ProductImage, folder: Path) -> int:
    nbytes = (DRIVE_MB + DRIVE_MB_A_CYCLE * arguments.cycles) << 20
    drive = VolatileDrive(folder, nbytes, arguments.logical_block)

    def parts(drive_words: tuple[str, ...]) -> Parts:
        return Parts(
            ARCHITECTURES[arguments.arch],
            base.kernel,
            base.initramfs,
            (base.image, product.image),
            drive_words,
            arguments.logical_block,
            accelerator(arguments),
        )

    begun = time.monotonic()
    with contextlib.closing(drive):
        cuts = PowerCuts(parts, drive, folder, arguments.seed)
        tally = cuts.run(arguments.cycles, lying_drive=arguments.self_check)
    report(arguments, tally, time.monotonic() - begun)
    if arguments.self_check:
        say("the drive lied, and that was noticed" if tally.lost else "the drive lied, and NOTHING WAS NOTICED")
        return 0 if tally.lost else 1
    if tally.violations:
        keep_drive(folder)
        say(f"once more: tools/qemu/run --arch {arguments.arch} --cycles {arguments.cycles} --seed {arguments.seed}")
    return 1 if tally.violations else 0


def keep_drive(folder: Path) -> None:
    if (folder / DRIVE_AT_THE_CUT).exists():
        kept = BUILD / DRIVE_AT_THE_CUT
        shutil.move(folder / DRIVE_AT_THE_CUT, kept)
        say(f"the drive as the last power cut left it: cairn-dpu inspect --drive {kept}")


def main() -> int:
    arguments = parse_arguments()
    use_own_python()
    architecture = ARCHITECTURES[arguments.arch]
    if shutil.which(architecture.emulator) is None:
        stop(f"there is no {architecture.emulator}: tools/setup.sh system qemu installs it, or says how")
    base = BaseImage(architecture)
    product = ProductImage(architecture, base)
    try:
        base.make()
        product.make()
    except NoProgramError as error:
        stop(f"{error}: tools/setup.sh system qemu installs it, or says how")
    except BuildError as error:
        stop(str(error))
    if arguments.build_only:
        return 0
    say(f"{arguments.arch}, {accelerator(arguments)}, seed {arguments.seed}")
    end_on_signals(arguments.timeout)
    # A socket's name may have 107 bytes, and the checkout may lie deep; the drives are sparse.
    with tempfile.TemporaryDirectory(prefix="cairn-qemu.") as name:
        try:
            return check(arguments, base, product, Path(name))
        except NotUpError as error:
            stop(str(error))


if __name__ == "__main__":
    sys.exit(main())
