"""Every system call of a store's life fails, one at a time: once, and from there on for ever.

    python tests/reliability/syscall_sites.py [--torture FILE] [--every] [--stop-at SECONDS]
    python tests/reliability/syscall_sites.py --only openat:2:ENOSPC:once

`cairn-torture life` is run under strace, which lists its system calls; then again for each of them with an errno of
syscall_errnos.py in the place of what the kernel would have said. A life goes well, or ends with 3 and one sentence that
names what failed, why, and what to do. Afterwards, with nothing failing any more, everything that it had acknowledged is
there, exact, and the drive takes a new block. Calls that are made for every request share out their errnos; --every tries
all of them everywhere. The last line is one JSON object. Ends with 1 after a violation, 3 if strace cannot be used.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from syscall_errnos import LEFT_OUT, RETURNED, errnos_of, may_be_noticed, strerrors

ROOT = Path(__file__).resolve().parents[2]
SECONDS_MOST = 20  # of one life; it takes a tenth of a second
WELL, VIOLATED, COULD_NOT = 0, 1, 3
TRACED = re.compile(r"^(?:\d+ +)?(\w+)\(")
HEAP = ("brk", "mmap")
# What a sentence may name instead of the drive's path.
THINGS = ("slab", "memory", "random")
CAUSES = (
    "out of memory",
    "drive reported an error",
    "drive accepts writes",
    "drive is gone",
    "in use",
    *map(os.strerror, strerrors().values()),
)
HARMS = {
    "wrong bytes": "wrong_bytes",
    " is lost": "lost_acknowledged",
    " is back": "undeleted",
    "and is there": "undeleted",
}


@dataclass(frozen=True)
class Case:
    """The nth call of a name behind the marker. `when` counts those before it as well, as strace does, for each call that
    fails from there on: one, but of the heap's calls both."""

    call: str
    ordinal: int
    errno: str
    for_ever: bool
    when: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        return f"{self.call}:{self.ordinal}:{self.errno}:{'for_ever' if self.for_ever else 'once'}"

    def injections(self) -> Iterator[str]:
        for call, first in self.when:
            how = f"retval={RETURNED[call]}" if call in RETURNED else f"error={self.errno}"
            yield f"{call}:{how}:when={first}{'+' if self.for_ever else ''}"


class Listed:
    """The calls of a life in which nothing fails, by name in their order."""

    def __init__(self, before: Sequence[str], behind: Sequence[str]) -> None:
        self.before, self.behind = list(before), list(behind)
        self.sites = Counter(call for call in behind if call not in LEFT_OUT)
        self.sites["heap"] = sum(self.sites[call] for call in HEAP)

    def case(self, call: str, ordinal: int, errno: str, *, for_ever: bool) -> Case:
        if call != "heap":
            return Case(call, ordinal, errno, for_ever, ((call, self.before.count(call) + ordinal),))
        places = [place for place, name in enumerate(self.behind) if name in HEAP]
        place = places[min(ordinal, len(places)) - 1]
        so_far = [*self.before, *self.behind[:place]]
        return Case(call, ordinal, errno, for_ever, tuple((name, so_far.count(name) + 1) for name in HEAP))

    def cases(self, *, every: bool) -> Iterator[Case]:
        for call, count in sorted(self.sites.items()):
            for ordinal in range(1, count + 1):
                for errno in errnos_of(call, ordinal, every=every):
                    for for_ever in (False, True):
                        yield self.case(call, ordinal, errno, for_ever=for_ever)

    def named(self, name: str) -> Case:
        found = re.fullmatch(r"(\w+):([1-9]\d*):(E\w+):(once|for_ever)", name)
        if found is None:
            raise SystemExit(f"'{name}' is no case: CALL:N:ERRNO:once|for_ever")
        return self.case(found[1], int(found[2]), found[3], for_ever=found[4] == "for_ever")


@dataclass(frozen=True)
class Ended:
    """How a process ended; a negative status is a signal, None a process that had to be killed."""

    status: int | None
    out: str
    err: str


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def execute(words: Sequence[str], stdin: str = "") -> Ended:
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(stdin, SECONDS_MOST)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # strace and the life under it
            out, err = process.communicate()
            return Ended(None, out, err)
    return Ended(process.returncode, out, err)


def why_not_traced() -> str:
    """A sentence if strace cannot be used here."""
    if shutil.which("strace") is None:
        return "strace is not installed; `tools/setup.sh system core` installs it"
    tried = execute(["strace", "-qq", "-o", os.devnull, "true"])
    return "" if tried.status == 0 else f"ptrace is not permitted here: {tried.err.strip()}"


