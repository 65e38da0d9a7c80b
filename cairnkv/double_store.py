"""The store of `cairnkv.testing`: blocks in a dictionary, and everything that a service promises of groups, leases, deletes
and events. Nothing is ever evicted for room."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from cairnkv.arguments import number, shown
from cairnkv.errors import UsageError
from cairnkv.events import Event, EventKind
from cairnkv.memory import BLOCK_BYTES_MOST, LIMITS
from cairnkv.status import Status

GROUP_MEMBERS_MOST = LIMITS["group_members_most"]
LEASE_MS_MOST = LIMITS["lease_ms_most"]
EVENTS_KEPT = LIMITS["events_most"]
NONE = bytes(16)


class BlockId(NamedTuple):
    """What makes two blocks the same one."""

    key: bytes
    layout: int = 0
    tenant: str = "default"


class Block(NamedTuple):
    """What is kept. expires: time.monotonic() seconds, or infinity."""

    data: bytes
    sequence: int
    expires: float
    group: bytes = NONE
    scope: int = 0


class Terms(NamedTuple):
    """How blocks are put. ttl_ms 0: for ever. members: how many the group has when it is whole; 0: each stands for itself."""

    ttl_ms: int = 0
    group: bytes = NONE
    members: int = 0
    scope: int = 0


@dataclass
class Group:
    """The members that are there, and how many there are when it is whole."""

    members_most: int = 0
    ids: set[BlockId] = field(default_factory=set)

    @property
    def whole(self) -> bool:
        """Whether its members are to be found."""
        return len(self.ids) >= self.members_most


@dataclass
class Feed:
    """One tenant's events."""

    newest: int = 0
    kept: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))


@dataclass
class Faults:
    """What goes wrong, on order. All off at first; `clear` switches all off.

    miss_rate: share of gets that find nothing, drawn from `seed`. delay_seconds: how long every batch takes. unreachable: every
    item of every call fails as if the service were gone.
    """

    miss_rate: float = 0.0
    seed: int = 0
    delay_seconds: float = 0.0
    unreachable: bool = False
    _planned: dict[int, Status] = field(default_factory=dict)
    _gets: int = 0
    _random: random.Random | None = None

    def fail_get(self, nth: int, status: Status) -> None:
        """The nth block asked for from now on (1: the next) gets `status` instead of its bytes."""
        number("nth", nth, 1, 2**63 - 1)
        if not isinstance(status, Status):
            raise UsageError(f"status is a cairnkv.Status, not {shown(status)}")
        self._planned[self._gets + nth] = status

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self.__init__()  # type: ignore[misc]

    def on_get(self) -> Status | None:
        """What happens to the next block asked for; None: nothing."""
        self._gets += 1
        if self.miss_rate > 0:
            self._random = self._random or random.Random(self.seed)  # noqa: S311
            if self._random.random() < self.miss_rate:
                return Status.not_found
        return self._planned.pop(self._gets, None)


