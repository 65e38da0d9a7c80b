"""The other side of a comparison over RDMA: perftest. It does not tell its own rate where the processor tells no clock rate, so it
is timed from outside; what it takes to start is left out by taking the difference between a long run and a short one."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

WRITE, READ, WRITE_LATENCY, SEND_LATENCY = "ib_write_bw", "ib_read_bw", "ib_write_lat", "ib_send_lat"
PORT = 18_515
LISTENING = "0A"  # in /proc/net/tcp
START_SECONDS_MOST = 20.0
RUN_SECONDS_MOST = 120.0
COUNT_LEAST = 5
LATENCY_RUNS = (200, 1200)
# Where the difference of two runs is lost in the noise of their starts, the pair is measured again.
TRIES = 5


def demand_perftest() -> None:
    if shutil.which(WRITE) is None:
        raise SystemExit("perftest is needed for the figures of RDMA: apt-get install perftest")


def rdma_device() -> str:
    devices = sorted(os.listdir("/sys/class/infiniband")) if os.path.isdir("/sys/class/infiniband") else []
    if not devices:
        raise SystemExit("there is no RDMA device here: tools/testbed/run lends one")
    return devices[0]


def listens() -> bool:
    lines = "".join(
        Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6") if Path(f"/proc/net/{name}").exists()
    )
    sockets = (line.split() for line in lines.splitlines())
    return any(words[1].endswith(f":{PORT:04X}") and words[3] == LISTENING for words in sockets if len(words) > 3)


def await_listening(server: subprocess.Popen[str]) -> None:
    until = time.monotonic() + START_SECONDS_MOST
    while not listens():
        if server.poll() is not None or time.monotonic() > until:
            server.kill()
            raise SystemExit(f"{server.args!r} does not listen: {server.communicate()[0]}")
        time.sleep(0.005)


def seconds(program: str, address: str, block_bytes: int, count: int, more: tuple[str, ...]) -> float:
    """How long the client of `count` messages took, its start included. Both ends are on this machine."""
    command = [program, "-d", rdma_device(), "-p", str(PORT), "-s", str(block_bytes), "-n", str(count), *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        await_listening(server)
        began = time.perf_counter()
        done = subprocess.run(
            [*command, address], capture_output=True, text=True, timeout=RUN_SECONDS_MOST, check=False
        )
        took = time.perf_counter() - began
        said = server.communicate(timeout=RUN_SECONDS_MOST)[0]
    # It ends with 1 where it "can't produce a report", after all messages went through.
    if "#bytes" not in done.stdout:
        raise SystemExit(f"{' '.join(command)} failed: {done.stdout}{done.stderr}{said}")
    return took


def seconds_between(
    program: str, address: str, block_bytes: int, counts: tuple[int, int], more: tuple[str, ...]
) -> float:
    few, many = counts
    for _ in range(TRIES):
        short = seconds(program, address, block_bytes, few, more)
        difference = seconds(program, address, block_bytes, many, more) - short
        if difference > 0:
            return difference
    raise SystemExit(f"{program}: {many} messages never take longer than {few}: this machine is too busy to measure")


def bytes_per_second(program: str, address: str, block_bytes: int, depth: int, total: int) -> float:
    """`depth` messages of block_bytes in flight, polled for as perftest does."""
    count = total // block_bytes
    few = max(depth, COUNT_LEAST)
    took = seconds_between(program, address, block_bytes, (few, few + count), ("-t", str(depth)))
    return count * block_bytes / took


def one_way_us(program: str, address: str, block_bytes: int, *, events: bool) -> float:
    """Half of what a message and its answer of the same size take. events: it sleeps until it is woken, else it polls."""
    few, many = LATENCY_RUNS
    more = ("-e",) if events else ()
    return seconds_between(program, address, block_bytes, LATENCY_RUNS, more) / (many - few) / 2 * 1e6