class Sweep:
    """All lives over files in one folder. Threads share it."""

    def __init__(self, torture: Path, folder: Path) -> None:
        self.torture = torture
        self.folder = folder
        self.outcomes: Counter[str] = Counter()
        self.harms: Counter[str] = Counter()
        self.violations = 0
        self._lock = threading.Lock()

    def life(self, drive: Path, *more: str) -> list[str]:
        return [str(self.torture), "life", "--file", str(drive), *more]

    def listed(self) -> Listed:
        drive, trace = self.folder / "listed", self.folder / "trace"
        ended = execute(["strace", "-f", "-o", str(trace), "-e", "signal=none", *self.life(drive)])
        if ended.status != WELL:
            raise SystemExit(f"a life in which nothing fails ended with {ended.status}: {ended.err}")
        lines = [line for line in trace.read_text().splitlines() if TRACED.match(line)]
        marker = next(place for place, line in enumerate(lines) if 'write(1, "begin' in line)
        names = [found[1] for line in lines if (found := TRACED.match(line))]
        drive.unlink()
        return Listed(names[:marker], names[marker + 1 :])

    def run(self, case: Case) -> None:
        """One life in which the case comes to pass, and one after it in which nothing fails."""
        number = threading.get_ident()
        drive, trace = self.folder / f"drive-{number}", self.folder / f"trace-{number}"
        injected = ["strace", "-f", "-qq", "-o", str(trace), "-e", "signal=none"]
        injected += ["-e", f"trace={','.join(call for call, _ in case.when)}"]
        injected += [word for injection in case.injections() for word in ("-e", f"inject={injection}")]
        ended = execute([*injected, *self.life(drive)])
        came = "(INJECTED)" in trace.read_text()
        problems = problems_of(case, ended, str(drive))
        checked = execute(self.life(drive, "--check"), ended.out)
        if checked.status != WELL:
            problems.append(f"when healed it ended with {checked.status}: {checked.err.strip()}")
        drive.unlink(missing_ok=True)
        trace.unlink()
        with self._lock:
            self.outcomes[outcome_of(ended) if came else "not_reached"] += 1
            if problems:
                self._tell(case, problems, [*injected, *self.life(drive)])

    def _tell(self, case: Case, problems: list[str], words: list[str]) -> None:
        self.violations += 1
        text = "; ".join(problems)
        self.harms.update({next((harm for sign, harm in HARMS.items() if sign in text), "other"): 1})
        say(f"syscall-sites --only {case.name}: {text}")
        say(f"    the life alone: {shlex.join(words)}")


def outcome_of(ended: Ended) -> str:
    named = {WELL: "well", COULD_NOT: "could_not", VIOLATED: "violated", None: "hung"}
    return named.get(ended.status, "ended_badly")


def problems_of(case: Case, ended: Ended, path: str) -> list[str]:
    """What is wrong with how a life ended."""
    if ended.status is None:
        return [f"it did not end in {SECONDS_MOST} s"]
    if ended.status == WELL:
        return []
    if ended.status != COULD_NOT:
        return [f"it ended with {ended.status}: {ended.err.strip()}"]
    problems = []
    if not case.for_ever and not may_be_noticed(case.call, case.errno):
        problems.append(f"it gave up at the first {case.errno}: {ended.err.strip()}")
    if why := useless(ended.err, path):
        problems.append(f"{why}: {ended.err.strip()!r}")
    return problems


def useless(told: str, path: str) -> str:
    """Why a person can make nothing of it; empty if they can."""
    lines = told.strip().splitlines()
    if len(lines) != 1:
        return f"it should say one sentence, and said {len(lines)} lines"
    [line] = lines
    if path not in line and not any(thing in line for thing in THINGS):
        return "its sentence does not name what failed"
    cause = next((line.find(cause) + len(cause) for cause in CAUSES if cause in line), 0)
    if cause == 0:
        return "its sentence does not say why"
    if not re.search(r"\(\w|; \w", line):
        return "its sentence does not say what to do"
    return ""


def run_all(run: Sweep, cases: Sequence[Case], until: float, workers: int) -> bool:
    """Whether there was time for all of them."""

    def one(case: Case) -> bool:
        if time.monotonic() >= until:
            return False
        run.run(case)
        return True

    with ThreadPoolExecutor(workers, "life") as threads:
        return all(list(threads.map(one, cases)))


def options_of(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torture", type=Path, default=ROOT / "build" / "native" / "cairn-torture")
    parser.add_argument("--folder", type=Path, help="on a file system with direct I/O; beside the program by default")
    parser.add_argument("--only", metavar="CASE,…", help="CALL:N:ERRNO:once|for_ever, as a violation names it")
    parser.add_argument("--every", action="store_true", help="every errno on every call")
    parser.add_argument("--stop-at", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = options_of(words)
    began = time.monotonic()
    if why := why_not_traced():
        say(why)
        return 3
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torture = options.torture.absolute()
    with tempfile.TemporaryDirectory(prefix="syscall-sites-", dir=options.folder or torture.parent) as folder:
        run = Sweep(torture, Path(folder))
        listed = run.listed()
        named = [listed.named(name) for name in options.only.split(",")] if options.only else []
        whole = run_all(run, named or [*listed.cases(every=options.every)], began + options.stop_at, options.workers)
    figures = {
        "part": "syscall-sites",
        "runs": sum(run.outcomes.values()),
        "sites": dict(sorted(listed.sites.items())),
        "outcomes": dict(sorted(run.outcomes.items())),
        **{harm: run.harms[harm] for harm in ("wrong_bytes", "lost_acknowledged", "undeleted")},
        "stopped_early": not whole,
        "seconds": round(time.monotonic() - began, 1),
        "violations": run.violations,
    }
    print(json.dumps(figures))
    return 0 if run.violations == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
