"""Replays a trace against a service: real blocks, real load, every byte checked. docs/replay.md explains the numbers.

For each request of the trace: match its ordered blocks (the longest cached prefix), get those, put the rest. The bytes of a
block are a pattern of a seed that belongs to the block and to this run alone, so wrong bytes cannot hide. N clients on N
threads take requests in order from one queue. In the middle a `disruption` may kill the service: clients carry on by
themselves, and what was acknowledged is looked for afterwards.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from cairnkv._native import check_pattern, fill_pattern
from cairnkv.acknowledged import Audit, Ledger
from cairnkv.calls import Durability
from cairnkv.client import Client
from cairnkv.errors import CairnError
from cairnkv.keys import Key16
from cairnkv.results import ItemResult
from cairnkv.status import Status
from cairnkv.tally import IN_DOUBT, Disruption, Report, Tally, latency_of
from cairnkv.traces import Request, TraceFacts, facts, prefix_hit_ratio

GONE = (Status.disconnected, Status.unreachable, Status.draining)
PACE_SECONDS = 0.05
PATIENCE_SECONDS = 30.0
TICK_SECONDS = 0.2
RECORD_OVERHEAD_BYTES = 4096  # what a block takes on a drive beyond its bytes, for the comparison with LRU


class ReplayError(CairnError):
    """The replay could not go on."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to replay.

    block_bytes: size of every block. clients: how many, each on a thread. speed: 0 as fast as possible, 1 in the trace's own
    time, 10 ten times as fast. key_prefix: names the run; empty: a fresh one, so that nothing is there at first. batch_bytes:
    most payload in one call. read_back_blocks: how many acknowledged blocks an audit reads back. disrupt_at: index of the
    request at which `disruption` is called.
    """

    block_bytes: int = 64 << 10
    clients: int = 2
    speed: float = 0.0
    durability: Durability = "durable"
    deadline_ms: int = 30_000
    key_prefix: str = ""
    batch_bytes: int = 8 << 20
    read_back_blocks: int = 4096
    disrupt_at: int | None = None


@dataclass(slots=True)
class Progress:
    """Where a replay is. phase: replaying, killed, checking, or done."""

    phase: str
    requests_done: int
    requests: int
    hit_ratio: float
    moved_bytes: int
    seconds: float


Connect = Callable[[int], Client]


def block_name(prefix: str, block: int) -> tuple[Key16, int]:
    """Key and pattern seed of a block in the run called `prefix`."""
    digest = blake2b(f"{prefix}/{block}".encode(), digest_size=24, person=b"cairn replay").digest()
    return Key16(digest[:16]), int.from_bytes(digest[16:], "little")


@dataclass
class Feed:
    """Deals the requests in order, at the trace's pace if that is asked for."""

    requests: Sequence[Request]
    speed: float
    stopped: threading.Event
    trigger_at: int | None = None
    triggered: threading.Event = field(default_factory=threading.Event)
    dealt: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    started: float = field(default_factory=time.monotonic)

    def next(self) -> Request | None:
        """The next request, or None at the end."""
        with self.lock:
            if self.dealt >= len(self.requests) or self.stopped.is_set():
                return None
            request = self.requests[self.dealt]
            if self.dealt == self.trigger_at:
                self.triggered.set()
            self.dealt += 1
        if self.speed > 0:
            due = self.started + (request.timestamp_ms - self.requests[0].timestamp_ms) / 1000 / self.speed
            if self.stopped.wait(max(0.0, due - time.monotonic())):
                return None
        return request


