"""Calls that are given up at any moment, and clients that come, go and are killed in mid-transfer: nothing comes late, nothing is left.

As many as in a run of the tests by default; the figures of docs/testbed.md are CAIRN_RACES=100000, CAIRN_CYCLES=10000 and
CAIRN_KILLS=2000."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hurt_service import HurtService

import cairnkv

BUILT = Path(__file__).parents[2] / "build" / "native"
RACES = int(os.environ.get("CAIRN_RACES", "1000"))
CYCLES = int(os.environ.get("CAIRN_CYCLES", "200"))
KILLS = int(os.environ.get("CAIRN_KILLS", "40"))
SECONDS_MOST = 60 + RACES / 20 + CYCLES / 10 + KILLS / 5
SETTLED_SECONDS = 60.0
SEEDS = {"on": 1, "off": 2}  # a store is met once with each
AT_ONCE = 32  # sessions: more than there ever are while clients are killed
COUNTED = re.compile(r"(\w+) (\d+)")


def run(program: str, *words: str | int) -> dict[str, Any]:
    command = [str(BUILT / program), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MOST, check=False)
    said = dict(json.loads(done.stdout.splitlines()[-1])) if done.stdout else {}
    print(program, said)
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return said


@pytest.mark.timeout(SECONDS_MOST + 60)
@pytest.mark.parametrize("windows", ["on", "off"])
def test_nothing_comes_late(service: HurtService, monkeypatch: pytest.MonkeyPatch, windows: str) -> None:
    """Lost otherwise: the bytes of whatever an engine keeps in memory that it was handed back. Promise 3."""
    monkeypatch.setenv("CAIRN_RDMA_WINDOWS", windows)
    found = run("cairn-fence-races", service.rdma_url, "--races", RACES, "--seed", SEEDS[windows])
    assert found["races"] == RACES
    assert found["late_writes"] == found["wrong_blocks"] == 0
    assert found["cancelled"] + found["timeouts"] > RACES / 20, "too few calls were given up while bytes moved"
    assert found["ended"] > RACES / 20, "too few calls ended by themselves"


def in_use(process: int) -> dict[str, int]:
    """What the kernel counts of the device's things, and the service's descriptors and pinned pages."""
    shown = subprocess.run(["rdma", "resource"], capture_output=True, text=True, check=True).stdout
    counts: dict[str, int] = {}
    for line in shown.splitlines():
        device, _, rest = line.partition(" ")
        counts |= {f"{device} {name}": int(count) for name, count in COUNTED.findall(rest)}
    assert any(name.endswith(" qp") for name in counts), shown
    status = Path(f"/proc/{process}/status").read_text()
    counts |= {name: int(count) for name, count in re.findall(r"(VmPin|VmLck):\s+(\d+)", status)}
    counts["descriptors"] = len(os.listdir(f"/proc/{process}/fd"))
    return counts


@pytest.mark.timeout(SECONDS_MOST + 120)
def test_nothing_is_left_of_clients_that_come_and_go_and_are_killed(service: HurtService) -> None:
    """Lost otherwise: the card's queue pairs and regions, a few with every engine that is restarted, until nobody can connect."""
    with cairnkv.connect(service.tcp_url) as client:
        # What is made once, or for as many clients as there are at a time, has been made then.
        run("cairn-connect-storm", service.rdma_url, "--cycles", 20, "--kills", 8)
        with contextlib.ExitStack() as many:
            for _ in range(AT_ONCE):
                many.enter_context(cairnkv.connect(service.rdma_url))
        settled(client)
        before = in_use(service.process.pid)
        run("cairn-connect-storm", service.rdma_url, "--cycles", CYCLES, "--kills", KILLS, "--seed", 2)
        settled(client)
        until = time.monotonic() + SETTLED_SECONDS
        while (
            after := in_use(service.process.pid)
        ) != before:  # the kernel tidies up behind a killed process for a while
            assert time.monotonic() < until, f"{after} instead of {before}"
        assert client.stats()["requests_in_flight"] <= 1


def settled(client: cairnkv.Client) -> None:
    """Nobody but the one who asks has a session."""
    until = time.monotonic() + SETTLED_SECONDS
    while client.stats()["sessions"] > 1:
        assert time.monotonic() < until, "sessions of clients stay that are gone"
