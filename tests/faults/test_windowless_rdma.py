"""A client whose device has no memory windows: what it opens to the service for a request, it shuts with it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable

import pytest

import cairnkv


def regions_of_this_process() -> int:
    """Memory regions that the kernel counts as this process's."""
    shown = subprocess.run(["rdma", "resource", "show", "mr", "-d", "-j"], capture_output=True, text=True, check=True)
    return sum(region.get("pid") == os.getpid() for region in json.loads(shown.stdout or "[]"))


def test_a_region_ends_with_its_request(
    connect: Callable[[str], cairnkv.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost otherwise: after a call has returned the service could still write into its memory, and ever more of it is pinned."""
    monkeypatch.setenv("CAIRN_RDMA_WINDOWS", "off")
    client = connect("rdma")
    memory = memoryview(client.alloc(1 << 20))
    memory[:] = os.urandom(len(memory))
    assert client.put([("a block", memory)])[0].ok
    before = regions_of_this_process()
    assert before > 0
    for _ in range(20):
        assert client.get([("a block", memory)])[0].ok
    assert regions_of_this_process() == before
    memory.release()
