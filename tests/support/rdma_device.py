"""The testbed's RDMA device, to be hurt: its cable is pulled, or the system takes it away. Afterwards it is as before."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

NAME = "rxe0"
SECONDS_MOST = 60.0  # that the system takes; for ever, where somebody's use of a device keeps it from going


def may_be_hurt() -> bool:
    """Only the testbed's own may, on a kernel of which it can be taken away (tools/testbed/build-kernel makes such)."""
    return os.uname().release.endswith("-cairn") and Path(f"/sys/class/infiniband/{NAME}").exists()


def _interface() -> str:
    """The network device below it."""
    return Path(f"/sys/class/infiniband/{NAME}/parent").read_text().strip()


def _do(*words: str) -> None:
    subprocess.run(words, check=True, timeout=SECONDS_MOST)


@contextlib.contextmanager
def taken_away() -> Iterator[None]:
    """There is no device until the block ends, and then a new one of the same name and address."""
    below = _interface()
    _do("rdma", "link", "delete", NAME)
    try:
        yield
    finally:
        _do("rdma", "link", "add", NAME, "type", "rxe", "netdev", below)


@contextlib.contextmanager
def cable_pulled() -> Iterator[None]:
    """No packet comes through, in either direction, until the block ends."""
    below = _interface()
    _do("ip", "link", "set", below, "down")
    try:
        yield
    finally:
        _do("ip", "link", "set", below, "up")


@contextlib.contextmanager
def address_taken() -> Iterator[None]:
    """The port has no address, and so no GID of it, until the block ends."""
    below = _interface()
    shown = subprocess.run(["ip", "-j", "-4", "address", "show", below], capture_output=True, text=True, check=True)
    (address,) = json.loads(shown.stdout)[0]["addr_info"]
    place = f"{address['local']}/{address['prefixlen']}"
    _do("ip", "address", "del", place, "dev", below)
    try:
        yield
    finally:
        _do("ip", "address", "add", place, "dev", below)


@contextlib.contextmanager
def packets_of(mtu_bytes: int) -> Iterator[None]:
    """The network below takes packets of this size at most until the block ends."""
    below = _interface()
    before = Path(f"/sys/class/net/{below}/mtu").read_text().strip()
    _do("ip", "link", "set", below, "mtu", str(mtu_bytes))
    try:
        yield
    finally:
        _do("ip", "link", "set", below, "mtu", before)


def renew() -> None:
    """Linux 6.1's soft-RoCE loses the queue pair of its connection manager with the first message that finds no way out:
    after the cable was pulled nobody connects any more until there is a new device."""
    with taken_away():
        pass
