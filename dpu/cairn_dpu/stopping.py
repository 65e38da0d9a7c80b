"""What may ask the service to stop, as one thing the main thread waits for: SIGTERM, SIGINT, the end of the lifeline."""

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from types import TracebackType
from typing import Self, TypeVar

from cairn_dpu.errors import ConfigError

T = TypeVar("T")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LIFELINE = "the lifeline's end"


class StopRequests:
    """Context manager; main thread only. While it is active the two signals do nothing but wake `wait`."""

    def __init__(self, lifeline_fd: int | None) -> None:
        self._lifeline_fd = lifeline_fd
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._waker = socket.socketpair()
        self._old_handlers: dict[signal.Signals, object] = {}
        self._old_wakeup_fd = -1

    def __enter__(self) -> Self:
        if self._lifeline_fd is not None:
            try:
                os.set_inheritable(self._lifeline_fd, False)
                self._selector.register(self._lifeline_fd, selectors.EVENT_READ)
            except (OSError, ValueError):
                raise ConfigError(f"lifeline_fd: {self._lifeline_fd} is not an open pipe or socket") from None
        self._wakeup.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._old_wakeup_fd = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            self._old_handlers[number] = signal.signal(number, lambda *_: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._old_wakeup_fd)
        self._selector.close()
        self._wakeup.close()
        self._waker.close()

    def wait(self, seconds: float | None = None) -> str | None:
        """The name of what asked to stop (`SIGTERM`, LIFELINE), or None after `seconds` or a `wake`."""
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._wakeup:
                asked = [number for number in self._wakeup.recv(4096) if number in SIGNALS]
                if asked:
                    return signal.Signals(asked[0]).name
            elif self._lifeline_ended():
                self._selector.unregister(key.fileobj)
                return LIFELINE
        return None

    def wake(self) -> None:
        """Makes `wait` return None. Any thread."""
        self._waker.send(b"\0")

    def wait_for(self, work: Future[T], *, heed_lifeline: bool, seconds: float | None = None) -> str | None:
        """Waits until `work` (from `run_aside`) is done, or for so long: None. Or until something asks to stop: its name."""
        until = None if seconds is None else time.monotonic() + seconds
        while not work.done():
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return None
            reason = self.wait(left)
            if reason is not None and (heed_lifeline or reason != LIFELINE):
                return reason
        return None

    def run_aside(self, work: Callable[[], T]) -> Future[T]:
        """Runs `work` on a thread of its own, so that signals are heard meanwhile."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            self.wake()

        Thread(target=run, name="cairn-aside", daemon=True).start()
        return future

    def _lifeline_ended(self) -> bool:
        assert self._lifeline_fd is not None
        try:
            return os.read(self._lifeline_fd, 4096) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
