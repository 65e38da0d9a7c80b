"""Connections to an HTTP server that behave badly, in a process of their own: `python http_flood.py PORT KIND COUNT SECONDS`.

They are opened again as soon as the server ends them. Prints "ready" when all are open for the first time.
"""

import contextlib
import selectors
import socket
import sys
import time

GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /api/v1/drives HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
# kind: what is sent, whether answers are read, and how many bytes go at a time (0: all that fits)
KINDS = {
    "asks_as_fast_as_it_can": (GET % b"/api/v1/stats" * 200, True, 0),
    "probes_as_fast_as_it_can": (GET % b"/healthz" * 200, True, 0),
    "never_reads": (GET % b"/metrics" * 200, False, 0),
    "sends_slowly": (GET % b"/healthz", True, 1),
    "sends_a_body_slowly": (POST + b"x" * 50_000, True, 400),
    "sends_garbage": (b"\x16\x03\x01" + b"\xff" * 400, True, 0),
    "says_nothing": (b"", True, 1),
}
SLOW_SECONDS = 0.05


class Bad:
    """One connection."""

    def __init__(self, port: int, kind: str) -> None:
        self._text, self._reads, self._piece = KINDS[kind]
        self.socket = socket.socket()
        self.socket.settimeout(2)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setblocking(False)
        self._sent = 0
        self._next = 0.0

    def act(self) -> bool:
        """Does what it does; False when the server has ended it."""
        with contextlib.suppress(BlockingIOError):
            while self._reads:
                if not self.socket.recv(65536):
                    return False
        now = time.monotonic()
        if not self._text or (self._piece and now < self._next):
            return True
        self._next = now + SLOW_SECONDS
        with contextlib.suppress(BlockingIOError):
            self._sent += self.socket.send(self._text[self._sent :][: self._piece or None])
            self._sent %= len(self._text)
        return True


def main(port: int, kind: str, count: int, seconds: float) -> None:
    """Floods."""
    until = time.monotonic() + seconds
    bad = [Bad(port, kind) for _ in range(count)]
    print("ready", flush=True)
    selector = selectors.DefaultSelector()
    while time.monotonic() < until:
        for at, one in enumerate(bad):
            try:
                going = one.act()
            except OSError:
                going = False
            if not going:
                one.socket.close()
                with contextlib.suppress(OSError):
                    bad[at] = Bad(port, kind)
        selector.select(0.005)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
