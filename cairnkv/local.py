"""`local:DIR`: a private service over a file in DIR, started on demand and stopped with its last user.

    local:DIR                      DIR/drive.cairn, 8 GiB when it is created; kept between runs
    local:DIR?size=64GiB           another size, when the file is created
    local:DIR?slab=1GiB            more memory for transfers and cached blocks (256 MiB)

Clients of one process share the service of a directory. Other processes are refused (InUseError): two services cannot own
one drive. To share blocks between processes run `cairn-dpu serve` and connect to its URL.
"""

import atexit
import fcntl
import os
import re
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from cairnkv.errors import ConnectError, InUseError, UsageError
from cairnkv.process import ServiceProcess, socket_for

SIZE_DEFAULT = "8GiB"
SLAB_DEFAULT = "256MiB"
DRIVE_NAME, LOCK_NAME = "drive.cairn", "cairn.lock"
LEAVING_SECONDS = 10.0
_SIZE = re.compile(r"\d{1,9}(\.\d{1,3})?(B|[KMGT](iB)?|[kMGT]B)", re.ASCII)


@dataclass(frozen=True, slots=True)
class LocalUrl:
    """What a local: URL says. size and slab are as the service's command line takes them."""

    folder: Path
    size: str = SIZE_DEFAULT
    slab: str = SLAB_DEFAULT


def parse_local(url: str) -> LocalUrl:
    """Raises UsageError for what is not `local:DIR?size=…&slab=…`."""
    text, _, query = url.removeprefix("local:").partition("?")
    if not text:
        raise UsageError(f"'{url}' names no directory: write local:DIR, such as local:/var/tmp/cairn")
    given: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name not in ("size", "slab"):
            raise UsageError(
                f"'{url}': '{name}' is unknown; a local: URL takes size and slab, as in ?size=8GiB&slab=512MiB"
            )
        if not _SIZE.fullmatch(value):
            raise UsageError(f"'{url}': '{value}' is no size; write a number with a unit, such as {name}=8GiB")
        given[name] = value
    return LocalUrl(Path(text).expanduser(), **given)


class LocalService:
    """The service of one directory, counted by its users."""

    def __init__(self, where: LocalUrl, folder: Path) -> None:
        self.folder = folder
        self.users = 1
        self._lock = _lock_folder(folder)
        self._socket_folder: Path | None = None
        try:
            path, self._socket_folder = socket_for(folder)
            self.url = f"shm://{path}"
            drive = f"{folder / DRIVE_NAME}:{where.size}"
            self.process = ServiceProcess(
                folder, drive=drive, listen=[self.url], slab=where.slab, keep_open=[self._lock]
            )
            self.process.start()
        except BaseException:
            self._clean()
            raise

    def release(self) -> None:
        """One user fewer; the last one stops the service and waits for it."""
        with _guard:
            self.users -= 1
            if self.users > 0:
                return
            _services.pop(self.folder, None)
            self.stop()

    def stop(self) -> None:
        """Stops the service, whoever still uses it."""
        self.process.stop()
        self._clean()

    def abandon(self) -> None:
        """For a forked child: the service is its parent's."""
        self.process.abandon()
        os.close(self._lock)

    def _clean(self) -> None:
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
        os.close(self._lock)


_guard = threading.Lock()
_services: dict[Path, LocalService] = {}


def acquire(url: str) -> LocalService:
    """The service of the URL's directory, started if need be; `release` it. Raises ConnectError or UsageError."""
    where = parse_local(url)
    try:
        where.folder.mkdir(parents=True, exist_ok=True)
        folder = where.folder.resolve()
    except OSError as error:
        raise ConnectError(f"cannot use the directory {where.folder}: {error.strerror}") from None
    with _guard:
        service = _services.get(folder)
        if service is not None and service.process.running():
            service.users += 1
            return service
        if service is not None:
            raise ConnectError(
                f"the private service in {folder} has ended by itself. Its last words:\n{service.process.last_words()}\n"
                "Close its clients and connect again"
            )
        service = LocalService(where, folder)
        _services[folder] = service
        return service


def _lock_folder(folder: Path) -> int:
    """An open, locked file; its content names the process that uses the directory. The service inherits it, so that the
    directory stays taken while a service whose parent was killed is still leaving."""
    try:
        lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConnectError(f"cannot use the directory {folder}: {error.strerror}") from None
    until = time.monotonic() + LEAVING_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            if (holder.isdigit() and _lives(int(holder))) or time.monotonic() > until:
                os.close(lock)
                raise InUseError(_taken(folder, holder)) from None
            time.sleep(0.02)
            continue
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return lock


def _taken(folder: Path, holder: str) -> str:
    who = f"process {holder}" if holder else "another process"
    return (
        f"{folder} is in use by {who}, and a private service serves one process. Use another directory, or run one service "
        f"for all: cairn-dpu serve --drive {folder / DRIVE_NAME} and connect to its URL"
    )


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _stop_all() -> None:
    with _guard:
        for service in _services.values():
            service.stop()
        _services.clear()


def _forget_all() -> None:
    # Another thread of the parent may hold it, and is not here to let it go.
    global _guard  # noqa: PLW0603
    _guard = threading.Lock()
    for service in _services.values():
        service.abandon()
    _services.clear()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_forget_all)
