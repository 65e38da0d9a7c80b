"""What lies at the path of a drive, and how an empty store gets onto it.

Rule: nothing that holds data is ever written without an order that names it. `serve` formats only files it has just
created; `format` formats only with `--yes`, and what holds data only with `--overwrite`.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from cairn_dpu import _native
from cairn_dpu.drive_spec import DriveSpec
from cairn_dpu.errors import ConfigError, ConflictError, DeniedError, NotFoundError, ServiceError, outcome_of
from cairn_dpu.quantities import describe_size

LOCK_SECONDS = 2.0
CREATION_SUFFIX = ".cairn-creating"
BLANK_BYTES = 1024**2  # what the native core looks at before it calls a drive blank
READ_BYTES_MOST = 16 * 1024**3
PIECE_BYTES = 1024**2


def prepare(spec: DriveSpec, *, auto_format: bool, read_only: bool, fleet: bytes = b"") -> str:
    """Makes the file of `PATH:SIZE` if there is none, with an empty store on it. Returns a sentence on what was done,
    or an empty string. Raises ServiceError or CairnError."""
    path = Path(spec.path)
    status = _status(path)
    if status is not None and not (stat.S_ISREG(status.st_mode) and status.st_size == 0):
        if os.access(path, os.R_OK) and _locked(spec.path, fcntl.LOCK_SH if read_only else fcntl.LOCK_EX):
            raise ConflictError(f"{spec.path} is in use by another Cairn service or command; stop it first")
        return _remark_on_size(spec, status)
    if spec.create_bytes is None:
        raise NotFoundError(_missing(spec.path) if status is None else f"{spec.path} is an empty file, not a drive")
    if read_only or not auto_format:
        setting = "read_only" if read_only else "auto_format = false"
        raise NotFoundError(f"{spec.path} does not exist and {setting} forbids creating it; {_format_hint(spec)}")
    create(spec, fleet=fleet)
    return f"created {spec.path} ({describe_size(spec.create_bytes)}) with an empty store"


def create(spec: DriveSpec, segment_bytes: int = 0, fleet: bytes = b"") -> None:
    """Creates the file with an empty store. It appears under its name only when it is complete, so that a crash half-way
    leaves nothing that the next start would have to guess about."""
    assert spec.create_bytes is not None
    if not Path(spec.path).parent.is_dir():
        raise NotFoundError(f"cannot create {spec.path}: the folder {Path(spec.path).parent} does not exist")
    unfinished = spec.path + CREATION_SUFFIX
    Path(unfinished).unlink(missing_ok=True)
    try:
        _native.format_drive(
            unfinished, create_bytes=spec.create_bytes, segment_bytes=segment_bytes, overwrite=True, fleet=fleet
        )
        os.rename(unfinished, spec.path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    _sync_folder(Path(spec.path).parent)


def format_drive(spec: DriveSpec, *, segment_bytes: int, overwrite: bool, fleet: bytes = b"") -> None:
    """Writes an empty store; `fleet` is the UUID of the one it will belong to, empty for none. Refuses a path in use, and one that holds data unless `overwrite`.
    Raises ServiceError or CairnError; nothing was written then."""
    path = Path(spec.path)
    status = _status(path)
    if status is None:
        if spec.create_bytes is None:
            raise NotFoundError(_missing(spec.path))
        create(spec, segment_bytes, fleet)
        return
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode)):
        raise ConfigError(f"{spec.path} is neither a file nor a drive")
    if not os.access(path, os.R_OK | os.W_OK):
        raise DeniedError(f"no permission to read and write {spec.path}; run as root or as a member of its group")
    user = in_use_by(status)
    if user:
        raise ConflictError(f"{spec.path} is in use ({user}); nothing was written. Free it first")
    if _locked(spec.path, fcntl.LOCK_EX):
        raise ConflictError(f"{spec.path} is in use by a Cairn service; nothing was written. Stop the service first")
    if not overwrite:
        _refuse_data(spec.path)
    _native.format_drive(
        spec.path,
        create_bytes=spec.create_bytes or 0,
        segment_bytes=segment_bytes,
        overwrite=overwrite,
        fleet=fleet,
    )


def readable(path: str) -> str:
    """`path`, when there is something that may be read. Raises ServiceError."""
    if _status(Path(path)) is None:
        raise NotFoundError(_missing(path))
    if not os.access(path, os.R_OK):
        raise DeniedError(f"no permission to read {path}; run as root or as a member of its group")
    if _locked(path, fcntl.LOCK_SH):
        raise ConflictError(f"{path} is in use by a Cairn service; stop the service first")
    return path


def attachable(path: str, sys_root: Path = Path("/sys")) -> str:
    """`path`, when there may be a drive: a file that opens at once, a block device or an NVMe namespace. Nothing else is
    opened (to open a watchdog is to start it), and nothing is waited for: neither the other end of a pipe nor whoever
    holds a lease on a file. Raises ServiceError."""
    try:
        look = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            status = os.fstat(look)
        finally:
            os.close(look)
        if stat.S_ISREG(status.st_mode):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except BlockingIOError:
        raise ConflictError(f"{path} is locked by another process (a lease); free it first") from None
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist; see that the drive is plugged in, and its path") from None
    except PermissionError:
        raise DeniedError(f"no permission to read {path}; give the user of the service access to it") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISCHR(status.st_mode):
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        if os.path.basename(os.path.realpath(sys_root / "dev" / "char" / number / "subsystem")) == "nvme-generic":
            return path
    elif stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return path
    raise ConfigError(f"{path} is neither a file nor a drive")


def in_use_by(status: os.stat_result, sys_root: Path = Path("/sys"), proc_root: Path = Path("/proc")) -> str:
    """Who uses a block device: a mount, swap, or a device on top of it (partitions count). Empty: nobody."""
    if not stat.S_ISBLK(status.st_mode):
        return ""
    folder = sys_root / "dev" / "block" / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    members = [folder, *(child.parent for child in folder.glob("*/partition"))]
    holders = [holder.name for member in members for holder in member.glob("holders/*")]
    if holders:
        return f"held by {', '.join(sorted(holders))}"
    numbers = {(member / "dev").read_text().strip() for member in members if (member / "dev").exists()}
    for line in (proc_root / "self" / "mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] in numbers:
            return f"mounted on {fields[4]}"
    names = {f"/dev/{member.resolve().name}" for member in members}
    for line in (proc_root / "swaps").read_text().splitlines()[1:]:
        if line.split()[0] in names:
            return "used as swap"
    return ""


def _refuse_data(path: str) -> None:
    try:
        holds_store = _native.is_formatted(path)
    except _native.CairnError as error:
        # What is no file to read from here, such as /dev/ng0n1, the native core has looked at.
        if outcome_of(error) != "drive_foreign" and not _holds_data(path):
            raise
        raise ConflictError(
            f"{path} holds data that is no Cairn store, and formatting would destroy it. Nothing was written; "
            "add --overwrite to destroy it"
        ) from error
    if not holds_store and (found := _data_at(path)) is not None:
        raise ConflictError(
            f"{path} holds data ({describe_size(found)} behind its beginning), and formatting would destroy it. Nothing was"
            " written; add --overwrite to destroy it"
        )
    if holds_store:
        raise ConflictError(
            f"{path} holds a Cairn store, and formatting would destroy its blocks. Nothing was written; "
            f"look at it with 'cairn-dpu inspect --drive {path}', or add --overwrite to destroy it"
        )


def _data_at(path: str) -> int | None:
    """Where the first data was found behind what the native core looks at; None: nowhere. Up to READ_BYTES_MOST are read,
    without the holes of a file; of more than that, samples from beginning to end."""
    try:
        with open(path, "rb", buffering=0) as drive:
            end = drive.seek(0, os.SEEK_END)
            if end == 0:  # no file to read from here, such as /dev/ng0n1
                return None
            extents = list(_extents(drive.fileno(), end))
            step = max(sum(stop - start for start, stop in extents) // READ_BYTES_MOST, 1) * PIECE_BYTES
            for start, stop in extents:
                for at in (*range(start, stop, step), max(stop - PIECE_BYTES, start)):
                    drive.seek(at)
                    piece: bytes = drive.read(min(PIECE_BYTES, stop - at)) or b""
                    if any(piece):
                        return int(at + len(piece) - len(piece.lstrip(b"\0")))
    except OSError as error:
        raise ServiceError(
            f"{path} could not be looked through for data: {error.strerror}. Nothing was written"
        ) from None
    return None


def _extents(descriptor: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what may hold data: all but the holes of a file, where the system tells of them."""
    at = 0
    while at < end:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
            stop = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: only a hole is left
                yield at, end
            return
        yield start, stop
        at = stop


