"""What the service tells those who watch, and how to follow it over lost connections and restarts."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

from cairnkv.errors import error_for
from cairnkv.status import Status

FROM_NOW = 2**64 - 1
"""On the wire: only what the newest number is."""
_FINAL = (Status.denied, Status.invalid, Status.unsupported)
_PAUSE_SECONDS_LEAST, _PAUSE_SECONDS_MOST = 0.05, 1.0


class EventKind(IntEnum):
    """What happened. From `group_deleted` on: to everything of a name, or of a drive, which is not told one by one."""

    stored = 1
    evicted = 2
    expired = 3
    deleted = 4
    dropped = 5
    group_deleted = 16
    scope_deleted = 17
    layout_deleted = 18
    tenant_deleted = 19
    drive_lost = 32
    drive_loaded = 33


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the tenant. `number` counts them from 1, without gaps, since the service's start.

    kind: an EventKind, or the bare number of one that this release does not know. key, group: the 16 bytes on the wire
    (`derive_key` in keys.py), all zero where there is none. scope: see `derive_scope`. sequence: as a put's result tells it.
    """

    number: int
    kind: EventKind | int
    unix_ms: int
    sequence: int
    key: bytes
    group: bytes
    layout: int
    scope: int


@dataclass(frozen=True, slots=True)
class Missed:
    """Some events were lost to the reader: `count` of them, or None when nobody knows because the service was started
    again. What the reader believes of the store should be forgotten, or looked up again."""

    count: int | None


@dataclass(frozen=True, slots=True)
class Events:
    """The answer to a watch.

    items: oldest first; none when nothing happened in time. oldest: number of the oldest event that the service still keeps.
    newest: of the last one. missed: how many between `after` and the first of the items are kept no longer. next_after: what to
    pass as the next `after`. server_id: of the service's present life; with another one the numbers begin again.
    """

    status: Status
    items: tuple[Event, ...] = ()
    oldest: int = 0
    newest: int = 0
    missed: int = 0
    next_after: int | None = None
    server_id: str = ""

    @property
    def ok(self) -> bool:
        """Whether the service answered."""
        return self.status is Status.ok

    def raise_for_status(self) -> Self:
        """The answer itself, or the error of its status when there was none."""
        if not self.ok:
            raise error_for(self.status)
        return self


class Follower:
    """Follows the events over any number of watches: says what to ask, and makes of the answers what the reader gets. No I/O.

    The first question, and the first after a lost connection, is for the newest number only: it is answered at once, so a
    service that was started again is noticed before anybody waits for numbers that it will not reach for long.
    """

    def __init__(self, after: int | None) -> None:
        self._after = after
        self._server_id = ""
        self._looking = True
        self._failures = 0

    def ask(self, session: dict[str, Any]) -> int | None:
        """What to watch behind; None: ask for the newest number. session: its info, which knows of a connection that was lost
        in another call."""
        if not session["connected"] or session["server_id"] != self._server_id:
            self._looking = True
        return None if self._looking else self._after

    @property
    def pause_seconds(self) -> float:
        """How long to wait before the next question."""
        if self._failures == 0:
            return 0.0
        return min(_PAUSE_SECONDS_LEAST * float(2 ** min(self._failures - 1, 10)), _PAUSE_SECONDS_MOST)

    def take(self, answer: Events) -> list[Event | Missed]:
        """What the reader gets of an answer. Raises StatusError for a refusal that asking again would not change."""
        if answer.status is Status.timeout and not self._looking:
            return []  # the service was late to say that there is nothing
        if answer.status in _FINAL:
            answer.raise_for_status()
        if not answer.ok:
            self._looking = True
            self._failures += 1
            return []
        self._failures = 0
        looked, self._looking = self._looking, False
        other = self._server_id not in ("", answer.server_id)
        self._server_id = answer.server_id
        if self._after is None:
            self._after = answer.newest
            return []
        if other or answer.newest < self._after:
            self._after = 0
            return [Missed(None)]
        if looked:
            return []
        missed = [Missed(answer.missed)] if answer.missed else []
        self._after = answer.next_after
        return [*missed, *answer.items]
