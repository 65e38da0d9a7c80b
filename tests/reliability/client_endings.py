"""An engine ends, forks, spawns or is signalled at any moment while its threads are in calls: it comes out as it would
without us.

    python tests/reliability/client_endings.py [--rounds N] [--only CASE,…] [--stop-at SECONDS]

Each case is a small program that has a client of a real service. It has to end with the exit status that it chose itself,
within a few seconds, whatever the calls are doing; a number that the round draws decides at which moment. The last line is
one JSON object. Ends with 1 after a violation.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cairnkv
import cairnkv.testing

SECONDS_MOST = 30  # of one program; it takes a second
CHOSEN = 7  # the exit status of whoever chooses one
# What every program begins with. A round says at which moment of its calls it ends.
HEAD = """
import asyncio, atexit, gc, multiprocessing, os, random, signal, sys, threading, time
import cairnkv
url, moment, hung = sys.argv[1], float(sys.argv[2]), sys.argv[3]
memory = bytearray(100_000)
client = cairnkv.connect(url)
client.put_one('key', memory)
assert client.get_one('key', bytearray(100_000)).hit

def in_background(work, threads=2):
    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()

def forever(call):
    def work():
        try:
            while True:
                call()
        except cairnkv.ClosedError:
            pass  # a traceback that is written while the interpreter ends is its own abort (CPython: _enter_buffered_busy)
    return work
"""
CALLS = {
    "gets": "forever(lambda: client.get_one('key', bytearray(100_000)))",
    "puts": "forever(lambda: client.put_one(os.urandom(8), memory))",
    "exists": "forever(lambda: client.exists(['key'] * 100))",
    "watch": "forever(lambda: client.watch(after=10**9, deadline_ms=60_000))",
    "stats": "forever(client.stats)",
    "connect": "forever(lambda: cairnkv.connect(url).close())",
    "connect-hung": "forever(lambda: cairnkv.connect(hung, connect_timeout_ms=60_000))",
    "async": """lambda: asyncio.run(looped())

async def looped():
    other = await cairnkv.aconnect(url)
    while True:
        await other.get([('key', bytearray(100_000))])
""",
}
EXITS = {
    "exit": "sys.exit(7)",
    "exit-closing": "atexit.register(client.close); sys.exit(7)",
    "exit-using": "atexit.register(lambda: client.get_one('key', bytearray(100_000))); sys.exit(7)",
    "exit-deleting": "operation = client._connection.session.watch(10**9, 0, 60_000); del client; sys.exit(7)",
}
FORK = """
child = os.fork()
if child == 0:
    began = time.monotonic()
    results = client.get([('key', bytearray(100_000))] * 3) + client.put([('new', memory)])
    assert [result.status.name for result in results] == ['unreachable'] * 4, results
    assert client.match(['key']) == 0 and not client.info()['connected']
    assert time.monotonic() - began < 2
    region.close()
    del region
    client.close()
    del client
    gc.collect()
    with cairnkv.connect(url) as mine:
        assert mine.get_one('key', bytearray(100_000)).hit
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
WORKERS = """
def work(url):
    with cairnkv.connect(url) as mine:
        assert mine.get_one('key', bytearray(100_000)).hit
    sys.exit(7)

if __name__ == '__main__':
    worker = multiprocessing.get_context('{how}').Process(target=work, args=(url,))
    worker.start()
    worker.join()
    assert worker.exitcode == 7, worker.exitcode
    assert client.get_one('key', bytearray(100_000)).hit and client.info()['reconnects'] == 0
    sys.exit(7)
"""
# The handler's delay is told by the program itself; how much is too much, too.
SIGNALLED = """
HANDLED_SECONDS_MOST = 0.25 + 0.75  # promised, and for a machine that has other things to do
sent = handled = 0.0

def handle(*_):
    global handled
    handled = time.monotonic()
    {raises}

def send():
    global sent
    time.sleep(0.05 + moment)
    sent = time.monotonic()
    os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, handle)
threading.Thread(target=send, daemon=True).start()
try:
    {call}
finally:
    while not handled:
        time.sleep(0.01)
    assert handled - sent < HANDLED_SECONDS_MOST, handled - sent
sys.exit(7)
"""


@dataclass(frozen=True)
class Ending:
    """A program, and with which status it ends."""

    name: str
    program: str
    status: int = CHOSEN


