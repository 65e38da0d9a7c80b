"""The other side of a comparison over RDMA: perftest. It does not tell its own rate where the processor tells no clock rate, so it
is timed from outside. Its start takes longer than what it measures, and never the same time: the device's count of packets tells
how fast the transfer itself was."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

WRITE, READ, WRITE_LATENCY, SEND_LATENCY = "ib_write_bw", "ib_read_bw", "ib_write_lat", "ib_send_lat"
PORT = 18_515
LISTENING = "0A"  # in /proc/net/tcp
START_SECONDS_MOST = 20.0
RUN_SECONDS_MOST = 120.0
POLLED_COUNT, WOKEN_COUNT = 400, 4000  # messages: where both ends poll on one processor, one takes tens of milliseconds
LOOK_SECONDS = 0.004
MIDDLE = (0.05, 0.95)  # of the packets: the handshake, the beginning and the end are left out


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


def run(program: str, address: str, block_bytes: int, count: int, more: tuple[str, ...]) -> None:
    """Both ends, on this machine."""
    command = [program, "-d", rdma_device(), "-p", str(PORT), "-s", str(block_bytes), "-n", str(count), *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        await_listening(server)
        done = subprocess.run(
            [*command, address], capture_output=True, text=True, timeout=RUN_SECONDS_MOST, check=False
        )
        said = server.communicate(timeout=RUN_SECONDS_MOST)[0]
    # It ends with 1 where it "can't produce a report", after all messages went through.
    if "#bytes" not in done.stdout:
        raise SystemExit(f"{' '.join(command)} failed: {done.stdout}{done.stderr}{said}")


class Packets:
    """Looks again and again how many packets the device has sent: when a transfer begins and ends, whatever stands around it."""

    def __init__(self) -> None:
        self._counter = Path(f"/sys/class/infiniband/{rdma_device()}/ports/1/hw_counters/sent_pkts")
        if not self._counter.exists():
            raise SystemExit(
                f"{self._counter} is not there: this measures soft-RoCE only; perftest tells rates of a card itself"
            )
        self._seen: list[tuple[float, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="packets")

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self._seen.append((time.perf_counter(), int(self._counter.read_text())))

    def __enter__(self) -> Packets:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def seconds(self) -> float:
        """How long all of them took, at the rate at which the middle of them went."""
        first, last = self._seen[0][1], self._seen[-1][1]
        low, high = (first + (last - first) * share for share in MIDDLE)
        middle = [(when, packets) for when, packets in self._seen if low <= packets <= high]
        if len(middle) < 2 or middle[0][1] == middle[-1][1]:
            raise SystemExit("a run of perftest was over before it could be looked at")
        (began, from_packets), (ended, to_packets) = middle[0], middle[-1]
        return (ended - began) * (last - first) / (to_packets - from_packets)


def bytes_per_second(
    program: str, address: str, block_bytes: int, depth: int, total: int, *, spread: bool = False
) -> float:
    """`depth` messages of block_bytes in flight, polled for as perftest does: all of them from and to one piece of memory, which
    lies in a cache, or spread over a piece for each, which takes as many queue pairs."""
    pairs = depth if spread else 1
    count = total // block_bytes // pairs
    with Packets() as packets:
        run(program, address, block_bytes, count, ("-t", str(depth // pairs), "-q", str(pairs)))
    return pairs * count * block_bytes / packets.seconds()


def one_way_us(program: str, address: str, block_bytes: int, *, events: bool) -> float:
    """Half of what a message and its answer of the same size take. events: it sleeps until it is woken, else it polls."""
    count = WOKEN_COUNT if events else POLLED_COUNT
    with Packets() as packets:
        run(program, address, block_bytes, count, ("-e",) if events else ())
    return packets.seconds() / count / 2 * 1e6
