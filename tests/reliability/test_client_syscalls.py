"""The sweep over a client's system calls finds nothing in the time that there is for it here, and sees what it should."""

from __future__ import annotations

import json
import subprocess
import sys

import client_syscalls
import pytest
from client_errnos import CLIENT_ROWS, LEFT_OUT, errnos_of, may_be_noticed
from client_syscalls import Case, Guarded, Life
from syscall_sites import why_not_traced

SECONDS = 20  # of each transport; all cases are those of `make reliability`


@pytest.fixture
def traced() -> None:
    if why := why_not_traced():
        if why.startswith("ptrace"):
            pytest.skip(why)
        pytest.fail(why)


def swept(*words: str) -> tuple[int, dict[str, object], str]:
    command = [sys.executable, client_syscalls.__file__, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_whatever_the_system_refuses_the_engine_goes_on(transport: str) -> None:
    status, figures, told = swept("--transport", transport, "--stop-at", str(SECONDS))
    assert status == 0, told
    sites = figures["sites"]
    assert isinstance(sites, dict)
    says = {"tcp": "sendmsg", "shm": "sendto"}[transport]  # over shm it rings a bell
    assert {"socket", "connect", says, "recvmsg", "poll", "eventfd2", "clone3"} <= set(sites)


@pytest.mark.usefixtures("traced")
def test_what_fails_for_ever_comes_to_pass() -> None:
    cases = (
        "socket:1:EMFILE:for_ever",
        "recvmsg:3:ECONNRESET:for_ever",
        "clone3:1:EAGAIN:for_ever",
        "poll:4:ENOMEM:once",
    )
    status, figures, told = swept("--only", ",".join(cases))
    assert status == 0, told
    outcomes = figures["outcomes"]
    assert isinstance(outcomes, dict)
    assert figures["runs"] == len(cases)
    assert outcomes.get("not_reached", 0) == 0, "a case that does not come to pass shows nothing"
    assert outcomes["told"] >= 3


def test_what_goes_wrong_is_seen() -> None:
    life = Life("tcp://127.0.0.1:1", 1)
    life.call("slow", -2.0, lambda: None)
    life.call("strange", 1.0, lambda: dict[str, int]()["nothing"])
    assert "slow took" in life.problems[0] and "strange raised KeyError" in life.problems[1]
    guarded = Guarded(b"block")
    guarded.memory[:] = b"BLOCK"
    assert guarded.intact()
    guarded._all[3] ^= 1
    assert not guarded.intact()


def test_every_call_has_its_errnos() -> None:
    for row in CLIENT_ROWS:
        for call in row.calls:
            assert {errno for at in range(1, 30) for errno in errnos_of(call, at, every=False)} == set(row.errnos), call
            assert call not in LEFT_OUT
    assert not may_be_noticed("poll", "EINTR")
    assert may_be_noticed("poll", "ENOMEM")
    assert Case.named("poll:4:ENOMEM:once").name == "poll:4:ENOMEM:once"
