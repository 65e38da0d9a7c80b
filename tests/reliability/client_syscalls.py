"""Every system call of a client's process fails, one at a time: once, and from there on for ever.

    python tests/reliability/client_syscalls.py [--transport tcp|shm] [--every] [--seed N] [--stop-at SECONDS]
    python tests/reliability/client_syscalls.py --transport tcp --only poll:3:EINTR:once

A process connects to a real service, puts, gets, asks, watches, waits on an event's descriptor and closes. strace lists its
system calls; then it does the same again for each of them, with an errno of client_errnos.py in the place of what the kernel
would have said. Whatever fails: the process goes on, every call is back within its deadline and what is allowed beyond it,
with a status for each item or an error of our tree, the bytes around every named buffer are what they were, and what was
acknowledged is there, exact, when nothing fails any more. What may be tried again (EINTR, EAGAIN) is, without a word.
Cases come in an order drawn from the seed. The last line is one JSON object. Ends with 1 after a violation, 3 if strace
cannot be used.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client_errnos import LEFT_OUT, errnos_of, may_be_noticed
from syscall_errnos import RETURNED
from syscall_sites import why_not_traced

import cairnkv
import cairnkv.testing

DEADLINE_MS = 500
CONNECT_MS = 1_000
ALLOWED_SECONDS = 0.25 + 1.0  # beyond a deadline: what is promised, and a machine that has other things to do
SECONDS_MOST = 30
CANARY = bytes(range(1, 65))
BLOCK_BYTES = 50_000
HEAP = ("brk", "mmap")
ROOM = 1 << 16
GO_ON, HEALED, DONE = 1, 2, 3  # what parent and child tell one another
TRACED = re.compile(r"^(\d+) +(\w+)\(")


@dataclass(frozen=True)
class Case:
    """The nth call of a name on a thread. Of the heap's calls both."""

    call: str
    ordinal: int
    errno: str
    for_ever: bool

    @property
    def name(self) -> str:
        return f"{self.call}:{self.ordinal}:{self.errno}:{'for_ever' if self.for_ever else 'once'}"

    def injections(self) -> Iterator[str]:
        for call in HEAP if self.call == "heap" else (self.call,):
            how = f"retval={RETURNED[call]}" if call in RETURNED else f"error={self.errno}"
            yield f"{call}:{how}:when={self.ordinal}{'+' if self.for_ever else ''}"

    @staticmethod
    def named(name: str) -> Case:
        found = re.fullmatch(r"(\w+):([1-9]\d*):(E\w+):(once|for_ever)", name)
        if found is None:
            raise SystemExit(f"'{name}' is no case: CALL:N:ERRNO:once|for_ever")
        return Case(found[1], int(found[2]), found[3], found[4] == "for_ever")


class Guarded:
    """Memory with canaries around it."""

    def __init__(self, content: bytes) -> None:
        self._all = bytearray(CANARY + content + CANARY)
        self.memory = memoryview(self._all)[len(CANARY) : -len(CANARY)]

    def intact(self) -> bool:
        return self._all.startswith(CANARY) and self._all.endswith(CANARY)


