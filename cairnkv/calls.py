"""Every call, without I/O: a generator that checks and prepares the arguments, yields what to start, is sent the settled
operation, and returns what the caller gets. `Client` drives it by waiting, `AsyncClient` by awaiting; nothing is written
twice."""

import json
import mmap
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar

from cairnkv.arguments import number, shown
from cairnkv.errors import ProtocolError, UsageError
from cairnkv.events import FROM_NOW, Event, EventKind, Events
from cairnkv.keys import Key, Layout, Scope, derive_group, derive_keys, derive_scope, layout_id
from cairnkv.memory import BLOCK_BYTES_MOST, LIMITS, Prepared, prepare_block, prepare_destination
from cairnkv.results import ITEM_RESULTS, GetResult, ItemResult, PutResult
from cairnkv.session import Operation, Session
from cairnkv.status import Status

if TYPE_CHECKING:
    from cairnkv.memory import Memory

T = TypeVar("T")
Durability = Literal["durable", "relaxed"]
LayoutLike: TypeAlias = Layout | int | None
MATCH_KEYS_MOST = LIMITS["batch_items_most"]
DEADLINE_MS_MOST = LIMITS["deadline_ms_most"]
TTL_MS_MOST = 2**63 - 1
EVENTS_MOST = LIMITS["events_most"]
RANGE_BYTES_MOST = 2**63 - 1
GROUP_MEMBERS_ON_THE_WIRE_MOST = 2**16 - 1
FIRST_GUESS_BYTES = 1 << 20
_STATUS = tuple(Status)
_KINDS = {kind.value: kind for kind in EventKind}
_REMOVE_GROUP, _REMOVE_SCOPE, _REMOVE_LAYOUT, _REMOVE_TENANT = 1, 2, 3, 4


class Start(NamedTuple):
    """What to start, and the deadline it has. nbytes: payload that is checksummed while it starts."""

    begin: Callable[[Session], Operation]
    deadline_ms: int
    nbytes: int = 0


Flow: TypeAlias = Generator[Start, Operation, T]


def check_deadline(deadline_ms: int) -> int:
    """Raises UsageError unless it is 1 ms to the most that the wire knows."""
    return number("deadline_ms", deadline_ms, 1, DEADLINE_MS_MOST)


def put(
    items: "Iterable[tuple[Key, Memory]]",
    layout: LayoutLike,
    deadline_ms: int,
    durability: Durability,
    ttl_ms: int | None,
    group: Key | None,
    group_members: int | None,
    scope: Scope | None,
) -> Flow[list[PutResult]]:
    """One PutResult an item."""
    if type(durability) is not str or durability not in ("durable", "relaxed"):
        raise UsageError(f"durability is 'durable' or 'relaxed', not {shown(durability)}")
    ttl = 0 if ttl_ms is None else ttl_ms
    if type(ttl) is not int or not (ttl_ms is None or 1 <= ttl <= TTL_MS_MOST):
        raise UsageError(f"ttl_ms is a positive number of milliseconds, or None for no end, not {shown(ttl_ms)}")
    lay = layout_id(layout)
    keys, memories, nbytes = _split(items, lay, prepare_block)
    wire_group, members = derive_group(group, lay), _check_members(group, group_members)
    wire_scope = derive_scope(scope)
    relaxed = durability == "relaxed"
    operation = yield Start(
        lambda session: session.put(keys, memories, lay, deadline_ms, relaxed, ttl, wire_group, members, wire_scope),
        deadline_ms,
        nbytes,
    )
    rows = zip(operation.statuses, operation.lengths, operation.sequences, strict=True)
    return [PutResult(_STATUS[status], length, sequence) for status, length, sequence in rows]


def get(
    items: "Iterable[tuple[Key, Memory]]",
    layout: LayoutLike,
    deadline_ms: int,
    ranges: Sequence[tuple[int, int]] | None,
) -> Flow[list[GetResult]]:
    """One GetResult an item."""
    lay = layout_id(layout)
    keys, memories, _ = _split(items, lay, prepare_destination)
    parts = None if ranges is None else _checked_ranges(ranges, len(keys))
    operation = yield Start(lambda session: session.get(keys, memories, lay, deadline_ms, parts), deadline_ms)
    rows = zip(operation.statuses, operation.lengths, operation.sequences, strict=True)
    return [GetResult(_STATUS[status], length, sequence) for status, length, sequence in rows]


