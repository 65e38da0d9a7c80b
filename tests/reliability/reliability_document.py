"""The document from the ledger: how-cairn-is-tested.template.md with its numbers filled in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import reliability_ledger as ledger
from reliability_ledger import Entry
from reliability_parts import Places, all_parts, fuzzed

TEMPLATE = Path(__file__).with_name("how-cairn-is-tested.template.md")
RANGES_SHOWN_MOST = 4
COVERAGE_KINDS = {"lines": "lines", "branches": "branches", "mcdc": "MC/DC"}


@dataclass(frozen=True)
class Measure:
    """One row of the table. The target of a part that covers a fixed set is all of it."""

    part: str
    title: str
    unit: str
    value: Callable[[Entry], float]
    run_least: float  # what a CI run has to come to; 0: nothing is asked
    soak_least: float
    whole: bool = False

    def target(self, least: float) -> str:
        counted = f"≥ {number(least)}" if least else ""
        return ", ".join(filter(None, ("all" if self.whole else "", counted))) or "–"

    def met(self, entry: Entry, least: float) -> bool:
        if entry.outcome != ledger.PASSED:
            return False
        value = self.value(entry)
        return value >= least and (not self.whole or (entry.complete and value > 0))


def field(*names: str) -> Callable[[Entry], float]:
    """The sum of these fields of a part's JSON."""
    return lambda entry: sum(entry.figures.get(name, 0) for name in names)


def all_of(prefix: str) -> Callable[[Entry], float]:
    """The sum of the fields of an inner object."""
    return lambda entry: sum(value for name, value in entry.figures.items() if name.startswith(prefix))


def times_real_time(entry: Entry) -> float:
    seconds = entry.figures.get("real_seconds", 0)
    return entry.figures.get("simulated_hours", 0) * 3600 / seconds if seconds else 0


def fuzz_measures(parts: Iterable[str]) -> Iterator[Measure]:
    """Executions for each decoder; then, counted apart, those of whole systems."""
    known = (part.name for part in all_parts(Places(), with_coverage=False))
    names = sorted({part.removeprefix("fuzz-") for part in (*parts, *known) if part.startswith("fuzz-")})
    for name in sorted(names, key=lambda name: not fuzzed(name).is_decoder):
        what = fuzzed(name)
        title = f"Fuzzed {'decoder' if what.is_decoder else 'whole'}: {what.title}"
        run_least, soak_least = (1_000_000, 10**9) if what.is_decoder else (5_000, 1_000_000)
        yield Measure(f"fuzz-{name}", title, "executions", field("executions"), run_least, soak_least)


def measures(parts: Iterable[str]) -> list[Measure]:
    """For all parts that there are, and what a ledger has of others."""
    kills = field("kills_before_ready", "kills_during_recovery")
    histories = field("histories")
    million = 1_000_000
    return [
        Measure("simulation", "Simulated hours", "hours", field("simulated_hours"), 20, 5_000),
        Measure("simulation", "… times real time, on one core", "×", times_real_time, 0, 500),
        Measure("crash-points", "Crash points of all workloads", "points", field("crash_points"), 0, 0, whole=True),
        Measure("crash-points-random", "Random crash points", "points", field("crash_points"), 20_000, million),
        Measure("kill-cycles", "Cycles of kill -9", "cycles", field("cycles"), 20, 1_000),
        Measure("kill-cycles", "… kills during recovery", "kills", kills, 4, 200),
        Measure(
            "bit-flips", "Bits flipped in metadata", "bits", field("small.bits", "striped.bits"), 0, 500_000, whole=True
        ),
        Measure("payload-damage", "Random damages", "damages", field("damages"), 10_000, million),
        Measure("fault-sites", "Requests and allocations that failed", "sites", all_of("sites."), 0, 0, whole=True),
        Measure("histories", "Random histories of drives in use", "histories", histories, 3_000, million),
        Measure("drives-two", "Histories of two drives that come and go", "histories", histories, 0, 0, whole=True),
        Measure("drives-two-cut", "… with a change cut off", "histories", histories, 0, 0, whole=True),
        Measure("drives-three", "… of three drives", "histories", histories, 0, 0, whole=True),
        Measure("drives-three-cut", "… of three, with a change cut off", "histories", histories, 0, 0, whole=True),
        Measure("syscall-sites", "System calls that failed", "sites", all_of("sites."), 0, 0, whole=True),
        Measure(
            "client-syscalls-tcp", "System calls of a client that failed, tcp", "cases", field("runs"), 200, 10_000
        ),
        Measure(
            "client-syscalls-shm", "System calls of a client that failed, shm", "cases", field("runs"), 200, 10_000
        ),
        Measure("client-endings", "Ends, forks and signals of an engine", "processes", field("runs"), 1_000, 10_000),
        Measure("floods", "Floods of one kind of frame", "floods", field("floods"), 0, 0, whole=True),
        *fuzz_measures(parts),
        *(
            Measure("coverage", f"Coverage, {title}", "% in the least covered file", field(f"least.{kind}"), 95, 100)
            for kind, title in COVERAGE_KINDS.items()
        ),
    ]


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:,.1f}"


