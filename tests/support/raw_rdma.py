"""A client's side of "RDMA" in docs/wire-format.md, written from the page alone: the frames of raw_wire over an RdmaLink.

Kept apart from cairnkv on purpose. If this cannot talk to the service, either the page or the code is wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from raw_wire import EXTENT, GET, LAST, PUT, RESULT, RESULTS, Frame, RawSession, batch, crc32c, item
from rdma_link import READ, WRITE, Link, Offer


class RdmaSession(RawSession):
    """A session whose frames travel in messages and whose payload is read and written in place."""

    def __init__(self, address: tuple[str, int], offer: Offer | None = None, **options: Any) -> None:
        self.link = Link(address, offer, **options)
        self.tag, self.next_id, self.seen = bytes(16), 1, []
        self._rest = b""
        RawSession.opened.append(self)

    @classmethod
    def dial(cls, address: tuple[str, int], offer: Offer | None = None, **options: Any) -> RdmaSession:
        """Connects and says hello as the tenant of the offer."""
        session = cls(address, offer, **options)
        session.say_hello(session.link.offer.tenant)
        return session

    def send(self, frame: Frame) -> None:
        self.link.send_frame(frame.encode())

    def _exactly(self, count: int) -> bytes:
        self._rest = self._rest or (self.link.receive_frame() if count else b"")
        assert len(self._rest) >= count, "a frame is longer than its pieces"
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def receive(self) -> Frame:
        frame = super().receive()
        assert not self._rest and not frame.payload, "a frame carries what its header does not say, or payload"
        return frame

    def extent(self, offset: int, length: int, key: int) -> bytes:
        return EXTENT.pack(self.link.memory.buf + offset, length, key, 0)

    @contextlib.contextmanager
    def lent_all(self, places: list[tuple[int, int]], access: int) -> Iterator[list[bytes]]:
        """Extents of the memory that the service may read or write until the block ends, each with a key of its own."""
        keys = [self.link.open(offset, length, access) for offset, length in places]
        try:
            yield [self.extent(*place, key) for place, key in zip(places, keys, strict=True)]
        finally:
            for key in keys:
                self.link.shut(key)

    @contextlib.contextmanager
    def lent(self, length: int, access: int, offset: int = 0) -> Iterator[bytes]:
        """One of them."""
        with self.lent_all([(offset, length)], access) as (extent,):
            yield extent

    def result(self, request_id: int) -> tuple[int, int, int, int]:
        """Status, length, sequence and CRC of the only item."""
        frame = self.receive()
        assert frame.type == RESULTS and frame.request_id == request_id and frame.flags & LAST, frame
        _, status, _, length, sequence, crc, _ = RESULT.unpack(frame.body)
        return status, length, sequence, crc

    def put(self, key: bytes, data: bytes, scope: int = 0, **options: Any) -> tuple[int, int]:
        self.link.memory.write(data, len(data))
        with self.lent(len(data), READ) as extent:
            body = batch([item(key, len(data), extent=(0, 1), **options)], [extent], scope=scope)
            status, _, sequence, _ = self.result(self.request(PUT, body, 1))
        return status, sequence

    def get(self, key: bytes, room: int, offset: int = 0, count: int = 0, layout: int = 0) -> tuple[int, bytes]:
        with self.lent(room, WRITE) as extent:
            body = batch([item(key, room, offset=offset, count=count, extent=(0, 1))], [extent], layout=layout)
            status, length, _, crc = self.result(self.request(GET, body, 1))
            data = self.link.memory.read(length, 0)
        if status == 0:
            assert crc == crc32c(data)
        return status, data

    def close(self) -> None:
        self.link.close()
