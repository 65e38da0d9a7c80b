"""Cairn beside other cache servers, over loopback TCP, in the same minute: one client, one block at a time, fresh keys.

    .venv/bin/python tools/peers.py                 # LMCache's server and Redis; needs network the first time
    .venv/bin/python tools/peers.py --only redis

The peers keep blocks in memory only. Cairn is measured twice: relaxed (answered once the service has the bytes, which is what
the peers do; the drive follows behind) and durable (answered once they survive power loss). Gets are served from memory by all. GB/s,
medians of --rounds. LMCache's server gets a virtual environment of its own under build/; its protocol has no answer to a
put, so an EXIST closes each round. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from cairnkv import _native
from cairnkv.process import ServiceProcess

MIB = 1 << 20
LMCACHE_PACKAGES = ["torch", "numpy", "msgspec", "pyyaml", "psutil", "sortedcontainers", "numba", "prometheus_client"]
LMCACHE_PACKAGES += ["py-cpuinfo", "aiohttp", "requests", "cachetools"]


class Peer(Protocol):
    """What is measured. Keys are names; `get` fills the buffer it is given."""

    def put(self, key: str, data: memoryview) -> None: ...
    def settle(self) -> None: ...
    def get(self, key: str, into: memoryview) -> None: ...


def receive_exactly(peer: socket.socket, into: memoryview) -> None:
    have = 0
    while have < len(into):
        got = peer.recv_into(into[have:])
        if got == 0:
            raise SystemExit("a peer hung up")
        have += got


class Cairn:
    def __init__(self, url: str, *, relaxed: bool) -> None:
        self.client, self.relaxed = _native.Client(url), relaxed

    @staticmethod
    def _key(key: str) -> bytes:
        return bytes.fromhex(key)

    def _done(self, operation: _native.Operation) -> None:
        operation.wait()
        if operation.statuses != [0]:
            raise SystemExit(f"cairn answered {operation.statuses}")

    def put(self, key: str, data: memoryview) -> None:
        self._done(self.client.put([self._key(key)], [data], relaxed=self.relaxed))

    def settle(self) -> None:
        self._done(self.client.stats())

    def get(self, key: str, into: memoryview) -> None:
        self._done(self.client.get([self._key(key)], [into]))


class Redis:
    def __init__(self, port: int) -> None:
        self.peer = socket.create_connection(("127.0.0.1", port))
        self.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self.peer.recv(1)
        return line

    def put(self, key: str, data: memoryview) -> None:
        self.peer.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key.encode(), len(data)))
        self.peer.sendall(data)
        self.peer.sendall(b"\r\n")
        if self._line() != b"+OK\r\n":
            raise SystemExit("redis refused a SET")

    def settle(self) -> None:
        return

    def get(self, key: str, into: memoryview) -> None:
        self.peer.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(key), key.encode()))
        if self._line() != b"$%d\r\n" % len(into):
            raise SystemExit("redis lost a key")
        receive_exactly(self.peer, into)
        self._line()


class LMCache:
    """The wire of LMCache's own server, as its 0.5.6 speaks it: nine ints and a key of 150 bytes."""

    PUT, GET, EXIST, BINARY, UINT8 = 1, 2, 3, 1, 6

    def __init__(self, port: int) -> None:
        self.peer = socket.create_connection(("127.0.0.1", port))
        self.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.last = ""

    def _header(self, command: int, key: str, length: int) -> bytes:
        name = f"m@1@0@{key}@uint8".encode().ljust(150)
        return struct.pack("iiiiiiiii150s", command, length, self.BINARY, self.UINT8, 0, max(length, 1), 0, 0, 0, name)

    def _answer(self) -> tuple[int, int]:
        answer = bytearray(36)
        receive_exactly(self.peer, memoryview(answer))
        code, length, *_ = struct.unpack("iiiiiiiii", answer)
        return code, length

    def put(self, key: str, data: memoryview) -> None:
        self.peer.sendall(self._header(self.PUT, key, len(data)))
        self.peer.sendall(data)
        self.last = key

    def settle(self) -> None:
        self.peer.sendall(self._header(self.EXIST, self.last, 0))
        if self._answer()[0] != 200:
            raise SystemExit("lmcache lost a key")

    def get(self, key: str, into: memoryview) -> None:
        self.peer.sendall(self._header(self.GET, key, 0))
        code, length = self._answer()
        if code != 200 or length != len(into):
            raise SystemExit("lmcache lost a key")
        receive_exactly(self.peer, into)


