"""Measures Cairn against the machine it runs on. Each figure is a ratio of two things measured side by side in the same run.

    make bench                      # everything, about three minutes; the last line is one JSON object
    .venv/bin/python tools/bench.py --only tcp,shm --rounds 5

What is compared (medians of --rounds):
  tcp_get_vs_socket      4 MiB gets of blocks in DRAM over tcp / a raw socket pair filling the same kind of buffer
  tcp_put_vs_socket      4 MiB relaxed puts of fresh keys over tcp, in bursts the slab can hold / the same raw socket pair
  shm_get_hit_vs_memcpy  4 MiB gets of blocks in DRAM over shm / memcpy over as much memory
  drive_get_vs_fio       4 MiB gets of blocks that are not in DRAM, 8 in flight / fio io_uring randread, same file
  drive_put_vs_fio       4 MiB durable puts of fresh keys, 8 in flight / fio io_uring write, same file
  exists_keys_per_second 1,000 keys a call over shm
  get_added_us_p50       a 64 KiB get over shm, in DRAM, through the public client, less the memcpy of 64 KiB
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cairnkv
from cairnkv import _native
from cairnkv.process import ServiceProcess

MIB = 1 << 20
BLOCK = 4 * MIB
DEPTH = 8
OK = 0


@contextlib.contextmanager
def serving(folder: Path, drive: Path, slab: str) -> Iterator[ServiceProcess]:
    """A `cairn-dpu serve` of our own over one drive, reachable over shm and tcp (urls[0], urls[1])."""
    process = ServiceProcess(
        folder, drive=str(drive), listen=[f"shm://{folder}/s.sock", "tcp://127.0.0.1:0"], slab=slab
    )
    process.start()
    try:
        yield process
    finally:
        process.stop()


def format_drive(path: Path) -> None:
    command = [sys.executable, "-m", "cairn_dpu", "format", "--drive", str(path), "--yes", "--overwrite"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


# --- the other side --------------------------------------------------------------------------------------


def raw_socket_bytes_per_second(total: int) -> float:
    """One process sends 4 MiB pieces of a 64 MiB buffer, this one receives them into another: no protocol, no copy of ours."""
    listener = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if child == 0:
        source = memoryview(bytearray(os.urandom(BLOCK)) * 16)
        peer = socket.create_connection(listener.getsockname())
        peer.recv(1)
        for at in range(0, total, BLOCK):
            peer.sendall(source[at % len(source) :][:BLOCK])
        os._exit(0)
    peer, _ = listener.accept()
    target = memoryview(bytearray(16 * BLOCK))
    target[:] = bytes(len(target))
    peer.sendall(b"g")
    start = time.perf_counter()
    for at in range(0, total, BLOCK):
        piece = target[at % len(target) :][:BLOCK]
        have = 0
        while have < BLOCK:
            have += peer.recv_into(piece[have:])
    seconds = time.perf_counter() - start
    os.waitpid(child, 0)
    listener.close()
    return total / seconds


def memcpy_bytes_per_second(total: int, footprint: int) -> float:
    source, target = bytearray(os.urandom(MIB)) * (footprint // MIB), bytearray(16 * BLOCK)
    target[:] = bytes(len(target))
    at_source = ctypes.addressof((ctypes.c_char * len(source)).from_buffer(source))
    at_target = ctypes.addressof((ctypes.c_char * len(target)).from_buffer(target))
    start = time.perf_counter()
    for at in range(0, total, BLOCK):
        ctypes.memmove(at_target + at % len(target), at_source + at % footprint, BLOCK)
    return total / (time.perf_counter() - start)


def memcpy_small_us_p50() -> float:
    source, target = bytearray(os.urandom(65_536)), bytearray(65_536)
    at_source = ctypes.addressof((ctypes.c_char * len(source)).from_buffer(source))
    at_target = ctypes.addressof((ctypes.c_char * len(target)).from_buffer(target))
    samples = []
    for _ in range(2000):
        start = time.perf_counter()
        ctypes.memmove(at_target, at_source, 65_536)
        samples.append(time.perf_counter() - start)
    return statistics.median(samples) * 1e6


def fio_bytes_per_second(path: Path, mode: str, total: int) -> float:
    command = [
        "fio",
        "--name=raw",
        f"--filename={path}",
        "--ioengine=io_uring",
        "--direct=1",
        "--bs=4M",
        f"--iodepth={DEPTH}",
        f"--rw={mode}",
    ]
    command += [f"--size={path.stat().st_size}", f"--io_size={total}", "--norandommap=0", "--output-format=json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["jobs"][0]["read" if "read" in mode else "write"]["bw_bytes"])


# --- our side --------------------------------------------------------------------------------------------


def fresh_keys(count: int) -> list[bytes]:
    return [os.urandom(16) for _ in range(count)]


def demand(statuses: list[int]) -> None:
    if any(status != OK for status in statuses):
        raise SystemExit(f"a benchmark operation failed: statuses {sorted(set(statuses))}")


def pipeline(start: Callable[[int], _native.Operation], count: int) -> float:
    """Seconds for `count` operations with DEPTH in flight."""
    flying: deque[_native.Operation] = deque()
    began = time.perf_counter()
    for index in range(count):
        if len(flying) == DEPTH:
            operation = flying.popleft()
            operation.wait()
            demand(operation.statuses)
        flying.append(start(index))
    for operation in flying:
        operation.wait()
        demand(operation.statuses)
    return time.perf_counter() - began


def slots(client: _native.Client, count: int) -> tuple[_native.Region, list[memoryview]]:
    region = client.alloc(count * BLOCK)
    view = memoryview(region)
    pieces = [view[at * BLOCK : (at + 1) * BLOCK] for at in range(count)]
    for seed, piece in enumerate(pieces):
        _native.fill_pattern(piece, seed)
    return region, pieces


def settle(client: _native.Client) -> None:
    """Waits until relaxed puts are on the drive."""
    before = -1
    while True:
        operation = client.stats()
        operation.wait()
        written = sum(drive["written_bytes"] for drive in json.loads(operation.text)["store"]["drives"])
        if written == before:
            return
        before = written
        time.sleep(0.2)


def put_bytes_per_second(client: _native.Client, pieces: list[memoryview], count: int, *, relaxed: bool) -> float:
    keys = fresh_keys(count)
    return count * BLOCK / pipeline(lambda i: client.put([keys[i]], [pieces[i % len(pieces)]], relaxed=relaxed), count)


def get_bytes_per_second(client: _native.Client, pieces: list[memoryview], keys: list[bytes], count: int) -> float:
    return count * BLOCK / pipeline(lambda i: client.get([keys[i % len(keys)]], [pieces[i % len(pieces)]]), count)


def store_blocks(client: _native.Client, pieces: list[memoryview], count: int) -> list[bytes]:
    keys = fresh_keys(count)
    pipeline(lambda i: client.put([keys[i]], [pieces[i % len(pieces)]]), count)
    return keys


def compare(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> dict[str, Any]:
    """Medians of alternating rounds, and of the ratios pair by pair."""
    return medians([(ours(), theirs()) for _ in range(rounds)])


def medians(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Of (ours, theirs) in bytes a second: each side's median, and the median of the ratios pair by pair."""
    return {
        "ours_gb_s": round(statistics.median(a for a, _ in pairs) / 1e9, 3),
        "theirs_gb_s": round(statistics.median(b for _, b in pairs) / 1e9, 3),
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
    }


