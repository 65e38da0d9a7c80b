"""Many clients at once: more than one completion queue of soft-RoCE holds the work of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hurt_service import HurtService

import cairnkv

STORM = Path(__file__).parents[2] / "build" / "native" / "cairn-connect-storm"
# 32,767 completions of a queue; half of it for work, of 63 requests a link: 260 links.
SESSIONS = 600
# All of them come from one host, and are of one tenant.
SETTINGS = [f"--{limit}={SESSIONS + 8}" for limit in ("sessions-per-peer-most", "sessions-per-tenant-most")]
IDLE_BYTES_MOST = 100_000


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


def test_six_hundred_clients_are_let_in_and_cost_little(service: HurtService) -> None:
    """Lost otherwise: the two hundred and thirteenth GPU host is refused, or the card's memory goes to hosts that do nothing."""
    data = os.urandom(1 << 20)
    before = resident_bytes(service.process.pid)
    command = [str(STORM), service.rdma_url, "--cycles", "0", "--idle", str(SESSIONS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as idle:
        assert idle.stdin is not None
        assert idle.stdout is not None
        said = idle.stdout.readline()
        assert b'"idle":600' in said, said
        assert (resident_bytes(service.process.pid) - before) / SESSIONS < IDLE_BYTES_MOST
        with cairnkv.connect(service.rdma_url) as busy:
            assert busy.put_one("one among many", data).ok
            assert busy.get_bytes("one among many")[1] == data
        idle.stdin.write(b"\n")
        idle.stdin.flush()
        assert idle.wait(30) == 0