# --- starting them ---------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def await_port(port: int, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise SystemExit("a peer's server did not come up")


@contextlib.contextmanager
def child(command: list[str], port: int) -> Iterator[None]:
    quiet = {**os.environ, "LMCACHE_TRACK_USAGE": "false", "LMCACHE_LOG_LEVEL": "ERROR"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=quiet)
    try:
        await_port(port, process)
        yield
    finally:
        process.kill()
        process.wait()


def lmcache_python(folder: Path) -> str:
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print("installing LMCache into an environment of its own: this takes minutes", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "lmcache==0.5.6"], check=True)
        subprocess.run([*pip, *LMCACHE_PACKAGES], check=True)
        (folder / "ready").touch()
    return str(python)


# --- measuring -------------------------------------------------------------------------------------------


def one_round(peer: Peer, block_bytes: int, total: int) -> tuple[float, float]:
    """GB/s of puts and of gets."""
    source, target = memoryview(bytearray(os.urandom(block_bytes))), memoryview(bytearray(block_bytes))
    target[:] = bytes(block_bytes)
    keys = [os.urandom(16).hex() for _ in range(total // block_bytes)]
    start = time.perf_counter()
    for key in keys:
        peer.put(key, source)
    peer.settle()
    put_seconds = time.perf_counter() - start
    start = time.perf_counter()
    for key in keys:
        peer.get(key, target)
    get_seconds = time.perf_counter() - start
    if target != source:
        raise SystemExit("a peer returned wrong bytes")
    return total / put_seconds / 1e9, total / get_seconds / 1e9


def measure(peers: dict[str, Peer], rounds: int, total: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for block_mib in (2, 4, 16):
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
        for _ in range(rounds):
            for name, peer in peers.items():
                samples[name].append(one_round(peer, block_mib * MIB, total))
        for name, pairs in samples.items():
            put = statistics.median(pair[0] for pair in pairs)
            get = statistics.median(pair[1] for pair in pairs)
            figures[f"{name} {block_mib} MiB"] = {"put_gb_s": round(put, 2), "get_gb_s": round(get, 2)}
            print(f"{name:16} {block_mib:3} MiB   put {put:5.2f}   get {get:5.2f} GB/s", file=sys.stderr)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="lmcache,redis")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--total-mib", type=int, default=256, help="moved per round and size")
    options = parser.parse_args()
    wanted = options.only.split(",")
    build = Path("build")
    build.mkdir(exist_ok=True)
    starters: dict[str, Callable[[contextlib.ExitStack], Peer]] = {"lmcache": start_lmcache, "redis": start_redis}
    with contextlib.ExitStack() as stack:
        on_disk = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-peers-", dir=build)))
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cp-")))
        drive = f"{on_disk.resolve()}/drive:6GiB"
        ours = ServiceProcess(short, drive=drive, listen=["tcp://127.0.0.1:0"], slab="2GiB")
        ours.start()
        stack.callback(ours.stop)
        peers: dict[str, Peer] = {
            "cairn relaxed": Cairn(ours.urls[0], relaxed=True),
            "cairn durable": Cairn(ours.urls[0], relaxed=False),
        }
        for name in wanted:
            peers[name] = starters[name](stack)
        figures = measure(peers, options.rounds, options.total_mib * MIB)
    print(json.dumps(figures))


def start_lmcache(stack: contextlib.ExitStack) -> Peer:
    port = free_port()
    python = lmcache_python(Path("build/peers-lmcache"))
    stack.enter_context(child([python, "-m", "lmcache.v1.server", "127.0.0.1", str(port), "cpu"], port))
    return LMCache(port)


def start_redis(stack: contextlib.ExitStack) -> Peer:
    if shutil.which("redis-server") is None:
        raise SystemExit("redis-server is needed: apt-get install redis-server, or --only lmcache")
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    stack.enter_context(child([*command, "--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"], port))
    return Redis(port)


if __name__ == "__main__":
    main()
