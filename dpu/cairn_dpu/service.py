"""The service: drives, native server, listeners and admin plane, from start to drained stop.

The native reactor moves every byte on its own thread and never takes the GIL; what is here runs at the start, at the
stop, and when somebody looks.
"""

import json
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from cairn_dpu import _native
from cairn_dpu.config import Config
from cairn_dpu.drives import attachable, prepare
from cairn_dpu.errors import ConflictError, ExitCode, NotFoundError, ServiceError, explain
from cairn_dpu.limits import check_memory, descriptors_short, raise_descriptors
from cairn_dpu.lookout import Look, Lookout
from cairn_dpu.notify import notify, watchdog_seconds
from cairn_dpu.quantities import describe_size
from cairn_dpu.stopping import StopRequests

if TYPE_CHECKING:
    from cairn_dpu.admin.server import AdminServer

T = TypeVar("T")
log = logging.getLogger("cairn_dpu.service")

STATS_SECONDS_MOST = 2.0
LOOK_EVERY_SECONDS = 1.0
LOADED_EVERY_SECONDS = 0.1
COMPLAIN_EVERY_SECONDS = 10.0
RESUME_SECONDS_MOST = 5.0
ABSENT_EVERY_SECONDS = 5.0
_TAKES_NOTHING = ("read_only",)
STATUS_NAMES = {number: name for number, name, _, _ in _native.status_table()}