def bench_tcp(folder: Path, drive: Path, rounds: int) -> dict[str, Any]:
    with serving(folder, drive, "1GiB") as service:
        client = _native.Client(service.urls[1])
        _, pieces = slots(client, 16)
        keys = store_blocks(client, pieces, 32)
        get = compare(
            rounds,
            lambda: get_bytes_per_second(client, pieces, keys, 256),
            lambda: raw_socket_bytes_per_second(1024 * MIB),
        )

        def burst() -> float:
            settle(client)
            return put_bytes_per_second(client, pieces, 96, relaxed=True)

        put = compare(rounds, burst, lambda: raw_socket_bytes_per_second(96 * BLOCK))
        client.close()
    return {"tcp_get_vs_socket": get, "tcp_put_vs_socket": put}


def bench_shm(folder: Path, drive: Path, rounds: int) -> dict[str, Any]:
    with serving(folder, drive, "1GiB") as service:
        client = _native.Client(service.urls[0])
        _, pieces = slots(client, 16)
        keys = store_blocks(client, pieces, 32)
        hit = compare(
            rounds,
            lambda: get_bytes_per_second(client, pieces, keys, 512),
            lambda: memcpy_bytes_per_second(2048 * MIB, 32 * BLOCK),
        )
        rates = []
        for _ in range(rounds):
            asked = [fresh_keys(1000) for _ in range(20)]
            start = time.perf_counter()
            for _ in range(10):
                for keys_of_call in asked:
                    client.exists(keys_of_call).wait()
            rates.append(200 * 1000 / (time.perf_counter() - start))
        added = small_get_us_p50(service.urls[0]) - memcpy_small_us_p50()
        client.close()
    return {
        "shm_get_hit_vs_memcpy": hit,
        "exists_keys_per_second": round(statistics.median(rates)),
        "get_added_us_p50": round(added, 1),
    }


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


