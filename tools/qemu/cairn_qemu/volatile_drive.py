"""A drive that keeps what it is given in a volatile write cache until it is told to flush, and may lose it with the power.

QEMU's own drive hands every write to a file, where it outlives QEMU: cutting the power there loses nothing that was completed, flushed
or not. This one is behind QEMU's drive, over NBD. `lose_power` decides for each write since the last flush, by dice with a seed,
whether the medium has all, nothing, or some sectors of it, as a drive is free to.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPTION_EXPORT_NAME, OPTION_ABORT, OPTION_GO = 1, 2, 7
REPLY_ACK, REPLY_INFO, REPLY_UNSUPPORTED = 1, 3, (1 << 31) + 1
HAS_FLAGS, SEND_FLUSH, SEND_FUA = 1, 4, 8
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
FUA = 1
TORN_SHARE = 0.2
EIO, EINVAL = 5, 22


@dataclass
class Lost:
    """What became of the writes that no flush had covered."""

    whole: int = 0
    dropped: int = 0
    torn: int = 0


class VolatileDrive:
    """`medium` is what survives; `view` is what reads see, the medium and the cache over it. One connection at a time.

    sector_bytes: a write may be torn between two of them, never within one: the machine's logical blocks.
    lies: says that it flushed, and did not. Then the store cannot keep what it promised, and the check has to find that out.
    """

    def __init__(self, folder: Path, nbytes: int, sector_bytes: int = 512) -> None:
        self.nbytes, self.sector_bytes = nbytes, sector_bytes
        self._folder = folder
        self.socket = folder / "drive.sock"
        self.flushes = 0
        self.requests = 0
        self.lies = False
        self._closed = False
        self._due: Callable[[], bool] = never
        self._act: Callable[[], None] = nothing
        self._medium, self._view = (self._make(folder / name) for name in ("medium", "view"))
        self._cache: list[tuple[int, bytes]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen(1)
        self._serving: threading.Thread | None = None
        self._problem: Exception | None = None

    def _make(self, path: Path) -> int:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(handle, self.nbytes)
        return handle

    def blockdev(self) -> tuple[str, ...]:
        """The words for QEMU, whose device of the name `drive` it becomes."""
        where = f"server.type=unix,server.path={self.socket}"
        return ("-blockdev", f"driver=nbd,node-name=drive,{where},export=cairn")

    def serve_one(self) -> None:
        """In the background: the next machine, until it ends."""
        self._due = never
        self._serving = threading.Thread(target=self._serve, name="volatile-drive", daemon=True)
        self._serving.start()

    def wait_until_unused(self, seconds: float) -> None:
        """After the machine's end. Raises what went wrong in the meantime."""
        if self._serving is not None:
            self._serving.join(seconds)
            if self._serving.is_alive():
                raise TimeoutError(f"the drive was still in use {seconds:g} s after its machine ended")
        if self._problem is not None:
            raise self._problem

    def close(self) -> None:
        """No machine uses it any more, or none ever came."""
        self._closed = True
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for a machine
        if self._serving is not None:
            self._serving.join()
        self._listener.close()
        for handle in (self._medium, self._view):
            os.close(handle)

    def lose_power(self, dice: random.Random) -> Lost:
        """The machine is gone. What the cache held reaches the medium or not; afterwards reads see the medium.

        How much survives is drawn first, so that among many cuts there are those that keep nearly all and nearly nothing.
        """
        self._due = never
        lost, kept_share = Lost(), 0.0 if self.lies else dice.random()
        for offset, content in self._cache:
            if dice.random() < TORN_SHARE and len(content) > self.sector_bytes:
                lost.torn += 1
                for at in range(0, len(content), self.sector_bytes):
                    if dice.random() < kept_share:
                        os.pwrite(self._medium, content[at : at + self.sector_bytes], offset + at)
            elif dice.random() < kept_share:
                lost.whole += 1
                os.pwrite(self._medium, content, offset)
            else:
                lost.dropped += 1
        for offset, content in self._cache:
            os.pwrite(self._view, os.pread(self._medium, len(content), offset), offset)
        self._cache.clear()
        return lost

    @property
    def unflushed(self) -> int:
        """Writes in the cache."""
        return len(self._cache)

    def when(self, due: Callable[[], bool], act: Callable[[], None]) -> None:
        """Calls `act` once, between a request that makes `due` true and its answer: in the middle of what the machine does."""
        self._due, self._act = due, act

    def save(self, path: Path) -> None:
        """A copy of the medium, with its holes."""
        subprocess.run(["cp", "--sparse=always", self._folder / "medium", path], check=True)

    def flush(self) -> None:
        if self.lies:
            return
        for offset, content in self._cache:
            os.pwrite(self._medium, content, offset)
        self._cache.clear()
        self.flushes += 1

    def write(self, offset: int, content: bytes) -> None:
        os.pwrite(self._view, content, offset)
        self._cache.append((offset, content))

    def read(self, offset: int, nbytes: int) -> bytes:
        return os.pread(self._view, nbytes, offset)

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
            with connection:
                negotiate(connection, self.nbytes)
                while self._answer(connection):
                    pass
        except ConnectionError:  # the machine's power was cut
            pass
        except Exception as error:
            if self._closed:
                return
            # Told by wait_until_unused, on the thread that asked for the drive.
            self._problem = error

    def _answer(self, connection: socket.socket) -> bool:
        """One request; False after the last."""
        magic, flags, kind, cookie, offset, nbytes = struct.unpack(">IHHQQI", receive(connection, 28))
        if magic != REQUEST_MAGIC:
            raise ValueError(f"QEMU sent a request that begins with {magic:#x}")
        content = receive(connection, nbytes) if kind == WRITE else b""
        if kind == DISCONNECT:
            self.flush()  # an orderly end: a drive that is told of it writes its cache down
            return False
        error, answer = 0, b""
        if kind != FLUSH and offset + nbytes > self.nbytes:
            error = EIO
        elif kind == READ:
            answer = self.read(offset, nbytes)
        elif kind == WRITE:
            self.write(offset, content)
        elif kind != FLUSH:
            error = EINVAL
        if kind == FLUSH or flags & FUA:
            self.flush()
        self.requests += 1
        if self._due():
            self._due = never
            self._act()
        connection.sendall(struct.pack(">IIQ", REPLY_MAGIC, error, cookie) + answer)
        return True


