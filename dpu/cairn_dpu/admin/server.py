"""Uvicorn on a thread of its own, with its own event loop. The process's signals stay with the main thread."""

import asyncio
import errno
import os
import socket
import threading

import uvicorn
from fastapi import FastAPI

from cairn_dpu.addresses import HostPort
from cairn_dpu.errors import ConflictError, ServiceError

STOP_SECONDS_MOST = 1.0


class AdminServer:
    """Binds in the constructor (raises ServiceError), so that the port is known and a clash is an error of the start."""

    def __init__(self, app: FastAPI, address: HostPort) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            self._socket = socket.create_server((address.host, address.port), family=family, backlog=128)
        except OSError as error:
            kind = ConflictError if error.errno == errno.EADDRINUSE else ServiceError
            raise kind(f"the admin API cannot listen on {address}: {os.strerror(error.errno or 0)}") from error
        self.url = f"http://{HostPort(address.host, self._socket.getsockname()[1])}"
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="cairn-admin", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the answers in flight, waiting at most STOP_SECONDS_MOST for them."""
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS_MOST)
        self.close()

    def close(self) -> None:
        """Gives the port back."""
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))
