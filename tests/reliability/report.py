"""Runs what shows that the store is reliable, keeps a ledger of it, and writes the document from the ledger.

    python tests/reliability/report.py                           # a CI run: at most an hour on one processor
    python tests/reliability/report.py --soak 24 --ledger FILE   # 24 hours more, with the seeds behind those in FILE
    python tests/reliability/report.py --document-only --publish --ledger FILE

Parts run side by side (--jobs). A soak takes them in turn, some minutes each. Every run of a part is a line of the ledger when it has ended, so an
interruption loses the one that is under way and the next call goes on behind it. Ends with 0; with 1 after a violation,
whose output lies beside the ledger; with 2 after wrong usage; with 3 if a part is missing or a CI run fell short.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import reliability_ledger as ledger
from reliability_document import rendered, shortfalls
from reliability_ledger import MISSING, PASSED, VIOLATED, Entry
from reliability_parts import ROOT, UNLIMITED, Part, Places, Result, all_parts, shown

SLICE_SECONDS = 180
WHOLE_SECONDS = 1800  # in a soak, of a part that covers a fixed set
SLICE_SECONDS_LEAST = 20
TICK_SECONDS = 30
JOBS_MOST = 4  # parts at a time; the kill cycles have processes enough of their own
DOCUMENT = ROOT / "docs" / "how-cairn-is-tested.md"
PUBLISHED_LEDGER = DOCUMENT.with_suffix(".jsonl")
DIRTY = ("native", "cairnkv", "dpu")  # a change here and a commit's name says less


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def commit_of_tree() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = "+changes" if git("status", "--porcelain", "--", *DIRTY) else ""
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + changed


# Whoever waits for a process ends it and gives up.
stopping = threading.Event()


class Stopped(Exception):
    """We are interrupted."""


@dataclass
class Run:
    """One call of this program. Any thread; a part is run by one at a time."""

    path: Path
    commit: str
    entries: list[Entry]  # of the ledger, those of earlier calls included
    own: list[Entry] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, entry: Entry) -> None:
        with self.lock:
            ledger.append(self.path, entry)
            self.entries.append(entry)
            self.own.append(entry)

    def one(self, part: Part, seconds: int, amount: int, number: str) -> Entry:
        """Runs a part once. Nothing is kept of a run that is interrupted."""
        with self.lock:
            seed = ledger.next_seed(self.entries, part.name)
        if why := part.why_missing():
            say(f"{number} {part.name}: MISSING: {why}")
            now = utc()
            entry = Entry(part.name, MISSING, self.commit, now, now, "", runs=0, problems=[why])
            self.keep(entry)
            return entry
        words = part.command(seed, seconds, amount)
        say(f"{number} {part.name}, at most {seconds} s: {shown(words)}")
        began, started = utc(), time.monotonic()
        result = execute(words, seconds + max(60, seconds // 2))
        entry = self.judged(part, seed, result, began, time.monotonic() - started, shown(words))
        self.keep(entry)
        return entry

    def judged(self, part: Part, seed: int, result: Result, began: str, seconds: float, command: str) -> Entry:
        figures = part.figures(result)
        passed = result.status == 0 and figures is not None and figures.get("violations", 0) == 0
        used = 0
        if part.seeds_used is not None:
            # A run that ended in the middle is not begun again at the same seed: it would end there for ever.
            used = max(part.seeds_used(figures) if figures is not None else 1, 0 if passed else 1)
        entry = Entry(
            part=part.name,
            outcome=PASSED if passed else VIOLATED,
            commit=self.commit,
            began=began,
            ended=utc(),
            command=command,
            seconds=round(seconds, 3),
            seeds=[(seed, seed + used - 1)] if used else [],
            figures=figures or {},
            complete=part.whole and passed and not (figures or {}).get("stopped_early", 0),
            problems=[] if passed else self.told(part, seed, result, command),
        )
        counts = ", ".join(f"{name} {value:,.10g}" for name, value in list(entry.figures.items())[:6])
        say(f"    {part.name} {entry.outcome} in {seconds:.0f} s: {counts}")
        return entry

    def told(self, part: Part, seed: int, result: Result, command: str) -> list[str]:
        """Keeps the output of a run that went wrong, and says how to come to it again."""
        folder = self.path.with_suffix("").with_name(self.path.stem + "-violations")
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{part.name}-{seed}-{datetime.now(UTC):%Y%m%dT%H%M%S}.txt"
        status = f"ended with {result.status}" if result.status >= 0 else f"ended by signal {-result.status}"
        head = f"{command}\n{self.commit}, {status}\n"
        file.write_text(f"{head}--- stderr\n{result.err}\n--- stdout\n{result.out}\n")
        repeats = part.repeats(result, seed) or [command]
        seeds = f" from seed {seed}" if part.seeds_used is not None else ""
        say(f"VIOLATION in {part.name}{seeds} ({status}); all of its output: {file}")
        for line in result.err.strip().splitlines()[-10:]:
            say(f"    {line}")
        for repeat in repeats:
            say(f"    again: {repeat}")
        return [f"`{repeat}` at {self.commit}" for repeat in repeats]


def execute(words: list[str], seconds_most: int) -> Result:
    """Runs it to its end, or kills it and all that it started: when it is overdue, or when we are interrupted."""
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    started = told = time.monotonic()
    try:
        while True:
            try:
                out, err = process.communicate(timeout=1)
                return Result(process.returncode, out, err)
            except subprocess.TimeoutExpired:
                if stopping.is_set():
                    raise Stopped from None
                passed = time.monotonic() - started
                if time.monotonic() - told >= TICK_SECONDS:
                    told = time.monotonic()
                    say(f"    … {Path(words[0]).name} {passed:.0f} s")
                if passed >= seconds_most:
                    end(process)
                    out, err = process.communicate()
                    return Result(-signal.SIGKILL, "", f"{err}\nit did not end in {passed:.0f} s\n{out}")
    except BaseException:
        end(process)
        raise


def end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def side_by_side(jobs: int, work: Callable[[], None]) -> None:
    """`work` in so many threads, until it returned in all. An interruption ends what they wait for."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(work) for _ in range(jobs)}
        try:
            while futures:
                done, futures = wait(futures, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        except BaseException:
            stopping.set()
            raise


def once(run: Run, parts: Sequence[Part], at_most: int, jobs: int) -> None:
    """A CI run: every part, up to its amount; those that take longest go first, those that go alone last."""
    left = deque(sorted((part for part in parts if not part.alone), key=lambda part: -part.seconds))
    alone = [part for part in parts if part.alone]

    def work() -> None:
        while left:
            with run.lock:
                if not left:
                    return
                part = left.popleft()
                number = len(parts) - len(alone) - len(left)
            run.one(part, min(part.seconds, at_most), part.amount, f"[{number}/{len(parts)}]")

    side_by_side(jobs, work)
    for number, part in enumerate(alone, len(parts) - len(alone) + 1):
        run.one(part, min(part.seconds, at_most), part.amount, f"[{number}/{len(parts)}]")


def soak(run: Run, parts: Sequence[Part], hours: float, at_most: int, jobs: int) -> None:
    """The parts in turn until the time is over. A part that is missing or found something sits out the rest."""
    until = time.monotonic() + hours * 3600
    still = deque(part for part in parts if not (part.whole and ledger.is_done(run.entries, part.name, run.commit)))

    def work() -> None:
        while True:
            left = int(until - time.monotonic())
            with run.lock:
                if not still or left < min(SLICE_SECONDS_LEAST, at_most):
                    return
                part = still.popleft()
            seconds = min(WHOLE_SECONDS if part.whole else SLICE_SECONDS, at_most, left)
            entry = run.one(part, seconds, UNLIMITED, f"[{left / 3600:.2f} h left]")
            if entry.outcome == PASSED and not part.whole:
                with run.lock:
                    still.append(part)

    side_by_side(jobs, work)


def finish(run: Run, parts: Sequence[Part], *, is_soak: bool) -> int:
    """The last words and the exit status."""
    short = [] if is_soak else shortfalls(run.own, [part.name for part in parts])
    for sentence in short:
        say(f"SHORT: {sentence}")
    missing = [entry.part for entry in run.own if entry.outcome == MISSING]
    violated = [entry.part for entry in run.own if entry.outcome == VIOLATED]
    if violated:
        say(f"violations in {', '.join(dict.fromkeys(violated))}")
        return 1
    if missing or short:
        say(f"not all was shown; missing: {', '.join(missing) or 'nothing'}")
        return 3
    say("no violation")
    return 0


def write_document(run: Run, document: Path, *, publish: bool) -> None:
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_text(rendered(run.entries))
    say(f"the document: {document}")
    if publish:
        summed = ledger.condensed(run.entries)
        PUBLISHED_LEDGER.write_text("".join(ledger.line_of(entry) for entry in summed))
        DOCUMENT.write_text(rendered(summed))
        say(f"published: {DOCUMENT} and {PUBLISHED_LEDGER}")


def options_of(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soak", type=float, metavar="HOURS", help="so many hours more, instead of a CI run")
    parser.add_argument("--ledger", type=Path, default=ROOT / "build" / "reliability" / "ledger.jsonl")
    parser.add_argument("--document", type=Path, help="where it goes; beside the ledger by default")
    parser.add_argument("--publish", action="store_true", help="put document and summed ledger in docs/ as well")
    parser.add_argument("--document-only", action="store_true", help="run nothing")
    parser.add_argument("--coverage", action="store_true", help="measure coverage as well: it is built first")
    parser.add_argument("--only", metavar="PART,…", help="these parts")
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(os.cpu_count() or 1, JOBS_MOST),
        metavar="N",
        help="parts at a time; by default one for each processor, at most 4",
    )
    parser.add_argument("--at-most", type=int, default=UNLIMITED, metavar="SECONDS", help="for each run of a part")
    parser.add_argument(
        "--native-build", type=Path, default=Places.native, help="where cairn-simulate and cairn-torture lie"
    )
    parser.add_argument("--fuzz-build", type=Path, default=Places.fuzz)
    options = parser.parse_args(words)
    parts = all_parts(Places(options.native_build, options.fuzz_build), with_coverage=options.coverage)
    names = {part.name for part in parts}
    only = set(options.only.split(",")) if options.only else names
    if unknown := only - names:
        parser.error(f"there is no part '{', '.join(sorted(unknown))}': {', '.join(sorted(names))}")
    if options.soak is not None and options.soak <= 0:
        parser.error("--soak takes a number of hours above 0")
    if options.jobs < 1:
        parser.error("--jobs takes a number above 0")
    options.parts = [part for part in parts if part.name in only]
    return options


def main(words: Sequence[str] | None = None) -> int:
    options = options_of(words)
    path = options.ledger.absolute()
    run = Run(path, commit_of_tree(), ledger.read(path))
    status = 0
    if not options.document_only:
        try:
            if options.soak is None:
                once(run, options.parts, options.at_most, options.jobs)
            else:
                soak(run, options.parts, options.soak, options.at_most, options.jobs)
            status = finish(run, options.parts, is_soak=options.soak is not None)
        except KeyboardInterrupt:
            say("interrupted: what was under way is lost, the ledger has the rest")
            status = 1 if any(entry.outcome == VIOLATED for entry in run.own) else 130
    write_document(run, options.document or path.with_name(DOCUMENT.name), publish=options.publish)
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
