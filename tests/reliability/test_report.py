"""The report sums up over calls, never passes what did not run, and says how to come to a violation again."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import core_coverage
import pytest
import reliability_document as document
import reliability_ledger as ledger
import report
from reliability_ledger import MISSING, PASSED, VIOLATED, Entry
from reliability_parts import FUZZED, ROOT, Places, Result, all_parts

# Stands in for cairn-simulate: ten seeds and two hours a run. {then} is what else it does before its last line.
SIMULATE = """#!{python}
import json, os, sys
first = int(sys.argv[sys.argv.index("--from") + 1])
print(json.dumps({{"seeds": 1, "last_seed": first, "real_seconds": 1.0}}), flush=True)
row = {{"seeds": 10, "last_seed": first + 9, "real_seconds": 4.0, "simulated_hours": 2.0, "wrong_bytes": 0}}
row |= {{"lost_acknowledged": 0, "undeleted": 0, "event_hash": 12345678901234567890, "violations": 0, "diverged": 0}}
{then}
print(json.dumps(row))
"""


def fake_simulate(folder: Path, then: str = "") -> None:
    program = folder / "cairn-simulate"
    program.write_text(SIMULATE.format(python=sys.executable, then=then))
    program.chmod(0o755)


def words(folder: Path, *more: str, only: str = "simulation") -> list[str]:
    return [*("--ledger", str(folder / "ledger.jsonl"), "--native-build", str(folder), "--only", only), *more]


def entries_of(folder: Path) -> list[Entry]:
    return ledger.read(folder / "ledger.jsonl")


def entry(part: str, outcome: str = PASSED, **fields: Any) -> Entry:
    one = Entry(part, outcome, "abc", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", f"run {part}", seconds=36.0)
    return replace(one, **fields)


def test_a_second_call_goes_on_behind_the_first_and_adds_up(tmp_path: Path) -> None:
    fake_simulate(tmp_path)
    for _ in range(2):
        assert report.main(words(tmp_path)) == 3, "four hours are no CI run"
    total = ledger.by_part(entries_of(tmp_path))["simulation"]
    assert total.seeds == [(1, 20)]
    assert total.figures["simulated_hours"] == 4.0
    assert total.runs == 2
    assert "event_hash" not in total.figures
    text = (tmp_path / "how-cairn-is-tested.md").read_text()
    assert "| Simulated hours | ≥ 20 | ≥ 5,000 | 4 hours | neither |" in text
    assert "| … times real time, on one core | – | ≥ 500 | 1,800 × | soak |" in text


def test_a_soak_takes_new_seeds_in_every_slice(tmp_path: Path) -> None:
    fake_simulate(tmp_path)
    assert report.main(words(tmp_path, "--soak", "0.0005", "--at-most", "1")) == 0
    entries = entries_of(tmp_path)
    assert len(entries) > 1
    assert ledger.by_part(entries)["simulation"].seeds == [(1, 10 * len(entries))]


def test_a_violation_is_told_with_its_seed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_simulate(tmp_path, "print('seed 7: key 3 is lost', file=sys.stderr); row['lost_acknowledged'] = 1")
    with (tmp_path / "cairn-simulate").open("a") as program:
        program.write("sys.exit(1)\n")
    assert report.main(words(tmp_path)) == 1
    told = capsys.readouterr().err
    assert f"again: {tmp_path}/cairn-simulate --from 7 --seeds 1" in told
    [one] = entries_of(tmp_path)
    assert one.outcome == VIOLATED
    [output] = (tmp_path / "ledger-violations").iterdir()
    assert "seed 7: key 3 is lost" in output.read_text()
    text = (tmp_path / "how-cairn-is-tested.md").read_text()
    assert "| acknowledged durable blocks lost | 1 |" in text
    assert "--from 7 --seeds 1` at" in text
    assert "| Simulated hours | ≥ 20 | ≥ 5,000 | 2 hours | **violated** |" in text


def test_a_run_that_ends_in_the_middle_is_a_violation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_simulate(tmp_path, "os.abort()")
    assert report.main(words(tmp_path)) == 1
    assert "--from 2 --seeds 1" in capsys.readouterr().err, "seed 1 was done, so 2 ended it"
    assert ledger.next_seed(entries_of(tmp_path), "simulation") == 2
    assert (
        "| violations that the harness does not tell apart | 1 |" in (tmp_path / "how-cairn-is-tested.md").read_text()
    )


@pytest.mark.parametrize(
    "case",
    [
        "crash-points --random 1 --seed 359",
        "crash-points --only full,put,delete-oldest",
        "bit-flips --payload 1 --seed 12",
        "bit-flips --seed 1 --only small:257:4099",
        "fault-sites --only write:12:io_error:for_ever",
        "histories --random 1 --seed 21013",
    ],
)
def test_a_violation_of_torture_is_repeated_alone(case: str) -> None:
    [part] = [part for part in all_parts(Places(), with_coverage=False) if part.name == "crash-points"]
    told = Result(1, "", f"{case}: block a was deleted and is back\n{case}: and another\n")
    assert part.repeats(told, 1) == [f"build/native/cairn-torture {case}"]


def test_a_violation_of_a_system_call_is_repeated_alone() -> None:
    [part] = [part for part in all_parts(Places(), with_coverage=False) if part.name == "syscall-sites"]
    told = Result(1, "", "syscall-sites --only heap:3:ENOMEM:for_ever: it ended with -6\n    the life alone: strace\n")
    again = ".venv/bin/python tests/reliability/syscall_sites.py --torture build/native/cairn-torture"
    assert part.repeats(told, 1) == [f"{again} --only heap:3:ENOMEM:for_ever"]


def test_what_is_not_built_is_missing_and_not_passed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(words(tmp_path, only="simulation,crash-points")) == 3
    assert "MISSING" in capsys.readouterr().err
    assert {one.outcome for one in entries_of(tmp_path)} == {MISSING}
    text = (tmp_path / "how-cairn-is-tested.md").read_text()
    assert "| Crash points of all workloads | all | all | – | **missing** |" in text
    assert "cairn-torture is not built" in text
    assert "| runs of parts, and their hours | 0, 0.00 |" in text


def test_an_interrupted_run_is_lost_and_the_rest_is_not(tmp_path: Path) -> None:
    fake_simulate(tmp_path)
    report.main(words(tmp_path))
    pipe = tmp_path / "pipe"
    fake_simulate(tmp_path, f"open({str(pipe)!r}, 'w').write(str(os.getpid())); import time; time.sleep(600)")
    subprocess.run(["mkfifo", str(pipe)], check=True)
    program = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/reliability/report.py"), *words(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    child = int(pipe.read_text())  # it is under way
    program.send_signal(signal.SIGINT)
    _, told = program.communicate(timeout=60)
    assert program.returncode == 130, told
    assert not Path(f"/proc/{child}").exists()
    assert [one.seeds for one in entries_of(tmp_path)] == [[(1, 10)]]


def test_the_torn_last_line_of_a_killed_call_is_no_run(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger.append(path, entry("simulation", seeds=[(1, 5)]))
    with path.open("a") as file:
        file.write('{"part": "simul')
    assert len(ledger.read(path)) == 1
    ledger.append(path, entry("simulation", seeds=[(6, 9)]))
    assert ledger.by_part(ledger.read(path))["simulation"].seeds == [(1, 9)]


def small_ledger() -> list[Entry]:
    files = {
        "files.store/index.cc.lines": 100.0,
        "files.store/index.cc.branches": 96.5,
        "files.store/index.cc.mcdc": 91,
    }
    return [
        entry("crash-points-random", figures={"crash_points": 900_000.0, "violations": 0}, seeds=[(1, 300_000)]),
        entry("crash-points-random", figures={"crash_points": 150_000.0, "violations": 0}, seeds=[(300_001, 350_000)]),
        entry("bit-flips", figures={"small.bits": 1_500_000.0, "striped.bits": 21_504.0}, complete=True),
        entry("bit-flips", figures={"small.bits": 1_500_000.0, "striped.bits": 21_504.0}, complete=True, commit="def"),
        entry("fault-sites", figures={"sites.read": 40.0, "sites.write": 30.0, "stopped_early": 1}),
        entry("fuzz-wire", MISSING, problems=["build/fuzz/wire_fuzz is not built"], runs=0),
        entry("fuzz-wire", figures={"executions": 2_000_000.0}, seeds=[(1, 1)]),
        entry(
            "coverage", figures={"least.lines": 100, "least.branches": 96.5, "least.mcdc": 91} | files, complete=True
        ),
    ]


def test_the_document_is_the_template_and_the_ledger() -> None:
    text = document.rendered(small_ledger())
    for line in (
        "| Random crash points | ≥ 20,000 | ≥ 1,000,000 | 1,050,000 points | both |",
        "| Bits flipped in metadata | all | all, ≥ 500,000 | 1,521,504 bits | both |",
        "| Requests and allocations that failed | all | all | 70 sites, stopped before the end | neither |",
        "| Fuzzed decoder: wire frames | ≥ 1,000,000 | ≥ 1,000,000,000 | 2,000,000 executions | CI |",
        "| Fuzzed whole: recovery of a store | ≥ 5,000 | ≥ 1,000,000 | – | not run |",
        "| Coverage, branches | ≥ 95 | ≥ 100 | 96.5 % in the least covered file | CI |",
        "| Coverage, MC/DC | ≥ 95 | ≥ 100 | 91 % in the least covered file | neither |",
        "| Cycles of kill -9 | ≥ 20 | ≥ 1,000 | – | not run |",
        "| wrong bytes served | 0 |",
        "| native/store/index.cc | 100.0 % | 96.5 % | 91.0 % |",
        "| crash-points-random | 2 | 0.02 | 2026-01-01 | 1 to 350,000 | abc | `run crash-points-random` |",
    ):
        assert line in text.splitlines(), line
    assert "[[" not in text


def test_a_summed_ledger_gives_the_same_document() -> None:
    assert document.rendered(ledger.condensed(small_ledger())) == document.rendered(small_ledger())


def test_a_violation_stays_in_the_sum() -> None:
    good, bad = entry("kill-cycles", figures={"cycles": 50.0}), entry("kill-cycles", VIOLATED, figures={"wrong": 2.0})
    total = ledger.by_part([good, bad, good])["kill-cycles"]
    assert total.outcome == VIOLATED
    assert total.violations() == 2
    assert not any(
        measure.met(total, 0) for measure in document.measures(["kill-cycles"]) if measure.part == total.part
    )


def test_the_checked_in_document_comes_from_the_checked_in_ledger() -> None:
    assert report.DOCUMENT.read_text() == document.rendered(ledger.read(report.PUBLISHED_LEDGER)), (
        "run: .venv/bin/python tests/reliability/report.py --document-only --publish --ledger docs/how-cairn-is-tested.jsonl"
    )


def test_every_part_has_a_row_and_fits_into_a_ci_run() -> None:
    parts = all_parts(Places(), with_coverage=True)
    rows = {measure.part for measure in document.measures(part.name for part in parts)}
    assert {part.name for part in parts} <= rows
    assert sum(part.seconds for part in parts if part.name != "coverage") <= 60 * 60


def test_a_ci_run_feeds_every_decoder_a_million_times() -> None:
    sources = {path.stem.removesuffix("_fuzz") for path in (ROOT / "native" / "fuzz").glob("*_fuzz.cc")}
    assert sources == FUZZED.keys()
    for name in ("wire", "link", "ondisk", "rdma"):
        assert FUZZED[name].is_decoder
        assert FUZZED[name].amount >= 1_000_000
    for part in all_parts(Places(), with_coverage=False):
        if part.name.startswith("fuzz-"):
            assert f"-runs={part.amount}" in part.command(1, part.seconds, part.amount)


CHECK_H = str(ROOT / "native" / core_coverage.CHECKS)


def coverage_export(functions: list[dict[str, Any]]) -> dict[str, Any]:
    """As llvm-cov gives it, of files whose lines are all but two of a hundred covered."""
    summary = {"lines": {"covered": 98, "count": 100}}
    files = [{"filename": str(ROOT / "native" / name), "summary": summary} for name in core_coverage.FILES]
    return {"data": [{"files": files, "functions": functions}]}


def coverage_function(name: str, branches: list[list[int]], decisions: list[list[Any]] | None = None) -> dict[str, Any]:
    """Branches: place, times true, times false, file (0: its own, 1: the checks'), expansion, kind."""
    names = [str(ROOT / "native" / name), CHECK_H]
    return {"filenames": names, "branches": branches, "mcdc_records": decisions or []}


def test_coverage_names_what_is_below(capsys: pytest.CaptureFixture[str]) -> None:
    once = [[10, 3, 10, 9, 1, 1, 0, 0, 4], [12, 3, 12, 9, 5, 0, 0, 0, 4]]
    taken = core_coverage.taken_of(coverage_export([coverage_function("base/slab.cc", once)]))
    told = core_coverage.report_of(taken, passed=True, with_missed=True)
    assert told["files"]["base/slab.cc"] == {"lines": 98.0, "branches": 75.0, "mcdc": 100.0}
    assert told["least"] == {"lines": 98.0, "branches": 75.0, "mcdc": 100.0}
    assert told["violations"] == 0
    said = capsys.readouterr().err
    assert "native/base/slab.cc: branches 75.0 %" in said
    assert "native/base/slab.cc:12:3: never false" in said
    assert json.loads(json.dumps(told)) == told


def test_coverage_leaves_out_checks_and_nothing_else() -> None:
    check = [[15, 11, 15, 20, 7, 0, 1, 0, 6], [15, 11, 15, 20, 7, 0, 1, 0, 6]]
    own = [[20, 7, 20, 8, 7, 0, 0, 0, 6], [20, 12, 20, 13, 7, 0, 0, 0, 6]]
    decisions = [[15, 11, 15, 20, 0, 5, [False, False]], [20, 7, 20, 13, 0, 5, [True, False]]]
    function = coverage_function("store/log.cc", [*check, *own], decisions)
    log = core_coverage.taken_of(coverage_export([function]))["store/log.cc"]
    assert log.percent("branches") == 50.0
    assert log.percent("mcdc") == 50.0


def test_coverage_counts_a_template_once_whoever_instantiates_it() -> None:
    functions = [coverage_function("store/format.h", [[5, 7, 5, 12, *taken, 0, 0, 4]]) for taken in ([1, 0], [0, 1])]
    assert core_coverage.taken_of(coverage_export(functions))["store/format.h"].percent("branches") == 100.0


def test_coverage_of_a_file_that_moved_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    export = coverage_export([])
    export["data"][0]["files"].pop(0)
    assert core_coverage.report_of(core_coverage.taken_of(export), passed=True)["violations"] == 1
    assert f"native/{core_coverage.FILES[0]} is not in the profile" in capsys.readouterr().err


def test_the_tests_that_storage_faults_names_exist() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "native").rglob("*_test.cc"))
    named = re.findall(r"`([A-Z]\w+)\.(\w+)`", (ROOT / "docs" / "storage-faults.md").read_text())
    assert named
    for suite, name in named:
        assert re.search(rf"TEST(?:_P|_F)?\({suite}, {name}\)", sources), f"{suite}.{name}"


def test_the_files_that_are_measured_exist() -> None:
    assert not [name for name in core_coverage.FILES if not (ROOT / "native" / name).is_file()]
