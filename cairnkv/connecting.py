"""From a URL to a session: which schemes there are, and what a wrong one is told."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cairnkv import _native, calls
from cairnkv.arguments import flag, number, shown, text
from cairnkv.config import FORMS, default_deadline_ms, default_of, setting
from cairnkv.errors import ClosedError, ConnectError, GpuCopyWarning, UsageError
from cairnkv.local import LocalService, acquire
from cairnkv.memory import LIMITS, prepare
from cairnkv.session import Session
from cairnkv.status import Status

if TYPE_CHECKING:
    from cairnkv.memory import Memory


URL_BYTES_MOST = 4096
_INHERITED = "the client belongs to the process that this one was forked from; connect again here"


@dataclass(slots=True, eq=False)
class Connection:
    """An open session and what goes with it; what both clients have in common. Any thread may call anything.

    In a forked child the session answers nothing: batched calls are `unreachable` at once, and what has no items raises. It
    stays the parent's, whatever the child does with it.
    """

    url: str
    session: Session
    deadline_ms: int = int(default_of("deadline_ms"))
    local: LocalService | None = None
    tenant: str = "default"
    closed: bool = False
    told: set[str] = field(default_factory=set)
    process: int = field(default_factory=os.getpid)

    @property
    def inherited(self) -> bool:
        """Whether this is a child of the process that connected."""
        return os.getpid() != self.process

    def check_open(self) -> None:
        """Raises ClosedError after close()."""
        if self.closed:
            raise ClosedError("the client was closed; connect again")

    def check_own(self) -> None:
        """Raises ClosedError after close(), and in a forked child."""
        self.check_open()
        if self.inherited:
            raise ClosedError(_INHERITED)

    def deadline(self, deadline_ms: int | None) -> int:
        """The deadline of a call. Raises UsageError."""
        return self.deadline_ms if deadline_ms is None else calls.check_deadline(deadline_ms)

    def info(self) -> dict[str, Any]:
        """What is known of the session."""
        self.check_open()
        return {"url": self.url, **self.session.info()}

    def alloc(self, nbytes: int) -> _native.Region:
        """A region of the session. Raises UsageError for a size it cannot have."""
        self.check_own()
        number("nbytes", nbytes, 1, LIMITS["region_bytes_most"])
        try:
            return self.session.alloc(nbytes)
        except ValueError as error:
            raise UsageError(f"no region of {nbytes} bytes: {error}") from None

    def register(self, memory: "Memory") -> _native.Region:
        """A region over the caller's memory, which must be one writable piece. Raises UsageError."""
        self.check_own()
        prepared, nbytes = prepare(memory, writable=True)
        if isinstance(prepared, list) or nbytes == 0:
            raise UsageError("a region is one piece of memory with at least 1 byte")
        try:
            region = self.session.register(prepared)
        except ValueError as error:
            raise UsageError(f"memory of {nbytes} bytes cannot be registered: {error}") from None
        self._tell_of_copies(region)
        return region

    def _tell_of_copies(self, region: _native.Region) -> None:
        """Over RDMA, who registers memory of a GPU means to have it transferred without a copy. Said once for each reason."""
        reason = region.reason if region.device is not None else ""
        if not reason or reason in self.told or self.session.info()["transport"] != "rdma":
            return
        self.told.add(reason)
        warnings.warn(
            f"memory of GPU {region.device} is registered, and its blocks are copied through host memory: {reason}",
            GpuCopyWarning,
            stacklevel=4,
        )

    def close(self) -> None:
        """Hangs up, and lets go of the private service if there is one. A second close does nothing."""
        self.closed = True
        if self.inherited:
            return
        self.session.close()
        local, self.local = self.local, None
        if local is not None:
            local.release()


def check_connection(connection: Connection) -> Connection:
    """Raises UsageError for whoever makes a client by its class."""
    if not isinstance(connection, Connection):
        raise UsageError(f"clients are made by connect() and aconnect(), not of {shown(connection)}")
    return connection


def check_url(url: str) -> str:
    """The URL without surrounding space. Raises UsageError for what this release cannot reach."""
    url = text("url", url, URL_BYTES_MOST).strip()
    if "\0" in url:
        raise UsageError("a URL has no zero bytes")
    if not url:
        raise UsageError(f"no service is named: pass a URL or set CAIRN_SERVERS; forms: {FORMS}")
    if "," in url and not url.startswith("local:"):
        raise UsageError(f"'{url}' names several services; this release knows one: name one URL ({FORMS})")
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in ("auto", "rdma", "tcp", "shm", "local"):
        raise UsageError(f"'{url}' is no URL of a service; forms: {FORMS}")
    if scheme == "local" and rest.startswith("//"):
        raise UsageError(
            f"'{url}': write local:DIR without //, such as local:{rest.removeprefix('//') or '/var/tmp/cairn'}"
        )
    return url


def open_connection(
    url: str | None,
    tenant: str | None,
    token: str | None,
    deadline_ms: int | None,
    lanes: int,
    verify: bool,
    connect_timeout_ms: int,
    name: str,
) -> Connection:
    """Connects. Raises ConnectError or UsageError."""
    url = check_url(setting("servers", url))
    deadline = default_deadline_ms() if deadline_ms is None else deadline_ms
    calls.check_deadline(deadline)
    number("lanes", lanes, 1, LIMITS["session_lanes_most"])
    number("connect_timeout_ms", connect_timeout_ms, 1, 600_000)
    flag("verify", verify)
    text("name", name)
    who = text("tenant", setting("tenant", tenant))
    secret = text("token", setting("token", token))

    def dial(address: str) -> Session:
        return _native.Client(
            address,
            tenant=who,
            token=secret,
            name=name,
            lanes=lanes,
            connect_timeout_ms=connect_timeout_ms,
            verify=verify,
        )

    if not url.startswith("local:"):
        return Connection(url, _dial(url, dial, url), deadline, tenant=who)
    service = acquire(url)
    try:
        return Connection(url, _dial(url, dial, service.url), deadline, service, who)
    except BaseException:
        service.release()
        raise


def _dial(url: str, dial: Callable[[str], Session], address: str) -> Session:
    try:
        return dial(address)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except _native.ConnectError as error:
        code, sentence = error.args
        hint = "; is the service running?" if code == Status.unreachable else ""
        raise ConnectError(f"cannot reach the service at {url}: {sentence}{hint}", Status(code)) from None
