"""Runs in the guest: starts the service, puts and gets blocks over RDMA, and tells the host what happened, one JSON object a line.

The host's orders come over the same serial port. What was acknowledged is told as soon as it is known, because the power may
be cut at any moment: what the host has read by then is what the store has to keep.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cairnkv
from cairn_qemu.blocks import LARGEST_BYTES, digest_of, key_of, nbytes_of, payload_of

DRIVE = "/dev/ng0n1"
ADDRESS = "10.77.0.1"
URL = f"rdma://{ADDRESS}:9600"
PORT_NAME = "cairn"
READY = Path("/run/ready.json")
LOG = Path("/run/service.log")
START_SECONDS_MOST = 240.0
STOP_SECONDS_MOST = 120.0
DEADLINE_MS = 120_000  # an emulated processor is slow, which is no fault of the store
PUT_THREADS = 4  # some make up their blocks while others put
BATCH_BLOCKS = 3
LOG_BYTES_SHOWN = 3000
SEGMENT_SIZE = "8MiB"  # small, so that a power cut finds sealed ones as well as open ones
SETTINGS = ("--slab", "256MiB", "--admin", "off", "--allow-remote-without-credentials")


class AgentError(Exception):
    """What the host is told."""


class Port:
    """The serial port to the host. Any thread may speak; one listens."""

    def __init__(self) -> None:
        self._port = os.open(self._find(), os.O_RDWR)
        self._orders = os.fdopen(os.dup(self._port), "rb")
        self._speaking = threading.Lock()

    @staticmethod
    def _find() -> str:
        for name in Path("/sys/class/virtio-ports").glob("*/name"):
            if name.read_text().strip() == PORT_NAME:
                return f"/dev/{name.parent.name}"
        raise SystemExit(f"the machine has no virtio serial port of the name {PORT_NAME}")

    def say(self, **words: Any) -> None:
        line = json.dumps(words).encode() + b"\n"
        with self._speaking:
            while line:
                line = line[os.write(self._port, line) :]

    def orders(self) -> Iterator[dict[str, Any]]:
        while line := self._orders.readline():
            yield json.loads(line)


class Agent:
    """One method an order, by its name."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.service: subprocess.Popen[bytes] | None = None

    def format(self) -> dict[str, Any]:
        """Only before the first power cut: afterwards the drive holds what must still be there."""
        words = [sys.executable, "-m", "cairn_dpu", "format", "--drive", DRIVE, "--segment-size", SEGMENT_SIZE, "--yes"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise AgentError(f"format ended with {done.returncode}: {done.stderr.strip()}")
        return {"said": done.stdout.strip()}

    def serve(self) -> dict[str, Any]:
        """Until the whole index is there."""
        words = ["--drive", DRIVE, "--listen", URL, "--ready-file", str(READY), "--wait-until-loaded", *SETTINGS]
        with LOG.open("wb") as log:
            self.service = subprocess.Popen(
                [sys.executable, "-m", "cairn_dpu", "serve", *words], stdout=log, stderr=log
            )
        end = time.monotonic() + START_SECONDS_MOST
        while not READY.exists():
            try:
                status = self.service.wait(0.05)
            except subprocess.TimeoutExpired:
                if time.monotonic() > end:
                    raise AgentError(f"the service was not ready after {START_SECONDS_MOST:g} s") from None
            else:
                raise AgentError(f"the service ended with {status} instead of serving")
        with client() as store:
            return {"stats": store.stats()}

    def put(self, seed: int, first: int, count: int) -> dict[str, Any]:
        """Durable puts of `count` blocks by several threads, the first of which has its memory registered."""
        numbers = iter(range(first, first + count))
        taking = threading.Lock()
        problems: list[str] = []
        totals = {"bytes": 0, "call_seconds": 0.0}

        def work(store: cairnkv.Client, memory: memoryview | None) -> None:
            try:
                while not problems:
                    with taking:
                        batch = list(itertools.islice(numbers, BATCH_BLOCKS))
                    if not batch:
                        return
                    nbytes, seconds = self._put_batch(store, seed, batch, memory)
                    with taking:
                        totals["bytes"] += nbytes
                        totals["call_seconds"] += seconds
            except Exception as error:
                problems.append(f"{type(error).__name__}: {error}")

        with client() as store, registered(store, BATCH_BLOCKS * LARGEST_BYTES) as memory:
            begun = time.monotonic()
            threads = [
                threading.Thread(target=work, args=(store, memory if at == 0 else None), name=f"put-{at}")
                for at in range(PUT_THREADS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds = time.monotonic() - begun
        if problems:
            raise AgentError("; ".join(problems))
        return {**totals, "seconds": seconds}

    def _put_batch(
        self, store: cairnkv.Client, seed: int, batch: list[int], memory: memoryview | None
    ) -> tuple[int, float]:
        payloads: list[bytes | memoryview] = [payload_of(seed, number) for number in batch]
        if memory is not None:
            at = 0
            for place, payload in enumerate(payloads):
                memory[at : at + len(payload)] = payload
                payloads[place] = memory[at : at + len(payload)]
                at += len(payload)
        items = [(key_of(seed, number), payload) for number, payload in zip(batch, payloads, strict=True)]
        self.port.say(begun=batch)
        begun = time.monotonic()
        results = store.put(items)
        seconds = time.monotonic() - begun
        self.port.say(acknowledged=[number for number, result in zip(batch, results, strict=True) if result.ok])
        refused = {number: result.status.name for number, result in zip(batch, results, strict=True) if not result.ok}
        if refused:
            raise AgentError(f"the service refused puts: {refused}")
        return sum(map(len, payloads)), seconds

    def get(self, seed: int, numbers: list[int]) -> dict[str, Any]:
        """What the service returns for each, as it is: the host judges."""
        total_bytes, call_seconds = 0, 0.0
        with client() as store, registered(store, LARGEST_BYTES) as known:
            for number in numbers:
                # Every other one into memory that the device does not know.
                memory = known if number % 2 else memoryview(bytearray(LARGEST_BYTES))
                begun = time.monotonic()
                result = store.get_one(key_of(seed, number), memory[: nbytes_of(seed, number)])
                call_seconds += time.monotonic() - begun
                total_bytes += result.nbytes if result.ok else 0
                digest = digest_of(memory[: result.nbytes]) if result.ok else ""
                self.port.say(got=[number, result.status.name, result.nbytes, digest])
        return {"bytes": total_bytes, "call_seconds": call_seconds}

    def delete(self, seed: int, numbers: list[int]) -> dict[str, Any]:
        with client() as store:
            for number in numbers:
                self.port.say(deleting=[number])
                result = store.delete([key_of(seed, number)])[0]
                if not result.ok:
                    raise AgentError(f"the service did not delete block {number}: {result.status.name}")
                self.port.say(deleted=[number])
        return {}

    def stop(self) -> dict[str, Any]:
        """SIGTERM, as at an orderly end."""
        if self.service is None:
            raise AgentError("there is no service to stop")
        self.service.send_signal(signal.SIGTERM)
        try:
            return {"status": self.service.wait(STOP_SECONDS_MOST)}
        except subprocess.TimeoutExpired:
            raise AgentError(f"the service did not end within {STOP_SECONDS_MOST:g} s of SIGTERM") from None


def client() -> cairnkv.Client:
    return cairnkv.connect(URL, deadline_ms=DEADLINE_MS, connect_timeout_ms=60_000, name="qemu")


@contextlib.contextmanager
def registered(store: cairnkv.Client, nbytes: int) -> Iterator[memoryview]:
    """Memory that the RDMA device knows, and that is read and written in place."""
    with contextlib.closing(store.register(bytearray(nbytes))) as region, memoryview(region) as memory:
        yield memory


def machine() -> dict[str, Any]:
    return {
        "kernel": platform.release(),
        "processor": platform.machine(),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "uptime_seconds": float(Path("/proc/uptime").read_text().split()[0]),
        "write_cache": Path("/sys/block/nvme0n1/queue/write_cache").read_text().strip(),
        "logical_block_bytes": int(Path("/sys/block/nvme0n1/queue/logical_block_size").read_text()),
    }


def log_end() -> str:
    return LOG.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace") if LOG.exists() else ""


def main() -> None:
    port = Port()
    agent = Agent(port)
    port.say(up=machine())
    for order in port.orders():
        word = order.pop("do")
        if word == "end":
            return
        begun = time.monotonic()
        try:
            answer = getattr(agent, word)(**order)
        except Exception as error:  # whatever it is, the host has to know it, or it waits for nothing
            port.say(failed=f"{word}: {error}", kind=type(error).__name__, log=log_end())
        else:
            port.say(done=word, **{"seconds": time.monotonic() - begun, **answer})


if __name__ == "__main__":
    main()