def get_bytes(key: Key, layout: LayoutLike, deadline_ms: int, nbytes_most: int) -> Flow[tuple[GetResult, bytes]]:
    """A whole block of unknown size: a small buffer first, then one of the most it may have."""
    number("nbytes_most", nbytes_most, 1, BLOCK_BYTES_MOST)
    for room in dict.fromkeys((min(FIRST_GUESS_BYTES, nbytes_most), nbytes_most)):
        buffer = mmap.mmap(-1, room)  # pages that are not written cost nothing
        (result,) = yield from get([(key, buffer)], layout, deadline_ms, None)
        if result.status is not Status.short_buffer or room == nbytes_most:
            return result, buffer[: result.nbytes]
    raise AssertionError("the last room is nbytes_most")


def per_key(
    name: Literal["exists", "touch", "delete", "prefetch", "release"],
    keys: Iterable[Key],
    layout: LayoutLike,
    deadline_ms: int,
) -> Flow[list[ItemResult]]:
    """One ItemResult a key."""
    lay = layout_id(layout)
    wire = derive_keys(_listed(keys), lay)
    operation = yield Start(lambda session: getattr(session, name)(wire, lay, deadline_ms), deadline_ms)
    return [ITEM_RESULTS[status] for status in operation.statuses]


def lease(keys: Iterable[Key], duration_ms: int, layout: LayoutLike, deadline_ms: int) -> Flow[list[ItemResult]]:
    """One ItemResult a key."""
    number("duration_ms", duration_ms, 1, TTL_MS_MOST)
    lay = layout_id(layout)
    wire = derive_keys(_listed(keys), lay)
    operation = yield Start(lambda session: session.lease(wire, lay, deadline_ms, duration_ms), deadline_ms)
    return [ITEM_RESULTS[status] for status in operation.statuses]


def delete_group(group: Key, layout: LayoutLike, deadline_ms: int) -> Flow[ItemResult]:
    """One ItemResult."""
    lay = layout_id(layout)
    if group is None:
        raise UsageError("delete_group needs a group")
    name = derive_group(group, lay)
    operation = yield Start(lambda session: session.delete_named(_REMOVE_GROUP, name, lay, 0, deadline_ms), deadline_ms)
    return ITEM_RESULTS[operation.statuses[0]]


def delete_scope(scope: Scope, deadline_ms: int) -> Flow[ItemResult]:
    """One ItemResult."""
    if scope is None:
        raise UsageError("delete_scope needs a scope")
    name = derive_scope(scope)
    operation = yield Start(lambda session: session.delete_named(_REMOVE_SCOPE, b"", 0, name, deadline_ms), deadline_ms)
    return ITEM_RESULTS[operation.statuses[0]]


def delete_layout(layout: LayoutLike, deadline_ms: int) -> Flow[ItemResult]:
    """One ItemResult. None and 0 name the blocks that were put without a layout."""
    lay = layout_id(layout)
    operation = yield Start(lambda session: session.delete_named(_REMOVE_LAYOUT, b"", lay, 0, deadline_ms), deadline_ms)
    return ITEM_RESULTS[operation.statuses[0]]


def delete_tenant(confirm: str, tenant: str, deadline_ms: int) -> Flow[ItemResult]:
    """One ItemResult. `confirm` has to be the name of the session's tenant."""
    if not isinstance(confirm, str) or confirm != tenant:
        raise UsageError(f"this deletes every block of the tenant '{tenant}': repeat its name, not {shown(confirm)}")
    operation = yield Start(lambda session: session.delete_named(_REMOVE_TENANT, b"", 0, 0, deadline_ms), deadline_ms)
    return ITEM_RESULTS[operation.statuses[0]]


