"""The resources of the admin API that are not the snapshot itself."""

from pydantic import BaseModel, Field

from cairn_dpu.snapshot import Drive


class Health(BaseModel):
    """What a load balancer or kubelet asks."""

    state: str = Field(description="serving; anything else is a problem document with status 503")
    drives_serving: int
    drives: int


class Machine(BaseModel):
    """The machine the service runs on."""

    hostname: str
    architecture: str
    kernel: str
    processors: int
    memory_bytes: int
    page_bytes: int = Field(description="64 KiB on some ARM64 images")


class System(BaseModel):
    """The service as a whole."""

    version: str
    server_id: str = Field(description="new at every start")
    state: str = Field(description="starting, serving, draining or failed")
    read_only: bool
    credentials: str = Field(description="'none': this version has no credentials, so it listens on loopback only")
    started_at: str = Field(description="RFC 3339")
    uptime_seconds: float
    listeners: list[str] = Field(description="URLs where clients connect")
    drives: int
    blocks: int
    payload_bytes: int
    machine: Machine


class DriveResource(Drive):
    """One drive; `id` is its uuid."""

    id: str


class DrivePage(BaseModel):
    """A page of drives, in the order of their ids."""

    items: list[DriveResource]
    next_page_token: str | None = Field(
        description="pass it as page_token to get the next page; null: this is the last"
    )


class ProblemKind(BaseModel):
    """What a problem's `type` stands for."""

    name: str
    status: int
    title: str
    hint: str


class ProblemKinds(BaseModel):
    """Every problem type, in the order of the names."""

    items: list[ProblemKind]
