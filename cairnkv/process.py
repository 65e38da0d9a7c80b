"""Runs `cairn-dpu serve` as a child process: start, wait until it serves, stop, kill. The client package never imports the
service; the two meet at the command line, at the ready file and at the wire."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cairnkv.errors import ConnectError

COMMAND = "cairn-dpu"
READY_SECONDS = 60.0
STOP_SECONDS = 30.0
TAIL_LINES = 5
SOCKET_NAME = "cairn.sock"
SOCKET_PATH_BYTES_MOST = 107  # what a Unix socket address holds


def find_command() -> str:
    """The path of cairn-dpu: beside the running Python first, then on PATH. Raises ConnectError."""
    beside = Path(sys.executable).parent / COMMAND
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(COMMAND)
    if found is None:
        raise ConnectError(
            f"a private service needs the command {COMMAND}, which is neither beside {sys.executable} nor on PATH: install "
            f"the package cairn-dpu, or connect to a service that runs elsewhere (tcp://HOST:PORT)"
        )
    return found


def socket_for(folder: Path) -> tuple[Path, Path | None]:
    """Where a service in `folder` may listen: there, or, when that path is too long for a Unix socket, in a fresh short
    directory, which is returned as well and is the caller's to remove."""
    path = folder / SOCKET_NAME
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MOST:
        path.unlink(missing_ok=True)
        return path, None
    short = Path(tempfile.mkdtemp(prefix="cairn-", dir=os.environ.get("XDG_RUNTIME_DIR") or "/tmp"))
    return short / SOCKET_NAME, short


class ServiceProcess:
    """One service over one drive file, or over more with `settings`. Not for several threads at a time.

    settings: further words for `cairn-dpu serve`. folder: holds the drive, the log (`cairn-dpu.log`, from the last start) and the ready file. The service ends with this
    process whatever happens to it: it watches a pipe whose other end is here.
    """

    def __init__(
        self,
        folder: Path,
        *,
        drive: str,
        listen: Sequence[str],
        slab: str = "256MiB",
        admin: str = "off",
        keep_open: Sequence[int] = (),
        settings: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.log = folder / "cairn-dpu.log"
        self.urls: list[str] = []
        self.admin_url: str | None = None
        self._ready = folder / "ready.json"
        self._keep_open = tuple(keep_open)
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._arguments = [
            "serve",
            "--wait-until-loaded",
            "--drive",
            drive,
            "--slab",
            slab,
            "--admin",
            admin,
            "--ready-file",
            str(self._ready),
        ]
        for url in listen:
            self._arguments += ["--listen", url]
        self._arguments += settings

    @property
    def pid(self) -> int:
        """Of the running service."""
        assert self._process is not None
        return self._process.pid

    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, seconds: float = READY_SECONDS) -> None:
        """Starts the service and waits until it serves. Raises ConnectError with the service's own last words."""
        self._ready.unlink(missing_ok=True)
        command = find_command()
        reading, writing = os.pipe()
        # Settings of a service that somebody runs on this machine are not meant for this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CAIRN_DPU_")}
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [command, *self._arguments, "--lifeline-fd", str(reading)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=(reading, *self._keep_open),
                    start_new_session=True,  # Ctrl-C in the terminal is the caller's to answer
                )
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        self._lifeline = writing
        try:
            self._await_ready(seconds)
        except BaseException:
            self.kill()
            raise

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM, then waits; SIGKILL when it takes too long. Returns the exit status (0: it drained)."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._reap()

    def kill(self) -> None:
        """SIGKILL: what a crash looks like."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def abandon(self) -> None:
        """Forgets the service without stopping it: for a forked child, whose parent it belongs to."""
        self._process = None
        self._close_lifeline()

    def last_words(self) -> str:
        """The last lines of the log."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return "\n".join(lines[-TAIL_LINES:])
        return ""

    def _await_ready(self, seconds: float) -> None:
        assert self._process is not None
        until = time.monotonic() + seconds
        while not self._ready.exists():
            if self._process.poll() is not None:
                raise ConnectError(
                    f"the private service in {self.folder} ended with exit status {self._process.returncode} before it "
                    f"served. Its last words:\n{self.last_words() or '(none)'}"
                )
            if time.monotonic() > until:
                raise ConnectError(
                    f"the private service in {self.folder} was not ready after {seconds:.0f} s. Its last words:\n"
                    f"{self.last_words() or '(none)'}"
                )
            time.sleep(0.005)
        ready = json.loads(self._ready.read_text(encoding="utf-8"))
        self.urls, self.admin_url = ready["listen"], ready["admin"]

    def _reap(self) -> int:
        assert self._process is not None
        status = self._process.wait()
        self._process = None
        self._close_lifeline()
        return status

    def _close_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
