"""The resources of the admin API that are not the snapshot itself."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cairn_dpu.snapshot import Drive, Tenant


def _path(text: str) -> str:
    if "\0" in text:
        raise ValueError("a path holds no NUL byte")
    return text


class HurtDrive(BaseModel):
    """A drive that does not do all it should."""

    id: str = Field(description="its uuid; empty where it is absent")
    path: str
    state: str = Field(description="read_only, failed or absent")
    reason: str


class Health(BaseModel):
    """What a load balancer or kubelet asks."""

    state: str = Field(
        description="serving; loading: it serves what it has read so far; degraded: it serves, and 'hurt' lists the drives"
        " that do not do all they should, or the store waits for (state waiting); else a problem document"
    )
    loaded_share: float = Field(description="how much of the drives was read, from 0 to 1")
    drives_serving: int
    drives: int = Field(description="those that are absent included")
    hurt: list[HurtDrive] = Field(description="drives that are read-only, failed or absent, and why")


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
    """One drive; `id` is its uuid. An absent drive has an id of its own, and zeros."""

    id: str
    write_amplification: float | None = Field(
        description="bytes written for a byte of payload, since it was formatted; null while nothing was put"
    )


class DriveToAttach(BaseModel):
    """Which drive to take in."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, AfterValidator(_path)] = Field(
        min_length=1, max_length=4095, description="a formatted drive or file, as the service sees it"
    )


class DetachedDrive(BaseModel):
    """A drive that was let go."""

    id: str


class TenantResource(Tenant):
    """One tenant; `id` is its number as text."""

    id: str


class TenantPage(BaseModel):
    """A page of tenants, in the order of their numbers."""

    items: list[TenantResource]
    next_page_token: str | None = Field(
        description="pass it as page_token to get the next page; null: this is the last"
    )


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