class MemoryStore:
    """What several MemoryClients may share. Hold `lock` over any call."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.lock = threading.Lock()
        self.blocks: dict[BlockId, Block] = {}
        self.groups: dict[tuple[str, int, bytes], Group] = {}
        self.leases: dict[BlockId, dict[int, float]] = {}
        self.feeds: dict[str, Feed] = {}
        self.sequence = 0
        self.puts = self.gets = 0
        self.sessions = 0
        self.lives = 1
        self._watchers: list[Callable[[], None]] = []

    @property
    def server_id(self) -> str:
        """Another one after each restart."""
        return "memory" if self.lives == 1 else f"memory-{self.lives}"

    # --- blocks ---

    def find(self, block_id: BlockId, *, hidden: bool = False) -> Block | None:
        """The block, unless it is absent, expired, or (if not `hidden`) a member of a group that is not whole."""
        block = self.blocks.get(block_id)
        if block is None:
            return None
        group = self._group_of(block_id, block)
        ids = group.ids if group is not None else {block_id}
        if min(self.blocks[one].expires for one in ids) <= time.monotonic():
            self._forget(block_id, EventKind.expired)
            return None
        return block if hidden or group is None or group.whole else None

    def put(self, block_id: BlockId, data: bytes, terms: Terms) -> tuple[Status, int]:
        """Status and sequence."""
        if not 1 <= len(data) <= BLOCK_BYTES_MOST:
            return (Status.too_large if data else Status.invalid), 0
        if terms.members and terms.group == NONE:
            return Status.invalid, 0
        found = self.find(block_id, hidden=True)
        if found is not None:
            return Status.exists, found.sequence
        if terms.members > GROUP_MEMBERS_MOST:
            return Status.group_too_large, 0
        self.sequence += 1
        self.puts += 1
        expires = time.monotonic() + terms.ttl_ms / 1000 if terms.ttl_ms else float("inf")
        block = Block(data, self.sequence, expires, terms.group, terms.scope)
        self.blocks[block_id] = block
        if terms.group != NONE:
            group = self.groups.setdefault((block_id.tenant, block_id.layout, terms.group), Group())
            group.members_most = max(group.members_most, terms.members)
            group.ids.add(block_id)
        self._tell(EventKind.stored, block_id, block.group, block.scope, block.sequence)
        return Status.ok, block.sequence

    def _group_of(self, block_id: BlockId, block: Block) -> Group | None:
        return self.groups.get((block_id.tenant, block_id.layout, block.group))

    def _forget(self, block_id: BlockId, kind: EventKind | None) -> None:
        """Takes a block away, and the group that is no longer whole without it. None: it was told of by a name."""
        block = self.blocks.pop(block_id)
        self.leases.pop(block_id, None)
        if kind is not None:
            self._tell(kind, block_id, block.group, block.scope, block.sequence)
        group = self.groups.pop((block_id.tenant, block_id.layout, block.group), None)
        for other in (group.ids if group is not None else set()) - {block_id}:
            self._forget(other, EventKind.evicted)

    # --- deletes ---

    def delete(self, block_id: BlockId) -> Status:
        """Of one block."""
        if self.find(block_id, hidden=True) is None:
            return Status.not_found
        group = self._group_of(block_id, self.blocks[block_id])
        if any(self._holders(one) for one in (group.ids if group is not None else {block_id})):
            return Status.leased
        self._forget(block_id, EventKind.deleted)
        return Status.ok

    def delete_group(self, tenant: str, layout: int, group: bytes) -> None:
        """Of all members."""
        found = self.groups.get((tenant, layout, group))
        if found is None:
            return
        self._tell(EventKind.group_deleted, BlockId(NONE, layout, tenant), group, 0, self.sequence)
        self._forget(next(iter(found.ids)), EventKind.evicted)

    def delete_where(self, kind: EventKind, name: BlockId, scope: int = 0) -> None:
        """Of everything of a scope, a layout or a tenant; `name` has the tenant and the layout."""
        gone = [
            one
            for one, block in self.blocks.items()
            if one.tenant == name.tenant
            and (kind != EventKind.scope_deleted or block.scope == scope)
            and (kind != EventKind.layout_deleted or one.layout == name.layout)
        ]
        if gone:
            self._tell(kind, name, NONE, scope, self.sequence)
        for block_id in gone:
            if block_id in self.blocks:  # it may have gone with its group
                self._forget(block_id, None)

    # --- leases ---

    def lease(self, block_id: BlockId, holder: int, duration_ms: int) -> Status:
        """For a session."""
        if duration_ms == 0:
            return Status.invalid
        if duration_ms > LEASE_MS_MOST:
            return Status.lease_too_long
        if self.find(block_id) is None:
            return Status.not_found
        until = time.monotonic() + duration_ms / 1000
        holders = self.leases.setdefault(block_id, {})
        holders[holder] = max(until, holders.get(holder, 0.0))
        return Status.ok

    def release(self, block_id: BlockId, holder: int) -> Status:
        """Of a session's own lease."""
        holders = self._holders(block_id)
        return Status.not_found if holders.pop(holder, None) is None else Status.ok

    def _holders(self, block_id: BlockId) -> dict[int, float]:
        holders, now = self.leases.get(block_id, {}), time.monotonic()
        for holder in [one for one, until in holders.items() if until <= now]:
            del holders[holder]
        return holders

    # --- events ---

    def _tell(self, kind: EventKind, block_id: BlockId, group: bytes, scope: int, sequence: int) -> None:
        feed = self.feeds.setdefault(block_id.tenant, Feed())
        feed.newest += 1
        now_ms = time.time_ns() // 1_000_000
        feed.kept.append(Event(feed.newest, kind, now_ms, sequence, block_id.key, group, block_id.layout, scope))

    def feed_of(self, tenant: str) -> Feed:
        """The tenant's events."""
        return self.feeds.setdefault(tenant, Feed())

    def when_told(self, look: Callable[[], None]) -> None:
        """`look` is called after every change, until it is taken out."""
        self._watchers.append(look)

    def forget_watcher(self, look: Callable[[], None]) -> None:
        """The opposite of `when_told`."""
        if look in self._watchers:
            self._watchers.remove(look)

    def wake_watchers(self) -> None:
        """Without the lock."""
        for look in list(self._watchers):
            look()

    # --- what goes wrong ---

    def restart(self) -> None:
        """As if the service had been started again: blocks stay, leases end, the numbers of events begin anew, and each
        session's next call, or a watch that waits, is `disconnected`."""
        with self.lock:
            self.lives += 1
            self.leases.clear()
            self.feeds.clear()
        self.wake_watchers()

    def corrupt(self) -> None:
        """Flips one bit of every block: what a store must never serve. For testing what looks for wrong bytes."""
        for block_id, block in self.blocks.items():
            self.blocks[block_id] = block._replace(data=bytes([block.data[0] ^ 1]) + block.data[1:])

    def drop(self, count: int) -> None:
        """Forgets the `count` newest blocks: what a store must never do."""
        newest = sorted(self.blocks, key=lambda block_id: self.blocks[block_id].sequence)[-count:]
        for block_id in newest:
            group = self._group_of(block_id, self.blocks.pop(block_id))
            if group is not None:
                group.ids.discard(block_id)
