"""Line, branch and MC/DC coverage of the files on which the promises rest, by the native tests and short harnesses.

    python tests/reliability/core_coverage.py --build build/coverage --llvm 19     # what `make coverage` calls

The build is of clang, with -fprofile-instr-generate -fcoverage-mapping -fcoverage-mcdc. The last line is one JSON object;
what is below 95 % is said on stderr, and with --missed every branch and condition that was not taken. Ends with 1 if a
test fails.

Counted are branches and conditions as a person reads them: those of a template or an inline function once, wherever it
was compiled. Not counted are those inside a macro of base/check.h. The other side of a CAIRN_CHECK is taken by nothing
but a fault of our own code, and then the process ends: a test that takes it has found a fault. The rule goes by the
macro, so a check is left out wherever it stands; nothing else is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    *("store/format.h", "store/recovery.cc", "store/loader.cc", "store/index.cc", "store/log.cc"),
    *("store/segments.cc", "store/graveyard.cc", "wire/frame.cc", "base/slab.cc"),
)
CHECKS = "base/check.h"
KINDS = ("lines", "branches", "mcdc")
PERCENT_WANTED = 95.0
BRANCH_OF_DECISION = 6  # llvm's number for a branch that is a condition of an MC/DC decision

Place = tuple[int, int, int, int]  # line and column, of the first character and behind the last


@dataclass
class Taken:
    """What was taken of one file: each side of a branch, each condition of a decision."""

    lines: tuple[int, int] = (0, 0)  # executed, and all
    branches: dict[Place, list[bool]] = field(default_factory=dict)
    mcdc: dict[Place, list[bool]] = field(default_factory=dict)

    def percent(self, kind: str) -> float:
        """A file without a decision of several conditions has no MC/DC: it counts as whole."""
        if kind == "lines":
            done, count = self.lines
        else:
            sides = [side for place in getattr(self, kind).values() for side in place]
            done, count = sum(sides), len(sides)
        return round(100 * done / count, 2) if count else 100.0

    def missed(self) -> Iterator[str]:
        """A sentence for each branch and condition that was not taken, in the order of the file."""
        for place, (true, false) in sorted(self.branches.items()):
            never = [word for word, seen in (("true", true), ("false", false)) if not seen]
            if never:
                yield f"{place[0]}:{place[1]}: never {' nor '.join(never)}"
        for place, conditions in sorted(self.mcdc.items()):
            alone = [str(number) for number, seen in enumerate(conditions, 1) if not seen]
            if alone:
                yield f"{place[0]}:{place[1]}: decides nothing alone: condition {', '.join(alone)}"


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def programs(build: Path, seconds: int) -> list[list[str]]:
    """What is run: every test, a short simulation, and the short forms of the harnesses that there are."""
    runs = [[str(path)] for path in sorted(build.glob("*_test")) if path.is_file() and os.access(path, os.X_OK)]
    simulate, torture = build / "cairn-simulate", build / "cairn-torture"
    if seconds > 0 and simulate.exists():
        runs.append([str(simulate), "--seeds", "1000000", "--stop-at", str(seconds)])
    if seconds > 0 and torture.exists():
        for words in (
            ["crash-points"],
            ["crash-points", "--random", "1000000"],
            ["bit-flips"],
            ["bit-flips", "--payload", "1000000"],
            ["fault-sites"],
        ):
            runs.append([str(torture), *words, "--stop-at", str(seconds)])
    return runs


def execute(runs: list[list[str]], profiles: Path) -> bool:
    """All of them, each with a profile of its own; False if one failed."""
    passed = True
    for number, words in enumerate(runs):
        say(f"coverage: {' '.join(words)}")
        environment = {**os.environ, "LLVM_PROFILE_FILE": str(profiles / f"{number}-%p.profraw")}
        done = subprocess.run(words, env=environment, cwd=profiles, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            passed = False
            say(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\ncoverage: that ended with {done.returncode}")
    return passed


def exported(runs: list[list[str]], profiles: Path, llvm: str) -> dict[str, Any]:
    """What llvm-cov knows of our files."""
    merged = profiles / "all.profdata"
    raw = sorted(str(path) for path in profiles.glob("*.profraw"))
    subprocess.run([f"llvm-profdata-{llvm}", "merge", "-sparse", "-o", str(merged), *raw], check=True)
    first, *others = dict.fromkeys(words[0] for words in runs)
    words = [f"llvm-cov-{llvm}", "export", "-skip-expansions", f"-instr-profile={merged}", first]
    words += [word for other in others for word in ("-object", other)]
    words += [str(ROOT / "native" / name) for name in FILES]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    # A warning of functions with mismatched data is of inline ones that one of the programs has no use for.
    if done.returncode != 0:
        raise SystemExit(f"llvm-cov: {done.stderr}")
    export: dict[str, Any] = json.loads(done.stdout)
    return export


def name_of(path: str) -> str:
    """As FILES has it; empty for a file of somebody else's."""
    resolved = Path(path).resolve()
    return str(resolved.relative_to(ROOT / "native")) if resolved.is_relative_to(ROOT / "native") else ""


