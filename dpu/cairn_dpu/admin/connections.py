"""What one HTTP connection may cost: uvicorn's protocol with an end to everything that a peer can draw out.

Memory, descriptors and time are bounded by the number of connections, by the size of headers and bodies, and by three clocks: a
request has to arrive whole in REQUEST_SECONDS, an answer has to be taken in steps of WRITE_SECONDS, and a connection that
asks faster than REQUESTS_PER_SECOND waits, so that the next caller's probe does not.
"""

import asyncio
import json

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from cairn_dpu.admin.problems import MEDIA_TYPE, PROBLEMS, document

CONNECTIONS_MOST = 256
HEADER_BYTES_MOST = 16 * 1024
RECEIVE_BYTES = 16 * 1024
WRITE_BUFFER_BYTES = 16 * 1024
REQUEST_SECONDS = 10.0
WRITE_SECONDS = 10.0
GRACE_SECONDS = 1.0
REQUESTS_PER_SECOND = 200.0  # over all connections that are open
REQUESTS_AT_ONCE = 64.0  # and after a rest


class BoundedProtocol(H11Protocol):
    """One connection. Event loop's thread only."""

    connections_most = CONNECTIONS_MOST

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection. Where there are too many, another one pays: one that has been asking for nothing, else one
        that was served already, the oldest first. So a newcomer is heard, whoever fills the others."""
        super().connection_made(transport)
        transport.max_size = RECEIVE_BYTES  # type: ignore[attr-defined]  # asyncio's own, 256 KiB, is memory for each
        self.flow = _Flow(transport, self.conn)
        self._answering = self.app
        self._task: asyncio.Task[None] | None = None
        self.app = self._answer
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self._since = self.loop.time()
        self._served = False
        self._tokens, self._counted = REQUESTS_AT_ONCE, self._since
        self._request_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._watch()
        while len(self.connections) > self.connections_most:
            paying = min((one for one in self.connections if one is not self), key=self._worth)
            self.connections.discard(paying)
            paying.transport.abort()

    def _worth(self, other: object) -> tuple[int, float]:
        assert isinstance(other, BoundedProtocol)
        idle = other.cycle is None or other.cycle.response_complete
        old = self._since - other._since > GRACE_SECONDS
        return 0 if idle and old else 1 if other._served else 2, other._since

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, of what waits for a worker as well: nobody is there to hear it."""
        if self._task is not None:
            self._task.cancel()
        self._request_timer = _cancel(self._request_timer)
        self._write_timer = _cancel(self._write_timer)
        super().connection_lost(exc)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._task = asyncio.current_task()
        try:
            await self._answering(scope, receive, send)
        except asyncio.CancelledError:
            if self in self.connections:
                raise
        finally:
            self._task = None

    def handle_events(self) -> None:
        """What has come in."""
        super().handle_events()
        self._watch()

    def _watch(self) -> None:
        """The clock of a request runs from its first byte (for the first one: from the connection) to its last. Between
        requests uvicorn's own clock runs, timeout_keep_alive."""
        state = self.conn.their_state
        begun = state is h11.SEND_BODY or (state is h11.IDLE and self.timeout_keep_alive_task is None)
        if not begun or self.transport.is_closing():
            self._request_timer = _cancel(self._request_timer)
        elif self._request_timer is None:
            self._request_timer = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """The peer does not take its answer."""
        super().pause_writing()
        self._write_timer = self._write_timer or self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It does."""
        self._write_timer = _cancel(self._write_timer)
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Goes on to the next request, not faster than the connection may ask."""
        self._served = True
        now = self.loop.time()
        among = max(len(self.connections), 1)
        rate, most = REQUESTS_PER_SECOND / among, max(REQUESTS_AT_ONCE / among, 1)
        self._tokens = min(self._tokens + (now - self._counted) * rate, most) - 1
        self._counted = now
        if self.transport.is_closing():
            self._end_unread()
        elif self._tokens < 0:
            self.flow.pause_reading()
            self.loop.call_later(-self._tokens / rate, self._go_on)
            return
        super().on_response_complete()

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """The peer has asked nothing for a while."""
        super().timeout_keep_alive_handler()
        self._end_unread()

    def _end_unread(self) -> None:
        """A closed transport waits until its peer has read the rest: not for ever."""
        if self.transport.get_write_buffer_size() > 0 and self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """What is no HTTP is answered like every other mistake."""
        problem = PROBLEMS["bad_request"]
        body = json.dumps(document(problem, "the bytes are no HTTP request, or its headers are too long")).encode()
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        reason = problem.title.encode()
        for event in (
            h11.Response(status_code=problem.status, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._end_unread()


class _Flow(FlowControl):
    """Takes nothing more of a connection while a whole request of it is being answered. Uvicorn does, with every look at
    the body, and keeps it: a peer that sends without end fills the memory."""

    def __init__(self, transport: asyncio.Transport, conn: h11.Connection) -> None:
        super().__init__(transport)
        self._conn = conn

    def resume_reading(self) -> None:
        """Reads on, unless there is a request to answer first."""
        if self._conn.their_state is not h11.DONE or self._conn.our_state is h11.DONE:
            super().resume_reading()


def _cancel(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Stops a clock that may run; what is left of it is None."""
    if timer is not None:
        timer.cancel()
    return None
