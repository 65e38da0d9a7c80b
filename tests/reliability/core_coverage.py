"""Line, branch and MC/DC coverage of the files on which the promises rest, by the native tests and a short simulation.

    python tests/reliability/core_coverage.py --build build/coverage --llvm 19     # what `make coverage` calls

The build is of clang, with -fprofile-instr-generate -fcoverage-mapping -fcoverage-mcdc. The last line is one JSON object;
what is below 95 % is said on stderr. Ends with 1 if a test fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    *("store/format.h", "store/recovery.cc", "store/loader.cc", "store/index.cc", "store/log.cc"),
    *("store/segments.cc", "store/graveyard.cc", "wire/frame.cc", "base/slab.cc"),
)
# Of the summary's kinds, and what we call them.
KINDS = {"lines": "lines", "branches": "branches", "mcdc": "mcdc"}
PERCENT_WANTED = 95.0


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def programs(build: Path, simulated_seconds: int) -> list[list[str]]:
    """What is run: every test, a short simulation, and the short forms of the harnesses that there are."""
    runs = [[str(path)] for path in sorted(build.glob("*_test")) if path.is_file() and os.access(path, os.X_OK)]
    simulate, torture = build / "cairn-simulate", build / "cairn-torture"
    if simulate.exists():
        runs.append([str(simulate), "--seeds", "1000000", "--stop-at", str(simulated_seconds)])
    if torture.exists():
        for words in (["crash-points"], ["bit-flips", "--payload", "1000000"], ["fault-sites"]):
            runs.append([str(torture), *words, "--stop-at", str(simulated_seconds)])
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
    """The summary of llvm-cov for our files."""
    merged = profiles / "all.profdata"
    raw = sorted(str(path) for path in profiles.glob("*.profraw"))
    subprocess.run([f"llvm-profdata-{llvm}", "merge", "-sparse", "-o", str(merged), *raw], check=True)
    first, *others = dict.fromkeys(words[0] for words in runs)
    words = [f"llvm-cov-{llvm}", "export", "-summary-only", f"-instr-profile={merged}", first]
    words += [word for other in others for word in ("-object", other)]
    words += [str(ROOT / "native" / name) for name in FILES]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def figures_of(summary: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Percent of each kind for each file. A file without a decision of several conditions has no MC/DC: it counts as whole."""
    figures: dict[str, dict[str, float]] = {}
    for file in summary["data"][0]["files"]:
        name = str(Path(file["filename"]).resolve().relative_to(ROOT / "native"))
        figures[name] = {}
        for kind, ours in KINDS.items():
            counted = file["summary"][kind]
            share = 100 * counted["covered"] / counted["count"] if counted["count"] else 100.0
            figures[name][ours] = round(share, 2)
    return figures


def report_of(figures: dict[str, dict[str, float]], passed: bool) -> dict[str, Any]:
    least = {kind: min((figures[name][kind] for name in figures), default=0.0) for kind in KINDS.values()}
    missing = [name for name in FILES if name not in figures]
    for name, kinds in figures.items():
        for kind, percent in kinds.items():
            if percent < PERCENT_WANTED:
                say(f"below {PERCENT_WANTED:.0f} %: native/{name}: {kind} {percent:.1f} %")
    for name in missing:
        say(f"native/{name} is not in the profile: did it move?")
    return {"files": figures, "least": least, "violations": 0 if passed and not missing else 1}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "coverage")
    parser.add_argument("--llvm", default="19", metavar="VERSION", help="of clang, llvm-profdata and llvm-cov")
    parser.add_argument("--simulate", type=int, default=60, metavar="SECONDS")
    options = parser.parse_args()
    build = options.build.resolve()
    profiles = build / "profiles"
    shutil.rmtree(profiles, ignore_errors=True)
    profiles.mkdir(parents=True)
    runs = programs(build, options.simulate)
    if not runs:
        say(f"there is nothing to run in {build}: make coverage builds it")
        return 2
    passed = execute(runs, profiles)
    report = report_of(figures_of(exported(runs, profiles, options.llvm)), passed)
    print(json.dumps(report))
    return 1 if report["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
