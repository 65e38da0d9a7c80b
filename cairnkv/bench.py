"""A small load of fresh blocks: put them, ask for them, get them back, check every byte. Keys are fresh in each run, because a
put of a key that exists moves nothing; buffers are touched before the clock starts, because a page fault is not the store's."""

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cairnkv._native import check_pattern, fill_pattern
from cairnkv.calls import Durability
from cairnkv.client import Client
from cairnkv.keys import Key16
from cairnkv.replay import block_name
from cairnkv.results import ItemResult
from cairnkv.tally import Latency, latency_of

PHASES = ("put", "exists", "get")


@dataclass(frozen=True, slots=True)
class Options:
    """count: blocks in all. depth: blocks in one call. threads: each with a client of its own."""

    block_bytes: int = 1 << 20
    count: int = 1024
    depth: int = 8
    threads: int = 1
    verify: bool = True
    durability: Durability = "durable"


@dataclass(slots=True)
class Phase:
    """What one phase took. gb_per_s: payload (exists moves none). failed: items by status, of any kind but success."""

    name: str
    items: int
    seconds: float
    gb_per_s: float
    items_per_s: float
    call_latency: Latency
    failed: dict[str, int]
    wrong_blocks: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class _Lane:
    """One thread's share."""

    client: Client
    names: list[tuple[Key16, int]]
    options: Options
    seconds: list[float] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    wrong_blocks: int = 0
    error: BaseException | None = None

    def __post_init__(self) -> None:
        size = self.options.block_bytes
        self.memory = memoryview(self.client.alloc(size * self.options.depth))
        self.places = [self.memory[at * size : (at + 1) * size] for at in range(self.options.depth)]
        for place in self.places:
            fill_pattern(place, 0)

    def run(self, phase: str) -> None:
        try:
            for at in range(0, len(self.names), self.options.depth):
                self._batch(phase, self.names[at : at + self.options.depth])
        except BaseException as error:  # told by the thread that waits for this one
            self.error = error

    def _batch(self, phase: str, names: Sequence[tuple[Key16, int]]) -> None:
        items = [(key, place) for (key, _), place in zip(names, self.places, strict=False)]
        if phase == "put":
            for (_, seed), place in zip(names, self.places, strict=False):
                fill_pattern(place, seed)
        began = time.perf_counter()
        results: Sequence[ItemResult]
        if phase == "put":
            results = self.client.put(items, durability=self.options.durability)
        elif phase == "get":
            results = self.client.get(items)
        else:
            results = self.client.exists([key for key, _ in items])
        self.seconds.append(time.perf_counter() - began)
        for (_, seed), place, result in zip(names, self.places, results, strict=False):
            if not result:
                self.failed[result.status.name] = self.failed.get(result.status.name, 0) + 1
            elif phase == "get" and self.options.verify:
                self.wrong_blocks += check_pattern(place, seed) >= 0


def run(
    connect: Callable[[int], Client], options: Options, on_phase: Callable[[str], None] = lambda _: None
) -> list[Phase]:
    """Runs the phases. Filling and checking patterns lies outside the latencies, but inside the seconds of a phase. Raises
    CairnError when a client cannot be made."""
    prefix = secrets.token_hex(8)
    names = [block_name(prefix, number) for number in range(options.count)]
    clients: list[Client] = []
    try:
        clients += [connect(number) for number in range(options.threads)]
        return [_phase(phase, clients, names, options, on_phase) for phase in PHASES]
    finally:
        for client in clients:
            client.close()


def _phase(
    name: str, clients: list[Client], names: list[tuple[Key16, int]], options: Options, on_phase: Callable[[str], None]
) -> Phase:
    on_phase(name)
    lanes = [_Lane(client, names[at :: len(clients)], options) for at, client in enumerate(clients)]
    threads = [threading.Thread(target=lane.run, args=(name,), name="cairn-bench") for lane in lanes]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    failed: dict[str, int] = {}
    for lane in lanes:
        if lane.error is not None:
            raise lane.error
        for status, count in lane.failed.items():
            failed[status] = failed.get(status, 0) + count
    moved = 0 if name == "exists" else (options.count - sum(failed.values())) * options.block_bytes
    return Phase(
        name=name,
        items=options.count,
        seconds=round(seconds, 4),
        gb_per_s=round(moved / seconds / 1e9, 3),
        items_per_s=round(options.count / seconds, 1),
        call_latency=latency_of(taken for lane in lanes for taken in lane.seconds),
        failed=failed,
        wrong_blocks=sum(lane.wrong_blocks for lane in lanes),
    )
