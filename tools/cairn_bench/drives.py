"""Drives against fio on the same files, and what a second drive brings to one large get."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from cairn_bench import raw
from cairn_bench.blocks import Blocks, fresh_keys
from cairn_bench.figures import Figures, Pair, alternate, ratio_of
from cairn_bench.services import MIB, format_drive, serving, stats_of
from cairnkv import _native

SLAB = "256MiB"
# What goes through a service before the clock starts: every page of the slab has been touched then.
WARM_BYTES = 320 * MIB
# In flight: 32 MiB, but four blocks at least. A session may have 64 MiB on its way.
DEPTHS = {2: 16, 4: 8, 16: 4}
LARGE = 64 * MIB


def bench_drive(folder: Path, drives: Sequence[Path], rounds: int, kind: str = "drive") -> Figures:
    raw.demand_fio()
    for block_mib, depth in DEPTHS.items():
        puts: list[Pair] = []
        gets: list[Pair] = []
        for number in range(rounds):
            put, get = one_round(folder, drives, block_mib * MIB, depth, ours_first=number % 2 == 1)
            puts.append(put)
            gets.append(get)
        yield f"{kind}_put_vs_fio_{block_mib}mib", ratio_of(puts)
        yield f"{kind}_get_vs_fio_{block_mib}mib", ratio_of(gets)


def total_bytes(drives: Sequence[Path]) -> int:
    """Half of what the drives hold, up to 1 GiB: four times the slab, and nothing is evicted."""
    return min(1024 * MIB, sum(raw.drive_bytes(drive) for drive in drives) // 2 // LARGE * LARGE)


def footprint(drives: Sequence[Path]) -> tuple[int, int]:
    """(bytes that are moved, how much of each drive fio touches for it). The store's blocks reach a little beyond their own bytes:
    headers and whole segments."""
    total = total_bytes(drives)
    return total, (total + WARM_BYTES) // len(drives) + 64 * MIB


def one_round(
    folder: Path, drives: Sequence[Path], block_bytes: int, depth: int, *, ours_first: bool
) -> tuple[Pair, Pair]:
    """(put, get) against fio. fio touches as much of each file as the store does, from the same end."""
    total, span = footprint(drives)

    def fio(mode: str) -> float:
        return raw.fio_bytes_per_second(drives, mode, total, block_bytes, depth, span)

    raw_put = 0.0 if ours_first else fio("write")
    format_drive(*drives)
    keys, warm = fresh_keys(total // block_bytes), fresh_keys(WARM_BYTES // block_bytes)
    with serving(folder, drives, SLAB) as service:
        our_put = put_all(service.urls[0], block_bytes, depth, warm, keys)
    raw_get = 0.0 if ours_first else fio("randread")
    with serving(folder, drives, SLAB) as service:  # a fresh one: nothing is in DRAM
        our_get = get_all(service.urls[0], block_bytes, depth, warm, keys)
    if ours_first:
        raw_get, raw_put = fio("randread"), fio("write")
    return (our_put, raw_put), (our_get, raw_get)


def put_all(url: str, block_bytes: int, depth: int, warm: Sequence[bytes], keys: Sequence[bytes]) -> float:
    """Bytes a second of durable puts under `keys`, after those under `warm`."""
    client = _native.Client(url)
    blocks = Blocks(client, 64 * MIB // block_bytes, block_bytes, depth)
    blocks.put(warm)
    rate = blocks.put(keys)
    client.close()
    return rate


def get_all(url: str, block_bytes: int, depth: int, warm: Sequence[bytes], keys: Sequence[bytes]) -> float:
    """Bytes a second of gets of `keys`, none of which is in memory, after those of `warm`."""
    client = _native.Client(url)
    blocks = Blocks(client, 64 * MIB // block_bytes, block_bytes, depth)
    blocks.get(warm)
    rate = blocks.get(sorted(keys))
    demand_no_hits_in_memory(client)
    client.close()
    return rate


def demand_no_hits_in_memory(client: _native.Client) -> None:
    hits = stats_of(client)["store"]["hits_memory"]
    if hits:
        raise SystemExit(f"{hits} gets that should have read a drive were served from memory")


def bench_large(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
    """One 64 MiB get at a time over the first two drives, and over the third alone."""
    raw.demand_fio()
    format_drive(*drives)
    count = total_bytes(drives[2:3]) // LARGE  # four times what the slab could keep
    with (
        serving(folder, drives[:2], SLAB, name="two") as two,
        serving(folder, drives[2:3], SLAB, name="one") as one,
    ):
        rates = [LargeGets(service.urls[0], count) for service in (two, one)]
        ours = alternate(rounds, rates[0].bytes_per_second, rates[1].bytes_per_second)
        total, span = count * LARGE, count * LARGE + 64 * MIB
        theirs = alternate(
            rounds,
            lambda: raw.fio_bytes_per_second(drives[:2], "randread", total, depth=16, span=span // 2),
            lambda: raw.fio_bytes_per_second(drives[2:3], "randread", total, depth=16, span=span),
        )
        for side in rates:
            demand_no_hits_in_memory(side.client)
            side.client.close()
    yield "get_64mib_two_drives_vs_one", ratio_of(ours)
    yield "fio_two_drives_vs_one", ratio_of(theirs)


class LargeGets:
    """Blocks of 64 MiB on a service, got in turn, so that the cache has always given up the next one."""

    def __init__(self, url: str, count: int) -> None:
        self.client = _native.Client(url)
        self.blocks = Blocks(self.client, 1, LARGE, depth=1)
        self.keys = self.blocks.stored(count)
        self.blocks.get(self.keys)

    def bytes_per_second(self) -> float:
        began = time.perf_counter()
        self.blocks.get(self.keys)
        return len(self.keys) * LARGE / (time.perf_counter() - began)