class Worker(threading.Thread):
    """One client: replays what the feed deals."""

    def __init__(self, replay: "Replay", client: Client) -> None:
        super().__init__(name="cairn-replay", daemon=True)
        self.replay = replay
        self.client = client
        self.tally = Tally()
        self.error: BaseException | None = None
        options = replay.options
        self.size = options.block_bytes
        self.room = max(1, options.batch_bytes // self.size)
        self.memory = memoryview(client.alloc(self.room * self.size))
        self.places = [self.memory[at * self.size : (at + 1) * self.size] for at in range(self.room)]
        self.busy = threading.Lock()  # who holds it keeps the worker from its next request
        self.ended = 0.0
        self._gone_since: float | None = None

    def run(self) -> None:
        """Until the feed ends."""
        try:
            while (request := self.replay.feed.next()) is not None:
                with self.busy:
                    gone = self._replay(request)
                if gone:
                    self._wait_for_service()
                else:
                    self._gone_since = None
        except BaseException as error:  # told by the thread that waits for this one
            self.error = error
            self.replay.feed.stopped.set()
        self.ended = time.monotonic()

    def _replay(self, request: Request) -> bool:
        """One request. True when the service is gone."""
        tally, deadline_ms = self.tally, self.replay.options.deadline_ms
        names = [self.replay.name_of(block) for block in request.blocks]
        began = time.perf_counter()
        matched = self.client.match([key for key, _ in names], deadline_ms=deadline_ms)
        tally.seconds["match"].append(time.perf_counter() - began)
        hits, gone = self._fetch(names[:matched])
        gone = self._store(request.blocks[hits:], names[hits:]) or gone
        tally.seconds["request"].append(time.perf_counter() - began)
        tally.requests += 1
        tally.references += len(names)
        tally.hit_blocks += hits
        return gone

    def _fetch(self, names: list[tuple[Key16, int]]) -> tuple[int, bool]:
        """How many leading blocks were delivered, and whether the service is gone."""
        tally, hits = self.tally, 0
        for at in range(0, len(names), self.room):
            part = names[at : at + self.room]
            items = [(key, place) for (key, _), place in zip(part, self.places, strict=False)]
            began = time.perf_counter()
            results = self.client.get(items, deadline_ms=self.replay.options.deadline_ms)
            tally.seconds["get"].append(time.perf_counter() - began)
            tally.get_blocks += len(part)
            for (_, seed), place, result in zip(part, self.places, results, strict=False):
                tally.get_bytes += result.nbytes
                if result.hit:
                    self._check(place, seed, result.nbytes)
                    continue
                tally.get_misses += 1
                self._count_failure(result)
            run = next((index for index, result in enumerate(results) if not result.hit), len(results))
            hits += run
            if run < len(results):
                return hits, results[run].status in GONE
        return hits, False

    def _check(self, place: memoryview, seed: int, nbytes: int) -> None:
        if nbytes == self.size and check_pattern(place, seed) < 0:
            return
        self.tally.wrong_blocks += 1
        expected = bytearray(self.size)
        fill_pattern(expected, seed)
        got = bytes(place[:nbytes])
        self.tally.wrong_bytes += self.size - nbytes + sum(a != b for a, b in zip(got, expected, strict=False))

    def _store(self, blocks: Sequence[int], names: list[tuple[Key16, int]]) -> bool:
        """Puts what the cache did not have. True when the service is gone."""
        options, tally = self.replay.options, self.tally
        for at in range(0, len(names), self.room):
            part = names[at : at + self.room]
            for (_, seed), place in zip(part, self.places, strict=False):
                fill_pattern(place, seed)
            items = [(key, place) for (key, _), place in zip(part, self.places, strict=False)]
            began = time.perf_counter()
            results = self.client.put(items, deadline_ms=options.deadline_ms, durability=options.durability)
            tally.seconds["put"].append(time.perf_counter() - began)
            acknowledged = []
            for block, result in zip(blocks[at : at + self.room], results, strict=True):
                tally.put_blocks += result.status == Status.ok
                tally.put_existed += result.existed
                tally.put_bytes += result.nbytes
                tally.puts_in_doubt += result.status in IN_DOUBT
                if result.ok:
                    acknowledged.append((block, result.sequence))
                else:
                    self._count_failure(result)
            if options.durability == "durable":
                self.replay.ledger.record(acknowledged)
            if any(result.status in GONE for result in results):
                return True
        return False

    def _count_failure(self, result: ItemResult) -> None:
        if result.status != Status.not_found:
            self.tally.failed[result.status.name] += 1

    def _wait_for_service(self) -> None:
        """An engine would go on computing; here the rest of the trace is kept for when the service is back."""
        now = time.monotonic()
        if self.replay.gate.is_set():
            self._gone_since = self._gone_since or now
            if now - self._gone_since > PATIENCE_SECONDS:
                raise ReplayError(
                    f"the service at {self.client.url} has been gone for {PATIENCE_SECONDS:.0f} s; stopped"
                )
            self.replay.feed.stopped.wait(PACE_SECONDS)
        else:
            self.replay.gate.wait()
            self._gone_since = None


class Replay:
    """One run. Call `run` once."""

    def __init__(
        self,
        requests: Sequence[Request],
        connect: Connect,
        options: Options,
        *,
        trace: str = "",
        disruption: Callable[[], None] | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        """connect(i): the client number i. disruption: kills and restarts the service and returns when it serves again."""
        if not requests:
            raise ReplayError("nothing to replay: the trace has no requests in the part that was asked for")
        self.requests, self.options, self.trace = requests, options, trace
        self.feed = Feed(requests, options.speed, threading.Event(), None if disruption is None else options.disrupt_at)
        self.gate = threading.Event()  # closed while the service is being killed and brought back
        self.gate.set()
        prefix = options.key_prefix or secrets.token_hex(8)
        self._names: dict[int, tuple[Key16, int]] = {}
        self._prefix = prefix
        self.ledger = Ledger(self.name_of, options.block_bytes)
        self._connect = connect
        self._disrupt = disruption
        self._on_progress = on_progress
        self._disruption: Disruption | None = None
        self._audits: list[Audit] = []
        self._pauses: list[tuple[float, float]] = []  # begin and length of each audit
        self._workers: list[Worker] = []
        self._phase = "replaying"
        self._interrupted = False

    def name_of(self, block: int) -> tuple[Key16, int]:
        """Key and seed of a block, remembered."""
        name = self._names.get(block)
        if name is None:
            name = self._names[block] = block_name(self._prefix, block)
        return name

    def run(self) -> Report:
        """Replays to the end, or to Ctrl-C (then the report covers what was done). Raises CairnError when it cannot go on."""
        clients: list[Client] = []
        try:
            clients += [self._connect(at) for at in range(self.options.clients)]
            self._workers = [Worker(self, client) for client in clients]
            self.feed.started = began = time.monotonic()
            for worker in self._workers:
                worker.start()
            self._tell(0.0)
            self._watch(began)
            for worker in self._workers:
                if worker.error is not None:
                    raise worker.error
            seconds = self._seconds(began)
            self._phase = "checking"
            self._tell(seconds)
            capacity = None
            if not self._interrupted:  # whoever pressed Ctrl-C does not want to wait for an audit
                self._audit(clients[0], self._workers[0].memory)
                capacity = self._capacity_blocks(clients[0])
            self._phase = "done"
            self._tell(seconds)
            return self._report(seconds, capacity, [client.url for client in clients])
        finally:
            self.feed.stopped.set()
            self.gate.set()
            for client in clients:
                client.close()
            for worker in self._workers:
                worker.join()

    def _watch(self, began: float) -> None:
        """Waits for the workers; disrupts when it is time."""
        try:
            while any(worker.is_alive() for worker in self._workers) or self.feed.triggered.is_set():
                if self.feed.triggered.wait(TICK_SECONDS) and self._disrupt is not None:
                    self.feed.triggered.clear()
                    self._perform(self._disrupt, began)
                self._tell(time.monotonic() - began)
        except KeyboardInterrupt:
            self._interrupted = True
            self.feed.stopped.set()
            self.gate.set()
            for worker in self._workers:
                worker.join()

    def _perform(self, disrupt: Callable[[], None], began: float) -> None:
        """Kills under load, brings back, looks for what was acknowledged, lets the workers go on."""
        assert self.options.disrupt_at is not None
        self._disruption = disruption = Disruption(self.options.disrupt_at)
        self._phase = "killed"
        self._tell(time.monotonic() - began)
        self.gate.clear()
        killed = time.monotonic()
        disrupt()
        disruption.down_seconds = round(time.monotonic() - killed, 4)
        with contextlib.ExitStack() as held:
            for worker in self._workers:
                held.enter_context(worker.busy)
            disruption.acknowledged_blocks = len(self.ledger)
            client = held.enter_context(self._connect(0))
            memory = memoryview(bytearray(self._workers[0].room * self.options.block_bytes))
            disruption.seconds_until_warm = round(self._first_hit(client, memory) - killed, 4)
            self._phase = "checking"
            self._tell(time.monotonic() - began)
            store = client.stats()["store"]
            disruption.recovery_seconds = store.get("recovery_seconds", 0.0)
            disruption.recovered_blocks = store.get("recovered_blocks", 0)
            self._audit(client, memory)
            self._phase = "replaying"
        self.gate.set()

    def _first_hit(self, client: Client, memory: memoryview) -> float:
        """When a block from before the kill came back; raises ReplayError if none does."""
        newest = self.ledger.newest(16)
        place = memory[: self.options.block_bytes]
        until = time.monotonic() + PATIENCE_SECONDS
        while newest and time.monotonic() < until:
            for block in reversed(newest):
                if client.get_one(self.name_of(block)[0], place).hit:
                    return time.monotonic()
        if newest:
            raise ReplayError(f"no block came back within {PATIENCE_SECONDS:.0f} s of the restart")
        return time.monotonic()

    def _audit(self, client: Client, memory: memoryview) -> None:
        began = time.monotonic()
        self._audits.append(self.ledger.audit(client, memory, self.options.read_back_blocks, seed=len(self._audits)))
        self._pauses.append((began, time.monotonic() - began))

    def _seconds(self, began: float) -> float:
        """How long the workers took, without the audits in between."""
        ended = max(worker.ended for worker in self._workers)
        return ended - began - sum(length for paused, length in self._pauses if paused < ended)

    def _capacity_blocks(self, client: Client) -> int | None:
        drives = client.stats()["store"]["drives"]
        page = RECORD_OVERHEAD_BYTES
        record = -(-self.options.block_bytes // page) * page + page
        return sum(int(drive["bytes"]) for drive in drives) // record if drives else None

    def _total(self) -> Tally:
        total = Tally()
        for worker in self._workers:
            total.add(worker.tally)
        return total

    def _tell(self, seconds: float) -> None:
        tallies = [worker.tally for worker in self._workers]
        references = sum(tally.references for tally in tallies)
        hits = sum(tally.hit_blocks for tally in tallies)
        moved = sum(tally.put_bytes + tally.get_bytes for tally in tallies)
        done = sum(tally.requests for tally in tallies)
        ratio = hits / references if references else 0.0
        self._on_progress(Progress(self._phase, done, len(self.requests), ratio, moved, seconds))

    def _report(self, seconds: float, capacity: int | None, urls: list[str]) -> Report:
        total = self._total()
        replayed = self.requests[: self.feed.dealt]
        known: TraceFacts = facts(replayed)
        audits = self._audits
        return Report(
            trace=self.trace,
            requests=total.requests,
            blocks=total.references,
            unique_blocks=known.unique,
            block_bytes=self.options.block_bytes,
            clients=self.options.clients,
            urls=list(dict.fromkeys(urls)),
            durability=self.options.durability,
            seconds=round(seconds, 3),
            audit_seconds=round(sum(length for _, length in self._pauses), 3),
            hit_blocks=total.hit_blocks,
            prefix_hit_ratio=round(total.hit_blocks / total.references if total.references else 0.0, 6),
            infinite_cache_hit_ratio=round(known.infinite_hit_ratio, 6),
            lru_hit_ratio=None if capacity is None else round(prefix_hit_ratio(replayed, capacity), 6),
            get_blocks=total.get_blocks,
            get_misses=total.get_misses,
            get_bytes=total.get_bytes,
            get_gb_per_s=_gb_per_s(total.get_bytes, seconds),
            put_blocks=total.put_blocks,
            put_existed=total.put_existed,
            put_bytes=total.put_bytes,
            put_gb_per_s=_gb_per_s(total.put_bytes, seconds),
            puts_in_doubt=total.puts_in_doubt,
            wrong_blocks=total.wrong_blocks + sum(audit.wrong for audit in audits),
            wrong_bytes=total.wrong_bytes,
            acknowledged_checked=sum(audit.checked for audit in audits),
            acknowledged_evicted=sum(audit.evicted for audit in audits),
            acknowledged_read_back=sum(audit.read_back for audit in audits),
            lost_acknowledged=sum(audit.lost for audit in audits),
            failed=dict(total.failed),
            latency_ms={kind: latency_of(total.seconds[kind]) for kind in total.seconds},
            disruption=self._disruption,
            interrupted=self._interrupted,
        )


def _gb_per_s(count: int, seconds: float) -> float:
    return round(count / seconds / 1e9, 3) if seconds > 0 else 0.0
