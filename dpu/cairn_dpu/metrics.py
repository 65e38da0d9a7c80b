"""The snapshot as Prometheus metrics. One table says which field becomes which metric; docs/metrics.md shows the same
table, and tests compare table, document and snapshot.

Names: `cairn_` first, base units last, `_total` on counters. Values are read at the scrape; nothing is kept here.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cairn_dpu.snapshot import Drive, Operation, Snapshot

QUANTILES = {"p50": "0.5", "p90": "0.9", "p99": "0.99"}
DRIVE_STATES = ("loading", "serving", "read_only", "draining", "drained", "failed")
MICROSECONDS = 1e-6
MILLISECONDS = 1e-3


@dataclass(frozen=True, slots=True)
class Row:
    """One field of the snapshot. `field` is its path: `store.hits`, `operations.*.items`, `store.drives.*.reads`."""

    field: str
    metric: str
    type: str  # counter, gauge, summary or info
    help: str
    labels: tuple[str, ...] = ()
    scale: float = 1

    @property
    def leaf(self) -> str:
        """The last word of the field: its name inside its object."""
        return self.field.rpartition(".")[2]


def _service(field: str, metric: str, type: str, help: str) -> Row:
    return Row(field, f"cairn_{metric}", type, help)


def _store(field: str, metric: str, type: str, help: str) -> Row:
    return Row(f"store.{field}", f"cairn_store_{metric}", type, help)


def _drive(field: str, metric: str, type: str, help: str) -> Row:
    return Row(f"store.drives.*.{field}", f"cairn_drive_{metric}", type, help, ("drive",))


def _tenant(field: str, metric: str, type: str, help: str) -> Row:
    return Row(f"tenants.*.{field}", f"cairn_tenant_{metric}", type, help, ("tenant",))


def _operation(field: str, metric: str, type: str, help: str) -> Row:
    return Row(f"operations.*.{field}", f"cairn_operation_{metric}", type, help, ("operation",))


SERVICE = (
    Row("version", "cairn_build_info", "info", "Always 1; the label tells the version.", ("version",)),
    Row("server_id", "cairn_server_info", "info", "Always 1; a new id at every start.", ("server_id",)),
    _service("uptime_seconds", "uptime_seconds", "gauge", "Since the start of the service."),
    _service("draining", "draining", "gauge", "1 while the service shuts down and takes no new work."),
    _service("sessions", "sessions", "gauge", "Sessions open now."),
    _service("sessions_opened", "sessions_opened_total", "counter", "Sessions that were let in."),
    _service("sessions_refused", "sessions_refused_total", "counter", "Sessions that were refused."),
    _service("protocol_errors", "protocol_errors_total", "counter", "Connections closed for breaking the protocol."),
    _service("requests", "requests_total", "counter", "Requests (batches) that came in."),
    _service("requests_in_flight", "requests_in_flight", "gauge", "Requests not answered yet."),
    _service(
        "requests_refused",
        "requests_refused_total",
        "counter",
        "Requests refused for the memory that those before them take.",
    ),
    _service("timeouts", "timeouts_total", "counter", "Requests whose deadline passed."),
    _service("cancelled", "cancelled_total", "counter", "Requests the client cancelled."),
    _service(
        "links_paused",
        "links_paused_total",
        "counter",
        "Times that a connection was not read, for its peer did not read what it had asked for.",
    ),
    _service(
        "links_deferred",
        "links_deferred_total",
        "counter",
        "Times that a connection had its part of the work and waited for its next turn.",
    ),
    _service("received_bytes", "received_bytes_total", "counter", "Payload of puts that succeeded."),
    _service("sent_bytes", "sent_bytes_total", "counter", "Payload sent to clients."),
    _service(
        "copied_bytes",
        "copied_bytes_total",
        "counter",
        "Payload that the service's own processor copied; over RDMA none is, whatever the drive.",
    ),
    _service("drives_absent", "drives_absent", "gauge", "Drives it was told of that could not be opened."),
    _service("loaded", "loaded", "gauge", "1 when the index is whole, 0 while drives are being read."),
    Row("listeners", "cairn_listener_info", "info", "Always 1, once per URL where clients connect.", ("url",)),
)
OPERATIONS = (
    _operation("items", "items_total", "counter", "Items in all requests of this kind."),
    _operation("requests", "requests_total", "counter", "Requests of this kind."),
)
LATENCY_COUNT = _operation("latency_us.count", "latency_seconds_count", "summary", "Requests that were timed.")
LATENCY_MAX = _operation("latency_us.max", "latency_max_seconds", "gauge", "The longest time of one request.")
LATENCY = tuple(
    Row(f"operations.*.latency_us.{name}", "cairn_operation_latency_seconds", "summary",
        "Time of a request in the service, arrival to answer, since the start.", ("operation", "quantile"))
    for name in QUANTILES
)  # fmt: skip
STORE = (
    _store("blocks", "blocks", "gauge", "Blocks that a get would find."),
    _store("payload_bytes", "payload_bytes", "gauge", "Payload of those blocks."),
    _store("puts", "puts_total", "counter", "Blocks that were stored."),
    _store("put_exists", "put_exists_total", "counter", "Puts of a key that already held a block."),
    _store("put_bytes", "put_bytes_total", "counter", "Payload that was stored."),
    _store("gets", "gets_total", "counter", "Blocks that were asked for."),
    _store("hits", "hits_total", "counter", "Blocks that were found and delivered."),
    _store("hits_memory", "hits_memory_total", "counter", "Hits served from memory without a drive."),
    _store("misses", "misses_total", "counter", "Blocks that were not found."),
    _store("get_bytes", "get_bytes_total", "counter", "Payload that was delivered."),
    _store("deletes", "deletes_total", "counter", "Blocks that were deleted."),
    _store("corrupt", "corrupt_total", "counter", "Blocks dropped because their checksum did not fit: misses."),
    _store("io_errors", "io_errors_total", "counter", "Items that failed because a drive reported an error."),
    _store("no_space", "no_space_total", "counter", "Puts refused because no drive had room."),
    _store("cache_bytes", "cache_bytes", "gauge", "Memory that the read cache holds now."),
    _store("cache_blocks", "cache_blocks", "gauge", "Blocks in the read cache."),
    _store("slab_bytes", "slab_bytes", "gauge", "Memory for transfers and read cache in all."),
    _store("slab_free_bytes", "slab_free_bytes", "gauge", "Memory of the slab that is free."),
    _store("index_bytes", "index_bytes", "gauge", "Memory that the index takes."),
    _store("recovered_blocks", "recovered_blocks", "gauge", "Blocks found on the drives at the start."),
    _store("recovered_segments", "recovered_segments", "gauge", "Segments read back from their summary at the start."),
    _store("scanned_segments", "scanned_segments", "gauge", "Segments that had to be scanned at the start."),
    _store("recovery_seconds", "recovery_seconds", "gauge", "Time to rebuild the index at the start."),
    _store("groups", "groups", "gauge", "Groups of blocks that are known."),
    _store("leases", "leases", "gauge", "Blocks that are leased."),
    _store("events", "events_total", "counter", "Events of blocks that came and went."),
    _store("index_entries", "index_entries", "gauge", "Entries of the index: parts of blocks."),
    _store("refused_quota", "refused_quota_total", "counter", "Puts refused for their tenant's quota."),
    _store("refused_admission", "refused_admission_total", "counter", "Puts that the admission policy kept out."),
    Row(
        "store.members_state",
        "cairn_store_members_info",
        "info",
        "Always 1; of the drives as one store: new, whole, begun_empty, waiting.",
        ("state",),
    ),
    Row(
        "store.members_reason",
        "cairn_store_members_reason_info",
        "info",
        "Always 1; why the store was begun empty, or waits for drives.",
        ("reason",),
    ),
)
DRIVE_INFO = Row(
    "store.drives.*.path", "cairn_drive_info", "info", "Always 1; the label tells the path.", ("drive", "path")
)
DRIVE_UUID = Row(
    "store.drives.*.uuid", "cairn_drive_info", "info", "The label drive of every drive metric.", ("drive", "path")
)
DRIVE_REASON = Row(
    "store.drives.*.reason",
    "cairn_drive_reason_info",
    "info",
    "Always 1; the label tells why the drive is read_only or failed.",
    ("drive", "reason"),
)
DRIVE_STATE = Row(
    "store.drives.*.state",
    "cairn_drive_state",
    "gauge",
    "1 for the state the drive is in, 0 for the others.",
    ("drive", "state"),
)
DRIVES = (
    _drive("fixed_buffers", "fixed_buffers", "gauge", "1: its commands name memory that the kernel knows already."),
    _drive("distrusted", "distrusted", "gauge", "1: it missed what nobody remembers; what it held was given up."),
    _drive("loaded_share", "loaded_ratio", "gauge", "How much of it was read since the start, from 0 to 1."),
    _drive("bytes", "bytes", "gauge", "Size of the drive."),
    _drive("segment_bytes", "segment_bytes", "gauge", "Size of one segment."),
    _drive("segments", "segments", "gauge", "Segments on the drive."),
    _drive("segments_free", "segments_free", "gauge", "Segments that hold nothing."),
    _drive("segments_sealed", "segments_sealed", "gauge", "Segments that are full and summarised."),
    _drive("blocks", "blocks", "gauge", "Blocks on the drive that a get would find."),
    _drive("payload_bytes", "payload_bytes", "gauge", "Payload of those blocks."),
    _drive("read_bytes", "read_bytes_total", "counter", "Bytes read from the device."),
    _drive("written_bytes", "written_bytes_total", "counter", "Bytes written to the device."),
    _drive("put_bytes", "put_bytes_total", "counter", "Payload of blocks that were put on it."),
    _drive("reads", "reads_total", "counter", "Reads sent to the device."),
    _drive("writes", "writes_total", "counter", "Writes sent to the device."),
    _drive("flushes", "flushes_total", "counter", "Flushes sent to the device."),
    _drive("read_errors", "read_errors_total", "counter", "Reads that the device failed."),
    _drive("write_errors", "write_errors_total", "counter", "Writes and flushes that the device failed."),
    _drive("checksum_errors", "checksum_errors_total", "counter", "Reads whose bytes did not fit their checksum."),
    _drive("evicted_segments", "evicted_segments_total", "counter", "Segments freed to make room."),
    _drive("evicted_blocks", "evicted_blocks_total", "counter", "Blocks that were in them."),
    _drive("moved_blocks", "moved_blocks_total", "counter", "Blocks written again because their segment was given up."),
    _drive("moved_bytes", "moved_bytes_total", "counter", "Payload of those blocks."),
    _drive("discarded_bytes", "discarded_bytes_total", "counter", "Told to the device as wanted no more."),
    _drive(
        "oldest_sequence",
        "oldest_sequence",
        "gauge",
        "No block with this sequence or a larger one was evicted; 0: none.",
    ),
    _drive("scrubbed_bytes", "scrubbed_bytes_total", "counter", "Bytes read in the background to find damage."),
    _drive("scrub_passes", "scrub_passes_total", "counter", "Times that the whole drive was read so."),
    _drive("scrub_errors", "scrub_errors_total", "counter", "Damaged places found so."),
    Row(
        "store.drives.*.scrub_started_unix_ms",
        "cairn_drive_scrub_started_seconds",
        "gauge",
        "When the present pass began, since 1970; 0: none did.",
        ("drive",),
        MILLISECONDS,
    ),
    _drive("scrub_share", "scrub_ratio", "gauge", "How much of the present pass is done, from 0 to 1."),
    _drive(
        "lifetime_written_bytes", "lifetime_written_bytes_total", "counter", "Bytes written since it was formatted."
    ),
    _drive("lifetime_put_bytes", "lifetime_put_bytes_total", "counter", "Payload put since it was formatted."),
)
TENANT_INFO = Row(
    "tenants.*.name", "cairn_tenant_info", "info", "Always 1; names the number on the drives.", ("tenant", "number")
)
TENANT_NUMBER = Row(
    "tenants.*.number",
    "cairn_tenant_info",
    "info",
    "The label tenant is the name, or # and the number where none is known.",
    ("tenant", "number"),
)
TENANTS = (
    _tenant(
        "quota_bytes", "quota_bytes", "gauge", "Payload it may have on the drives; 0: as much as there is room for."
    ),
    _tenant("weight", "weight", "gauge", "Its share of bandwidth, against those of the others."),
    _tenant("window_bytes", "window_bytes", "gauge", "Payload it may have on its way; 0: no limit."),
    _tenant("sessions", "sessions", "gauge", "Sessions open now."),
    _tenant("in_flight_bytes", "in_flight_bytes", "gauge", "Payload on its way."),
    _tenant("started_bytes", "started_bytes_total", "counter", "Payload of all items that were begun."),
    _tenant("blocks", "blocks", "gauge", "Blocks that a get would find."),
    _tenant("payload_bytes", "payload_bytes", "gauge", "Payload of those blocks."),
    _tenant("cache_bytes", "cache_bytes", "gauge", "Memory of the read cache that its blocks take."),
    _tenant("leased_bytes", "leased_bytes", "gauge", "Payload of blocks that are leased."),
    _tenant("held_bytes", "held_bytes", "gauge", "Memory of the slab on its way to or from clients and drives."),
    _tenant("puts", "puts_total", "counter", "Blocks that were stored."),
    _tenant("put_bytes", "put_bytes_total", "counter", "Payload that was stored."),
    _tenant("gets", "gets_total", "counter", "Blocks that were asked for."),
    _tenant("hits", "hits_total", "counter", "Blocks that were found and delivered."),
    _tenant("get_bytes", "get_bytes_total", "counter", "Payload that was delivered."),
    _tenant("deletes", "deletes_total", "counter", "Blocks that were deleted."),
    _tenant("evicted_blocks", "evicted_blocks_total", "counter", "Blocks given up to make room."),
    _tenant("evicted_bytes", "evicted_bytes_total", "counter", "Payload of those blocks."),
    _tenant("expired_blocks", "expired_blocks_total", "counter", "Blocks whose time to live was over."),
    _tenant("refused_quota", "refused_quota_total", "counter", "Puts refused for the quota."),
    _tenant("refused_admission", "refused_admission_total", "counter", "Puts that the admission policy kept out."),
)
# What tenants did that are known no more: their series go, and these go on in their place.
FORGOTTEN = tuple(
    Row(f"tenants_forgotten.{row.leaf}", row.metric, row.type, row.help, row.labels)
    for row in TENANTS
    if row.type == "counter" and row.leaf != "started_bytes"
)
FORGOTTEN_NAMES = Row(
    "tenants_forgotten.names",
    "cairn_tenants_forgotten_total",
    "counter",
    "Tenants whose names were let go, for they had nothing left.",
)
ROWS = (
    *SERVICE,
    *OPERATIONS,
    LATENCY_COUNT,
    *LATENCY,
    LATENCY_MAX,
    *STORE,
    DRIVE_INFO,
    DRIVE_UUID,
    DRIVE_REASON,
    DRIVE_STATE,
    *DRIVES,
    TENANT_INFO,
    TENANT_NUMBER,
    *TENANTS,
    FORGOTTEN_NAMES,
    *FORGOTTEN,
)


class SnapshotCollector(Collector):
    """Asks for a snapshot at every scrape. `take` may raise; the scrape fails then, which is what an alert looks for."""

    def __init__(self, take: Callable[[], Snapshot]) -> None:
        self._take = take

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not take a snapshot."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric of ROWS."""
        snapshot = self._take()
        for row in SERVICE:
            yield _family(row, [((), getattr(snapshot, row.leaf))])
        for row in STORE:
            yield _family(row, [((), getattr(snapshot.store, row.leaf))])
        yield from _operations(snapshot.operations)
        yield from _drives(snapshot.store.drives)
        yield from _tenants(snapshot)


