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
    fixed_buffers: bool = Field(description="its commands name memory that the kernel knows already")
    uuid: str
    state: str = Field(
        description="loading, serving, read_only, draining, drained, failed; absent: could not be opened"
    )
    reason: str = Field(description="why it is read_only, failed or absent; empty otherwise")
    distrusted: bool = Field(description="it missed what nobody remembers, so what it held was given up")
    loaded_share: float = Field(description="how much of it was read since the start or since it came, from 0 to 1")
    bytes: int
    segment_bytes: int
    segments: int
    segments_free: int
    segments_sealed: int
    blocks: int
    payload_bytes: int
    read_bytes: int
    written_bytes: int
    put_bytes: int
    reads: int
    writes: int
    flushes: int
    read_errors: int
    write_errors: int
    checksum_errors: int
    evicted_segments: int
    evicted_blocks: int
    moved_blocks: int
    moved_bytes: int
    discarded_bytes: int
    oldest_sequence: int = Field(description="no block with this sequence or a larger one was evicted; 0: none was")
    scrubbed_bytes: int
    scrub_passes: int
    scrub_errors: int
    scrub_started_unix_ms: int = Field(description="when the present pass began; 0: none did")
    scrub_share: float = Field(description="how much of the present pass is done, from 0 to 1")
    lifetime_written_bytes: int = Field(description="since the drive was formatted")
    lifetime_put_bytes: int = Field(description="since the drive was formatted")


class Tenant(_Model):
    """One tenant: its limits, what it holds, what it did since the start."""

    number: int = Field(description="what its blocks carry on the drives")
    name: str = Field(description="empty when no client of that name was seen and none is configured")
    quota_bytes: int = Field(description="0: none")
    weight: int
    window_bytes: int = Field(description="most payload on its way; 0: no limit")
    sessions: int
    in_flight_bytes: int
    started_bytes: int
    blocks: int
    payload_bytes: int
    cache_bytes: int
    leased_bytes: int
    held_bytes: int = Field(description="of the slab, on its way to or from clients and drives")
    puts: int
    put_bytes: int
    gets: int
    hits: int
    get_bytes: int
    deletes: int
    evicted_blocks: int
    evicted_bytes: int
    expired_blocks: int
    refused_quota: int
    refused_admission: int


class Forgotten(_Model):
    """What tenants did that are known no more, for they had nothing left: sums over all of them."""

    names: int
    puts: int
    put_bytes: int
    gets: int
    hits: int
    get_bytes: int
    deletes: int
    evicted_blocks: int
    evicted_bytes: int
    expired_blocks: int
    refused_quota: int
    refused_admission: int


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
    groups: int
    leases: int
    events: int
    index_entries: int
    refused_quota: int
    refused_admission: int
    members_state: str = Field(
        description="of the drives as one store. new, whole; begun_empty: what its drives held was given up; waiting: nothing"
        " is written or served before more of them are there"
    )
    members_reason: str = Field(description="why it was begun empty or waits, and what to do; empty otherwise")
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
    requests_refused: int = Field(description="for the memory that requests before them take")
    timeouts: int
    cancelled: int
    links_paused: int = Field(description="times that a connection was not read, for its peer did not read")
    links_deferred: int = Field(description="times that a connection had its part of a turn and waited for the next")
    received_bytes: int
    sent_bytes: int
    copied_bytes: int
    drives_absent: int
    loaded: bool = Field(description="whether the index is whole")
    listeners: list[str]
    operations: dict[str, Operation]
    tenants: list[Tenant]
    tenants_forgotten: Forgotten
    store: Store