def endings() -> Iterator[Ending]:
    for call, work in CALLS.items():
        background = f"in_background({work.partition(chr(10))[0]})"
        rest = work.partition("\n")[2]
        for how, last in EXITS.items():
            yield Ending(f"{how}:{call}", f"{rest}\n{background}\ntime.sleep(moment)\n{last}\n")
    yield Ending("raise:gets", f"in_background({CALLS['gets']})\ntime.sleep(moment)\nraise ValueError\n", status=1)
    yield Ending("sigterm:gets", f"in_background({CALLS['gets']})\ntime.sleep(moment)\nos.kill(os.getpid(), 15)\n", -15)
    for call in ("gets", "puts", "watch", "async"):
        work, _, rest = CALLS[call].partition("\n")
        busy = f"{rest}\nregion = client.register(bytearray(65_536))\nin_background({work})\ntime.sleep(moment)\n"
        after = (
            "assert client.get_one('key', bytearray(100_000)).hit and client.info()['reconnects'] == 0\nsys.exit(7)\n"
        )
        yield Ending(f"fork:{call}", busy + FORK + after)
    for how in ("fork", "spawn", "forkserver"):
        yield Ending(f"multiprocessing:{how}", WORKERS.format(how=how))
    for raises in ("pass", "sys.exit(7)"):
        name = "handled" if raises == "pass" else "raised"
        ms = 1_500 if raises == "pass" else 60_000
        call = f"\n    try: cairnkv.connect(hung, connect_timeout_ms={ms})\n    except cairnkv.ConnectError: pass"
        yield Ending(f"{name}:connect", SIGNALLED.format(raises=raises, call=call))
        call = f"\n    client.watch(after=10**9, deadline_ms={ms})"
        yield Ending(f"{name}:watch", SIGNALLED.format(raises=raises, call=call))
        call = f"\n    client.put([(os.urandom(8), bytearray(64 << 20)) for _ in range(4)], deadline_ms={ms})"
        yield Ending(f"{name}:put", SIGNALLED.format(raises=raises, call=call))


class Rounds:
    """All programs against one service. Threads share it."""

    def __init__(self, url: str, hung: str, folder: Path) -> None:
        self.url, self.hung, self.folder = url, hung, folder
        self.ends: Counter[str] = Counter()
        self.violations = 0

    def run(self, ending: Ending, moment: float) -> None:
        program = self.folder / f"{ending.name.replace(':', '-')}.py"
        if not program.exists():
            program.write_text(HEAD + ending.program if "__main__" not in ending.program else guarded(ending.program))
        words = [sys.executable, str(program), self.url, f"{moment:.4f}", self.hung]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS_MOST, check=False)
            status, said = str(done.returncode), done.stderr
        except subprocess.TimeoutExpired as error:
            status, said = "hung", str(error.stderr)
        self.ends[ending.name.partition(":")[0]] += 1
        if status != str(ending.status):
            self.violations += 1
            print(
                f"client-endings --only {ending.name}: ended with {status}, not {ending.status}, at {moment:.4f} s: {said}",
                file=sys.stderr,
            )


def guarded(program: str) -> str:
    """For those whose children import it again."""
    return (
        HEAD.replace("client = ", "if __name__ == '__main__':\n  client = ")
        .replace("\nclient.put_one", "\n  client.put_one")
        .replace("\nassert client", "\n  assert client")
        + program
    )


@contextmanager
def silent_listener() -> Iterator[str]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"


def options_of(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, help="of every case")
    parser.add_argument("--only", metavar="CASE,…", help="as a violation names it")
    parser.add_argument("--expect", type=int, help="the exit status, in the place of a case's own: to see it fail")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stop-at", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = options_of(words)
    began = time.monotonic()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wanted = options.only.split(",") if options.only else [ending.name for ending in endings()]
    chosen = [ending for ending in endings() if ending.name in wanted]
    if options.expect is not None:
        chosen = [replace(ending, status=options.expect) for ending in chosen]
    chance = random.Random(options.seed)
    work = [(ending, chance.uniform(0, 0.1)) for _ in range(options.rounds) for ending in chosen]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-end-")))
        service = stack.enter_context(cairnkv.testing.service(folder, size="1GiB"))
        hung = stack.enter_context(silent_listener())
        runs = [Rounds(url, hung, folder) for url in (service.tcp_url, service.shm_url)]

        def one(at: int) -> bool:
            if time.monotonic() - began >= options.stop_at:
                return False
            runs[at % 2].run(*work[at])
            return True

        with ThreadPoolExecutor(options.workers, "ending") as threads:
            whole = all(list(threads.map(one, range(len(work)))))
    ends = runs[0].ends + runs[1].ends
    violations = sum(run.violations for run in runs)
    figures = {
        "part": "client-endings",
        "runs": sum(ends.values()),
        "ends": dict(sorted(ends.items())),
        "stopped_early": not whole,
        "seconds": round(time.monotonic() - began, 1),
        "violations": violations,
    }
    print(json.dumps(figures))
    return 0 if violations == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
