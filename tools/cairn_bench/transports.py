"""Transports against what carries them: tcp against a raw socket pair, shm against memcpy; and what the service adds to a small get."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import cairnkv
from cairn_bench import raw
from cairn_bench.blocks import BLOCK, Blocks, demand, fresh_keys, settle
from cairn_bench.figures import Figure, Figures, alternate, ratio_of
from cairn_bench.services import MIB, format_drive, serving
from cairnkv import _native


def bench_tcp(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
    format_drive(drives[0])
    with serving(folder, drives[:1], "1GiB") as service:
        client = _native.Client(service.urls[1])
        blocks = Blocks(client, 16)
        keys = blocks.stored(32)
        get = alternate(rounds, lambda: blocks.get(keys, 256), lambda: raw.socket_bytes_per_second(1024 * MIB))
        yield "tcp_get_vs_socket", ratio_of(get)

        def burst() -> float:
            settle(client)
            return blocks.put(fresh_keys(96), relaxed=True)

        put = alternate(rounds, burst, lambda: raw.socket_bytes_per_second(96 * BLOCK))
        yield "tcp_put_vs_socket", ratio_of(put)
        client.close()


def bench_shm(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
    format_drive(drives[0])
    with serving(folder, drives[:1], "1GiB") as service:
        client = _native.Client(service.urls[0])
        blocks = Blocks(client, 16)
        keys = blocks.stored(32)
        hit = alternate(
            rounds, lambda: blocks.get(keys, 512), lambda: raw.memcpy_bytes_per_second(2048 * MIB, 32 * BLOCK)
        )
        yield "shm_get_hit_vs_memcpy", ratio_of(hit)
        rate = statistics.median(exists_per_second(client) for _ in range(rounds))
        yield "exists_keys_per_second", Figure(round(rate))
        added = small_get_us_p50(service.urls[0]) - raw.memcpy_small_us_p50()
        yield "get_added_us_p50", Figure(round(added, 1))
        client.close()


def exists_per_second(client: _native.Client) -> float:
    asked = [fresh_keys(1000) for _ in range(20)]
    start = time.perf_counter()
    for _ in range(10):
        for keys in asked:
            client.exists(keys).wait()
    return 200 * 1000 / (time.perf_counter() - start)


def small_get_us_p50(url: str) -> float:
    """A 64 KiB get through the public client, as a user calls it."""
    samples = []
    with cairnkv.connect(url) as client:
        memory = memoryview(client.alloc(65_536))
        key = os.urandom(16)
        client.put([(key, memory)])
        for _ in range(3000):
            start = time.perf_counter()
            result = client.get([(key, memory)])
            samples.append(time.perf_counter() - start)
            demand([int(result[0].status)])
        del memory
    return statistics.median(samples) * 1e6
