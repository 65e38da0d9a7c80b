"""The ledger: one JSON object a line, each a run of a part. A published ledger has the runs of a part and commit summed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

PASSED, VIOLATED, MISSING = "passed", "violated", "missing"
# What the harnesses call the same thing.
WRONG = ("wrong_bytes", "wrong")
LOST = ("lost_acknowledged", "lost")
UNDELETED = ("undeleted",)
VIOLATIONS = (*WRONG, *LOST, *UNDELETED, "violations", "diverged")
PROBLEMS_MOST = 20


@dataclass(frozen=True)
class Entry:
    """One run of a part, or the sum of several."""

    part: str
    outcome: str
    commit: str
    began: str  # UTC
    ended: str
    command: str
    seconds: float = 0.0
    runs: int = 1
    seeds: list[tuple[int, int]] = field(default_factory=list)  # first and last
    figures: dict[str, float] = field(default_factory=dict)
    complete: bool = False  # of a part that covers a fixed set: all of it was
    problems: list[str] = field(default_factory=list)

    def first_of(self, names: Iterable[str]) -> float:
        return next((self.figures[name] for name in names if name in self.figures), 0)

    def violations(self) -> float:
        """Of any kind; at least one where the run says that there was something."""
        named = sum(self.first_of(names) for names in (WRONG, LOST, UNDELETED))
        counted = self.figures.get("violations", 0) + self.figures.get("diverged", 0)
        return max(named, counted, 1 if self.outcome == VIOLATED else 0)


def read(path: Path) -> list[Entry]:
    """Every run so far. What a kill left of a last line is no run."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    entries = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise SystemExit(f"{path}, line {number}: no JSON; repair or remove that line") from None
        row["seeds"] = [(first, last) for first, last in row["seeds"]]
        entries.append(Entry(**row))
    return entries


def line_of(entry: Entry) -> str:
    return json.dumps(asdict(entry), ensure_ascii=False, sort_keys=True) + "\n"


def append(path: Path, entry: Entry) -> None:
    """The line is whole and on the drive when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as ledger:
        _cut_torn_line(ledger.fileno())
        ledger.write(line_of(entry).encode())
        ledger.flush()
        os.fsync(ledger.fileno())


def _cut_torn_line(file: int) -> None:
    size = os.fstat(file).st_size
    if size > 0 and os.pread(file, 1, size - 1) != b"\n":
        text = os.pread(file, size, 0)
        os.ftruncate(file, text.rfind(b"\n") + 1)


def next_seed(entries: Iterable[Entry], part: str) -> int:
    return 1 + max((last for entry in entries if entry.part == part for _, last in entry.seeds), default=0)


def is_done(entries: Iterable[Entry], part: str, commit: str) -> bool:
    """Whether a part that covers a fixed set did so at this commit."""
    return any(entry.part == part and entry.commit == commit and entry.complete for entry in entries)


def joined(seeds: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for first, last in sorted(seeds):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        else:
            ranges.append((first, last))
    return ranges


def summed(runs: list[Entry]) -> Entry:
    """Of one part. A fixed set is not larger for having been covered twice: its figures are those of the last time."""
    runs = sorted(runs, key=lambda run: run.ended)
    figures: dict[str, float] = {}
    for run in runs:
        for name, value in run.figures.items():
            figures[name] = round(figures.get(name, 0) + value, 6)
    whole = [run.figures for run in runs if run.complete]
    if whole:
        figures = whole[-1] | {name: figures[name] for name in VIOLATIONS if name in figures}
    ran = [run for run in runs if run.outcome != MISSING]
    outcome = MISSING if not ran else VIOLATED if any(run.outcome == VIOLATED for run in ran) else PASSED
    return Entry(
        part=runs[0].part,
        outcome=outcome,
        commit=", ".join(dict.fromkeys(run.commit for run in sorted(runs, key=lambda run: run.began))),
        began=min(run.began for run in runs),
        ended=max(run.ended for run in runs),
        command=(ran or runs)[-1].command,
        seconds=round(sum(run.seconds for run in runs), 3),
        runs=sum(run.runs for run in ran),
        seeds=joined(pair for run in runs for pair in run.seeds),
        figures=figures,
        complete=any(run.complete for run in runs),
        problems=[problem for run in runs for problem in run.problems][:PROBLEMS_MOST],
    )


def by_part(entries: Iterable[Entry]) -> dict[str, Entry]:
    """A sum for every part. A part that ran once is not missing, even if it was on another day."""
    runs: dict[str, list[Entry]] = {}
    for entry in entries:
        runs.setdefault(entry.part, []).append(entry)
    sums = {}
    for part, all_runs in runs.items():
        ran = [run for run in all_runs if run.outcome != MISSING]
        sums[part] = summed(ran or all_runs[-1:])
    return sums


def condensed(entries: Iterable[Entry]) -> list[Entry]:
    """The ledger with one line for every part and commit: the same document comes of it."""
    runs: dict[tuple[str, str, bool], list[Entry]] = {}
    for entry in entries:
        runs.setdefault((entry.part, entry.commit, entry.outcome == MISSING), []).append(entry)
    return sorted((summed(group) for group in runs.values()), key=lambda entry: entry.ended)
