"""Kills the real service with SIGKILL under four clients, again and again, and looks for what it lost.

    python tests/crash/kill_cycles.py --cycles 50 --drives 2 --during-recovery 0.3

An oracle knows, for every key, one of three states: in doubt (the answer never came), exactly these bytes (its durable put was
acknowledged), or deleted (the delete of the key, of its group, scope or tenant was acknowledged). After each restart, once the
index is whole, every acknowledged block that eviction cannot have taken must be there; at any time every get must give exact bytes
or a miss, and what was deleted must stay deleted. A share of the starts is killed while drives are still being read, with clients
that put and get already. The last line is one JSON object; the exit status is 1 if anything was lost, wrong or back.
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

from crash_service import CrashService, stats_of

from cairnkv import _native

OK, NOT_FOUND = 0, 2
DELETE_GROUP, DELETE_SCOPE, DELETE_TENANT = 1, 2, 4
SIZES = (1, 4096, 5000, 65_536, 65_537, 300_000, 1 << 20)
STRIPED = 5 * (1 << 20) + 77  # above 4 MiB a block lies on several drives
STRIPED_SHARE = 0.02
WORKERS = 4
TENANTS = ("default", "second")
PROBLEMS_MOST = 100


@dataclass
class Block:
    key: bytes
    seed: int
    size: int
    tenant: str
    group: bytes
    scope: int
    sequence: int = 0
    state: str = "doubt"  # doubt, kept, deleted


@dataclass
class Tally:
    cycles: int = 0
    kills: int = 0
    kills_before_ready: int = 0
    kills_during_recovery: int = 0
    puts: int = 0
    acknowledged: int = 0
    deleted: int = 0
    checked: int = 0
    wrong: int = 0
    lost: int = 0
    undeleted: int = 0
    evicted: int = 0
    slowest_start_seconds: float = 0.0
    slowest_load_seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def bad(self) -> bool:
        return self.wrong + self.lost + self.undeleted > 0

    def report(self, problem: str) -> None:
        if len(self.problems) < PROBLEMS_MOST:
            self.problems.append(problem)


class World:
    """What all the workers share."""

    def __init__(self, service: CrashService, seed: int) -> None:
        self.service = service
        self.dice = random.Random(seed)
        self.blocks: list[Block] = []
        self.tally = Tally()
        self.lock = threading.Lock()


class Worker(threading.Thread):
    """One client of one tenant: puts fresh blocks, reads old ones back, deletes a few, until told to stop or cut off. Groups
    and scopes are its own, so that what a delete takes is known."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__()
        self.world, self.random = world, random.Random(world.dice.getrandbits(32))
        self.tenant = TENANTS[number % len(TENANTS)]
        self.groups = [self.random.randbytes(16) for _ in range(4)]
        self.scopes = [self.random.getrandbits(62) + 1 for _ in range(4)]
        self.own: list[Block] = []
        self.halt = threading.Event()

    def run(self) -> None:
        try:
            client = _native.Client(self.world.service.url, tenant=self.tenant)
        except _native.ConnectError:
            return
        memories = [bytearray(STRIPED) for _ in range(4)]
        with contextlib.closing(client):
            while not self.halt.is_set():
                if not self.put_some(client, memories):
                    return
                self.read_some(client, memories)
                if self.random.random() < 0.2:
                    self.delete_some(client)

    def fresh(self) -> Block:
        size = STRIPED if self.random.random() < STRIPED_SHARE else self.random.choice(SIZES)
        key, seed = self.random.randbytes(16), self.random.getrandbits(63)
        return Block(key, seed, size, self.tenant, self.random.choice(self.groups), self.random.choice(self.scopes))

    def put_some(self, client: _native.Client, buffers: list[bytearray]) -> bool:
        """One batch of one group and scope; False once the service is gone."""
        batch = [self.fresh() for _ in buffers]
        for block in batch:
            block.group, block.scope = batch[0].group, batch[0].scope
        memories = [memoryview(buffer)[: block.size] for buffer, block in zip(buffers, batch, strict=True)]
        for memory, block in zip(memories, batch, strict=True):
            _native.fill_pattern(memory, block.seed)
        with self.world.lock:
            self.world.blocks.extend(batch)
            self.world.tally.puts += len(batch)
        keys = [block.key for block in batch]
        operation = client.put(keys, memories, group=batch[0].group, scope=batch[0].scope)
        operation.wait()
        for block, status, sequence in zip(batch, operation.statuses, operation.sequences, strict=True):
            if status == OK:
                block.sequence = sequence
                block.state = "kept"
        self.own += batch
        return all(status == OK for status in operation.statuses)

    def read_some(self, client: _native.Client, buffers: list[bytearray]) -> None:
        with self.world.lock:
            batch = [block for block in self.random.choices(self.world.blocks, k=8) if block.tenant == self.tenant]
        batch = batch[: len(buffers)]
        if batch:
            read(client, batch, buffers, self.world.tally)

    def delete_some(self, client: _native.Client) -> None:
        """A key, a group or a scope."""
        kept = [block for block in self.own[-200:] if block.state == "kept"]
        if not kept:
            return
        chosen, draw = self.random.choice(kept), self.random.random()
        if draw < 0.9:
            delete(lambda: client.delete([chosen.key]), [chosen])
        elif draw < 0.95:
            blocks = [block for block in self.own if block.group == chosen.group]
            delete(lambda: client.delete_named(DELETE_GROUP, group=chosen.group), blocks)
        else:
            blocks = [block for block in self.own if block.scope == chosen.scope]
            delete(lambda: client.delete_named(DELETE_SCOPE, scope=chosen.scope), blocks)