def watch(after: int | None, events_most: int | None, deadline_ms: int) -> Flow[Events]:
    """One answer; a failure is its status."""
    check_after(after)
    most = EVENTS_MOST if events_most is None else events_most
    number("events_most", most, 1, EVENTS_MOST)
    behind = FROM_NOW if after is None else after
    operation = yield Start(lambda session: session.watch(behind, most, deadline_ms), deadline_ms)
    status = _STATUS[operation.statuses[0]]
    if status is not Status.ok:
        return Events(status, next_after=after)
    oldest, newest, server_id = operation.events_range
    if not _is_plausible(oldest, newest, [row[0] for row in operation.events]):
        return Events(Status.invalid, next_after=after)
    items = tuple(Event(row[0], _KINDS.get(row[1], row[1]), *row[2:]) for row in operation.events)
    if after is None:
        return Events(status, items, oldest, newest, 0, newest, server_id)
    missed = max(oldest - (after + 1), 0)
    next_after = items[-1].number if items else after + missed
    return Events(status, items, oldest, newest, missed, next_after, server_id)


def _is_plausible(oldest: int, newest: int, numbers: list[int]) -> bool:
    """Numbers of events as a service may tell them: they are what is asked for next."""
    return newest < FROM_NOW and oldest <= newest + 1 and all(0 < number <= newest for number in numbers)


def check_after(after: int | None) -> None:
    """Raises UsageError for what is no number of an event."""
    if after is not None and (type(after) is not int or not 0 <= after < FROM_NOW):
        raise UsageError(
            f"after is the number of an event, 0 for before the first, or None for now, not {shown(after)}"
        )


def match(keys: Iterable[Key], layout: LayoutLike, deadline_ms: int) -> Flow[int]:
    """How many leading keys are present; 0 when the service cannot say."""
    lay = layout_id(layout)
    wire = derive_keys(_listed(keys), lay)
    for at in range(0, len(wire), MATCH_KEYS_MOST):
        part = wire[at : at + MATCH_KEYS_MOST]
        operation = yield Start(lambda session, part=part: session.match(part, lay, deadline_ms), deadline_ms)  # type: ignore[misc]
        matched = operation.matched if operation.statuses[0] == Status.ok else 0
        if matched < len(part):
            return at + matched
    return len(wire)


def stats(deadline_ms: int) -> Flow[dict[str, Any]]:
    """The service's statistics, or the error of the status: there are no items here that could carry it."""
    operation = yield Start(lambda session: session.stats(deadline_ms), deadline_ms)
    ITEM_RESULTS[operation.statuses[0]].raise_for_status()
    try:
        told = json.loads(operation.text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the service's statistics are no JSON: {error}") from None
    if not isinstance(told, dict):
        raise ProtocolError("the service's statistics are no JSON object")
    return told


def _split(
    items: "Iterable[tuple[Key, Memory]]", layout: int, prepare: "Callable[[Memory], Prepared]"
) -> tuple[list[bytes], list[Any], int]:
    pairs = _listed(items, "pairs of (key, memory)")
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise UsageError(f"items are pairs of (key, memory), not {shown(pair)}")
    prepared = [prepare(memory) for _, memory in pairs]
    keys = derive_keys([key for key, _ in pairs], layout)
    return keys, [memory for memory, _ in prepared], sum(nbytes for _, nbytes in prepared)


def _listed(items: Iterable[T], noun: str = "keys") -> list[T]:
    if isinstance(items, str | bytes | bytearray):
        raise UsageError(f"a list of {noun} is needed; for one, write it in brackets: [{shown(items)}]")
    try:
        return list(items)
    except TypeError:
        raise UsageError(f"a list of {noun} is needed, not {shown(items)}") from None


def _check_members(group: Key | None, members: int | None) -> int:
    """As the wire takes it: more than that is told by the service, item by item."""
    if members is None:
        return 0
    if type(members) is not int or members < 1:
        raise UsageError(f"group_members is how many blocks the group has when it is whole, not {shown(members)}")
    if group is None:
        raise UsageError("group_members without a group")
    return min(members, GROUP_MEMBERS_ON_THE_WIRE_MOST)


def _checked_ranges(ranges: Iterable[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    listed = _listed(ranges, "(offset, length) pairs")
    if len(listed) != count:
        raise UsageError(f"ranges has one (offset, length) an item: {count}, not {len(listed)}")
    for part in listed:
        if not (isinstance(part, tuple | list) and len(part) == 2):
            raise UsageError(f"a range is (offset, length) in bytes, not {shown(part)}")
        number("the offset of a range", part[0], 0, RANGE_BYTES_MOST)
        number("the length of a range (0: to the end)", part[1], 0, RANGE_BYTES_MOST)
    return [(offset, length) for offset, length in listed]
