"""Looks at the running service twice a second: so that a probe is answered at once, whoever else asks what, and so that
the log has a line when a drive fails, takes no more writes, fills, or is well again."""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cairn_dpu.errors import ServiceError

if TYPE_CHECKING:
    from cairn_dpu.snapshot import Snapshot

log = logging.getLogger("cairn_dpu.drives")

LOOK_EVERY_SECONDS = 0.5
STALE_SECONDS = 3.0
_BAD = {"read_only": logging.ERROR, "failed": logging.ERROR}
_SAYS = {
    "serving": "the drive %s (%s) is well again and takes blocks",
    "read_only": "the drive %s (%s) takes no more blocks, and what it has is served: %s",
    "failed": "the drive %s (%s) has failed and its blocks are misses: %s",
    "draining": "the drive %s (%s) is being emptied",
    "drained": "the drive %s (%s) is empty and can be let go",
}


@dataclass(frozen=True)
class Look:
    """One look at the service: its statistics, and (path, reason) of the drives that it does without."""

    text: str
    absent: list[tuple[str, str]]
    taken: float = field(default_factory=time.monotonic)

    @cached_property
    def snapshot(self) -> "Snapshot":
        """The statistics, read."""
        from cairn_dpu.snapshot import Snapshot  # pydantic: blocks are served before it is loaded

        return Snapshot.model_validate_json(self.text)


class Lookout:
    """`take` is one look, and may raise ServiceError. `latest` may be called from any thread, `watch` has its own."""

    def __init__(self, take: Callable[[], Look]) -> None:
        self._take = take
        self._look: Look | None = None
        self._problem = "the service was not looked at yet"
        self._drives: dict[str, Mapping[str, Any]] = {}
        self._members_reason = ""

    def latest(self) -> Look:
        """The last look. Raises ServiceError when it is old: the service does not answer then."""
        look = self._look
        if look is None or time.monotonic() - look.taken > STALE_SECONDS:
            raise ServiceError(self._problem)
        return look

    def watch(self, stopped: threading.Event) -> None:
        """Looks until `stopped`."""
        while True:
            self.look()
            if stopped.wait(LOOK_EVERY_SECONDS):
                return

    def look(self) -> None:
        """One look, and a line for every drive that changed."""
        try:
            look = self._take()
        except ServiceError as error:
            self._problem = str(error)
            return
        self._problem = "the service has not answered for some seconds"
        self._look = look
        store = json.loads(look.text)["store"]
        if store["members_reason"] != self._members_reason:
            self._members_reason = store["members_reason"]
            if self._members_reason:
                log.error("%s", self._members_reason)
            else:
                log.info("enough of the store's drives are there")
        drives = {drive["uuid"]: drive for drive in store["drives"]}
        for uuid, drive in drives.items():
            tell(self._drives.get(uuid), drive)
        self._drives = drives


def tell(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Logs what became of one drive between two looks; `before` is None at the first."""
    state, reason = now["state"], now["reason"]
    fields = {"fields": {"drive": now["uuid"], "path": now["path"], "state": state}}
    was = before["state"] if before is not None else "loading"
    words = (now["path"], now["uuid"], *([reason or "so it was ordered"] if state in _BAD else ()))
    usual = was == "loading" and (state == "serving" or (state == "read_only" and not reason))
    if state != was and state in _SAYS and not usual:
        log.log(_BAD.get(state, logging.INFO), _SAYS[state], *words, extra=fields)
    elif before is not None and state in _BAD and reason != before["reason"]:
        log.warning("the drive %s (%s) is %s: %s", now["path"], now["uuid"], state, reason, extra=fields)
    if before is not None and before["evicted_segments"] == 0 and now["evicted_segments"] > 0:
        log.info(
            "the drive %s (%s) is full: from now on its oldest blocks make room for new ones",
            now["path"],
            now["uuid"],
            extra=fields,
        )
