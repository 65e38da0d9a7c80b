"""The paths of the admin API. Plain functions: FastAPI runs them on its worker threads, never on the reactor."""

import base64
import binascii
import os
import platform
import socket
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from cairn_dpu.admin.models import DrivePage, DriveResource, Health, Machine, ProblemKind, ProblemKinds, System
from cairn_dpu.admin.problems import PROBLEMS, ProblemError
from cairn_dpu.admin.view import ServiceView
from cairn_dpu.metrics import SnapshotCollector
from cairn_dpu.snapshot import Snapshot

api = APIRouter(prefix="/api/v1")
probes = APIRouter()


def _service(request: Request) -> ServiceView:
    service: ServiceView = request.app.state.service
    return service


AnyService = Annotated[ServiceView, Depends(_service)]


def _snapshot(service: ServiceView) -> Snapshot:
    return Snapshot.model_validate_json(service.stats())


@api.get("/system", summary="The service as a whole", tags=["system"])
def system(service: AnyService) -> System:
    """Version, state, where clients connect, and the machine underneath."""
    snapshot = _snapshot(service)
    started = datetime.now(UTC) - timedelta(seconds=snapshot.uptime_seconds)
    page = os.sysconf("SC_PAGE_SIZE")
    return System(
        version=snapshot.version,
        server_id=snapshot.server_id,
        state=service.state,
        read_only=service.read_only,
        credentials="none",
        started_at=started.isoformat(timespec="seconds").replace("+00:00", "Z"),
        uptime_seconds=snapshot.uptime_seconds,
        listeners=snapshot.listeners,
        drives=len(snapshot.store.drives),
        blocks=snapshot.store.blocks,
        payload_bytes=snapshot.store.payload_bytes,
        machine=Machine(
            hostname=socket.gethostname(),
            architecture=platform.machine(),
            kernel=platform.release(),
            processors=os.cpu_count() or 1,
            memory_bytes=page * os.sysconf("SC_PHYS_PAGES"),
            page_bytes=page,
        ),
    )


def _drives(service: ServiceView) -> list[DriveResource]:
    drives = sorted(_snapshot(service).store.drives, key=lambda drive: drive.uuid)
    return [DriveResource(id=drive.uuid, **drive.model_dump()) for drive in drives]


@api.get("/drives", summary="All drives", tags=["drives"])
def drives(
    service: AnyService,
    page_size: Annotated[int, Query(ge=1, le=1000, description="most drives in one answer")] = 100,
    page_token: Annotated[str, Query(max_length=512, description="next_page_token of the page before")] = "",
) -> DrivePage:
    """State, space, traffic and errors of every drive."""
    after = _read_token(page_token)
    rest = [drive for drive in _drives(service) if drive.id > after]
    page = rest[:page_size]
    more = len(rest) > page_size
    return DrivePage(items=page, next_page_token=_make_token(page[-1].id) if more else None)


@api.get("/drives/{id}", summary="One drive", tags=["drives"])
def drive(service: AnyService, id: str) -> DriveResource:
    """The drive whose uuid is `id`."""
    for found in _drives(service):
        if found.id == id:
            return found
    raise ProblemError("no_such_drive", f"no drive has the id '{id}'")


@api.get("/stats", summary="All statistics", tags=["system"])
def stats(service: AnyService) -> Snapshot:
    """One snapshot; docs/metrics.md explains every field."""
    return _snapshot(service)


@api.get("/problems", summary="All problem types", tags=["problems"])
def problem_kinds() -> ProblemKinds:
    """Every error this API can answer with."""
    return ProblemKinds(items=[_problem_kind(name) for name in sorted(PROBLEMS)])


@api.get("/problems/{name}", summary="One problem type", tags=["problems"])
def problem_kind(name: str) -> ProblemKind:
    """Cause and fix; the `type` of every problem document leads here."""
    if name not in PROBLEMS:
        raise ProblemError("no_such_problem", f"no problem type is called '{name}'")
    return _problem_kind(name)


@probes.get("/healthz", summary="Whether it serves", tags=["probes"])
def healthz(service: AnyService) -> Health:
    """200 while the service serves; 503 while it starts or drains, when it has failed, or when every drive has."""
    if service.state != "serving":
        known = service.state if service.state in PROBLEMS else "unwell"
        raise ProblemError(known, f"the service is {service.state}")
    drives = _snapshot(service).store.drives
    serving = sum(drive.state != "failed" for drive in drives)
    if serving == 0:
        raise ProblemError("unwell", "every drive has failed")
    return Health(state="serving", drives_serving=serving, drives=len(drives))


@probes.get("/metrics", summary="For Prometheus", tags=["probes"], response_class=Response)
def metrics(request: Request, service: AnyService) -> Response:
    """The statistics in Prometheus' text format, or OpenMetrics where the Accept header asks for it."""
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: _snapshot(service)))
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), media_type=media_type)


def _problem_kind(name: str) -> ProblemKind:
    kind = PROBLEMS[name]
    return ProblemKind(name=kind.name, status=kind.status, title=kind.title, hint=kind.hint)


def _make_token(last_id: str) -> str:
    return base64.urlsafe_b64encode(b"after:" + last_id.encode()).decode().rstrip("=")


def _read_token(token: str) -> str:
    if not token:
        return ""
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except (binascii.Error, ValueError):
        text = ""
    if not text.startswith("after:"):
        raise ProblemError("bad_page_token", f"'{token}' is not a page token")
    return text.removeprefix("after:")