def delete(ask, blocks: list[Block]) -> bool:
    """What is being deleted is in doubt until the answer comes."""
    for block in blocks:
        if block.state == "kept":
            block.state = "doubt"
    operation = ask()
    operation.wait()
    if operation.statuses[0] not in (OK, NOT_FOUND):
        return False
    for block in blocks:
        block.state = "deleted"
    return True


def read(client: _native.Client, batch: list[Block], buffers: list[bytearray], tally: Tally) -> list[int]:
    memories = [memoryview(buffer)[: block.size] for buffer, block in zip(buffers, batch, strict=False)]
    operation = client.get([block.key for block in batch], memories)
    operation.wait()
    for block, memory, status, length in zip(batch, memories, operation.statuses, operation.lengths, strict=True):
        if status == OK and (length != block.size or _native.check_pattern(memory, block.seed) >= 0):
            tally.wrong += 1
            tally.report(f"wrong bytes under {block.key.hex()}, {block.size} bytes")
    return list(operation.statuses)


def batches(blocks: list[Block], count: int) -> Iterator[list[Block]]:
    for at in range(0, len(blocks), count):
        yield blocks[at : at + count]


def verify(world: World, tenant: str) -> None:
    """Compares the service, whose index is whole, with the oracle; what eviction took leaves the oracle."""
    tally, blocks = world.tally, [block for block in world.blocks if block.tenant == tenant]
    found: list[tuple[Block, int]] = []
    with contextlib.closing(_native.Client(world.service.url, tenant=tenant)) as client:
        for batch in batches(blocks, 4096):
            operation = client.exists([block.key for block in batch])
            operation.wait()
            found += zip(batch, operation.statuses, strict=True)
        live = [block for block in blocks if block.state != "deleted"]
        buffer = bytearray(STRIPED)
        for block in world.dice.sample(live, min(len(live), 200)) + live[-200:]:
            found.append((block, *read(client, [block], [buffer], tally)))
            tally.checked += 1
        # Asked last, because the service makes room while we look: nothing with this number or a larger one was evicted
        # from any drive.
        oldest = max(drive["oldest_sequence"] for drive in stats_of(client)["store"]["drives"])
    for block, status in found:
        compare(block, status, oldest, tally)


def compare(block: Block, status: int, oldest: int, tally: Tally) -> None:
    if block.state == "deleted" and status == OK:
        tally.undeleted += 1
        tally.report(f"{block.key.hex()} of {block.tenant} was deleted and is back")
    if block.state != "kept" or status == OK:
        return
    if block.sequence >= oldest:
        tally.lost += 1
        tally.report(
            f"acknowledged block {block.key.hex()} of {block.tenant} (sequence {block.sequence}, oldest {oldest},"
            f" {block.size} bytes) is gone: status {status}"
        )
    else:
        tally.evicted += 1
    block.state = "doubt"