class Service:
    """One service. `start` and `stop` are called once each; `stats` and `state` from any thread in between."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.state = "starting"
        self.listen_urls: list[str] = []
        self.admin_url: str | None = None
        self._server: _native.Server | None = None
        self._admin: AdminServer | None = None
        self._asking = ThreadPoolExecutor(1, "cairn-stats")
        self._stopped = threading.Event()
        self._next_complaints = 0.0
        self._gone: dict[str, str] = {}  # failed drives that could not be taken in again, and why
        self._lookout = Lookout(lambda: Look(self.stats(), self.absent_drives()))

    @property
    def read_only(self) -> bool:
        """Whether puts and deletes are refused."""
        return self.config.read_only

    def stats(self) -> str:
        """The statistics now, as JSON. Raises ServiceError while the service starts, or when the reactor does not answer in
        STATS_SECONDS_MOST."""
        return self._ask(self._running_server().stats)

    def absent_drives(self) -> list[tuple[str, str]]:
        """(path, reason) of the drives that it was told of and does without. Raises as `stats` does."""
        absent = self._ask(self._running_server().absent_drives)
        return absent + list(self._gone.items())

    def look(self) -> Look:
        """How it was half a second ago, at once. Raises ServiceError while it starts, and when it does not answer."""
        self._running_server()
        return self._lookout.latest()

    def look_again(self) -> None:
        """Makes `look` as new as this moment."""
        self._lookout.look()

    def attach_drive(self, path: str) -> str:
        """Takes a formatted drive in; its uuid. Raises ServiceError or CairnError."""
        server = self._running_server()
        path = os.path.abspath(path)
        uuid = server.attach_drive(attachable(path))
        self._gone.pop(path, None)
        log.info("the drive %s (%s) was attached", path, uuid)
        self._lookout.look()
        return uuid

    def resume_drive(self, uuid: str) -> None:
        """Tries a drive again that takes no more blocks, that failed, or that is absent. Nothing that it holds is touched.
        Raises ServiceError or CairnError, also when it is as bad as before."""
        server = self._running_server()
        for path, _ in self.absent_drives():
            if path == uuid:
                self.attach_drive(path)
                return
        drive = self._drive(uuid)
        if drive["state"] == "failed":
            path = attachable(drive["path"])
            server.detach_drive(uuid, lose_what_is_left=False)
            try:
                server.attach_drive(path)
            except _native.CairnError as error:
                self._gone[path] = explain(error)[0]
                raise
        else:
            server.resume_drive(uuid)
            self._wait_for_writes(uuid, drive["write_errors"])
        log.info("the drive %s is tried again, as ordered", uuid)
        self._lookout.look()

    def _wait_for_writes(self, uuid: str, errors: int) -> None:
        until = time.monotonic() + RESUME_SECONDS_MOST
        while (drive := self._drive(uuid))["state"] in _TAKES_NOTHING:
            if drive["write_errors"] > errors:
                raise ConflictError(f"{drive['path']} was tried and is as bad as before: {drive['reason']}")
            if time.monotonic() >= until:
                return  # it will be tried with the next block
            self._stopped.wait(0.02)

    def _drive(self, uuid: str) -> dict[str, Any]:
        for drive in json.loads(self.stats())["store"]["drives"]:
            if drive["uuid"] == uuid:
                found: dict[str, Any] = drive
                return found
        raise NotFoundError(f"no drive of this service has the identity {uuid}")

    def drain_drive(self, uuid: str) -> None:
        """Begins to move what the drive holds to the others. Raises ServiceError or CairnError."""
        self._running_server().drain_drive(uuid)
        log.info("the drive %s is being drained", uuid)
        self._lookout.look()

    def detach_drive(self, uuid: str, *, lose_what_is_left: bool) -> None:
        """Lets a drive go; one that is absent, named by its path, is no longer looked for. Raises ServiceError or
        CairnError."""
        server = self._running_server()
        for path, _ in self.absent_drives():
            if path == uuid:
                self._gone.pop(path, None)
                server.forget_absent_drive(path)
                log.info("the drive %s, which is absent, is no longer looked for", path)
                self._lookout.look()
                return
        server.detach_drive(uuid, lose_what_is_left=lose_what_is_left)
        log.info("the drive %s was detached", uuid)
        self._lookout.look()

    def _running_server(self) -> _native.Server:
        if self._server is None:
            raise ServiceError("the service is still opening its drives")
        return self._server

    def _ask(self, question: Callable[[], T]) -> T:
        asked = self._asking.submit(question)
        try:
            return asked.result(STATS_SECONDS_MOST)
        except TimeoutError:
            asked.cancel()
            raise ServiceError(f"the reactor did not answer within {STATS_SECONDS_MOST:.0f} s") from None

    def start(self) -> None:
        """Prepares the drives, opens the store, listens, and answers. Raises ServiceError, CairnError or OSError; what
        was begun is undone then."""
        config = self.config
        drives, absent = _prepare(config)
        log.info("opening %s", ", ".join(drives))
        server = _open(config, drives, absent)
        if server.slab_remark():
            log.warning(server.slab_remark())
        for path, reason in server.absent_drives():
            log.error("the drive %s is absent: %s", path, reason)
        store = json.loads(server.stats())["store"]
        for drive in store["drives"]:
            if drive["state"] == "failed":
                log.error("the drive %s (%s) is not used: %s", drive["path"], drive["uuid"], drive["reason"])
        try:
            self.listen_urls = [server.listen(str(url)) for url in config.listen]
            if config.admin is not None:
                from cairn_dpu.admin.server import AdminServer  # it is most of the time of a start

                self._admin = AdminServer(config.admin, config.admin_host)
                self.admin_url = self._admin.url
            server.start()
        except BaseException:
            if self._admin is not None:
                self._admin.stop()
            server.stop(0)
            raise
        self._server = server
        self._lookout.look()
        self.state = "serving"
        threading.Thread(target=self._lookout.watch, args=(self._stopped,), name="cairn-lookout", daemon=True).start()
        if self.absent_drives() and not config.read_only:
            threading.Thread(target=self._seek_absent, name="cairn-absent", daemon=True).start()
        if self._admin is not None:
            self._admin.start(self)

    def _seek_absent(self) -> None:
        """Takes drives in that were not there at the start, when they come: a device may be found late."""
        known = {path: "" for path, _ in self.absent_drives()}
        while known and not self._stopped.wait(ABSENT_EVERY_SECONDS):
            try:
                absent = {path for path, _ in self.absent_drives()}
            except ServiceError:
                continue
            for path in [path for path in known if path not in absent]:
                del known[path]
            for path, told in list(known.items()):
                try:
                    self.attach_drive(path)
                except NotFoundError:
                    continue
                except (ServiceError, _native.CairnError, OSError) as error:
                    reason = explain(error)[0]
                    if reason != told:
                        log.warning("the drive %s is still absent: %s", path, reason)
                    known[path] = reason

    def running(self) -> bool:
        """False when the reactor has ended."""
        return self._server is not None and self._server.running()

    def stop(self) -> bool:
        """Drains, hangs up, seals the drives. True when everything in flight ended in time. The admin plane answers
        until the drives are closed."""
        self.state = "draining"
        self._stopped.set()
        server = self._server
        drained = server.stop(self.config.drain_timeout) if server is not None else True
        if self._admin is not None:
            self._admin.stop()
        self._asking.shutdown(wait=False, cancel_futures=True)
        if self.config.ready_file is not None:
            self.config.ready_file.unlink(missing_ok=True)
        return drained

    def unsealed(self) -> list[str]:
        """Drives that a stop under way has not sealed yet."""
        return self._server.unsealed() if self._server is not None else []

    def log_complaints(self) -> None:
        """Tells the log which links ended for what their peers did. Now and then only: whoever attacks the service does not
        fill its disk."""
        if descriptors_short():
            log.warning(
                "descriptors have run out, and new connections of clients are refused: raise the limit of open files"
                " (LimitNOFILE= of the unit, ulimit -n), or lower sessions_per_peer_most"
            )
        now = time.monotonic()
        if self._server is None or now < self._next_complaints:
            return
        rows = self._server.complaints()
        for peer, status, reason, times in rows:
            more = f"; {times - 1} more like it" if times > 1 else ""
            log.warning("a link of %s was ended: %s (%s)%s", peer or "others", reason, STATUS_NAMES[status], more)
        if rows:
            self._next_complaints = now + COMPLAIN_EVERY_SECONDS

    def stopped(self, seconds: float) -> bool:
        """Whether the stop has begun, waiting so long for it."""
        return self._stopped.wait(seconds)

    def beat(self) -> None:
        """Tells systemd's watchdog that the reactor answers, until `stop`. Returns at once when nobody asks for it."""
        seconds = watchdog_seconds()
        while seconds is not None and not self._stopped.wait(seconds):
            try:
                self.stats()
            except ServiceError as error:
                log.error("no word to the watchdog: %s", error)
            else:
                notify("WATCHDOG=1")

    def write_ready_file(self, path: Path) -> None:
        """One JSON line with the real URLs; it appears at once and whole."""
        ready = {
            "pid": os.getpid(),
            "version": _native.version(),
            "listen": self.listen_urls,
            "admin": self.admin_url,
        }
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            unfinished.write_text(json.dumps(ready) + "\n", encoding="utf-8")
        except OSError as error:
            raise ServiceError(f"cannot write the ready file {path}: {error.strerror}") from error
        unfinished.rename(path)


