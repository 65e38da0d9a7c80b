"""Kills the real service with SIGKILL under four clients, again and again, and looks for what it lost.

    python tests/crash/kill_cycles.py --cycles 50

An oracle knows, for every key, one of three states: absent (never put, or its delete was acknowledged), exactly these bytes (its
durable put was acknowledged), or in doubt (the answer never came). After each restart every acknowledged block that eviction
cannot have taken (its sequence is not below the service's oldest live sequence) must be there, every get must give exact bytes or
a miss, and what was deleted must stay deleted. The last line is one JSON object; the exit status is 1 if anything was lost or wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cairnkv import _native
from cairnkv.errors import ConnectError
from cairnkv.testing import RunningService

OK, EXISTS, NOT_FOUND = 0, 1, 2
SIZES = (1, 4096, 5000, 65_536, 65_537, 300_000, 1 << 20)


@dataclass
class Block:
    key: bytes
    seed: int
    size: int
    sequence: int = 0
    state: str = "doubt"  # doubt, kept, deleted


@dataclass
class Tally:
    cycles: int = 0
    kills_in_recovery: int = 0
    puts: int = 0
    acknowledged: int = 0
    checked: int = 0
    wrong_bytes: int = 0
    lost_acknowledged: int = 0
    undeleted: int = 0
    evicted: int = 0
    slowest_start_seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def bad(self) -> bool:
        return self.wrong_bytes + self.lost_acknowledged + self.undeleted > 0


class Worker(threading.Thread):
    """One client: puts fresh blocks, reads old ones back, deletes a few, until told to stop or cut off."""

    def __init__(self, url: str, seed: int, blocks: list[Block], tally: Tally, lock: threading.Lock) -> None:
        super().__init__()
        self.url, self.random, self.blocks, self.tally, self.lock = url, random.Random(seed), blocks, tally, lock
        self.halt = threading.Event()

    def run(self) -> None:
        client = _native.Client(self.url)
        buffers = [bytearray(max(SIZES)) for _ in range(4)]
        while not self.halt.is_set():
            if not self.put_some(client, buffers):
                break
            self.read_some(client, buffers)
            if self.random.random() < 0.2:
                self.delete_one(client)
        client.close()

    def put_some(self, client: _native.Client, buffers: list[bytearray]) -> bool:
        """One batch; False once the service is gone."""
        batch = [
            Block(self.random.randbytes(16), self.random.getrandbits(63), self.random.choice(SIZES)) for _ in buffers
        ]
        memories = [memoryview(buffer)[: block.size] for buffer, block in zip(buffers, batch, strict=True)]
        for memory, block in zip(memories, batch, strict=True):
            _native.fill_pattern(memory, block.seed)
        with self.lock:
            self.blocks.extend(batch)
            self.tally.puts += len(batch)
        operation = client.put([block.key for block in batch], memories)
        operation.wait()
        for block, status, sequence in zip(batch, operation.statuses, operation.sequences, strict=True):
            if status == OK:
                block.sequence = sequence
                block.state = "kept"
        return all(status == OK for status in operation.statuses)

    def read_some(self, client: _native.Client, buffers: list[bytearray]) -> None:
        with self.lock:
            batch = [self.random.choice(self.blocks) for _ in buffers]
        memories = [memoryview(buffer)[: block.size] for buffer, block in zip(buffers, batch, strict=True)]
        operation = client.get([block.key for block in batch], memories)
        operation.wait()
        count_wrong(batch, memories, operation, self.tally)

    def delete_one(self, client: _native.Client) -> None:
        with self.lock:
            kept = [block for block in self.blocks[-200:] if block.state == "kept"]
        if not kept:
            return
        block = self.random.choice(kept)
        block.state = "doubt"
        operation = client.delete([block.key])
        operation.wait()
        if operation.statuses[0] in (OK, NOT_FOUND):
            block.state = "deleted"


def count_wrong(batch: list[Block], memories: list[memoryview], operation: _native.Operation, tally: Tally) -> None:
    for block, memory, status, length in zip(batch, memories, operation.statuses, operation.lengths, strict=True):
        if status == OK and (length != block.size or _native.check_pattern(memory, block.seed) >= 0):
            tally.wrong_bytes += 1
            tally.problems.append(f"wrong bytes under {block.key.hex()}, {block.size} bytes")


def batches(blocks: list[Block], count: int) -> Iterator[list[Block]]:
    for at in range(0, len(blocks), count):
        yield blocks[at : at + count]


def verify(url: str, blocks: list[Block], tally: Tally, sample: random.Random) -> None:
    """Compares the service with the oracle after a restart; what eviction took leaves the oracle."""
    client = _native.Client(url)
    stats = client.stats()
    stats.wait()
    oldest = min(drive["oldest_sequence"] for drive in json.loads(stats.text)["store"]["drives"])
    for batch in batches(blocks, 4096):
        operation = client.exists([block.key for block in batch])
        operation.wait()
        for block, status in zip(batch, operation.statuses, strict=True):
            if block.state == "deleted" and status == OK:
                tally.undeleted += 1
                tally.problems.append(f"{block.key.hex()} was deleted and is back")
            if block.state == "kept" and status != OK:
                if block.sequence >= oldest:
                    tally.lost_acknowledged += 1
                    tally.problems.append(
                        f"acknowledged block {block.key.hex()} (sequence {block.sequence}, oldest {oldest}) is gone"
                    )
                else:
                    tally.evicted += 1
                block.state = "doubt"
    buffer = bytearray(max(SIZES))
    live = [block for block in blocks if block.state != "deleted"]
    chosen = sample.sample(live, min(len(live), 300)) + live[-300:]
    for block in chosen:
        memory = memoryview(buffer)[: block.size]
        operation = client.get([block.key], [memory])
        operation.wait()
        count_wrong([block], [memory], operation, tally)
        if block.state == "kept" and operation.statuses[0] != OK and block.sequence >= oldest:
            tally.lost_acknowledged += 1
            tally.problems.append(
                f"acknowledged block {block.key.hex()} cannot be read: status {operation.statuses[0]}"
            )
        tally.checked += 1
    client.close()


def one_cycle(
    service: RunningService, blocks: list[Block], tally: Tally, dice: random.Random, lock: threading.Lock
) -> None:
    workers = [Worker(service.shm_url, dice.getrandbits(32), blocks, tally, lock) for _ in range(4)]
    for worker in workers:
        worker.start()
    time.sleep(dice.uniform(0.1, 1.0))
    service.kill()
    for worker in workers:
        worker.halt.set()
        worker.join()
    while dice.random() < 0.2:
        # A start that is given too little time is killed in the middle of it.
        with contextlib.suppress(ConnectError):
            service.process.start(dice.uniform(0.0, 0.6))
            service.kill()
        tally.kills_in_recovery += 1
    start = time.monotonic()
    service.start()
    tally.slowest_start_seconds = max(tally.slowest_start_seconds, time.monotonic() - start)
    verify(service.shm_url, blocks, tally, dice)
    tally.cycles += 1


def run(cycles: int, seed: int, drive_bytes: int, folder: Path, *, talk: bool = True) -> Tally:
    tally, dice, lock, blocks = Tally(), random.Random(seed), threading.Lock(), list[Block]()
    service = RunningService(folder, size=f"{drive_bytes >> 20}MiB", slab="256MiB", admin="off")
    service.start()
    for cycle in range(cycles):
        one_cycle(service, blocks, tally, dice, lock)
        if talk:
            print(
                f"cycle {cycle + 1}/{cycles}: {len(blocks)} blocks, lost {tally.lost_acknowledged}, wrong {tally.wrong_bytes}",
                file=sys.stderr,
            )
    tally.acknowledged = sum(1 for block in blocks if block.sequence)
    if service.stop() != 0:
        tally.problems.append("the service did not stop cleanly")
        tally.lost_acknowledged += 1
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--drive-bytes", type=int, default=512 << 20)
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="cairn-crash-") as folder:
        tally = run(options.cycles, options.seed, options.drive_bytes, Path(folder))
    print(json.dumps({"seed": options.seed, **vars(tally)}))
    sys.exit(1 if tally.bad() else 0)


if __name__ == "__main__":
    main()
