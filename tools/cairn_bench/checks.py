"""What CAIRN_CHECK costs: the same service and client built without it, side by side with those that ship."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cairn_bench.figures import Figure, Figures
from cairn_bench.programs import BUILT, MIB, run_program

UNCHECKED = BUILT.with_name("unchecked")
PROGRAM = "cairn-checks-bench"
DRIVE_BYTES = 2048 * MIB
SECONDS = 0.2
PAIRS_A_ROUND = 10  # a short run says little on a machine that does other things, too; many of them do


def build_both() -> None:
    """The one without checks into a folder that nothing is installed from."""
    if not (UNCHECKED / PROGRAM).exists():
        print("  building everything a second time, without checks: some minutes", file=sys.stderr, flush=True)
    source = BUILT.parents[1] / "native"
    for words in (
        ["-S", str(source), "-B", str(UNCHECKED), "-G", "Ninja", "-DCAIRN_TESTS=ON", "-DCAIRN_CHECKS=OFF"],
        ["--build", str(UNCHECKED), "--target", PROGRAM],
        ["--build", str(BUILT), "--target", PROGRAM],  # of the same source, or nothing is compared
    ):
        done = subprocess.run(
            ["cmake", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"{done.stdout}\ncannot build {PROGRAM}; the compiler's words are above")


def bench_checks(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
    """The drive lies in memory where it can: a disk's mood is larger than what is measured."""
    del drives
    build_both()
    memory = Path("/dev/shm")
    runs: dict[Path, list[dict[str, float]]] = {BUILT: [], UNCHECKED: []}
    with tempfile.TemporaryDirectory(prefix="cb-", dir=memory if memory.is_dir() else folder) as where:
        drive = Path(where) / "drive"
        with drive.open("wb") as file:
            file.truncate(DRIVE_BYTES)
        for number in range(rounds * PAIRS_A_ROUND):
            for built in sorted(runs, reverse=number % 2 == 1):
                runs[built].append(run_program(PROGRAM, [str(drive), "--seconds", str(SECONDS)], built=built))
    for kind in ("exists", "get", "put"):
        rates = [[run[f"{kind}_per_second"] for run in runs[built]] for built in (BUILT, UNCHECKED)]
        details: dict[str, float | int | str] = {
            "on_per_second": round(statistics.median(rates[0])),
            "off_per_second": round(statistics.median(rates[1])),
            "fastest_on_vs_off": round(max(rates[0]) / max(rates[1]), 3),
        }
        ratio = statistics.median(on / off for on, off in zip(*rates, strict=True))
        yield f"checks_on_vs_off_{kind}", Figure(round(ratio, 3), details)
