"""The receives that the connections of one tenant share run short: who sends meanwhile waits (RNR), and nobody else does."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hurt_service import HurtService
from raw_rdma import RdmaSession
from raw_wire import PING_T, Frame
from rdma_link import BEGINS, ENDS, PREFIX, SGE, Offer, SendWR, e
from traffic import serves, serves_again

import cairnkv
from cairnkv import Status

COUNTERS = Path("/sys/class/infiniband/rxe0/ports/1/hw_counters")
TENANT = "crowded"
FLOODERS, FLOOD = 8, 60  # each has 26 receives there, and its queue pair holds 64 requests
KEYS = [f"key {number}" for number in range(2000)]  # of these, one in two is there; a request is 16 messages
CALLS = 3
SECONDS_MOST = 30.0


def until(happened: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS_MOST
    while not happened():
        assert time.monotonic() < end, what
        os.sched_yield()


def counter(name: str) -> int:
    return int((COUNTERS / name).read_text())


def resources() -> dict[str, int]:
    """What is left on the first device, by kind."""
    shown = subprocess.run(["rdma", "-j", "resource", "show"], capture_output=True, text=True, check=True).stdout
    (row,) = [row for row in json.loads(shown) if row["ifname"] == "rxe0"]
    return {kind: int(row[kind]) for kind in ("pd", "cq", "qp", "cm_id", "mr", "srq")}


@pytest.fixture
def crowd(service: HurtService) -> Iterator[Callable[[], list[RdmaSession]]]:
    """Makes sessions of the crowded tenant that send as they like."""
    opened: list[RdmaSession] = []

    def make() -> list[RdmaSession]:
        host, port = service.rdma_url.removeprefix("rdma://").split(":")
        opened.extend(RdmaSession.dial((host, int(port)), Offer(tenant=TENANT.encode())) for _ in range(FLOODERS))
        return opened

    yield make
    for session in opened:
        session.close()


def flood(session: RdmaSession) -> None:
    """More messages than it has credit for, at once."""
    link = session.link
    link.granted = 1 << 30  # what comes back is not counted
    ping = Frame(PING_T, 7, tag=session.tag).encode()
    message = PREFIX.pack(len(ping), 0, BEGINS | ENDS) + ping
    link._sends.write(message, len(message), 0)
    for _ in range(FLOOD):
        link.qp.post_send(SendWR(0, e.IBV_WR_SEND, 1, 0, [SGE(link._sends.buf, len(message), link._sends.lkey)]))


class Asking:
    """Calls without payload, which open no memory: soft-RoCE of Linux 6.1 breaks a connection that does, and is made to wait."""

    def __init__(self, client: cairnkv.Client) -> None:
        self.client = client
        self.statuses: list[list[Status]] = []
        self._thread = threading.Thread(target=self._run, name="asking")
        self._thread.start()

    def _run(self) -> None:
        for _ in range(CALLS):
            self.statuses.append([result.status for result in self.client.exists(KEYS)])

    def check(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), "a call does not return"
        assert self.statuses == [[Status.ok, Status.not_found] * (len(KEYS) // 2)] * CALLS
        assert self.client.info()["reconnects"] == 0, "somebody else's flood cost this session its link"


# What a user would have lost: his session, whenever another host of his tenant sends more than it may.
def test_a_flood_that_takes_all_receives_of_a_tenant(
    service: HurtService, crowd: Callable[[], list[RdmaSession]]
) -> None:
    honest = [cairnkv.connect(service.rdma_url, tenant=TENANT) for _ in range(3)]
    other = cairnkv.connect(service.rdma_url, tenant="other")
    assert all(serves(client) for client in [*honest, other])
    for client in (honest[0], other):
        results = client.put([(key, b"here") for key in KEYS[::2]])
        assert {result.status for result in results} == {Status.ok}
    key, data = "payload", os.urandom(1 << 20)
    assert honest[2].put_one(key, data).ok
    flooders = crowd()
    waited, asked_to_wait = counter("rcvd_rnr_err"), counter("send_rnr_err")
    service.suspend()  # it takes no message in, and gives no receive back
    for session in flooders:
        flood(session)
    asking = [Asking(client) for client in [*honest[:2], other]]
    got: list[bytes | None] = []
    getting = threading.Thread(target=lambda: got.append(honest[2].get_bytes(key)[1]), name="getting")
    getting.start()
    until(
        lambda: counter("rcvd_rnr_err") > waited and counter("send_rnr_err") > asked_to_wait, "nobody is made to wait"
    )
    service.resume()
    for one in asking:
        one.check()
    getting.join(60)
    assert got in ([data], [None]), "wrong bytes were got"
    for session in flooders:
        session.ends()
        assert session.link.dead, "one that sent more than it may is still there"
    for client in [*honest, other]:
        serves_again(client)
        client.close()


def test_what_a_flood_took_is_given_back(service: HurtService, crowd: Callable[[], list[RdmaSession]]) -> None:
    def once() -> dict[str, int]:
        sessions = crowd()
        service.suspend()
        for session in sessions:
            flood(session)
        service.resume()
        while sessions:
            session = sessions.pop()
            session.ends()
            session.close()
        with cairnkv.connect(service.tcp_url) as client:
            until(lambda: client.stats()["sessions"] == 1, "a session stays")
        return resources()

    first = once()  # a tenant's domain and the memory of its messages stay
    assert once() == first, "something of a flood is left"
