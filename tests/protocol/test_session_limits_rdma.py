"""The limits of sessions over RDMA, where a connection too many is rejected before anything is spent on it."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from limited_service import BUSY, FEW_MOST, PEER_FULL, PEER_MOST, SILENT_FULL, told_off
from observer import Observer
from raw_rdma import RdmaSession
from raw_wire import RawSession
from rdma_link import Offer, Rejected

from cairnkv.testing import RunningService


@pytest.fixture
def rdma(limited: RunningService) -> tuple[str, int]:
    parts = urlsplit(limited.rdma_url)
    return str(parts.hostname), int(parts.port or 0)


def test_a_host_has_its_sessions_and_lanes_and_no_more(
    rdma: tuple[str, int], limited_shm: str, observer: Observer
) -> None:
    sessions = [RdmaSession.dial(rdma) for _ in range(PEER_MOST)]
    assert told_off(RdmaSession(rdma)) == PEER_FULL
    lane = RdmaSession(rdma)
    lane.say_hello(join=sessions[0].tag)
    assert lane.alive()
    assert observer.figure("sessions") == PEER_MOST + 1
    assert RawSession.open(limited_shm).alive()


def test_connections_that_say_nothing_are_rejected(rdma: tuple[str, int], observer: Observer) -> None:
    refused = observer.figure("sessions_refused")
    silent = [RdmaSession(rdma) for _ in range(PEER_MOST)]
    with pytest.raises(Rejected) as caught:
        RdmaSession(rdma)
    assert (caught.value.status, caught.value.reason) == (BUSY, SILENT_FULL)
    assert observer.figure("sessions_refused") == refused + 1
    silent[0].say_hello()
    assert silent[0].alive()


def test_a_tenant_has_its_sessions_and_no_more(rdma: tuple[str, int], observer: Observer) -> None:
    for _ in range(FEW_MOST):
        RdmaSession.dial(rdma, Offer(tenant=b"few"))
    assert "(sessions, in the setting tenant)" in told_off(RdmaSession(rdma, Offer(tenant=b"few")), b"few")
    assert RdmaSession.dial(rdma).alive()
    assert observer.figure("sessions") == FEW_MOST + 2


def test_every_place_comes_back(rdma: tuple[str, int], observer: Observer) -> None:
    for number in range(24):
        session = RdmaSession.dial(rdma)
        silent = RdmaSession(rdma)
        if number % 2:
            session.link.break_off()
        session.close()
        silent.close()
        observer.await_figure("sessions", 1)
    for _ in range(PEER_MOST):
        assert RdmaSession.dial(rdma).alive()
    assert told_off(RdmaSession(rdma)) == PEER_FULL
