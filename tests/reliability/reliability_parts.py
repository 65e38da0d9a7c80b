"""The parts of a reliability run: what each executes, with which seeds, and what its output says."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syscall_sites import why_not_traced

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ".venv/bin/python"  # how commands are shown; they run under the Python that runs this
UNLIMITED = 1_000_000_000
REPEATS_MOST = 10
# How cairn-torture names a case, and cairn-simulate a seed.
TORTURE_CASE = re.compile(
    r"^((?:crash-points --random 1|histories --random 1|bit-flips --payload 1) --seed \d+|crash-points --only [^\s:]+"
    r"|bit-flips --seed \d+ --only \w+:\d+:\d+|fault-sites --only \w+:\d+:[^:]+:(?:once|for_ever))"
)
FLOOD_CASE = re.compile(r"^flood_matrix --only ([\w]+:\w+:\d+): ", re.MULTILINE)
SYSCALL_CASE = re.compile(r"^syscall-sites --only (\w+:\d+:E\w+:(?:once|for_ever))", re.MULTILINE)
CLIENT_SYSCALL_CASE = re.compile(r"^client-syscalls --only (\w+:\d+:E\w+:(?:once|for_ever))", re.MULTILINE)
ENDING_CASE = re.compile(r"^client-endings --only ([a-z-]+:[a-z-]+)", re.MULTILINE)
SIMULATED_SEED = re.compile(r"^seed (\d+): ")

Figures = dict[str, float]


@dataclass(frozen=True)
class Result:
    """What a process left behind."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Part:
    """`command(seed, seconds, amount)` are the words of one run."""

    name: str
    command: Callable[[int, int, int], list[str]]
    seconds: int  # of a CI run; less when the amount is done before
    amount: int  # of a CI run
    program: Path | None = None  # relative to the root of the tree
    missing: Callable[[], str] = str  # a sentence if something else is missing
    figures: Callable[[Result], Figures | None] = lambda result: figures_of_json(result)
    seeds_used: Callable[[Figures], int] | None = None  # of the figures; None: it takes no seeds
    whole: bool = False  # it covers a fixed set, once for every commit
    alone: bool = False  # it measures time: in a CI run nothing else runs beside it
    repeats: Callable[[Result, int], list[str]] = lambda _result, _seed: []

    def why_missing(self) -> str:
        if self.program is not None and not (ROOT / self.program).exists():
            return f"{self.program} is not built"
        return self.missing()


@dataclass(frozen=True)
class Places:
    """Where the executables lie, from the root of the tree."""

    native: Path = Path("build/native")
    fuzz: Path = Path("build/fuzz")
    fuzz_sources: Path = Path("native/fuzz")


def flattened(value: Any, prefix: str = "") -> Figures:
    """All numbers of a JSON object, those of inner objects as outer.inner."""
    figures: Figures = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            figures |= flattened(inner, f"{prefix}{name}.")
        elif isinstance(inner, int | float):
            figures[prefix + name] = inner
    # An event hash identifies one run: it is no number to add up. A seed is in the entry.
    return {name: number for name, number in figures.items() if name not in ("event_hash", "last_seed", "seed")}


def figures_of_json(result: Result) -> Figures | None:
    """Of the last line; None if there is none."""
    lines = result.out.strip().splitlines()
    try:
        last = json.loads(lines[-1]) if lines else None
    except ValueError:
        last = None
    return flattened(last) if isinstance(last, dict) else None


def figures_of_fuzzer(result: Result) -> Figures | None:
    found = re.search(r"number_of_executed_units: (\d+)", result.err)
    return {"executions": int(found.group(1))} if found else None


def repeats_of_simulation(program: Path) -> Callable[[Result, int], list[str]]:
    """The seeds that were named; of a run that ended in the middle, the one behind the last that was done."""

    def repeats(result: Result, seed: int) -> list[str]:
        seeds = [int(found.group(1)) for line in result.err.splitlines() if (found := SIMULATED_SEED.match(line))]
        if not seeds:
            done = [row["last_seed"] for line in result.out.splitlines() if (row := _object(line)) and row["seeds"]]
            seeds = [max(done, default=seed - 1) + 1]
        return [f"{program} --from {one} --seeds 1" for one in dict.fromkeys(seeds)][:REPEATS_MOST]

    return repeats


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "last_seed" in row else None


def repeats_of_torture(program: Path) -> Callable[[Result, int], list[str]]:
    def repeats(result: Result, _seed: int) -> list[str]:
        cases = [found.group(1) for line in result.err.splitlines() if (found := TORTURE_CASE.match(line))]
        return [f"{program} {case}" for case in dict.fromkeys(cases)][:REPEATS_MOST]

    return repeats


def repeats_of_fuzzer(program: Path) -> Callable[[Result, int], list[str]]:
    def repeats(result: Result, _seed: int) -> list[str]:
        return [f"{program} {path}" for path in re.findall(r"Test unit written to (\S+)", result.err)]

    return repeats