def _family(row: Row, values: Iterable[tuple[tuple[str, ...], Any]]) -> Metric:
    """One metric with a sample per (labels, value). The value of an info row is its label, or a list of labels."""
    if row.type == "counter":
        counter = CounterMetricFamily(row.metric.removesuffix("_total"), row.help, labels=row.labels)
        for labels, value in values:
            counter.add_metric(labels, value)
        return counter
    gauge = GaugeMetricFamily(row.metric, row.help, labels=row.labels)
    for labels, value in values:
        if row.type != "info":
            gauge.add_metric(labels, float(value) * row.scale)
            continue
        for text in value if isinstance(value, list) else [value]:
            gauge.add_metric((*labels, text), 1)
    return gauge


def _operations(operations: dict[str, Operation]) -> Iterator[Metric]:
    for row in OPERATIONS:
        yield _family(row, [((name,), getattr(operation, row.leaf)) for name, operation in operations.items()])
    summary = Metric(LATENCY[0].metric, LATENCY[0].help, "summary")
    for name, operation in operations.items():
        for row in LATENCY:
            seconds = getattr(operation.latency_us, row.leaf) * MICROSECONDS
            summary.add_sample(row.metric, {"operation": name, "quantile": QUANTILES[row.leaf]}, seconds)
        summary.add_sample(LATENCY_COUNT.metric, {"operation": name}, operation.latency_us.count)
    yield summary
    longest = [((name,), operation.latency_us.max * MICROSECONDS) for name, operation in operations.items()]
    yield _family(LATENCY_MAX, longest)