class Life:
    """What the child does. Nothing here makes a system call of its own between two calls of the client."""

    def __init__(self, url: str, number: int) -> None:
        self.url = url
        self.keys = [f"{number}-{item}" for item in range(3)]
        self.blocks = [bytes([number % 251 + 1, item + 1]) * (BLOCK_BYTES // 2) for item in range(3)]
        self.sources = [Guarded(block) for block in self.blocks]
        self.targets = [Guarded(bytes(BLOCK_BYTES)) for _ in self.blocks]
        self.acknowledged: set[int] = set()
        self.problems: list[str] = []
        self.failures: list[str] = []

    def call(self, name: str, seconds: float, work: Callable[[], Any]) -> Any:
        """What came of it; None when it raised one of our errors, or there was no memory for Python itself."""
        began = time.monotonic()
        try:
            return work()
        except (cairnkv.CairnError, MemoryError) as error:
            self.failures.append(f"{name}: {error}")
            if isinstance(error, cairnkv.UsageError | cairnkv.ProtocolError) and "closed" not in str(error):
                self.problems.append(f"{name} blames the caller or the service: {error}")
        except Exception as error:
            self.problems.append(f"{name} raised {type(error).__name__}: {error}")
        finally:
            took = time.monotonic() - began
            if took > seconds + ALLOWED_SECONDS:
                self.problems.append(f"{name} took {took:.2f} s and had {seconds:.2f}")
        return None

    def live(self) -> None:
        client = self.call(
            "connect", CONNECT_MS / 1000, lambda: cairnkv.connect(self.url, connect_timeout_ms=CONNECT_MS)
        )
        if client is None:
            return
        for name, work in self.calls(client):
            for index, result in enumerate(self.call(name, DEADLINE_MS / 1000, work) or ()):
                if not result.ok:
                    self.failures.append(f"{name}: {result}")
                elif name == "put":
                    self.acknowledged.add(index)
                elif name == "get" and bytes(self.targets[index].memory) != self.blocks[index]:
                    self.problems.append(f"get delivered wrong bytes of block {index}")
        if not all(guarded.intact() for guarded in (*self.sources, *self.targets)):
            self.problems.append("bytes beside a named buffer were written")
        self.call("close", 0.25, client.close)

    def calls(self, client: cairnkv.Client) -> Iterator[tuple[str, Callable[[], Any]]]:
        put = list(zip(self.keys, (guarded.memory for guarded in self.sources), strict=True))
        get = list(zip(self.keys, (guarded.memory for guarded in self.targets), strict=True))
        yield "put", lambda: client.put(put, deadline_ms=DEADLINE_MS)
        yield "exists", lambda: client.exists(self.keys, deadline_ms=DEADLINE_MS)
        yield "get", lambda: client.get(get, deadline_ms=DEADLINE_MS)
        yield "match", lambda: client.match(self.keys, deadline_ms=DEADLINE_MS) and None
        yield "stats", lambda: client.stats(deadline_ms=DEADLINE_MS) and None
        yield "watch", lambda: client.watch(after=10**9, deadline_ms=50) and None
        yield "event", lambda: self.by_event(client)

    def by_event(self, client: cairnkv.Client) -> None:
        """As AsyncClient does it, without the loop's own system calls."""
        session = client._connection.session
        try:
            session.completion_fd()
        except cairnkv._native.ConnectError as error:
            self.failures.append(f"event: {error.args[1]}")
            return
        key = bytes(16)
        operation = session.exists([key], 0, DEADLINE_MS)
        until = time.monotonic() + DEADLINE_MS / 1000 + ALLOWED_SECONDS
        while not operation.done():
            session.take_completed()
            pause = time.monotonic() + 0.005
            while time.monotonic() < pause:  # no system call
                pass
            if time.monotonic() > until:
                self.problems.append("an operation of an event loop is not done")
                operation.cancel()

    def heal(self) -> None:
        """Nothing fails any more."""
        with cairnkv.connect(self.url) as client:
            for index in sorted(self.acknowledged):
                result, block = client.get_bytes(self.keys[index])
                if not result.hit or block != self.blocks[index]:
                    self.problems.append(f"the acknowledged block {index} is {result}")


class Sweep:
    """All lives against one service."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.outcomes: Counter[str] = Counter()
        self.violations = 0
        self.lives = 0

    def child(self, shared: mmap.mmap, number: int) -> None:
        life = Life(self.url, number)
        while shared[0] != GO_ON:
            pass
        try:
            life.live()
            shared[1] = HEALED
            while shared[0] != HEALED:
                pass
            life.heal()
        except BaseException:
            life.problems.append(traceback.format_exc())
        told = json.dumps([life.problems, life.failures]).encode()[: ROOM - 8]
        shared[8 : 8 + len(told)] = told
        shared[2:6] = len(told).to_bytes(4, "little")
        shared[1] = DONE

    def live(self, words: Sequence[str]) -> tuple[int | None, list[str], list[str], str]:
        """(how it ended, None when it hung; problems; failures that were told; the trace)."""
        self.lives += 1
        trace = self.folder / "trace"
        trace.write_text("")
        with mmap.mmap(-1, ROOM) as shared:
            child = os.fork()
            if child == 0:
                self.child(shared, self.lives)
                os._exit(0)
            strace = subprocess.Popen(
                ["strace", "-f", "-qq", "-e", "signal=none", "-o", str(trace), *words, "-p", str(child)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            status = self.attend(shared, child, strace)
            length = int.from_bytes(shared[2:6], "little")
            problems, failures = json.loads(shared[8 : 8 + length]) if length else ([], [])
        return status, problems, failures, trace.read_text(errors="replace")

    def attend(self, shared: mmap.mmap, child: int, strace: subprocess.Popen[bytes]) -> int | None:
        until = time.monotonic() + SECONDS_MOST

        def await_(what: Callable[[], bool]) -> bool:
            while not what():
                if time.monotonic() > until:
                    return False
                time.sleep(0.001)
            return True

        ended: list[int] = []

        def over() -> bool:
            if not ended:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    ended.append(os.waitstatus_to_exitcode(status))
            return bool(ended)

        try:
            if not await_(lambda: traced(child) or strace.poll() is not None):
                return None
            shared[0] = GO_ON
            if not await_(lambda: shared[1] >= HEALED or over()):
                return None
            strace.send_signal(signal.SIGINT)  # it lets go
            strace.wait()
            shared[0] = HEALED
            return ended[0] if await_(over) else None
        finally:
            strace.kill()
            strace.wait()
            if not over():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)

    def sites(self) -> Counter[str]:
        """The calls of a life in which nothing fails: of each name as many as one thread makes."""
        status, problems, failures, trace = self.live([])
        if status != 0 or problems or failures:
            raise SystemExit(f"a life in which nothing fails ended with {status}: {problems} {failures}")
        counts: Counter[tuple[str, str]] = Counter()
        for line in trace.splitlines():
            if found := TRACED.match(line):
                counts[found[1], found[2]] += 1
        sites: Counter[str] = Counter()
        for (_, call), count in counts.items():
            if call not in LEFT_OUT:
                sites[call] = max(sites[call], count)
        sites["heap"] = sum(sites[call] for call in HEAP)
        return sites

    def run(self, case: Case) -> None:
        calls = HEAP if case.call == "heap" else (case.call,)
        words = [
            "-e",
            f"trace={','.join(calls)}",
            *(word for one in case.injections() for word in ("-e", f"inject={one}")),
        ]
        status, problems, failures, trace = self.live(words)
        came = "(INJECTED)" in trace
        silent = came and not case.for_ever and not may_be_noticed(case.call, case.errno)
        if silent and failures:  # a machine that is busy may be too slow for a deadline, but not twice
            status, problems, failures, trace = self.live(words)
        if status is None:
            problems = [*problems, f"it did not end in {SECONDS_MOST} s"]
        elif status != 0:
            problems = [*problems, f"the process ended with {status}"]
        if silent and failures:
            problems = [*problems, f"one {case.errno} was told: {failures}"]
        self.outcomes["violated" if problems else "not_reached" if not came else "told" if failures else "well"] += 1
        if problems:
            self.violations += 1
            print(f"client-syscalls --only {case.name}: {'; '.join(problems)}", file=sys.stderr, flush=True)


def traced(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
    return True


def cases_of(sites: Counter[str], *, every: bool) -> Iterator[Case]:
    for call, count in sorted(sites.items()):
        for ordinal in range(1, count + 1):
            for errno in errnos_of(call, ordinal, every=every):
                for for_ever in (False, True):
                    yield Case(call, ordinal, errno, for_ever)


def options_of(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transport", choices=("tcp", "shm"), default="tcp")
    parser.add_argument("--only", metavar="CASE,…", help="CALL:N:ERRNO:once|for_ever, as a violation names it")
    parser.add_argument("--every", action="store_true", help="every errno on every call")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stop-at", type=float, default=float("inf"), metavar="SECONDS")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = options_of(words)
    began = time.monotonic()
    if why := why_not_traced():
        print(why, file=sys.stderr)
        return 3
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="cairn-calls-") as folder, cairnkv.testing.service(folder) as service:
        run = Sweep(service.tcp_url if options.transport == "tcp" else service.shm_url, Path(folder))
        sites = run.sites()
        cases = list(cases_of(sites, every=options.every))
        random.Random(options.seed).shuffle(cases)
        if options.only:
            cases = [Case.named(name) for name in options.only.split(",")]
        whole = True
        for case in cases:
            if time.monotonic() - began >= options.stop_at:
                whole = False
                break
            run.run(case)
    figures = {
        "part": f"client-syscalls-{options.transport}",
        "runs": sum(run.outcomes.values()),
        "cases": len(cases),
        "sites": dict(sorted(sites.items())),
        "outcomes": dict(sorted(run.outcomes.items())),
        "stopped_early": not whole,
        "seconds": round(time.monotonic() - began, 1),
        "violations": run.violations,
    }
    print(json.dumps(figures))
    return 0 if run.violations == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