def is_of_check(decision: Place, branches: list[list[int]], names: list[str]) -> bool:
    """Whether a decision is a check's: llvm says in which file a condition lies, but not a decision."""
    files = {names[one[6]] for one in branches if one[8] == BRANCH_OF_DECISION and one[:2] == list(decision[:2])}
    return files == {CHECKS}


def add_function(function: dict[str, Any], taken: dict[str, Taken]) -> None:
    names = [name_of(path) for path in function["filenames"]]
    if names[0] not in FILES:
        return
    file = taken[names[0]]
    for branch in function["branches"]:
        line, column, end, end_column, true, false, expansion, _, _ = branch
        if names[expansion] == CHECKS:
            continue
        sides = file.branches.setdefault((line, column, end, end_column), [False, False])
        sides[:] = [sides[0] or true > 0, sides[1] or false > 0]
    for record in function.get("mcdc_records", []):
        place, seen = (record[0], record[1], record[2], record[3]), record[-1]
        if is_of_check(place, function["branches"], names):
            continue
        before = file.mcdc.setdefault(place, [False] * len(seen))
        before[:] = [one or other for one, other in zip(before, seen, strict=True)]


def taken_of(export: dict[str, Any]) -> dict[str, Taken]:
    """What was taken of each of FILES that is in the profile."""
    taken: dict[str, Taken] = defaultdict(Taken)
    data = export["data"][0]
    for file in data["files"]:
        lines = file["summary"]["lines"]
        taken[name_of(file["filename"])].lines = (lines["covered"], lines["count"])
    for function in data["functions"]:
        add_function(function, taken)
    return {name: taken[name] for name in FILES if name in taken}


def report_of(taken: dict[str, Taken], passed: bool, *, with_missed: bool = False) -> dict[str, Any]:
    files = {name: {kind: one.percent(kind) for kind in KINDS} for name, one in taken.items()}
    least = {kind: min((figures[kind] for figures in files.values()), default=0.0) for kind in KINDS}
    missing = [name for name in FILES if name not in taken]
    for name, one in taken.items():
        for sentence in one.missed() if with_missed else ():
            say(f"native/{name}:{sentence}")
    for name, figures in files.items():
        for kind, percent in figures.items():
            if percent < PERCENT_WANTED:
                say(f"below {PERCENT_WANTED:.0f} %: native/{name}: {kind} {percent:.1f} %")
    for name in missing:
        say(f"native/{name} is not in the profile: did it move?")
    return {"files": files, "least": least, "violations": 0 if passed and not missing else 1}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "coverage")
    parser.add_argument("--llvm", default="19", metavar="VERSION", help="of clang, llvm-profdata and llvm-cov")
    parser.add_argument(
        "--harness-seconds", type=int, default=30, metavar="SECONDS", help="for each harness; 0: the tests alone"
    )
    parser.add_argument("--missed", action="store_true", help="name what was not taken")
    options = parser.parse_args()
    build = options.build.resolve()
    profiles = build / "profiles"
    shutil.rmtree(profiles, ignore_errors=True)
    profiles.mkdir(parents=True)
    runs = programs(build, options.harness_seconds)
    if not runs:
        say(f"there is nothing to run in {build}: make coverage builds it")
        return 2
    passed = execute(runs, profiles)
    taken = taken_of(exported(runs, profiles, options.llvm))
    report = report_of(taken, passed, with_missed=options.missed)
    print(json.dumps(report))
    return 1 if report["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