def never() -> bool:
    return False


def nothing() -> None:
    pass


def receive(connection: socket.socket, nbytes: int) -> bytes:
    parts: list[bytes] = []
    while nbytes:
        part = connection.recv(nbytes)
        if not part:
            raise ConnectionError("the other side hung up")
        parts.append(part)
        nbytes -= len(part)
    return b"".join(parts)


def negotiate(connection: socket.socket, nbytes: int) -> None:
    """The fixed newstyle handshake, up to the transmission of requests."""
    connection.sendall(MAGIC + OPTION_MAGIC + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))
    receive(connection, 4)
    flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA
    export = struct.pack(">QH", nbytes, flags)
    while True:
        magic, option, length = struct.unpack(">8sII", receive(connection, 16))
        if magic != OPTION_MAGIC:
            raise ValueError(f"QEMU sent an option that begins with {magic!r}")
        receive(connection, length)
        if option == OPTION_EXPORT_NAME:
            connection.sendall(export)
            return
        if option == OPTION_ABORT:
            raise ConnectionError("the other side does not want the drive")
        replies: Sequence[tuple[int, bytes]] = [(REPLY_UNSUPPORTED, b"")]
        if option == OPTION_GO:
            replies = [(REPLY_INFO, struct.pack(">H", 0) + export), (REPLY_ACK, b"")]
        for reply, content in replies:
            connection.sendall(struct.pack(">QIII", OPTION_REPLY_MAGIC, option, reply, len(content)) + content)
        if option == OPTION_GO:
            return
