"""Connections to the admin API that ask without end, never read, or never end their request. Each of them could fill the
memory of the service or keep the probe of a load balancer waiting, which takes the whole service out of use."""

import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import http_flood
import pytest

from cairn_dpu.admin.connections import CONNECTIONS_MOST

FLOOD_SECONDS = 2.0
GROWTH_BYTES_MOST = 32 * 1024**2
PROBE_SECONDS_MOST = (
    2.0  # 0.1 is promised on a quiet machine; here the flood itself takes a processor, and another may be busy
)
GIVEN_BACK_SECONDS = 20.0
COUNTS = (1, 20, 200)


def memory_of(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors_of(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


def probe(port: int) -> float:
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["state"]) == (200, "serving")
    connection.close()
    return time.monotonic() - began


def flood(port: int, kind: str, count: int) -> subprocess.Popen[str]:
    words = [sys.executable, http_flood.__file__, str(port), kind, str(count), str(FLOOD_SECONDS)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", list(http_flood.KINDS))
def test_nobody_keeps_a_probe_waiting_or_fills_the_memory(serve: Any, kind: str) -> None:
    serving = serve()
    ready = serving.wait_ready()
    port = int(ready["admin"].rpartition(":")[2])
    for _ in range(20):
        probe(port)
    memory, descriptors = memory_of(ready["pid"]), descriptors_of(ready["pid"])
    for count in COUNTS:
        took, grown = [], 0
        with flood(port, kind, count) as process:
            while process.poll() is None:
                took.append(probe(port))
                grown = max(grown, memory_of(ready["pid"]) - memory)
        assert process.returncode == 0
        assert grown <= GROWTH_BYTES_MOST, f"{count} connections made it grow by {grown >> 20} MiB"
        assert statistics.median(took) <= PROBE_SECONDS_MOST, f"with {count} connections probes took {sorted(took)}"
    until = time.monotonic() + GIVEN_BACK_SECONDS
    while descriptors_of(ready["pid"]) > descriptors:
        assert time.monotonic() < until, "connections stay that are gone"
        time.sleep(0.05)
    assert len(serving.log.splitlines()) < 400, "a peer writes the log as fast as it likes"
    serving.signal(signal.SIGTERM)
    assert serving.wait() == 0
    assert "Traceback" not in serving.log


@pytest.mark.timeout(120)
def test_more_connections_than_it_takes(serve: Any) -> None:
    """Newcomers are heard: the oldest that asked for nothing go."""
    ready = serve().wait_ready()
    port = int(ready["admin"].rpartition(":")[2])
    probe(port)
    before = descriptors_of(ready["pid"])
    idle = []
    for _ in range(CONNECTIONS_MOST + 100):
        idle.append(http.client.HTTPConnection("127.0.0.1", port, timeout=10))
        idle[-1].connect()
    probe(port)
    assert descriptors_of(ready["pid"]) <= before + CONNECTIONS_MOST + 16
    for connection in idle:
        connection.close()
