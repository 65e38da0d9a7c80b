"""Uvicorn on a thread of its own, with its own event loop. The process's signals stay with the main thread.

The web framework is imported on that thread as well: blocks are served before it is loaded, and without an admin plane it
is not loaded at all. Whoever connects meanwhile waits in the socket's queue.
"""

import asyncio
import errno
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cairn_dpu.addresses import HostPort
from cairn_dpu.admin.view import ServiceView
from cairn_dpu.errors import ConflictError, ServiceError
from cairn_dpu.limits import admin_connections_most

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger("cairn_dpu.admin")

STOP_SECONDS_MOST = 1.0
BACKLOG = 128
ACCEPTED_AT_ONCE = 8  # what asyncio takes before it turns to those that it has
WORKERS = 4  # more would only keep the event loop from the interpreter
SWITCH_SECONDS = 0.001  # how long one thread keeps the interpreter from the others: not from a probe


class AdminServer:
    """Binds in the constructor (raises ServiceError), so that the port is known and a clash is an error of the start."""

    def __init__(self, address: HostPort, hosts: Iterable[str] = ()) -> None:
        self._hosts = [HostPort(host, 0).bracketed for host in (address.host, *hosts)]
        self._any_address = address.any_address
        if address.any_address:
            self._hosts += [socket.gethostname(), socket.getfqdn()]
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            self._socket = socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
        except OSError as error:
            kind = ConflictError if error.errno == errno.EADDRINUSE else ServiceError
            raise kind(f"the admin API cannot listen on {address}: {os.strerror(error.errno or 0)}") from error
        self.url = f"http://{HostPort(address.host, self._socket.getsockname()[1])}"
        self._lock = threading.Lock()
        self._stopping = False
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, service: ServiceView) -> None:
        """Begins to answer, a moment from now."""
        self._thread = threading.Thread(target=self._run, args=(service,), name="cairn-admin", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the answers in flight, waiting at most STOP_SECONDS_MOST for them, and gives the port back."""
        with self._lock:
            self._stopping = True
            if self._server is not None:
                self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(STOP_SECONDS_MOST)
        self._socket.close()

    def _run(self, service: ServiceView) -> None:
        try:
            from cairn_dpu.admin.connections import CONNECTIONS_MOST, BoundedProtocol

            server = self._make(service)
            with self._lock:
                if self._stopping:
                    return
                self._server = server
            BoundedProtocol.connections_most = min(CONNECTIONS_MOST, admin_connections_most())
            sys.setswitchinterval(SWITCH_SECONDS)
            asyncio.run(_serve(server, self._socket))
        except Exception:
            log.exception("the admin API has ended; blocks are served as before. Please report this")

    def _make(self, service: ServiceView) -> "uvicorn.Server":
        import uvicorn

        from cairn_dpu.admin.app import create_app
        from cairn_dpu.admin.connections import HEADER_BYTES_MOST, BoundedProtocol

        config = uvicorn.Config(
            create_app(service, self._hosts, any_address=self._any_address),
            http=BoundedProtocol,
            h11_max_incomplete_event_size=HEADER_BYTES_MOST,
            loop="asyncio",
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            backlog=ACCEPTED_AT_ONCE,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
        )
        return uvicorn.Server(config)


async def _serve(server: "uvicorn.Server", listening: socket.socket) -> None:
    from anyio.to_thread import current_default_thread_limiter

    asyncio.get_running_loop().set_exception_handler(_on_broken)
    current_default_thread_limiter().total_tokens = WORKERS
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0)
    if server.started:
        listening.listen(BACKLOG)  # asyncio takes the one number for both
    await serving


def _on_broken(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio would log with a traceback for each of a thousand connections that find no descriptor."""
    error = context.get("exception")
    if isinstance(error, OSError):
        log.error("the admin API could not take a connection: %s", error.strerror or error)
    else:
        loop.default_exception_handler(context)
