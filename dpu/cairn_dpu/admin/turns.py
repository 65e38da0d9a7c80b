"""Whose question is worked on: a few at a time, in the order they came, so that a probe never waits behind all of them."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn_dpu.admin.guard import READING

QUESTIONS_AT_ONCE = 2
PROBES = ("/healthz", "/readyz")


class Turns:
    """ASGI middleware, below the guard: requests are whole when they come here. A question holds its turn until its answer
    begins, not until its peer has taken it. Probes need none, and orders have their own limit, for a drive can keep one
    waiting."""

    def __init__(self, app: ASGIApp, at_once: int = QUESTIONS_AT_ONCE) -> None:
        self._app = app
        self._turns = asyncio.Semaphore(at_once)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"] in PROBES or scope["method"] not in READING:
            await self._app(scope, receive, send)
            return
        await self._turns.acquire()
        holding = True

        def release() -> None:
            nonlocal holding
            if holding:
                holding = False
                self._turns.release()

        async def send_on(message: Message) -> None:
            release()
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        finally:
            release()
