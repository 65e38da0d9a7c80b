"""The paths of the admin API. Plain functions: FastAPI runs them on its worker threads, never on the reactor. The probes
run on the event loop and wait for nothing, so that nobody else's questions hold them up."""

import os
import platform
import socket
from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Response
from fastapi.requests import Request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from cairn_dpu.admin.asking import AnyService, snapshot_of
from cairn_dpu.admin.models import Health, HurtDrive, Machine, ProblemKind, ProblemKinds, System
from cairn_dpu.admin.problems import PROBLEMS, ProblemError
from cairn_dpu.admin.view import ServiceView
from cairn_dpu.metrics import SnapshotCollector
from cairn_dpu.snapshot import Snapshot

api = APIRouter(prefix="/api/v1")
probes = APIRouter()


@api.get("/system", summary="The service as a whole", tags=["system"])
def system(service: AnyService) -> System:
    """Version, state, where clients connect, and the machine underneath."""
    snapshot = snapshot_of(service)
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


@api.get("/stats", summary="All statistics", tags=["system"])
def stats(service: AnyService) -> Snapshot:
    """One snapshot; docs/metrics.md explains every field."""
    return snapshot_of(service)


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
async def healthz(service: AnyService) -> Health:
    """200 while the service serves, also while it still reads its drives (`loading`) or does without some of them
    (`degraded`, with each and why), or waits for those that a store of its own needs; 503 while it starts or drains, when it has failed, or when every drive has."""
    return _health(service)


@probes.get("/readyz", summary="Whether it is ready", tags=["probes"])
async def readyz(service: AnyService) -> Health:
    """200 when it listens, serves, and has read its drives: from then on a miss is a miss. 503 before and after, and while
    the store waits for drives that it needs."""
    health = _health(service)
    if health.loaded_share < 1 or health.state == "loading":
        raise ProblemError("loading", f"{health.loaded_share:.0%} of the drives is read")
    for one in health.hurt:
        if one.state == "waiting":
            raise ProblemError("unwell", one.reason)
    return health


@probes.get("/metrics", summary="For Prometheus", tags=["probes"], response_class=Response)
def metrics(request: Request, service: AnyService) -> Response:
    """The statistics in Prometheus' text format, or OpenMetrics where the Accept header asks for it."""
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: snapshot_of(service)))
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), media_type=media_type)


def _health(service: ServiceView) -> Health:
    if service.state != "serving":
        known = service.state if service.state in PROBLEMS else "unwell"
        raise ProblemError(known, f"the service is {service.state}")
    look = service.look()
    snapshot = look.snapshot
    drives = snapshot.store.drives
    serving = sum(drive.state != "failed" for drive in drives)
    if serving == 0:
        raise ProblemError("unwell", "every drive has failed")
    segments = sum(drive.segments for drive in drives)
    bad_states = ("failed",) if service.read_only else ("failed", "read_only")
    hurt = [
        HurtDrive(id=one.uuid, path=one.path, state=one.state, reason=one.reason)
        for one in drives
        if one.state in bad_states
    ]
    if snapshot.store.members_state == "waiting":
        hurt.append(HurtDrive(id="", path="", state="waiting", reason=snapshot.store.members_reason))
    hurt += [HurtDrive(id="", path=path, state="absent", reason=reason) for path, reason in look.absent]
    return Health(
        state="loading" if not snapshot.loaded else "degraded" if hurt else "serving",
        loaded_share=sum(drive.loaded_share * drive.segments for drive in drives) / segments if segments else 1.0,
        drives_serving=serving,
        drives=len(drives) + snapshot.drives_absent,
        hurt=hurt,
    )


def _problem_kind(name: str) -> ProblemKind:
    kind = PROBLEMS[name]
    return ProblemKind(name=kind.name, status=kind.status, title=kind.title, hint=kind.hint)
