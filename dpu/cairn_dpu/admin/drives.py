"""Drives: seen, taken in, drained, let go."""

import errno
import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from cairn_dpu import _native
from cairn_dpu.admin.asking import AnyService, PageSize, PageToken, page_of, snapshot_of
from cairn_dpu.admin.models import DetachedDrive, DrivePage, DriveResource, DriveToAttach
from cairn_dpu.admin.problems import ProblemError
from cairn_dpu.admin.view import ServiceView
from cairn_dpu.errors import outcome_of
from cairn_dpu.snapshot import Drive

api = APIRouter(prefix="/api/v1/drives", tags=["drives"])

_BY_ERRNO = {
    errno.ENOENT: "drive_missing",
    errno.ENODEV: "drive_missing",
    errno.ENXIO: "drive_missing",
    errno.EACCES: "drive_not_allowed",
    errno.EPERM: "drive_not_allowed",
    errno.EROFS: "drive_not_allowed",
    errno.EBUSY: "drive_busy",
    errno.EWOULDBLOCK: "drive_busy",
}


def _present(drive: Drive) -> DriveResource:
    put = drive.lifetime_put_bytes
    amplification = drive.lifetime_written_bytes / put if put else None
    return DriveResource(id=drive.uuid, write_amplification=amplification, **drive.model_dump())


def _absent(path: str, reason: str) -> DriveResource:
    """A drive of which nothing but this is known."""
    values: dict[str, Any] = {
        name: field.annotation() for name, field in Drive.model_fields.items() if field.annotation
    }
    values |= {"path": path, "reason": reason, "state": "absent"}
    known_as = "absent-" + hashlib.blake2s(path.encode(), digest_size=8).hexdigest()
    return DriveResource(id=known_as, write_amplification=None, **values)


def _all(service: ServiceView) -> list[DriveResource]:
    present = [_present(drive) for drive in snapshot_of(service).store.drives]
    return present + [_absent(path, reason) for path, reason in service.absent_drives()]


def _find(service: ServiceView, id: str) -> DriveResource:
    for found in _all(service):
        if found.id == id:
            return found
    raise ProblemError("no_such_drive", f"no drive has the id '{id}'")


@api.get("", summary="All drives")
def drives(service: AnyService, page_size: PageSize = 100, page_token: PageToken = "") -> DrivePage:
    """State, space, traffic, wear and errors of every drive, absent ones included."""
    page, token = page_of(_all(service), lambda drive: drive.id, page_size, page_token)
    return DrivePage(items=page, next_page_token=token)


@api.post("", summary="Take a drive in", status_code=201)
def attach(service: AnyService, wanted: DriveToAttach, response: Response) -> DriveResource:
    """Opens a drive that was formatted before, and takes it in: it is read in the background, then it serves. A drive that
    was absent comes back this way, and so does one that failed, after it was let go."""
    try:
        uuid = service.attach_drive(wanted.path)
    except _native.CairnError as error:
        if outcome_of(error):
            raise
        raise ProblemError(_BY_ERRNO.get(error.system_errno, "drive_unusable"), str(error)) from error
    response.headers["Location"] = f"{api.prefix}/{uuid}"
    return _find(service, uuid)


@api.get("/{id}", summary="One drive")
def drive(service: AnyService, id: str) -> DriveResource:
    """The drive whose uuid is `id`."""
    return _find(service, id)


@api.post("/{id}/drain", summary="Empty a drive")
def drain(service: AnyService, id: str) -> DriveResource:
    """Begins to move what the drive holds to the others; nothing new comes to it. Its state says `drained` in the end.
    Asking again changes nothing."""
    _find(service, id)
    service.drain_drive(id)
    return _find(service, id)


@api.delete("/{id}", summary="Let a drive go")
def detach(
    service: AnyService,
    id: str,
    lose_what_is_left: Annotated[
        bool, Query(description="also when it is neither drained, failed nor empty: its blocks are misses then")
    ] = False,
) -> DetachedDrive:
    """Closes the drive, so that it can be unplugged. What it holds stays on it."""
    _find(service, id)
    service.detach_drive(id, lose_what_is_left=lose_what_is_left)
    return DetachedDrive(id=id)
