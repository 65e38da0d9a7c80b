"""Drives: seen, taken in, drained, let go."""

import errno
import hashlib
import logging
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from cairn_dpu import _native
from cairn_dpu.admin.asking import AnyService, PageSize, PageToken, page_of, snapshot_of
from cairn_dpu.admin.models import DetachedDrive, DrivePage, DriveResource, DriveToAttach
from cairn_dpu.admin.problems import ProblemError
from cairn_dpu.admin.view import ServiceView
from cairn_dpu.admin.visible import everybody_sees
from cairn_dpu.errors import ConfigError, ConflictError, DeniedError, NotFoundError, ServiceError, outcome_of
from cairn_dpu.snapshot import Drive

api = APIRouter(prefix="/api/v1/drives", tags=["drives"])

log = logging.getLogger("cairn_dpu.admin")

_SAYS_NOTHING_OF_THE_PATH = ("busy", "draining", "drive_in_use")
_BY_KIND = {
    NotFoundError: "drive_missing",
    DeniedError: "drive_not_allowed",
    ConflictError: "drive_busy",
    ConfigError: "drive_unusable",
}
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
async def attach(request: Request, service: AnyService, wanted: DriveToAttach, response: Response) -> DriveResource:
    """Opens a drive that was formatted before, and takes it in: it is read in the background, then it serves. A drive that
    was absent comes back this way, and so does one that failed, after it was let go. Where not everybody on this machine
    may look, the answer does not tell what is there: the service's log does."""
    found = await to_thread.run_sync(_attach, service, wanted.path, limiter=request.app.state.ordering)
    response.headers["Location"] = f"{api.prefix}/{found.id}"
    return found


@api.get("/{id}", summary="One drive")
def drive(service: AnyService, id: str) -> DriveResource:
    """The drive whose uuid is `id`."""
    return _find(service, id)


@api.post("/{id}/drain", summary="Empty a drive")
async def drain(request: Request, service: AnyService, id: str) -> DriveResource:
    """Begins to move what the drive holds to the others; nothing new comes to it. Its state says `drained` in the end.
    Asking again changes nothing."""

    def order() -> DriveResource:
        if _find(service, id).state == "absent":
            raise ProblemError("drive_unwell", f"{id} is absent, and an absent drive cannot be drained")
        service.drain_drive(id)
        return _find(service, id)

    return await to_thread.run_sync(order, limiter=request.app.state.ordering)


@api.post("/{id}/resume", summary="Try a drive again")
async def resume(request: Request, service: AnyService, id: str) -> DriveResource:
    """For a drive that takes no more blocks, that failed or that is absent, when the cause is gone: it is written to, or
    opened, once more. Nothing that it holds is touched. 409 when it is as bad as before."""

    def order() -> DriveResource:
        before = _find(service, id)
        try:
            service.resume_drive(before.uuid or before.path)
        except ConflictError as error:
            raise ProblemError("drive_unwell", str(error)) from error
        except ServiceError as error:
            raise _refusal(error) from error
        except _native.CairnError as error:
            raise _refusal(error) from error
        path = before.path
        return next(one for one in _all(service) if one.path == path)

    return await to_thread.run_sync(order, limiter=request.app.state.ordering)


@api.delete("/{id}", summary="Let a drive go")
async def detach(
    request: Request,
    service: AnyService,
    id: str,
    lose_what_is_left: Annotated[
        bool, Query(description="also when it is neither drained, failed nor empty: its blocks are misses then")
    ] = False,
) -> DetachedDrive:
    """Closes the drive, so that it can be unplugged; what is still on it is lost to the service. An absent drive is no
    longer looked for. 504 when the drive does not answer: it leaves as soon as it does."""

    def order() -> DetachedDrive:
        found = _find(service, id)
        service.detach_drive(found.uuid or found.path, lose_what_is_left=lose_what_is_left)
        return DetachedDrive(id=id)

    return await to_thread.run_sync(order, limiter=request.app.state.ordering)


def _attach(service: ServiceView, path: str) -> DriveResource:
    try:
        uuid = service.attach_drive(path)
    except (_native.CairnError, ServiceError) as error:
        log.warning("the drive %s was not attached: %s", path, error)
        name = _problem_of(error)
        if not name:
            raise
        known = name in _SAYS_NOTHING_OF_THE_PATH or any(path == one.path for one in _all(service))
        if not known and not everybody_sees(path):
            hidden = (
                f"{path} is no drive that this service takes in; why stands in its log, with the id of this request"
            )
            raise ProblemError("drive_refused", hidden) from error
        raise ProblemError(name, str(error)) from error
    return _find(service, uuid)


def _refusal(error: ServiceError | _native.CairnError) -> Exception:
    """The problem of a drive that the service knows, so that everything may be told; else the error itself."""
    name = _problem_of(error)
    return ProblemError(name, str(error)) if name else error


def _problem_of(error: Exception) -> str:
    """The problem type; empty where the error is about the service and not about the drive."""
    if not isinstance(error, _native.CairnError):
        return next((name for kind, name in _BY_KIND.items() if isinstance(error, kind)), "")
    name = outcome_of(error)
    if name:
        return name if name.startswith("drive_") or name in _SAYS_NOTHING_OF_THE_PATH else ""
    return _BY_ERRNO.get(error.system_errno, "drive_unusable")
