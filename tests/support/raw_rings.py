"""A client's side of "Rings (shm)" in docs/wire-format.md, written from the page alone: what looks like a socket, and is one until the
welcome.

Kept apart from cairnkv on purpose. If this cannot talk to the service, either the page or the code is wrong. It never sleeps on a
bell: it looks again and again, so that it needs no order between what it writes and what it reads.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import time

HEADER = struct.Struct("<IIQQQQ")
MAGIC, VERSION = 0x53524943, 1
CONTROLS = {"to_service": 256, "to_client": 512}
PRODUCED, ORIGIN, PRODUCER_ASLEEP, CONSUMED, CONSUMER_ASLEEP = 0, 8, 16, 128, 136
PAUSE_SECONDS = 0.0002


class Ring:
    """One direction."""

    def __init__(self, memory: mmap.mmap, control: int, first: int, nbytes: int) -> None:
        self.memory, self.first, self.nbytes = memory, first, nbytes
        for name, at in (("produced", PRODUCED), ("origin", ORIGIN), ("consumed", CONSUMED)):
            setattr(self, f"_{name}", ctypes.c_uint64.from_buffer(memory, control + at))
        self.producer_asleep = ctypes.c_uint32.from_buffer(memory, control + PRODUCER_ASLEEP)
        self.consumer_asleep = ctypes.c_uint32.from_buffer(memory, control + CONSUMER_ASLEEP)

    def get(self, name: str) -> int:
        return int(getattr(self, f"_{name}").value)

    def set(self, name: str, value: int) -> None:
        getattr(self, f"_{name}").value = value

    def _pieces(self, begin: int, count: int) -> list[tuple[int, int]]:
        place = (begin - self.get("origin")) % self.nbytes
        head = min(count, self.nbytes - place)
        return [(self.first + place, head), (self.first, count - head)]

    def write(self, data: memoryview) -> int:
        produced = self.get("produced")
        if self.get("consumed") == produced:
            self.set("origin", produced)
        count = min(len(data), self.nbytes - (produced - self.get("consumed")))
        at = 0
        for place, length in self._pieces(produced, count):
            self.memory[place : place + length] = data[at : at + length]
            at += length
        self.set("produced", produced + count)
        return count

    def read(self, most: int) -> bytes:
        consumed = self.get("consumed")
        count = min(most, self.get("produced") - consumed)
        data = b"".join(self.memory[place : place + length] for place, length in self._pieces(consumed, count))
        self.set("consumed", consumed + count)
        return data


class RingSocket:
    """A Unix socket, and from begin() on the rings that came with the welcome."""

    def __init__(self, path: str, seconds_most: float) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(seconds_most)
        self.sock.connect(path)
        self.seconds_most = seconds_most
        self.descriptors: list[int] = []
        self.out: Ring | None = None
        self.into: Ring | None = None

    def begin(self) -> None:
        """The welcome has come."""
        (descriptor,) = self.descriptors
        magic, version, total, nbytes, to_service, to_client = HEADER.unpack(os.pread(descriptor, HEADER.size, 0))
        assert (magic, version) == (MAGIC, VERSION)
        memory = mmap.mmap(descriptor, total)
        os.close(descriptor)
        self.descriptors.clear()
        self.out = Ring(memory, CONTROLS["to_service"], to_service, nbytes)
        self.into = Ring(memory, CONTROLS["to_client"], to_client, nbytes)
        self.sock.setblocking(False)

    def bell(self) -> None:
        try:
            self.sock.send(b"\0")
        except BlockingIOError:
            pass  # it has bells enough
        except OSError as error:
            raise ConnectionError("the service hung up") from error

    def _over(self) -> bool:
        """Takes bells in; whether the service is gone."""
        try:
            return self.sock.recv(4096) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def sendall(self, data: bytes) -> None:
        if self.out is None:
            return self.sock.sendall(data)
        left = memoryview(data)
        until = time.monotonic() + self.seconds_most
        while left:
            count = self.out.write(left)
            left = left[count:]
            if count:
                self.bell()
            elif self._over():
                raise ConnectionResetError("the service hung up")
            elif time.monotonic() > until:
                raise TimeoutError("the service takes nothing in")
            else:
                time.sleep(PAUSE_SECONDS)
        return None

    def send(self, data: memoryview) -> int:
        """What there is room for now."""
        assert self.out is not None, "there are no rings before the welcome"
        count = self.out.write(data)
        if count:
            self.bell()
            return count
        if self._over():
            raise ConnectionResetError("the service hung up")
        raise BlockingIOError

    def setblocking(self, blocking: bool) -> None:
        assert not blocking, "rings never block"

    def fileno(self) -> int:
        return self.sock.fileno()

    def recv(self, most: int) -> bytes:
        if self.into is None:
            data, descriptors, _, _ = socket.recv_fds(self.sock, most, 4)
            self.descriptors += descriptors
            return data
        until = time.monotonic() + self.seconds_most
        while True:
            over = self._over()
            if data := self.into.read(most):
                if self.into.producer_asleep.value:
                    self.bell()
                return data
            if over:
                return b""
            if time.monotonic() > until:
                raise TimeoutError("the service says nothing")
            time.sleep(PAUSE_SECONDS)

    def shutdown(self, how: int) -> None:
        self.sock.shutdown(how)

    def close(self) -> None:
        self.sock.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()
