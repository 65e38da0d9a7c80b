"""Our side of a comparison: blocks put and got through the native client, a fixed number of them in flight. Keys are fresh, for a put
of a key that exists moves nothing; memory is filled before the clock starts, for a page fault is not the store's."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence

from cairn_bench.services import MIB, stats_of
from cairnkv import _native

BLOCK = 4 * MIB
DEPTH = 8
OK = 0


def fresh_keys(count: int) -> list[bytes]:
    return [os.urandom(16) for _ in range(count)]


def demand(statuses: Sequence[int]) -> None:
    if any(status != OK for status in statuses):
        raise SystemExit(f"a benchmark operation failed: statuses {sorted(set(statuses))}")


def pipeline(start: Callable[[int], _native.Operation], count: int, depth: int = DEPTH) -> float:
    """Seconds for `count` operations with `depth` in flight."""
    flying: deque[_native.Operation] = deque()
    began = time.perf_counter()
    for index in range(count):
        if len(flying) == depth:
            operation = flying.popleft()
            operation.wait()
            demand(operation.statuses)
        flying.append(start(index))
    for operation in flying:
        operation.wait()
        demand(operation.statuses)
    return time.perf_counter() - began


class Blocks:
    """Memory for `pieces` blocks that the service can reach, each filled with a pattern of its own."""

    def __init__(self, client: _native.Client, pieces: int, block_bytes: int = BLOCK, depth: int = DEPTH) -> None:
        self.client, self.block_bytes, self.depth = client, block_bytes, depth
        view = memoryview(client.alloc(pieces * block_bytes))
        self.pieces = [view[at * block_bytes : (at + 1) * block_bytes] for at in range(pieces)]
        for seed, piece in enumerate(self.pieces):
            _native.fill_pattern(piece, seed)

    def _piece(self, index: int) -> memoryview:
        return self.pieces[index % len(self.pieces)]

    def put(self, keys: Sequence[bytes], *, relaxed: bool = False) -> float:
        """Bytes a second of putting a block under each key."""
        seconds = pipeline(
            lambda i: self.client.put([keys[i]], [self._piece(i)], relaxed=relaxed), len(keys), self.depth
        )
        return len(keys) * self.block_bytes / seconds

    def get(self, keys: Sequence[bytes], count: int = 0) -> float:
        """Bytes a second of `count` gets of these keys in turn (0: each once)."""
        count = count or len(keys)
        seconds = pipeline(lambda i: self.client.get([keys[i % len(keys)]], [self._piece(i)]), count, self.depth)
        return count * self.block_bytes / seconds

    def stored(self, count: int) -> list[bytes]:
        """Keys of `count` fresh blocks that were put."""
        keys = fresh_keys(count)
        self.put(keys)
        return keys


def settle(client: _native.Client) -> None:
    """Waits until relaxed puts are on the drive."""
    while stats_of(client)["tenants"][0]["held_bytes"] > 0:
        time.sleep(0.2)
