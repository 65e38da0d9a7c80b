"""What surrounds every answer: its request id, its safety headers, a line in the log where something was to change, and a
problem document when a route breaks."""

import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn_dpu.admin.problems import PROBLEMS, request_id_of, respond
from cairn_dpu.logs import request_id

log = logging.getLogger("cairn_dpu.admin")

READING = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
PIECE_BYTES = 16 * 1024
UNSENT_BYTES_MOST = 16 * 1024 * 1024


class Envelope:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._unsent_bytes = 0  # of all answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        known_as = request_id_of(Headers(scope=scope).get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = known_as
        token = request_id.set(known_as)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = known_as
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if self._unsent_bytes + int(headers.get("content-length", "0")) > UNSENT_BYTES_MOST:
                    raise _Unread
            await self._send_in_pieces(message, send)

        try:
            await self._app(scope, receive, send_with_headers)
        except _Unread:
            detail = "too many answers of this service are not being read by those who asked"
            await respond(Request(scope), PROBLEMS["busy"], detail)(scope, receive, send)
        except Exception:
            log.exception("a request to the admin API broke; please report this", extra=_fields(scope))
            if not status:
                detail = "the request could not be answered; nothing was changed"
                answer = respond(Request(scope), PROBLEMS["internal"], detail)
                await answer(scope, receive, send_with_headers)
        finally:
            if scope["method"] not in READING:
                log.info("an order came to the admin API", extra=_fields(scope, status=status or "the caller is gone"))
            request_id.reset(token)

    async def _send_in_pieces(self, message: Message, send: Send) -> None:
        """A large body goes out piece by piece, as its reader takes it: it is never all in the socket's queue."""
        body, more = message.get("body", b""), message.get("more_body", False)
        if len(body) <= PIECE_BYTES:
            await send(message)
            return
        self._unsent_bytes += len(body)
        try:
            for start in range(0, len(body), PIECE_BYTES):
                last = start + PIECE_BYTES >= len(body)
                piece = body[start : start + PIECE_BYTES]
                await send({"type": message["type"], "body": piece, "more_body": more or not last})
        finally:
            self._unsent_bytes -= len(body)


class _Unread(Exception):
    """There is no room for another answer."""


def _fields(scope: Scope, **more: object) -> dict[str, dict[str, object]]:
    peer = scope.get("client") or ("unknown",)
    named = {"request_id": scope["state"]["request_id"], "peer": peer[0], "method": scope["method"]}
    return {"fields": {**named, "path": scope["path"], **more}}
