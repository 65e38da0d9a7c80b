"""What surrounds every answer: its request id, its safety headers, and a problem document when a route breaks."""

import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn_dpu.admin.problems import PROBLEMS, request_id_of, respond

log = logging.getLogger("cairn_dpu.admin")

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Envelope:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope).get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = request_id
        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            fields = {"request_id": request_id, "path": scope["path"]}
            log.exception("a request to the admin API broke; please report this", extra={"fields": fields})
            if not begun:
                detail = "the request could not be answered; nothing was changed"
                answer = respond(Request(scope), PROBLEMS["internal"], detail)
                await answer(scope, receive, send_with_headers)