def _drives(drives: list[Drive]) -> Iterator[Metric]:
    yield _family(DRIVE_INFO, [((drive.uuid,), drive.path) for drive in drives])
    yield _family(DRIVE_REASON, [((drive.uuid,), drive.reason) for drive in drives])
    states = [((drive.uuid, state), drive.state == state) for drive in drives for state in DRIVE_STATES]
    yield _family(DRIVE_STATE, states)
    for row in DRIVES:
        yield _family(row, [((drive.uuid,), getattr(drive, row.leaf)) for drive in drives])


def tenant_label(name: str, number: int) -> str:
    """What the label `tenant` says: the name, or the number behind a # where none is known. No two have one label."""
    if not name:
        return f"#{number}"
    return f"#{name}" if name.startswith("#") else name


def _tenants(snapshot: Snapshot) -> Iterator[Metric]:
    tenants = snapshot.tenants
    yield _family(FORGOTTEN_NAMES, [((), snapshot.tenants_forgotten.names)])
    forgotten = {row.leaf for row in FORGOTTEN}
    names = {tenant.number: tenant_label(tenant.name, tenant.number) for tenant in tenants}
    yield _family(TENANT_INFO, [((names[tenant.number],), str(tenant.number)) for tenant in tenants])
    for row in TENANTS:
        values = [((names[tenant.number],), getattr(tenant, row.leaf)) for tenant in tenants]
        if row.leaf in forgotten:
            values.append((("",), getattr(snapshot.tenants_forgotten, row.leaf)))  # no tenant has an empty name
        yield _family(row, values)


def markdown_table() -> str:
    """The table in docs/metrics.md."""
    lines = ["| field | Prometheus | type | labels | meaning |", "|---|---|---|---|---|"]
    for row in ROWS:
        labels = ", ".join(f"`{label}`" for label in row.labels)
        lines.append(f"| `{row.field}` | `{row.metric}` | {row.type} | {labels} | {row.help} |")
    return "\n".join(lines) + "\n"
