"""The native service's statistics as typed models: the shape that docs/metrics.md documents and the admin API returns.

A field that a newer native core adds passes through (`extra="allow"`); a test holds these models, the document and the
native core together.
"""

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow")


class Latency(_Model):
    """Time from the arrival of a request to its answer, in microseconds, since the start."""

    count: int
    p50: float
    p90: float
    p99: float
    max: float


class Operation(_Model):
    """What one kind of operation did since the start."""

    items: int
    requests: int
    latency_us: Latency


class Drive(_Model):
    """One drive: what lies on it, what moved since the start, what went wrong."""

    path: str
    uuid: str
    state: str = Field(description="serving, read_only or failed")
    bytes: int
    segment_bytes: int
    segments: int
    segments_free: int
    segments_sealed: int
    blocks: int
    payload_bytes: int
    read_bytes: int
    written_bytes: int
    reads: int
    writes: int
    flushes: int
    read_errors: int
    write_errors: int
    checksum_errors: int
    evicted_segments: int
    evicted_blocks: int
    oldest_sequence: int = Field(description="every block put with a smaller sequence was evicted; 0: none yet")


class Store(_Model):
    """The store over all drives."""

    blocks: int
    payload_bytes: int
    puts: int
    put_exists: int
    put_bytes: int
    gets: int
    hits: int
    hits_memory: int
    misses: int
    get_bytes: int
    deletes: int
    corrupt: int
    io_errors: int
    no_space: int
    cache_bytes: int
    cache_blocks: int
    slab_bytes: int
    slab_free_bytes: int
    index_bytes: int
    recovered_blocks: int
    recovered_segments: int
    scanned_segments: int
    recovery_seconds: float
    drives: list[Drive]


class Snapshot(_Model):
    """All statistics at one moment. Counters begin at the start of the service."""

    version: str
    server_id: str
    uptime_seconds: float
    draining: bool
    sessions: int
    sessions_opened: int
    sessions_refused: int
    protocol_errors: int
    requests: int
    requests_in_flight: int
    timeouts: int
    cancelled: int
    received_bytes: int
    sent_bytes: int
    listeners: list[str]
    operations: dict[str, Operation]
    store: Store