def _prepare(config: Config) -> tuple[list[str], list[tuple[str, str]]]:
    """The paths of the drives that are there, and (path, reason) of those that are not. Raises when none is, or when all
    are required."""
    drives: list[str] = []
    absent: list[tuple[str, str]] = []
    first: Exception | None = None
    for spec in config.drive:
        try:
            fleet = config.fleet.bytes if config.fleet is not None else b""
            done = prepare(spec, auto_format=config.auto_format, read_only=config.read_only, fleet=fleet)
        except (ServiceError, _native.CairnError, OSError) as error:
            if config.require_all_drives:
                raise
            first = first or error
            absent.append((spec.path, explain(error)[0]))
            continue
        drives.append(spec.path)
        if done:
            log.info(done)
    if first is not None and not drives:
        raise first
    return drives, absent


def _open(config: Config, drives: list[str], absent: list[tuple[str, str]]) -> _native.Server:
    return _native.Server(
        drives,
        absent=absent,
        require_all_drives=config.require_all_drives,
        without_missing_drives=config.without_missing_drives,
        missing_drives_wait_ms=config.missing_drives_wait,
        wait_until_loaded=config.wait_until_loaded,
        slab_bytes=config.slab,
        credits=config.credits,
        session_window_bytes=config.session_window,
        shared_window_bytes=config.shared_window,
        sessions_most=config.sessions_most,
        sessions_per_tenant_most=config.sessions_per_tenant_most,
        sessions_per_peer_most=config.sessions_per_peer_most,
        idle_timeout_ms=config.idle_timeout,
        stall_timeout_ms=config.stall_timeout,
        handshake_timeout_ms=config.handshake_timeout,
        read_only=config.read_only,
        queue_depth=config.queue_depth,
        tenants=[(row.name, row.id, row.quota, row.weight, row.in_flight, row.sessions) for row in config.tenant],
        accept_unknown_tenants=config.unknown_tenants == "accept",
        reinsert_percent=config.reinsert_percent,
        reinsert_hits_least=config.reinsert_hits_least,
        admission_second_touch=config.admission_second_touch,
        admission_bytes_per_day=config.admission_bytes_per_day,
        lease_ms_most=config.lease_most,
        scrub_bytes_per_second=config.scrub_bytes_per_second,
        fleet=config.fleet.bytes if config.fleet is not None else b"",
        rdma_dscp=-1 if config.rdma_dscp is None else config.rdma_dscp,
        rdma_service_level=-1 if config.rdma_service_level is None else config.rdma_service_level,
        rdma_mtu_bytes=int(config.rdma_path_mtu or 0),
    )