def _holds_data(path: str) -> bool:
    try:
        with open(path, "rb") as drive:
            return any(drive.read(BLANK_BYTES))
    except OSError:
        return False


def _locked(path: str, kind: int) -> bool:
    """Whether another process holds the lock that the native drive takes; looking first allows a better sentence. One
    that was just killed is waited for: it holds on until the kernel has taken down its ring."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    until = time.monotonic() + LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                return False
            except BlockingIOError:
                if time.monotonic() >= until:
                    return True
                time.sleep(0.01)
    finally:
        os.close(descriptor)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise DeniedError(f"no permission to look at {path}") from error


def _remark_on_size(spec: DriveSpec, status: os.stat_result) -> str:
    if spec.create_bytes is None or not stat.S_ISREG(status.st_mode) or status.st_size == spec.create_bytes:
        return ""
    return f"{spec.path} exists with {describe_size(status.st_size)} and keeps that size ({spec} asks for another)"


def _missing(path: str) -> str:
    head, colon, tail = path.rpartition(":")
    if colon and tail.isdigit():
        return f"{path} does not exist; if a file of that size was meant, write a unit: {head}:{tail}GiB"
    return f"{path} does not exist; name an existing drive, or PATH:SIZE to create a file, such as {path}:64GiB"


def _format_hint(spec: DriveSpec) -> str:
    return f"create it with 'cairn-dpu format --drive {spec} --yes'"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
