"""Every error this package raises.

CairnError
├── ConnectError              no session with the service could be made; .status says why, str() names the URL
│   └── InUseError            another process uses the directory of a local: URL
├── ProtocolError             the service answered what no service may: it is another program, or damaged, or hostile
├── UsageError (ValueError)   the call itself is wrong: types, sizes over the limits, settings; nothing was sent
│   └── ClosedError           the client was closed
└── StatusError               raised only by raise_for_status(); one class for each status that is a failure:
    ├── Exists  NotFound  Timeout  Cancelled  Busy  NoSpace  TooLarge  Invalid  BadRegion  ShortBuffer  BadRange
    ├── Corrupt  IoError  ReadOnly  BadChecksum  Denied  BadVersion  Unsupported  Draining
    ├── Disconnected  Unreachable
    ├── QuotaExceeded  Leased  LeaseTooLong  GroupTooLarge  NotAdmitted  Expired
    └── DriveUnknown  DriveInUse  DriveForeign  DriveNewer  DriveDamaged  DriveSmaller  DriveDraining (operators only)

GpuCopyWarning (UserWarning) is no error: memory of a GPU was registered, and its blocks are copied through host memory.

Batched calls never raise for what a client, a drive or a network can cause: each item has a result, and a result has
`raise_for_status()`. A class's name is its status in CamelCase.
"""

from typing import ClassVar

from cairnkv.status import Status


class CairnError(Exception):
    """All of this package's errors. str() is a whole sentence for a person."""


class ConnectError(CairnError):
    """No session could be made."""

    def __init__(self, sentence: str, status: Status = Status.unreachable) -> None:
        super().__init__(sentence)
        self.status = status


class InUseError(ConnectError):
    """Another process uses the directory of a `local:` URL."""


class ProtocolError(CairnError):
    """The service answered what no service may, to a call whose answer has no place for a status. Never the caller's fault."""


class UsageError(CairnError, ValueError):
    """The call itself is wrong; nothing was sent."""


class ClosedError(UsageError):
    """The client was closed."""


class GpuCopyWarning(UserWarning):
    """Blocks in registered memory of a GPU are copied through host memory, though the transport could do without; it says
    why. Given once for each reason and client."""


class StatusError(CairnError):
    """An item did not succeed; `status` says how."""

    status: ClassVar[Status]


class Exists(StatusError):
    """A put found a block under its key. `PutResult.raise_for_status` lets this pass: the block is in the store."""

    status = Status.exists


class NotFound(StatusError):
    """A miss."""

    status = Status.not_found


class Timeout(StatusError):
    """The deadline passed first. Nothing touches the caller's memory any more."""

    status = Status.timeout


class Cancelled(StatusError):
    """The caller cancelled the item, or closed the client."""

    status = Status.cancelled


class Busy(StatusError):
    """The service is at its limit of work in flight."""

    status = Status.busy


class NoSpace(StatusError):
    """No drive has room."""

    status = Status.no_space


class TooLarge(StatusError):
    """Larger than the service takes."""

    status = Status.too_large


class Invalid(StatusError):
    """The service found the request malformed."""

    status = Status.invalid


class BadRegion(StatusError):
    """An extent lies outside the registered memory."""

    status = Status.bad_region


class ShortBuffer(StatusError):
    """The destination is smaller than what was asked for."""

    status = Status.short_buffer


class BadRange(StatusError):
    """The range lies beyond the block."""

    status = Status.bad_range


class Corrupt(StatusError):
    """The drive returned damaged bytes; the block was dropped: a miss."""

    status = Status.corrupt


class IoError(StatusError):
    """The drive reported an error: a miss."""

    status = Status.io_error


class ReadOnly(StatusError):
    """No drive accepts writes."""

    status = Status.read_only


class BadChecksum(StatusError):
    """Bytes were damaged on their way."""

    status = Status.bad_checksum


class Denied(StatusError):
    """The credentials do not allow this."""

    status = Status.denied


class BadVersion(StatusError):
    """The two sides share no version of the protocol."""

    status = Status.bad_version


class Unsupported(StatusError):
    """The service does not offer the operation."""

    status = Status.unsupported


class Draining(StatusError):
    """The service is shutting down."""

    status = Status.draining


class Disconnected(StatusError):
    """The connection was lost before the answer came. A put may or may not have taken effect."""

    status = Status.disconnected


class Unreachable(StatusError):
    """The service cannot be reached at the moment; nothing was sent."""

    status = Status.unreachable


class QuotaExceeded(StatusError):
    """The tenant's quota is used up: of bytes for a put, of leased bytes for a lease."""

    status = Status.quota_exceeded


class Leased(StatusError):
    """A delete met a block that somebody holds a lease of."""

    status = Status.leased


class LeaseTooLong(StatusError):
    """Longer than the service grants."""

    status = Status.lease_too_long


class GroupTooLarge(StatusError):
    """More members than a group may have."""

    status = Status.group_too_large


class NotAdmitted(StatusError):
    """The admission policy keeps the block out; what it would have hit is computed again."""

    status = Status.not_admitted


class Expired(StatusError):
    """The time to live was over before the block was stored."""

    status = Status.expired


class DriveUnknown(StatusError):
    """No drive of the store has that identity."""

    status = Status.drive_unknown


class DriveInUse(StatusError):
    """A drive with that identity is part of the store already."""

    status = Status.drive_in_use


class DriveForeign(StatusError):
    """The drive holds no Cairn store, or that of another fleet."""

    status = Status.drive_foreign


class DriveNewer(StatusError):
    """The drive was written by a newer Cairn."""

    status = Status.drive_newer


class DriveDamaged(StatusError):
    """The drive's superblock is damaged in both copies."""

    status = Status.drive_damaged


class DriveSmaller(StatusError):
    """The drive is smaller than when it was formatted."""

    status = Status.drive_smaller


class DriveDraining(StatusError):
    """The drive is being drained."""

    status = Status.drive_draining


_BY_STATUS = {cls.status: cls for cls in StatusError.__subclasses__()}


def error_for(status: Status) -> StatusError:
    """The exception that stands for a status other than OK."""
    return _BY_STATUS[status](status.sentence)
