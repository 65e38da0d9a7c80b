"""Uvicorn on a thread of its own, with its own event loop. The process's signals stay with the main thread.

The web framework is imported on that thread as well: blocks are served before it is loaded, and without an admin plane it
is not loaded at all. Whoever connects meanwhile waits in the socket's queue.
"""

import asyncio
import errno
import logging
import os
import socket
import threading
from typing import TYPE_CHECKING

from cairn_dpu.addresses import HostPort
from cairn_dpu.admin.view import ServiceView
from cairn_dpu.errors import ConflictError, ServiceError

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger("cairn_dpu.admin")

STOP_SECONDS_MOST = 1.0


class AdminServer:
    """Binds in the constructor (raises ServiceError), so that the port is known and a clash is an error of the start."""

    def __init__(self, address: HostPort) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            self._socket = socket.create_server((address.host, address.port), family=family, backlog=128)
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
            server = _make(service)
            with self._lock:
                if self._stopping:
                    return
                self._server = server
            asyncio.run(server.serve(sockets=[self._socket]))
        except Exception:
            log.exception("the admin API has ended; blocks are served as before. Please report this")


def _make(service: ServiceView) -> "uvicorn.Server":
    import uvicorn

    from cairn_dpu.admin.app import create_app

    config = uvicorn.Config(
        create_app(service),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
