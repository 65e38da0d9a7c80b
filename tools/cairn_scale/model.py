"""From the inputs to what a card could move. Every GB is 10^9 bytes of payload."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cairn_scale.inputs import Inputs

RDMA_REQUESTS = 2  # the payload's transfer, and the answer


@dataclass(frozen=True)
class Operation:
    """name: as the tables call it. from_drive: whether a drive takes part. writes: whether it is written."""

    name: str
    from_drive: bool
    writes: bool


GET = Operation("gets from drives", from_drive=True, writes=False)
HIT = Operation("gets from DRAM", from_drive=False, writes=False)
PUT = Operation("puts", from_drive=True, writes=True)
OPERATIONS = (GET, HIT, PUT)


def block_us(inputs: Inputs, operation: Operation, block_bytes: int) -> float:
    """The processor's time for one block, its checksum left out."""
    spent = inputs.item_us.value + inputs.request_us.value + RDMA_REQUESTS * inputs.rdma_us.value
    if not operation.from_drive:
        return spent + inputs.hit_us.value
    spent += inputs.put_us.value if operation.writes else inputs.get_us.value
    commands = math.ceil(block_bytes / inputs.command_bytes.value)
    return spent + commands * inputs.command_us.value + block_bytes / (1 << 20) * inputs.mib_us.value


def cores_per_gb_s(inputs: Inputs, operation: Operation, block_bytes: int) -> float:
    """How many cores one GB/s keeps busy. What lies in DRAM was checked when it was read, or put."""
    checksum = 1 / inputs.crc_gb_s.value if operation.from_drive else 0.0
    return checksum + block_us(inputs, operation, block_bytes) * 1e3 / block_bytes


def bounds_gb_s(inputs: Inputs, operation: Operation, block_bytes: int) -> dict[str, float]:
    """What each part could move if nothing else bounded; by the part's name."""
    crossings = inputs.crossings_hit
    if operation.from_drive:
        crossings = inputs.crossings_put if operation.writes else inputs.crossings_get
    found = {"network": inputs.link_gbit.value / 8 * inputs.link_share.value}
    if operation.from_drive:
        one = inputs.drive_write_gb_s if operation.writes else inputs.drive_read_gb_s
        found["drives"] = inputs.drives.value * one.value
        found["lanes"] = inputs.lanes.value * inputs.lane_gb_s.value
    found["memory"] = inputs.dram_gb_s.value * inputs.dram_share.value / crossings.value
    per_core = 1 / cores_per_gb_s(inputs, operation, block_bytes)
    found["all cores"] = inputs.cores.value * per_core
    found["one reactor"] = per_core
    return found


def bound_of(bounds: dict[str, float], one_reactor: bool) -> tuple[str, float]:
    """The part that bounds: as the service is today, with one reactor, or if all cores were put to use."""
    names = [name for name in bounds if one_reactor or name != "one reactor"]
    name = min(names, key=lambda one: bounds[one])
    return name, bounds[name]


def index_gb_per_tb(inputs: Inputs, block_bytes: int) -> float:
    """DRAM for the index of 1 TB of blocks."""
    return 1e12 / block_bytes * inputs.index_bytes.value / 1e9
