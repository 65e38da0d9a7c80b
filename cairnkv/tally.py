"""What a replay counts, and the report that comes of it."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from cairnkv.quantities import show_size
from cairnkv.status import Status

KINDS = ("match", "get", "put", "request")
IN_DOUBT = (Status.timeout, Status.cancelled, Status.disconnected)
"""A put with one of these may or may not have taken effect."""


@dataclass(slots=True)
class Tally:
    """The counts of one worker; only that worker writes them."""

    requests: int = 0
    references: int = 0
    hit_blocks: int = 0
    get_blocks: int = 0
    get_misses: int = 0
    get_bytes: int = 0
    put_blocks: int = 0
    put_existed: int = 0
    put_bytes: int = 0
    puts_in_doubt: int = 0
    wrong_blocks: int = 0
    wrong_bytes: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, other: "Tally") -> None:
        """Adds another worker's counts."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failed.update(other.failed)
        for kind in KINDS:
            self.seconds[kind] += other.seconds[kind]


COUNTS = tuple(name for name, kind in Tally.__annotations__.items() if kind is int)


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of a kind of call, in milliseconds; nearest rank, 0 when there was none."""

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(slots=True)
class Disruption:
    """What the service's death in the middle of a replay did.

    down_seconds: from the order to kill until the service said that it serves again. seconds_until_warm: from the order to kill
    until the first block that was stored before came back. recovery_seconds: the store's own share, from its statistics.
    """

    at_request: int
    down_seconds: float = 0.0
    seconds_until_warm: float = 0.0
    recovery_seconds: float = 0.0
    recovered_blocks: int = 0
    acknowledged_blocks: int = 0


@dataclass(slots=True)
class Report:
    """What a replay found. docs/replay.md defines every field; seconds is without `audit_seconds`, the looking for
    acknowledged blocks."""

    trace: str
    requests: int
    blocks: int
    unique_blocks: int
    block_bytes: int
    clients: int
    urls: list[str]
    durability: str
    seconds: float
    audit_seconds: float
    hit_blocks: int
    prefix_hit_ratio: float
    infinite_cache_hit_ratio: float
    lru_hit_ratio: float | None
    get_blocks: int
    get_misses: int
    get_bytes: int
    get_gb_per_s: float
    put_blocks: int
    put_existed: int
    put_bytes: int
    put_gb_per_s: float
    puts_in_doubt: int
    wrong_blocks: int
    wrong_bytes: int
    acknowledged_checked: int
    acknowledged_evicted: int
    acknowledged_read_back: int
    lost_acknowledged: int
    failed: dict[str, int]
    latency_ms: dict[str, Latency]
    disruption: Disruption | None
    interrupted: bool

    @property
    def good(self) -> bool:
        """Whether every promise that a replay can see was kept."""
        return self.wrong_blocks == 0 and self.lost_acknowledged == 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def latency_of(seconds: Iterable[float]) -> Latency:
    """Percentiles of durations given in seconds."""
    ordered = sorted(seconds)
    if not ordered:
        return Latency(0, 0.0, 0.0, 0.0, 0.0)

    def rank(share: float) -> float:
        at = math.ceil(round(share * len(ordered), 6)) - 1
        return round(ordered[max(at, 0)] * 1000, 4)

    return Latency(len(ordered), rank(0.5), rank(0.9), rank(0.99), round(ordered[-1] * 1000, 4))


def report_rows(report: Report) -> list[tuple[str, str]]:
    """The report for a person: pairs of name and value."""
    lru = "" if report.lru_hit_ratio is None else f"; LRU of the drive's size {report.lru_hit_ratio:.3f}"
    rows = [
        (
            "trace",
            f"{report.trace}: {report.requests:,} requests, {report.blocks:,} blocks of {show_size(report.block_bytes)}",
        ),
        ("hit ratio", f"{report.prefix_hit_ratio:.3f} (infinite cache {report.infinite_cache_hit_ratio:.3f}{lru})"),
        (
            "moved",
            f"{report.put_bytes / 1e9:.2f} GB stored, {report.get_bytes / 1e9:.2f} GB fetched in {report.seconds:.1f} s",
        ),
        ("throughput", f"put {report.put_gb_per_s:.2f} GB/s, get {report.get_gb_per_s:.2f} GB/s"),
    ]
    for kind, latency in report.latency_ms.items():
        text = (
            f"p50 {latency.p50_ms:.2f}, p90 {latency.p90_ms:.2f}, p99 {latency.p99_ms:.2f}, max {latency.max_ms:.2f} ms"
        )
        rows.append((f"latency of a {kind}", text))
    if report.failed:
        failed = ", ".join(f"{name} {count:,}" for name, count in sorted(report.failed.items()))
        rows.append(("failed items", f"{failed} (each a miss; {report.puts_in_doubt:,} puts in doubt)"))
    if report.disruption is not None:
        rows += disruption_rows(report.disruption)
    checked = f"{report.acknowledged_checked:,} looked for, {report.acknowledged_read_back:,} read back"
    rows.append(("wrong bytes", f"{report.wrong_bytes:,} (in {report.wrong_blocks:,} blocks)"))
    rows.append(
        (
            "acknowledged blocks lost",
            f"{report.lost_acknowledged:,} ({checked}; {report.acknowledged_evicted:,} evicted)",
        )
    )
    return rows


def disruption_rows(disruption: Disruption) -> list[tuple[str, str]]:
    """The part of the report about the kill."""
    found = f"{disruption.recovered_blocks:,} blocks found on the drive in {disruption.recovery_seconds:.2f} s"
    return [
        (
            "killed at request",
            f"{disruption.at_request:,}, with {disruption.acknowledged_blocks:,} blocks acknowledged",
        ),
        ("serving again", f"{disruption.down_seconds:.2f} s after the kill ({found})"),
        ("warm again", f"{disruption.seconds_until_warm:.2f} s after the kill: first block served"),
    ]
