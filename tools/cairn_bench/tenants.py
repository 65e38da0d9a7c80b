"""Whether a tenant keeps its hits while another floods the drive."""

from __future__ import annotations

import os
import statistics
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from cairn_bench.blocks import OK, Blocks
from cairn_bench.figures import Figure, Figures
from cairn_bench.services import MIB, format_drive, operators_stats_of, serving
from cairnkv import _native

BLOCK = 1 * MIB
SLAB = "256MiB"
SEGMENT = "16MiB"  # 127 of them on 2 GiB: about what a drive of a terabyte has of the largest
SHARE = 2  # two tenants of weight 1
WORKING_SET_PERCENT = 75  # of the victim's share
PASSES = 2
FLOOD_DEPTH = 8
FLOODED_DRIVES = 2  # how often the flood fills the drive at least


class Flood(threading.Thread):
    """Another tenant's puts of fresh keys, one after the other without end."""

    def __init__(self, url: str) -> None:
        super().__init__(name="flood")
        self.client = _native.Client(url, tenant="flood")
        self.pieces = Blocks(self.client, FLOOD_DEPTH, BLOCK).pieces
        self.bytes = self.refused = 0
        self.enough = threading.Event()

    def run(self) -> None:
        flying: deque[_native.Operation] = deque()
        for number in range(1 << 62):
            if len(flying) == FLOOD_DEPTH:
                self._end(flying.popleft())
            if self.enough.is_set():
                break
            flying.append(self.client.put([os.urandom(16)], [self.pieces[number % FLOOD_DEPTH]]))
        while flying:
            self._end(flying.popleft())

    def _end(self, operation: _native.Operation) -> None:
        operation.wait()
        if operation.statuses == [OK]:
            self.bytes += BLOCK
        else:
            self.refused += 1


class Victim:
    """A working set of blocks that are got again and again, each pass in an order of its own; what misses is put back."""

    def __init__(self, url: str, count: int) -> None:
        self.client = _native.Client(url, tenant="victim")
        self.blocks = Blocks(self.client, 8, BLOCK)
        self.keys = self.blocks.stored(count)

    def hit_rate(self) -> float:
        """Of one pass."""
        hits = 0
        # Keys are random, and so is their order by any of their bytes.
        at = os.urandom(1)[0] % 16
        for key in sorted(self.keys, key=lambda one: one[at:] + one[:at]):
            piece = self.blocks.pieces[0]
            operation = self.client.get([key], [piece])
            operation.wait()
            if operation.statuses == [OK]:
                hits += 1
                continue
            put = self.client.put([key], [piece])
            put.wait()
        return hits / len(self.keys)


def bench_tenant(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
    alone, flooded, flood_bytes, refused = [], [], [], 0
    drive = drives[0]
    share_bytes = drive.stat().st_size // SHARE
    settings = ["--tenant", f"victim=id:7,weight:1,quota:{share_bytes >> 20}MiB", "--tenant", "flood=id:8,weight:1"]
    for _ in range(rounds):
        format_drive(drive, segment=SEGMENT)
        with serving(folder, [drive], SLAB, settings, admin="127.0.0.1:0") as service:
            victim = Victim(service.urls[0], share_bytes * WORKING_SET_PERCENT // 100 // BLOCK)
            alone += [victim.hit_rate() for _ in range(PASSES)]
            flood = Flood(service.urls[0])
            flood.start()
            try:
                while flood.bytes < FLOODED_DRIVES * drive.stat().st_size:
                    flooded.append(victim.hit_rate())
            finally:
                flood.enough.set()
                flood.join()
            flood_bytes.append(flood.bytes)
            refused += flood.refused
            evicted = sum(one["evicted_segments"] for one in operators_stats_of(service)["store"]["drives"])
            if evicted == 0:
                raise SystemExit("the flood evicted nothing: there was nothing to keep the victim's blocks from")
    rate = statistics.mean(flooded) / statistics.mean(alone)
    details: dict[str, float | int | str] = {
        "alone": round(statistics.mean(alone), 4),
        "flooded": round(statistics.mean(flooded), 4),
        "least_pass": round(min(flooded), 4),
        "flood_gb": round(statistics.median(flood_bytes) / 1e9, 2),
        "flood_refused": refused,
    }
    yield "victim_hit_rate_vs_alone", Figure(round(rate, 4), details)
