"""Looks at everything that must be right for Cairn to work from here, in the order in which it would fail."""

import ctypes
import os
import platform
import resource
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from cairnkv import _native
from cairnkv.client import Client
from cairnkv.errors import CairnError
from cairnkv.findings import FAIL, OK, WARN, Finding
from cairnkv.replay import block_name

SYS_IO_URING_SETUP = 425  # the same number on every architecture
MEMLOCK_BYTES_LEAST = 64 << 20
PROBE_BYTES = 65_536
CLOCK_STEP_SECONDS = 0.5


def examine(connect: Callable[[], Client] | None) -> Iterator[Finding]:
    """Every finding, as it is made. connect: None when no service is named."""
    yield _python()
    yield _module()
    yield _io_uring()
    yield _memlock()
    yield _clock()
    if connect is None:
        yield Finding("service", WARN, "none is named", "add --server URL or set CAIRN_SERVERS to have it examined too")
        return
    try:
        client = connect()
    except CairnError as error:
        yield Finding("connect", FAIL, str(error), "start the service (cairn-dpu serve …), or correct the URL")
        return
    with client:
        yield _handshake(client.info())
        yield _round_trip(client)
        yield from _health(client)


def _python() -> Finding:
    text = f"Python {platform.python_version()} on {platform.machine()}, Linux {platform.release()}"
    if sys.platform != "linux":
        return Finding("python", FAIL, f"{sys.platform} is not Linux", "Cairn runs on Linux only")
    return Finding("python", OK, text)


def _module() -> Finding:
    data = bytearray(1000)
    _native.fill_pattern(data, 1)
    if _native.crc32c(b"123456789") != 0xE3069283 or _native.check_pattern(data, 1) != -1:
        return Finding("native module", FAIL, "its checksums are wrong on this processor", "please report this")
    return Finding("native module", OK, f"version {_native.version()}, protocol {_native.limits()['protocol_version']}")


def _io_uring() -> Finding:
    """Only the service needs it; it is asked here because a service often runs on the same machine in development."""
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(120)
    descriptor = libc.syscall(SYS_IO_URING_SETUP, 1, parameters)
    if descriptor >= 0:
        os.close(descriptor)
        return Finding("io_uring", OK, "the kernel offers it")
    reason = os.strerror(ctypes.get_errno())
    advice = "a service cannot run here: allow io_uring (sysctl kernel.io_uring_disabled, container seccomp profile)"
    return Finding("io_uring", WARN, f"not available: {reason}", advice)


def _memlock() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY or soft >= MEMLOCK_BYTES_LEAST:
        shown = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft >> 20} MiB"
        return Finding("memlock", OK, f"limit {shown}")
    advice = (
        "raise it for a service on this machine and for RDMA later: ulimit -l unlimited, or LimitMEMLOCK= in systemd"
    )
    return Finding("memlock", WARN, f"limit {soft >> 10} KiB", advice)


def _clock() -> Finding:
    wall, steady = time.time(), time.monotonic()
    time.sleep(0.05)
    drift = abs((time.time() - wall) - (time.monotonic() - steady))
    if drift > CLOCK_STEP_SECONDS:
        return Finding(
            "clock", WARN, f"the wall clock jumped by {drift:.1f} s just now", "look after its synchronisation"
        )
    if time.time() < 1_600_000_000:
        return Finding("clock", WARN, "the wall clock stands before 2020", "set it: a time to live is counted by it")
    return Finding("clock", OK, "steady")


def _handshake(info: dict[str, Any]) -> Finding:
    text = (
        f"{info['url']} over {info['transport']}, protocol {info['version']}, {info['lanes']} lane(s), {info['credits']} "
        f"requests in flight, blocks up to {info['block_bytes_most'] >> 20} MiB"
    )
    if not info["url"].startswith("auto:") or info["transport"] == "rdma":
        return Finding("connect", OK, text)
    advice = "if RDMA should work here: cairn doctor --hardware, and a service that listens at rdma:// on the same port"
    return Finding("connect", WARN, f"{text}; not over RDMA: {info['last_error'] or 'it rests'}", advice)


def _round_trip(client: Client) -> Finding:
    """Stores, fetches, checks and deletes one block, under a key of its own."""
    key, seed = block_name(secrets.token_hex(8), 0)
    source, target = bytearray(PROBE_BYTES), bytearray(PROBE_BYTES)
    _native.fill_pattern(source, seed)
    began = time.perf_counter()
    put = client.put_one(key, source)
    between = time.perf_counter()
    got = client.get_one(key, target)
    ended = time.perf_counter()
    deleted = client.delete([key])[0]
    for name, result in (("put", put), ("get", got), ("delete", deleted)):
        if not result:
            return Finding("round trip", FAIL, f"{name}: {result.status.sentence}", "look at the service's log")
    if _native.check_pattern(target, seed) != -1:
        return Finding(
            "round trip", FAIL, "other bytes came back than were put", "stop using this service; please report this"
        )
    times = f"put {(between - began) * 1000:.2f} ms, get {(ended - between) * 1000:.2f} ms"
    return Finding("round trip", OK, f"{PROBE_BYTES >> 10} KiB, every byte checked: {times}")


def _health(client: Client) -> Iterator[Finding]:
    try:
        stats = client.stats()
    except CairnError as error:
        yield Finding("service", WARN, f"its statistics cannot be had: {error}", "look at the service's log")
        return
    store = stats["store"]
    if stats.get("draining"):
        yield Finding("service", WARN, "it is shutting down", "connect to another one")
    else:
        yield Finding(
            "service",
            OK,
            f"version {stats['version']}, {store['blocks']:,} blocks, up {stats.get('uptime_seconds', 0):.0f} s",
        )
    if stats["version"] != _native.version():
        yield Finding(
            "versions", WARN, f"client {_native.version()}, service {stats['version']}", "update the older one"
        )
    for drive in store["drives"]:
        errors = drive["read_errors"] + drive["write_errors"] + drive["checksum_errors"]
        if drive["state"] != "serving":
            yield Finding(
                "drive", FAIL, f"{drive['path']} is {drive['state']}", "look at the service's log; replace the drive"
            )
        elif errors:
            yield Finding(
                "drive", WARN, f"{drive['path']} had {errors} errors", "check it: cairn-dpu check --drive PATH"
            )
        else:
            yield Finding("drive", OK, f"{drive['path']}: no errors")
