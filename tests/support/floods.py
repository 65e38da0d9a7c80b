"""Clients that send one kind of frame as fast as they can and read nothing: `python floods.py ADDRESS KIND SESSIONS SECONDS`.

A process of its own, so that it takes no time of whoever measures meanwhile. It prints `begun` when all its sessions are
there, and how many bytes it sent when it ends.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable

from raw_wire import (
    CANCEL,
    DATA,
    DATA_T,
    EXISTS,
    FROM_NOW,
    GET,
    GOODBYE_T,
    HELLO,
    HELLO_T,
    LEASE,
    MATCH,
    PING_T,
    PREFETCH,
    PUT,
    RELEASE,
    REMOVE,
    STATS,
    TOUCH,
    TRAILER,
    WATCH,
    WATCH_BODY,
    Frame,
    RawSession,
    batch,
    item,
)

BLOB_BYTES = 64 * 1024
BLOCK = b"k" * 16  # the one block that the flooding tenant has
BLOCK_BYTES = 100_000
KEYS = [os.urandom(16) for _ in range(4096)]

Build = Callable[[int, bytes], Frame]


def _keys(kind: int, count: int, **fields: int) -> Build:
    body = batch(KEYS[:count], **fields)
    return lambda number, tag: Frame(kind, number, body, item_count=count, tag=tag)


def _items(kind: int, key: bytes, room: int, count: int = 1) -> Build:
    body = batch([item(key, room)] * count) if key else batch([item(os.urandom(16), room) for _ in range(count)])
    return lambda number, tag: Frame(kind, number, body, item_count=count, tag=tag, deadline_ms=600_000)


def _hello(_: int, tag: bytes) -> Frame:
    return Frame(HELLO_T, 0, HELLO.pack(1, 1, 0, bytes(16), 5, 0, 0, 0) + b"flood", tag=tag)


# What a client may send, and a frame of each; and some that cost more than they look.
KINDS: dict[str, Build] = {
    "hello": _hello,
    "goodbye": lambda number, tag: Frame(GOODBYE_T, number, tag=tag),
    "ping": lambda number, tag: Frame(PING_T, number, tag=tag),
    "put": _items(PUT, b"", 32 << 20),
    "get": _items(GET, BLOCK, 64 << 20),
    "get_absent": _items(GET, b"", 64 << 20, 4096),
    "prefetch": _items(PREFETCH, BLOCK, 0),
    "exists": _keys(EXISTS, 4096),
    "match": _keys(MATCH, 64),
    "touch": _keys(TOUCH, 64),
    "remove": _keys(REMOVE, 64),
    "remove_many": _keys(REMOVE, 4096),
    "lease": _keys(LEASE, 4096, duration_ms=3_600_000),
    "lease_block": lambda number, tag: Frame(
        LEASE, number, batch([BLOCK], duration_ms=3_600_000), item_count=1, tag=tag
    ),
    "release": _keys(RELEASE, 64),
    "stats": lambda number, tag: Frame(STATS, number, tag=tag),
    "watch": lambda number, tag: Frame(WATCH, number, WATCH_BODY.pack(FROM_NOW, 0, 0), tag=tag, deadline_ms=600_000),
    "data": lambda number, tag: Frame(DATA_T, number, DATA.pack(0, 0, 0, 4096), bytes(4096) + TRAILER.pack(0), tag=tag),
    "cancel": lambda number, tag: Frame(CANCEL, number, tag=tag),
}
# Their numbers have to differ while they are open.
NUMBERED = {"put", "get", "get_absent", "prefetch", "watch"}


class Flooder:
    """One session; when the service ends it, the next one."""

    def __init__(self, address: tuple[str, int] | str, kind: str) -> None:
        self.address, self.kind = address, kind
        self.sent = 0
        self.session: RawSession | None = None
        self.begin()

    def begin(self) -> None:
        self.session = None
        try:
            session = RawSession.open(self.address, tenant=b"flood")
        except (OSError, ConnectionError, AssertionError):
            return
        if not isinstance(self.address, str):
            session.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        session.sock.setblocking(False)
        build = KINDS[self.kind]
        one = len(build(1, session.tag).encode())
        count = max(1, BLOB_BYTES // one)
        if self.kind in NUMBERED:
            self.blob = b"".join(build(number, session.tag).encode() for number in range(1, min(count, 256) + 1))
        else:
            self.blob = build(1, session.tag).encode() * count
        self.at = 0
        self.session = session

    def send(self) -> None:
        if self.session is None:
            self.begin()
            return
        try:
            sent = self.session.sock.send(memoryview(self.blob)[self.at :])
        except BlockingIOError:
            return
        except OSError:
            self.session.close()
            self.begin()
            return
        self.sent += sent
        self.at = (self.at + sent) % len(self.blob)


def main(address: str, kind: str, sessions: int, seconds: float) -> None:
    host, _, port = address.rpartition(":")
    where: tuple[str, int] | str = address if address.startswith("/") else (host, int(port))
    first = RawSession.open(where, tenant=b"flood")
    assert first.put(BLOCK, bytes(BLOCK_BYTES))[0] in (0, 1)
    first.close()
    flooders = [Flooder(where, kind) for _ in range(sessions)]
    print("begun", flush=True)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        waiting = {one.session.sock.fileno(): one for one in flooders if one.session is not None}
        _, writable, _ = select.select([], list(waiting), [], 0.05)
        for one in flooders:
            if one.session is None:
                one.send()
        sent = sum(one.sent for one in flooders)
        for number in writable:
            waiting[number].send()
        if sum(one.sent for one in flooders) == sent:
            time.sleep(0.001)  # the socket beside a full ring takes bells all the same
    print(json.dumps({"sent_bytes": sum(one.sent for one in flooders)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