def bench_drive(folder: Path, drive: Path, rounds: int) -> dict[str, Any]:
    blocks = min(256, drive.stat().st_size // BLOCK * 3 // 4)
    total = blocks * BLOCK
    puts, gets = [], []
    for _ in range(rounds):
        raw_put = fio_bytes_per_second(drive, "write", total)
        raw_get = fio_bytes_per_second(drive, "randread", total)
        format_drive(drive)
        with serving(folder, drive, "256MiB") as service:
            client = _native.Client(service.urls[0])
            _, pieces = slots(client, 16)
            keys = fresh_keys(blocks)
            seconds = pipeline(lambda i, c=client, k=keys, p=pieces: c.put([k[i]], [p[i % 16]]), blocks)  # type: ignore[misc]
            puts.append((total / seconds, raw_put))
            client.close()
        with serving(folder, drive, "256MiB") as service:  # a fresh one: nothing is in DRAM
            client = _native.Client(service.urls[0])
            _, pieces = slots(client, 16)
            shuffled = sorted(keys)
            seconds = pipeline(lambda i, c=client, k=shuffled, p=pieces: c.get([k[i]], [p[i % 16]]), blocks)  # type: ignore[misc]
            gets.append((total / seconds, raw_get))
            client.close()

    return {"drive_put_vs_fio": medians(puts), "drive_get_vs_fio": medians(gets)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="tcp,shm,drive", help="which groups to run")
    parser.add_argument(
        "--dir", type=Path, default=Path("build"), help="where the drive's file goes: a real disk, not tmpfs"
    )
    parser.add_argument("--drive-size", type=int, default=2 << 30)
    options = parser.parse_args()
    chosen = options.only.split(",")
    if "drive" in chosen and shutil.which("fio") is None:
        raise SystemExit("fio is needed for the drive's figures: apt-get install fio")
    options.dir.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=options.dir) as on_disk,
        tempfile.TemporaryDirectory(prefix="cb-") as short,
    ):
        drive, folder = Path(on_disk) / "drive", Path(short)
        descriptor = os.open(drive, os.O_CREAT | os.O_RDWR)
        os.posix_fallocate(descriptor, 0, options.drive_size)
        os.close(descriptor)
        if "drive" not in chosen:
            fio_free_fill(drive)
        groups = {"drive": bench_drive, "tcp": bench_tcp, "shm": bench_shm}
        for name in [name for name in groups if name in chosen]:
            print(f"measuring {name} …", file=sys.stderr)
            format_drive(drive)
            figures.update(groups[name](folder, drive, options.rounds))
    for name, figure in figures.items():
        print(f"{name:24} {json.dumps(figure)}", file=sys.stderr)
    print(
        json.dumps({name: figure["ratio"] if isinstance(figure, dict) else figure for name, figure in figures.items()})
    )


def fio_free_fill(drive: Path) -> None:
    """Writes the file once, so that no figure pays for the file system's first allocation."""
    piece = bytes(16 * MIB)
    with drive.open("r+b") as file:
        for _ in range(drive.stat().st_size // len(piece)):
            file.write(piece)
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
