"""The other side of a comparison: what the machine does without us."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from cairn_bench.blocks import BLOCK
from cairn_bench.services import MIB


def socket_bytes_per_second(total: int) -> float:
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


def demand_fio() -> None:
    if shutil.which("fio") is None:
        raise SystemExit("fio is needed for the figures of drives: apt-get install fio")


def drive_bytes(path: Path) -> int:
    """Of a file, or of a namespace by the name of its character device."""
    if not path.is_char_device():
        return path.stat().st_size
    block = path.name.replace("ng", "nvme", 1)
    return int(Path(f"/sys/class/block/{block}/size").read_text()) * 512


def command_bytes(path: Path) -> int:
    """The largest power of two that one command of the namespace carries: fio does not cut requests into pieces."""
    block = path.name.replace("ng", "nvme", 1)
    most = int(Path(f"/sys/class/block/{block}/queue/max_hw_sectors_kb").read_text()) * 1024
    return 1 << (most.bit_length() - 1)


def fio_bytes_per_second(
    paths: Sequence[Path], mode: str, total: int, block_bytes: int = BLOCK, depth: int = 8, span: int = 0
) -> float:
    """All files in one job, in turn, `depth` requests in flight over all of them. Namespaces get NVMe commands, as many bytes in
    flight, of what one command may carry.

    span: how much of each file is touched, from its beginning (0: all of it).
    """
    size = span or min(drive_bytes(path) for path in paths)
    engine = ["--ioengine=io_uring", "--direct=1"]
    if all(path.is_char_device() for path in paths):
        engine = ["--ioengine=io_uring_cmd", "--cmd_type=nvme", "--mem=mmap"]  # whole pages, as ours are
        pieces = max(block_bytes // min(map(command_bytes, paths)), 1)
        block_bytes, depth = block_bytes // pieces, depth * pieces
    command = ["fio", "--name=raw", f"--filename={':'.join(map(str, paths))}", *engine]
    command += [f"--bs={block_bytes}", f"--iodepth={depth}", f"--rw={mode}", "--norandommap=0"]
    command += [f"--size={size * len(paths)}", f"--io_size={total}", "--output-format=json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr}")
    side = json.loads(done.stdout)["jobs"][0]["read" if "read" in mode else "write"]
    return float(side["bw_bytes"])