def run(config: Config) -> ExitCode:
    """Serves until SIGTERM, SIGINT or the lifeline's end, then drains. A second signal ends the process at once."""
    raise_descriptors(config.sessions_most)
    check_memory(config.slab)
    service = Service(config)
    with StopRequests(config.lifeline_fd) as stops:
        opening = stops.run_aside(service.start)
        reason = stops.wait_for(opening, heed_lifeline=True)
        if reason is not None and not opening.done():
            log.info("stopped by %s before serving anything", reason)
            leave(ExitCode.OK)  # the opening thread cannot be called back, and nobody was told of a service
        opening.result()
        _announce(service)
        threading.Thread(target=_tell_when_loaded, args=(service,), name="cairn-loading", daemon=True).start()
        threading.Thread(target=service.beat, name="cairn-watchdog", daemon=True).start()
        while reason is None:
            if not service.running():
                log.error("the reactor has ended by itself; please report this with the lines above")
                return ExitCode.FAILURE
            service.log_complaints()
            reason = stops.wait(LOOK_EVERY_SECONDS)
        notify("STOPPING=1")
        log.info("draining, asked by %s; what is in flight has %.1f s", reason, config.drain_timeout / 1000)
        began = time.monotonic()
        stopping = stops.run_aside(service.stop)
        seconds = (config.drain_timeout + config.seal_timeout) / 1000
        again = stops.wait_for(stopping, heed_lifeline=False, seconds=seconds)
        if again is not None and not stopping.done():
            log.warning("stopped at once by a second %s; the next start recovers", again)
            leave(ExitCode.FAILURE)
        if not stopping.done():
            for path in service.unsealed():
                log.error("the drive %s was not sealed in %.1f s: it does not answer, or is slow", path, seconds)
            log.warning("stopped all the same; what was acknowledged as durable is kept, and the next start scans it")
            leave(ExitCode.OK)
        if not stopping.result():
            log.warning("some requests did not end in time and were cut off; their clients see a lost connection")
        log.info("stopped after %.1f s; every drive is sealed", time.monotonic() - began)
    return ExitCode.OK


def _announce(service: Service) -> None:
    stats = json.loads(service.stats())
    drives = stats["store"]["drives"]
    log.info(
        "cairn-dpu %s is serving on %s; admin %s; %s with %s",
        stats["version"],
        ", ".join(service.listen_urls),
        service.admin_url or "off",
        "1 drive" if len(drives) == 1 else f"{len(drives)} drives",
        describe_size(sum(drive["bytes"] for drive in drives)),
        extra={"fields": {"pid": os.getpid(), "kernel": platform.release()}},
    )
    if service.config.ready_file is not None:
        service.write_ready_file(service.config.ready_file)
    notify(f"READY=1\nSTATUS=serving on {', '.join(service.listen_urls)}")


def _tell_when_loaded(service: Service) -> None:
    while not service.stopped(LOADED_EVERY_SECONDS):
        try:
            stats = json.loads(service.stats())
        except ServiceError:
            continue
        if stats["loaded"]:
            service.look_again()
            store = stats["store"]
            if store["members_state"] == "waiting":
                continue  # the log says for which drives
            log.info("the index is whole: %d blocks in %.2f s", store["recovered_blocks"], store["recovery_seconds"])
            return


def leave(code: ExitCode) -> NoReturn:
    """Ends the process at once: no thread of ours, of the web framework or of the native core is waited for, or torn
    down half-way, by the interpreter's own way out."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)