def simulation(places: Places) -> Part:
    program = places.native / "cairn-simulate"

    def command(seed: int, seconds: int, hours: int) -> list[str]:
        limits = ["--hours", str(hours), "--stop-at", str(seconds)]
        return [str(program), "--from", str(seed), *limits, "--each"]

    return Part(
        "simulation",
        command,
        seconds=140,
        amount=21,
        program=program,
        seeds_used=lambda figures: int(figures["seeds"]),
        repeats=repeats_of_simulation(program),
    )


def torture(places: Places) -> list[Part]:
    program = places.native / "cairn-torture"
    repeats = repeats_of_torture(program)

    def whole(word: str, seconds: int) -> Part:
        def command(_seed: int, most: int, _amount: int) -> list[str]:
            return [str(program), word, "--stop-at", str(most)]

        return Part(word, command, seconds, amount=1, program=program, whole=True, repeats=repeats)

    def random(name: str, words: tuple[str, str], count: str, seconds: int, amount: int) -> Part:
        def command(seed: int, most: int, wanted: int) -> list[str]:
            return [str(program), *words, str(wanted), "--seed", str(seed), "--stop-at", str(most)]

        def used(figures: Figures) -> int:
            return int(figures[count])

        return Part(name, command, seconds, amount, program=program, seeds_used=used, repeats=repeats)

    return [
        whole("crash-points", 200),
        random("crash-points-random", ("crash-points", "--random"), "workloads", 60, 8_000),
        whole("bit-flips", 480),
        random("payload-damage", ("bit-flips", "--payload"), "damages", 30, 12_000),
        whole("fault-sites", 60),
        random("histories", ("histories", "--random"), "histories", 90, 4_000),
    ]


def drives_model(places: Places) -> list[Part]:
    """Every short history of drives that come and go: in CI so many steps, in a soak one more."""
    program = places.native / "cairn-model"

    def repeats(result: Result, _seed: int) -> list[str]:
        histories = [line.split(": ")[0] for line in result.err.splitlines() if ": " in line]
        return [f"{program} --only '{one}'" for one in dict.fromkeys(histories)][:REPEATS_MOST]

    def part(name: str, drives: int, depth: int, cuts: int, seconds: int) -> Part:
        def command(_seed: int, most: int, _amount: int) -> list[str]:
            steps = depth + 1 if most > seconds else depth  # a soak gives it more time
            return [str(program), *f"--drives {drives} --depth {steps} --cuts {cuts} --stop-at {most}".split()]

        return Part(name, command, seconds, amount=1, program=program, whole=True, repeats=repeats)

    return [
        part("drives-two", 2, 5, 0, 150),
        part("drives-two-cut", 2, 3, 1, 30),
        part("drives-three", 3, 5, 0, 700),
        part("drives-three-cut", 3, 2, 1, 30),
    ]


def syscall_sites(places: Places) -> Part:
    program = Path("tests/reliability/syscall_sites.py")
    torture = places.native / "cairn-torture"

    def missing() -> str:
        return why_not_traced() if (ROOT / torture).exists() else f"{torture} is not built"

    def command(_seed: int, seconds: int, _amount: int) -> list[str]:
        return [sys.executable, str(program), "--torture", str(torture), "--stop-at", str(seconds)]

    def repeats(result: Result, _seed: int) -> list[str]:
        cases = dict.fromkeys(SYSCALL_CASE.findall(result.err))
        return [f"{PYTHON} {program} --torture {torture} --only {case}" for case in cases][:REPEATS_MOST]

    return Part(
        "syscall-sites",
        command,
        seconds=120,
        amount=1,
        program=program,
        missing=missing,
        whole=True,
        repeats=repeats,
    )


def packages_missing() -> str:
    for package in ("cairnkv", "cairn_dpu"):
        if importlib.util.find_spec(package) is None or importlib.util.find_spec(f"{package}._native") is None:
            return f"{package} is not installed"
    return ""


def client_syscalls(transport: str) -> Part:
    program = Path("tests/reliability/client_syscalls.py")

    def command(seed: int, seconds: int, _amount: int) -> list[str]:
        words = ["--transport", transport, "--seed", str(seed), "--stop-at", str(seconds)]
        return [sys.executable, str(program), *words]

    def repeats(result: Result, _seed: int) -> list[str]:
        cases = dict.fromkeys(CLIENT_SYSCALL_CASE.findall(result.err))
        return [f"{PYTHON} {program} --transport {transport} --only {case}" for case in cases][:REPEATS_MOST]

    return Part(
        f"client-syscalls-{transport}",
        command,
        seconds=105,
        amount=1,
        program=program,
        missing=lambda: packages_missing() or why_not_traced(),
        seeds_used=lambda _figures: 1,
        repeats=repeats,
    )


def client_endings() -> Part:
    program = Path("tests/reliability/client_endings.py")

    def command(seed: int, seconds: int, amount: int) -> list[str]:
        words = ["--rounds", str(amount), "--seed", str(seed), "--stop-at", str(seconds)]
        return [sys.executable, str(program), *words]

    def repeats(result: Result, _seed: int) -> list[str]:
        cases = dict.fromkeys(ENDING_CASE.findall(result.err))
        return [f"{PYTHON} {program} --rounds 20 --only {case}" for case in cases][:REPEATS_MOST]

    return Part(
        "client-endings",
        command,
        seconds=390,
        amount=22,
        program=program,
        missing=packages_missing,
        seeds_used=lambda _figures: 1,
        repeats=repeats,
    )