def seeds_of(entry: Entry) -> str:
    ranges = [number(first) if first == last else f"{number(first)} to {number(last)}" for first, last in entry.seeds]
    more = f" and {len(ranges) - RANGES_SHOWN_MOST} more ranges" if len(ranges) > RANGES_SHOWN_MOST else ""
    return ", ".join(ranges[:RANGES_SHOWN_MOST]) + more


def when(entry: Entry) -> str:
    first, last = entry.began[:10], entry.ended[:10]
    return first if first == last else f"{first} to {last}"


def verdict(measure: Measure, entry: Entry | None) -> str:
    if entry is None:
        return "not run"
    if entry.outcome != ledger.PASSED:
        return f"**{entry.outcome}**"
    asked = measure.whole or measure.run_least > 0
    if measure.met(entry, measure.soak_least):
        return "both" if asked else "soak"
    return "CI" if asked and measure.met(entry, measure.run_least) else "neither"


def table(sums: dict[str, Entry]) -> str:
    lines = ["| what | CI run | soak | seen | meets |", "|---|---|---|---|---|"]
    for measure in measures(sums):
        entry = sums.get(measure.part)
        ran = entry is not None and entry.outcome != ledger.MISSING
        seen = f"{number(measure.value(entry))} {measure.unit}" if entry is not None and ran else "–"
        if entry is not None and ran and measure.whole and not entry.complete:
            seen += ", stopped before the end"
        targets = f"{measure.target(measure.run_least)} | {measure.target(measure.soak_least)}"
        lines.append(f"| {measure.title} | {targets} | {seen} | {verdict(measure, entry)} |")
    return "\n".join(lines)


def runs(sums: dict[str, Entry]) -> str:
    lines = ["| part | runs | hours | when (UTC) | seeds | commits | last command |", "|---|---|---|---|---|---|---|"]
    for part, entry in sums.items():
        if entry.outcome == ledger.MISSING:
            lines.append(f"| {part} | **missing**: {'; '.join(entry.problems)} | | {when(entry)} | | | |")
            continue
        hours = f"{entry.seconds / 3600:.2f}"
        cells = [
            part,
            number(entry.runs),
            hours,
            when(entry),
            seeds_of(entry) or "–",
            entry.commit,
            f"`{entry.command}`",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def totals(sums: dict[str, Entry]) -> str:
    ran = [entry for entry in sums.values() if entry.outcome != ledger.MISSING]
    wrong, lost, back = (
        sum(entry.first_of(names) for entry in ran) for names in (ledger.WRONG, ledger.LOST, ledger.UNDELETED)
    )
    others = sum(entry.violations() for entry in ran) - wrong - lost - back
    runs_all, hours = sum(entry.runs for entry in ran), sum(entry.seconds for entry in ran) / 3600
    return "\n".join(
        [
            "| over everything | count |",
            "|---|---|",
            f"| wrong bytes served | {number(wrong)} |",
            f"| acknowledged durable blocks lost | {number(lost)} |",
            f"| deleted blocks that came back | {number(back)} |",
            f"| violations that the harness does not tell apart | {number(others)} |",
            f"| runs of parts, and their hours | {number(runs_all)}, {hours:.2f} |",
        ]
    )


def problems(sums: dict[str, Entry]) -> str:
    found = [
        f"* {part}: {problem}"
        for part, entry in sums.items()
        if entry.outcome == ledger.VIOLATED
        for problem in entry.problems or ["the run ended with an error"]
    ]
    return "\n".join(found) or "None."


def least_covered(sums: dict[str, Entry]) -> str:
    entry = sums.get("coverage")
    if entry is None or entry.outcome == ledger.MISSING:
        return "Coverage was not measured."
    names = sorted({name.split(".", 1)[1].rsplit(".", 1)[0] for name in entry.figures if name.startswith("files.")})
    lines = ["| file | lines | branches | MC/DC |", "|---|---|---|---|"]
    for name in names:
        cells = [f"{entry.figures.get(f'files.{name}.{kind}', 0):.1f} %" for kind in COVERAGE_KINDS]
        lines.append(f"| native/{name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shortfalls(entries: Iterable[Entry], parts: Iterable[str]) -> list[str]:
    """What of a CI run's targets these runs do not meet: a sentence each. Violations have sentences of their own."""
    sums, wanted = ledger.by_part(entries), list(parts)
    found = []
    for measure in measures(wanted):
        entry = sums.get(measure.part)
        if measure.part not in wanted or entry is None or entry.outcome != ledger.PASSED:
            continue
        if not measure.met(entry, measure.run_least):
            seen = f"{number(measure.value(entry))} {measure.unit}"
            target = measure.target(measure.run_least)
            found.append(f"{measure.part}: {measure.title.removeprefix('… ')}: {seen}, the target is {target}")
    return found


def rendered(entries: Iterable[Entry]) -> str:
    sums = ledger.by_part(entries)
    sums = {part: sums[part] for part in dict.fromkeys(measure.part for measure in measures(sums)) if part in sums}
    text = TEMPLATE.read_text()
    for name, content in (
        ("table", table(sums)),
        ("totals", totals(sums)),
        ("runs", runs(sums)),
        ("problems", problems(sums)),
        ("coverage", least_covered(sums)),
    ):
        marker = f"[[{name}]]"
        assert marker in text, f"the template has no {marker}"
        text = text.replace(marker, content)
    return text
