"""A client's side of docs/wire-format.md, written from the page alone: plain sockets, no native code.

Kept apart from cairnkv on purpose. If this cannot talk to the service, either the page or the code is wrong.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

from raw_rings import RingSocket

MAGIC = 0x4E524943
HEADER = struct.Struct("<IBBHQIIQII16sII")
BATCH = struct.Struct("<QBB2xIQQ")
ITEM = struct.Struct("<16s16sQQQQIHHIHH")
EXTENT = struct.Struct("<QQII")
RESULT = struct.Struct("<IHHQQII")
PULL = struct.Struct("<IIQQ")
DATA = struct.Struct("<IIQQ")
TRAILER = struct.Struct("<H6x")
WATCH_BODY = struct.Struct("<QII")
EVENTS_BODY = struct.Struct("<QQQ")
EVENT = struct.Struct("<QQQ16s16sQQB7x")
HELLO = struct.Struct("<HHI16sHHHH")
WELCOME = struct.Struct("<HHI16sQQQIIII")

HELLO_T, WELCOME_T, REFUSE_T, GOODBYE_T, PING_T, PONG_T = 1, 2, 3, 4, 5, 6
PUT, GET, EXISTS, MATCH, TOUCH, REMOVE, PREFETCH, STATS = 16, 17, 18, 19, 20, 21, 22, 23
LEASE, RELEASE, WATCH = 24, 25, 26
RESULTS, STATUSES, MATCHED, TEXT, PULL_T, DATA_T, CANCEL, CANCELLED, FAILED = 48, 49, 50, 51, 52, 53, 54, 55, 56
EVENTS = 57
FROM_NOW = 2**64 - 1
AWAITED_SECONDS_MOST = 15.0  # to be hung up on takes a second or two; of a stalled link, thirty
LAST = 1
FEATURE_RINGS = 2
SECONDS_MOST = 20.0


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


@dataclass
class Frame:
    """A frame in either direction; `overrides` replaces header fields after the CRCs were made right."""

    type: int
    request_id: int = 0
    body: bytes = b""
    payload: bytes = b""
    flags: int = 0
    item_count: int = 0
    deadline_ms: int = 0
    tag: bytes = bytes(16)
    magic: int = MAGIC
    version: int = 1
    body_bytes: int | None = None
    payload_bytes: int | None = None
    body_crc: int | None = None
    header_crc: int | None = None

    def encode(self) -> bytes:
        body_bytes = len(self.body) if self.body_bytes is None else self.body_bytes
        payload_bytes = len(self.payload) if self.payload_bytes is None else self.payload_bytes
        body_crc = crc32c(self.body) if self.body_crc is None else self.body_crc
        fields = (
            self.magic,
            self.version,
            self.type,
            self.flags,
            self.request_id,
            body_bytes,
            self.item_count,
            payload_bytes,
            self.deadline_ms,
            0,
            self.tag,
            body_crc,
        )
        header = HEADER.pack(*fields, 0)[:60]
        crc = crc32c(header) if self.header_crc is None else self.header_crc
        return header + struct.pack("<I", crc) + self.body + self.payload


def batch(
    items: list[bytes],
    extents: list[bytes] | None = None,
    layout: int = 0,
    durability: int = 0,
    *,
    kind: int = 0,
    scope: int = 0,
    duration_ms: int = 0,
) -> bytes:
    """The body of a batch from packed keys or items."""
    extents = extents or []
    fixed = BATCH.pack(layout, durability, kind, len(extents), scope, duration_ms)
    return fixed + b"".join(items) + b"".join(extents)


def item(
    key: bytes,
    length: int = 0,
    *,
    offset: int = 0,
    count: int = 0,
    ttl_ms: int = 0,
    extent: tuple[int, int] = (0, 0),
    crc: int | None = None,
    group: bytes = bytes(16),
    members: int = 0,
) -> bytes:
    flags = 0 if crc is None else 1
    return ITEM.pack(key, group, length, offset, count, ttl_ms, extent[0], extent[1], flags, crc or 0, members, 0)


@dataclass
class RawSession:
    """A connection that says exactly what it is told to."""

    sock: socket.socket | RingSocket
    tag: bytes = bytes(16)
    welcome: tuple[int | bytes, ...] = ()
    next_id: int = 1
    seen: list[Frame] = field(default_factory=list)
    opened: ClassVar[list[RawSession]] = []

    @classmethod
    def open(
        cls,
        address: tuple[str, int] | str,
        *,
        hello: bool = True,
        tenant: bytes = b"default",
        name: bytes = b"raw",
        source: str = "",
    ) -> RawSession:
        if isinstance(address, str):
            session = cls(RingSocket(address, SECONDS_MOST))
        else:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.settimeout(SECONDS_MOST)
            if source:
                sock.bind((source, 0))
            sock.connect(address)
            session = cls(sock)
        cls.opened.append(session)
        if hello:
            session.say_hello(tenant, name=name)
        return session

    def say_hello(self, tenant: bytes = b"default", join: bytes = bytes(16), name: bytes = b"raw") -> None:
        rings = isinstance(getattr(self, "sock", None), RingSocket)
        features = FEATURE_RINGS if rings else 0
        body = HELLO.pack(1, 1, features, join, len(tenant), 0, len(name), 0) + tenant + name
        self.send(Frame(HELLO_T, body=body))
        frame = self.receive()
        assert frame.type == WELCOME_T, frame
        self.tag = frame.tag
        self.welcome = WELCOME.unpack(frame.body)
        assert self.welcome[2] == features
        if rings:
            assert isinstance(self.sock, RingSocket)
            self.sock.begin()

    def send(self, frame: Frame) -> None:
        self.sock.sendall(frame.encode())

    def request(self, kind: int, body: bytes, items: int, deadline_ms: int = 0) -> int:
        request_id = self.next_id
        self.next_id += 1
        self.send(Frame(kind, request_id, body, item_count=items, deadline_ms=deadline_ms, tag=self.tag))
        return request_id

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            got = self.sock.recv(count - len(data))
            if not got:
                raise ConnectionError("the service hung up")
            data += got
        return bytes(data)

    def receive(self) -> Frame:
        raw = self._exactly(64)
        magic, version, kind, flags, request_id, body_bytes, items, payload_bytes, deadline, _, tag, body_crc, crc = (
            HEADER.unpack(raw)
        )
        assert magic == MAGIC and version == 1
        assert crc == crc32c(raw[:60]), "the header's CRC is wrong"
        body = self._exactly(body_bytes)
        assert body_crc == crc32c(body), "the body's CRC is wrong"
        assert not self.tag.strip(b"\0") or tag == self.tag, "an answer without the session's tag"
        payload = self._exactly(payload_bytes)
        frame = Frame(kind, request_id, body, payload, flags, items, deadline, tag)
        self.seen.append(frame)
        return frame

    def ends(self) -> tuple[int, str]:
        """Reads until the service refuses and hangs up; its status and sentence."""
        status, reason = -1, ""
        try:
            while True:
                frame = self.receive()
                if frame.type == REFUSE_T:
                    status, length = struct.unpack_from("<HH", frame.body)
                    reason = frame.body[4 : 4 + length].decode()
        except ConnectionError:
            return status, reason

    def results(self, request_id: int) -> dict[int, int]:
        """The status of every item, from however many frames they come in."""
        statuses: dict[int, int] = {}
        while True:
            frame = self.receive()
            assert frame.type == RESULTS and frame.request_id == request_id
            for at in range(0, len(frame.body), RESULT.size):
                index, status, *_ = RESULT.unpack_from(frame.body, at)
                statuses[index] = status
            if frame.flags & LAST:
                return statuses

    def put(self, key: bytes, data: bytes, scope: int = 0, **options: Any) -> tuple[int, int]:
        """Status and sequence. Answers the service's pull with one data frame."""
        request_id = self.request(PUT, batch([item(key, len(data), **options)], scope=scope), 1)
        while True:
            frame = self.receive()
            assert frame.request_id == request_id
            if frame.type == PULL_T:
                index, _, offset, length = PULL.unpack(frame.body)
                payload = data[offset : offset + length] + TRAILER.pack(0)
                self.send(Frame(DATA_T, request_id, DATA.pack(index, 0, offset, length), payload, tag=self.tag))
                continue
            assert frame.type == RESULTS and frame.flags & LAST
            _, status, _, _, sequence, _, _ = RESULT.unpack(frame.body)
            return status, sequence

    def get(self, key: bytes, room: int, offset: int = 0, count: int = 0, layout: int = 0) -> tuple[int, bytes]:
        request_id = self.request(GET, batch([item(key, room, offset=offset, count=count)], layout=layout), 1)
        frame = self.receive()
        assert frame.type == RESULTS and frame.request_id == request_id and frame.flags & LAST
        _, status, _, length, _, crc, _ = RESULT.unpack(frame.body)
        assert len(frame.payload) == length
        if status == 0:
            assert crc == crc32c(frame.payload)
        return status, frame.payload

    def statuses(self, operation: int, keys: list[bytes], layout: int = 0, **fields: int) -> list[int]:
        self.request(operation, batch(keys, layout=layout, **fields), len(keys))
        frame = self.receive()
        assert frame.type == STATUSES and frame.item_count == len(keys)
        return list(struct.unpack(f"<{len(keys)}H", frame.body))

    def match(self, keys: list[bytes]) -> int:
        self.request(MATCH, batch(keys), len(keys))
        frame = self.receive()
        assert frame.type == MATCHED
        return int(struct.unpack("<Q", frame.body)[0])

    def watch(self, after: int, most: int = 0, deadline_ms: int = 0) -> int:
        """Begins to; the request's number."""
        return self.request(WATCH, WATCH_BODY.pack(after, most, 0), 0, deadline_ms)

    def events(self) -> tuple[int, int, list[tuple[Any, ...]]]:
        """The answer to a watch: oldest, newest, events."""
        frame = self.receive()
        assert frame.type == EVENTS and frame.flags & LAST
        oldest, newest, reserved = EVENTS_BODY.unpack_from(frame.body)
        assert reserved == 0 and len(frame.body) == EVENTS_BODY.size + frame.item_count * EVENT.size
        return oldest, newest, list(EVENT.iter_unpack(frame.body[EVENTS_BODY.size :]))

    def figure(self, name: str) -> int:
        """One of the service's statistics."""
        self.send(Frame(STATS, 998, tag=self.tag))
        return int(json.loads(self.receive().body)[name])

    def await_figure(self, name: str, wanted: int) -> None:
        until = time.monotonic() + AWAITED_SECONDS_MOST
        while (seen := self.figure(name)) != wanted:
            assert time.monotonic() < until, f"{name} is {seen} and stays so"

    def alive(self) -> bool:
        self.send(Frame(PING_T, 999, tag=self.tag))
        return self.receive().type == PONG_T

    def close(self) -> None:
        self.sock.close()

    @classmethod
    def close_all(cls) -> None:
        """Hangs up whatever a test left open."""
        for session in cls.opened:
            session.close()
        cls.opened.clear()