def begin_workers(world: World) -> list[Worker]:
    workers = [Worker(world, number) for number in range(WORKERS)]
    for worker in workers:
        worker.start()
    return workers


def kill(world: World, workers: list[Worker]) -> None:
    world.service.kill()
    world.tally.kills += 1
    for worker in workers:
        worker.halt.set()
    for worker in workers:
        worker.join()


def kill_in_recovery(world: World) -> None:
    """Starts the service and kills it again: before it is ready, or while it reads its drives and clients are at it."""
    service, tally = world.service, world.tally
    service.launch()
    if world.dice.random() < 0.25:
        time.sleep(world.dice.uniform(0.0, 0.6))
        kill(world, [])
        tally.kills_before_ready += 1
        return
    service.wait_ready()
    workers: list[Worker] = []
    try:
        with contextlib.closing(_native.Client(service.url)) as client:
            if not stats_of(client)["loaded"]:
                workers = begin_workers(world)
            time.sleep(world.dice.choice((0.0, 0.0, 0.001, 0.003, 0.01)))
            tally.kills_during_recovery += not stats_of(client)["loaded"]
    finally:
        kill(world, workers)


def delete_a_tenant(world: World) -> None:
    """While nobody puts, so that what it takes is known."""
    tenant = TENANTS[1]
    blocks = [block for block in world.blocks if block.tenant == tenant]
    with contextlib.closing(_native.Client(world.service.url, tenant=tenant)) as client:
        delete(lambda: client.delete_named(DELETE_TENANT), blocks)


def one_cycle(world: World, during_recovery: float) -> None:
    workers = begin_workers(world)
    time.sleep(world.dice.uniform(0.1, 1.0))
    kill(world, workers)
    while world.dice.random() < during_recovery:
        kill_in_recovery(world)
    begin(world)
    for tenant in TENANTS:
        verify(world, tenant)
    if world.dice.random() < 0.1:
        delete_a_tenant(world)
    world.tally.cycles += 1


def begin(world: World) -> None:
    started = time.monotonic()
    world.service.launch()
    world.service.wait_ready()
    ready = time.monotonic()
    world.service.wait_loaded()
    tally = world.tally
    tally.slowest_start_seconds = max(tally.slowest_start_seconds, ready - started)
    tally.slowest_load_seconds = max(tally.slowest_load_seconds, time.monotonic() - ready)


def run(
    cycles: int,
    seed: int,
    drive_bytes: int,
    folder: Path,
    *,
    drives: int = 2,
    during_recovery: float = 0.2,
    stop_at: float = float("inf"),
    talk: bool = True,
) -> Tally:
    started = time.monotonic()
    world = World(CrashService(folder, drives, drive_bytes), seed)
    tally = world.tally
    begin(world)
    for cycle in range(cycles):
        if time.monotonic() - started >= stop_at:
            break
        one_cycle(world, during_recovery)
        if talk:
            counts = f"lost {tally.lost}, wrong {tally.wrong}, undeleted {tally.undeleted}"
            print(f"cycle {cycle + 1}/{cycles}: {len(world.blocks)} blocks, {counts}", file=sys.stderr)
    tally.acknowledged = sum(1 for block in world.blocks if block.sequence)
    tally.deleted = sum(1 for block in world.blocks if block.state == "deleted")
    if world.service.stop() != 0:
        tally.report("the service did not stop cleanly")
        tally.lost += 1
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--drives", type=int, default=2)
    parser.add_argument("--drive-bytes", type=int, default=1 << 30, help="of each; blocks beyond it are evicted")
    parser.add_argument("--during-recovery", type=float, default=0.2, metavar="SHARE", help="of starts that are killed")
    parser.add_argument("--stop-at", type=float, default=float("inf"), metavar="SECONDS", help="no cycle begins then")
    parser.add_argument("--folder", type=Path, help="where drives and log lie, and stay; by default they are removed")
    options = parser.parse_args()
    print(f"seed {options.seed}", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-crash-")))
        tally = run(
            options.cycles,
            options.seed,
            options.drive_bytes,
            folder.resolve(),
            drives=options.drives,
            during_recovery=options.during_recovery,
            stop_at=options.stop_at,
        )
    print(json.dumps({"seed": options.seed, **vars(tally)}))
    sys.exit(1 if tally.bad() else 0)


if __name__ == "__main__":
    main()
