"""Who may ask, and how much at once: checks that come before every route.

The admin API has no credentials yet and listens on loopback, which keeps other machines out, but not the pages in a
browser on this one. So a request has to name a host that this service answers for (a page whose name was pointed at
127.0.0.1 cannot), must not come from another site's page, and must carry what such a page cannot send without asking
first, before it may change anything.
"""

import ipaddress
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn_dpu.admin.problems import PROBLEMS, respond

BODY_BYTES_MOST = 64 * 1024
ORDER_HEADER = "X-Cairn-Request"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
READING = ("GET", "HEAD", "OPTIONS")


class Guard:
    """ASGI middleware. `hosts`: what the header Host may name beside localhost; `any_address`: an IP address as well,
    which no page of another site can have for its name."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str], any_address: bool) -> None:
        self._app = app
        self._hosts = {host.lower() for host in (*LOOPBACK_NAMES, *hosts)}
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refuse(scope)
        body = b""
        if refused is None:
            body, refused = await _read(scope, receive)
        if refused is not None:
            problem, detail = refused
            # What is left of the body is received and dropped, so that the caller hears the answer and not a reset.
            answer = respond(Request(scope), PROBLEMS[problem], detail)
            await answer(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # every path that is read; the server leaves the body out
            scope = {**scope, "method": "GET"}
        await self._app(scope, _Replay(body, receive), send)

    def _refuse(self, scope: Scope) -> tuple[str, str] | None:
        headers = Headers(scope=scope)
        if not _is_text(scope["raw_path"]) or not _is_text(scope["query_string"]):
            return "bad_path", "the path or the query holds a NUL byte, or is not UTF-8"
        host = headers.get("host", "")
        if host and not self._is_ours(_name_of(host)):
            return "foreign_host", f"this service does not answer for the host '{host[:256]}'"
        origin = headers.get("origin")
        if (origin is not None and _origin_host(origin) != host.lower()) or headers.get("sec-fetch-site") in (
            "cross-site",
            "same-site",
        ):
            return "cross_site", f"the request comes from a page of '{(origin or 'another site')[:256]}'"
        json = headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
        if scope["method"] not in READING and not json and ORDER_HEADER not in headers:
            return "token_header_missing", f"{scope['method']} without the header {ORDER_HEADER}"
        return None

    def _is_ours(self, name: str) -> bool:
        return name in self._hosts or (self._any_address and is_address(name))


class _Replay:
    """Gives the application the body that was read already, then what the connection says."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._message: dict[str, Any] | None = {"type": "http.request", "body": body, "more_body": False}
        self._receive = receive

    async def __call__(self) -> Message:
        """The next message."""
        if self._message is not None:
            message, self._message = self._message, None
            return message
        return await self._receive()


async def _read(scope: Scope, receive: Receive) -> tuple[bytes, tuple[str, str] | None]:
    """The whole body, or why it is not taken."""
    too_large = ("body_too_large", f"a body has at most {BODY_BYTES_MOST} bytes")
    length = Headers(scope=scope).get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length[:20]) > BODY_BYTES_MOST:
        return b"", too_large
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"", ("bad_request", "the connection ended within the body")
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
        if sum(map(len, parts)) > BODY_BYTES_MOST:
            return b"", too_large
    return b"".join(parts), None


def _is_text(raw: bytes) -> bool:
    try:
        return "\0" not in unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return False


def _name_of(host: str) -> str:
    """The host without its port, in lower case."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower().rstrip(".")


def is_address(name: str) -> bool:
    """Whether a host is an IP address, an IPv6 one in brackets."""
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _origin_host(origin: str) -> str:
    """HOST[:PORT] of an origin; empty for `null` and for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