def floods() -> Part:
    program = Path("tests/support/flood_matrix.py")

    def command(_seed: int, seconds: int, _amount: int) -> list[str]:
        return [sys.executable, str(program), "--seconds", "0.6", "--stop-at", str(seconds)]

    def repeats(result: Result, _seed: int) -> list[str]:
        cases = dict.fromkeys(FLOOD_CASE.findall(result.err))
        return [f"{PYTHON} {program} --only {case}" for case in cases][:REPEATS_MOST]

    return Part(
        "floods",
        command,
        seconds=300,
        amount=1,
        program=program,
        missing=packages_missing,
        whole=True,
        alone=True,
        repeats=repeats,
    )


def kill_cycles() -> Part:
    program = Path("tests/crash/kill_cycles.py")

    def command(seed: int, seconds: int, amount: int) -> list[str]:
        words = ["--cycles", str(amount), "--seed", str(seed), "--during-recovery", "0.5", "--stop-at", str(seconds)]
        return [sys.executable, str(program), *words]

    def repeats(_result: Result, seed: int) -> list[str]:
        return [f"{PYTHON} {program} --cycles 50 --seed {seed} --during-recovery 0.5"]

    return Part(
        "kill-cycles",
        command,
        seconds=180,
        amount=20,
        program=program,
        missing=packages_missing,
        seeds_used=lambda _figures: 1,
        repeats=repeats,
    )


@dataclass(frozen=True)
class Fuzzed:
    """What one fuzzer feeds, and how long in a CI run: so many executions, but no more seconds than that."""

    title: str
    seconds: int
    amount: int
    is_decoder: bool = True  # else it feeds a whole system: an execution takes many times as long


# A decoder is what looks at bytes that somebody else wrote, before anything is done with them. A million executions take
# a free core some 4 s (wire), 30 s (link) and 40 s (ondisk): there is as much time again for a core that is not free.
FUZZED = {
    "wire": Fuzzed("wire frames", seconds=15, amount=2_000_000),
    "link": Fuzzed("link, both ends", seconds=85, amount=1_000_000),
    "ondisk": Fuzzed("on-disk pages", seconds=90, amount=1_000_000),
    "rdma": Fuzzed("RDMA messages", seconds=15, amount=1_000_000),
    "recovery": Fuzzed("recovery of a store", seconds=25, amount=UNLIMITED, is_decoder=False),
}


def fuzzed(name: str) -> Fuzzed:
    """A fuzzer that stands in no table counts as that of a whole system."""
    return FUZZED.get(name, Fuzzed(name, seconds=30, amount=UNLIMITED, is_decoder=False))


def fuzzer(name: str, places: Places) -> Part:
    program = places.fuzz / name
    what = fuzzed(name.removesuffix("_fuzz"))

    def command(seed: int, seconds: int, amount: int) -> list[str]:
        corpus, seen = Path("build/fuzz-corpus") / name, places.fuzz_sources / "corpus" / name
        for folder in (corpus, Path("build/fuzz-findings")):
            (ROOT / folder).mkdir(parents=True, exist_ok=True)
        words = [f"-runs={amount}", f"-max_total_time={seconds}", f"-seed={seed}", "-print_final_stats=1"]
        words += ["-timeout=60", "-rss_limit_mb=4096", f"-artifact_prefix=build/fuzz-findings/{name}-", str(corpus)]
        return [str(program), *words, *([str(seen)] if (ROOT / seen).is_dir() else [])]

    return Part(
        f"fuzz-{name.removesuffix('_fuzz')}",
        command,
        what.seconds,
        what.amount,
        program=program,
        figures=figures_of_fuzzer,
        seeds_used=lambda _figures: 1,
        repeats=repeats_of_fuzzer(program),
    )


def coverage() -> Part:
    def command(_seed: int, _seconds: int, _amount: int) -> list[str]:
        return ["make", "--no-print-directory", "coverage"]

    return Part("coverage", command, seconds=1800, amount=1, whole=True)


def all_parts(places: Places, *, with_coverage: bool) -> list[Part]:
    fuzzers = sorted(path.stem for path in (ROOT / places.fuzz_sources).glob("*_fuzz.cc"))
    parts = [
        simulation(places),
        *torture(places),
        *drives_model(places),
        syscall_sites(places),
        kill_cycles(),
        client_syscalls("tcp"),
        client_syscalls("shm"),
        client_endings(),
        floods(),
        *(fuzzer(name, places) for name in fuzzers),
    ]
    return [*parts, coverage()] if with_coverage else parts


def shown(words: list[str]) -> str:
    """A command as a person types it at the root of the tree."""
    return " ".join(PYTHON if word == sys.executable else word for word in words)
