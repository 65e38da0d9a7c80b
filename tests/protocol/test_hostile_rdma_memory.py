"""Clients over RDMA that point at memory that is not theirs, reach for the service's, fall silent or die."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from raw_rdma import RdmaSession
from raw_wire import (
    EXISTS,
    EXTENT,
    GET,
    GOODBYE_T,
    PING_T,
    PUT,
    RESULTS,
    Frame,
    batch,
    item,
)
from rdma_link import BEGINS, ENDS, PREFIX, READ, SGE, WRITE, Offer, SendWR, e

Fresh = Callable[[], bytes]
Address = tuple[str, int]
NOT_FOUND, BAD_REGION = 2, 9
REFUSED_BY_THE_DEVICE = {e.IBV_WC_REM_ACCESS_ERR, e.IBV_WC_REM_INV_REQ_ERR}
pytestmark = pytest.mark.usefixtures("honest")


def whole_message(frame: Frame) -> bytes:
    raw = frame.encode()
    return PREFIX.pack(len(raw), 0, BEGINS | ENDS) + raw


def ask(session: RdmaSession, kind: int, key: bytes, length: int, extents: list[bytes]) -> tuple[int, str]:
    """The status of the item, and "", or that of a refuse, and its reason, or -1 when the link ended without."""
    session.request(kind, batch([item(key, length, extent=(0, len(extents)))], extents), 1)
    try:
        frame = session.receive()
    except ConnectionError:
        return -1, ""
    if frame.type == RESULTS:
        return int.from_bytes(frame.body[4:6], "little"), ""
    status, length = (int.from_bytes(frame.body[at : at + 2], "little") for at in (0, 2))
    return status, frame.body[4 : 4 + length].decode()


@pytest.fixture
def stored(honest: RdmaSession, fresh_key: Fresh) -> bytes:
    """A key whose block has 5,000 bytes."""
    key = fresh_key()
    assert honest.put(key, b"s" * 5000)[0] == 0
    return key


@pytest.mark.parametrize("kind", [PUT, GET])
@pytest.mark.parametrize("features", [0, 1])
@pytest.mark.parametrize("what", ["zero", "random", "foreign", "wrong right", "beyond", "before", "around the end"])
def test_memory_that_was_not_granted(
    what: str, features: int, kind: int, rdma: Address, honest: RdmaSession, stored: bytes, fresh_key: Fresh
) -> None:
    session = RdmaSession.dial(rdma, Offer(features=features))
    access = READ if kind == PUT else WRITE
    if what == "foreign":
        key = honest.link.open(0, 5000, access)
        extent = honest.extent(0, 5000, key)
    else:
        key = session.link.open(4096, 5000, WRITE + READ - access if what == "wrong right" else access)
        memory = session.link.memory
        at = memory.buf + 4096
        keys = {"zero": 0, "random": key ^ 0x5A5A5A00}
        # Linux 6.1's soft-RoCE compares with the region that the window lies in, not with the window.
        places = {"beyond": memory.buf + memory.length - 4999, "before": memory.buf - 1, "around the end": 2**64 - 100}
        extent = EXTENT.pack(places.get(what, at), 5000, keys.get(what, key), 0)
    wanted = fresh_key() if kind == PUT else stored
    before = honest.link.memory.read(5000, 0), session.link.memory.read(16384, 0)
    status, reason = ask(session, kind, wanted, 5000, [extent])
    assert (status, reason) == ((BAD_REGION, "") if what == "around the end" else (-1, ""))
    assert (honest.link.memory.read(5000, 0), session.link.memory.read(16384, 0)) == before
    assert honest.statuses(EXISTS, [wanted]) == [NOT_FOUND if kind == PUT else 0]


@pytest.mark.parametrize("kind", [PUT, GET])
def test_extents_whose_sum_does_not_fit_into_64_bits(kind: int, rdma: Address, stored: bytes, fresh_key: Fresh) -> None:
    wanted = fresh_key() if kind == PUT else stored
    for lengths in ([2**63, 2**63], [2**64 - 1, 5001], [2**64 - 5000] * 2, [0, 2**64 - 1]):
        session = RdmaSession.dial(rdma)
        key = session.link.open(0, 5000, READ if kind == PUT else WRITE)
        at = session.link.memory.buf
        extents = [EXTENT.pack(at, length, key, 0) for length in lengths]
        assert ask(session, kind, wanted, 5000, extents) == (BAD_REGION, "")
        assert session.alive()


@pytest.mark.parametrize("opcode", [e.IBV_WR_RDMA_READ, e.IBV_WR_RDMA_WRITE])
def test_the_client_reads_and_writes_nothing_of_the_service(
    opcode: int, rdma: Address, honest: RdmaSession, service_pid: int
) -> None:
    noise = random.Random(int(opcode))
    keys = [0, 1, honest.link.memory.rkey, honest.link.memory.lkey, *(noise.getrandbits(32) for _ in range(3))]
    keys += service_keys(service_pid)
    slab = widest_mapping(service_pid)
    for key in keys:
        session = RdmaSession.dial(rdma, reads=1)
        link = session.link
        attack = SendWR(1 << 40, opcode, 1, 0, [SGE(link.memory.buf, 64, link.memory.lkey)])
        attack.set_wr_rdma(key, slab)
        link.qp.post_send(attack)
        assert session.ends() == (-1, "")
        assert link.errors[1 << 40] in REFUSED_BY_THE_DEVICE
        assert link.memory.read(64, 0) == bytes(64)
        session.close()
        assert honest.alive()


def test_the_client_invalidates_nothing_of_the_service(rdma: Address, honest: RdmaSession, service_pid: int) -> None:
    for key in [0, 1, *service_keys(service_pid)]:
        session = RdmaSession.dial(rdma)
        link = session.link
        raw = whole_message(Frame(PING_T, 7, tag=session.tag))
        link.memory.write(raw, len(raw))
        link.qp.post_send(
            SendWR(1 << 40, e.IBV_WR_SEND_WITH_INV, 1, key, [SGE(link.memory.buf, len(raw), link.memory.lkey)])
        )
        assert session.ends() == (-1, "") and link.dead
        session.close()
        assert honest.alive()


@pytest.mark.parametrize(
    ("opcode", "length"),
    [
        (e.IBV_WR_RDMA_WRITE_WITH_IMM, 0),  # takes a receive, and needs no key
        (e.IBV_WR_RDMA_WRITE_WITH_IMM, 64),
        (e.IBV_WR_SEND_WITH_IMM, 0),
        (e.IBV_WR_SEND_WITH_IMM, 80),
        (e.IBV_WR_RDMA_READ, 0),
        (e.IBV_WR_RDMA_WRITE, 0),
        (e.IBV_WR_ATOMIC_FETCH_AND_ADD, 8),
        (e.IBV_WR_ATOMIC_CMP_AND_SWP, 8),
    ],
)
def test_operations_that_the_page_does_not_know(opcode: int, length: int, rdma: Address, honest: RdmaSession) -> None:
    for _ in range(40):  # more often than there are receives for one client
        session = RdmaSession.dial(rdma, reads=1)
        link = session.link
        link.granted = 1 << 30  # what comes back is not counted
        raw = whole_message(Frame(PING_T, 7, tag=session.tag))
        link.memory.write(raw, len(raw))
        odd = SendWR(1 << 40, opcode, 1, 0, [SGE(link.memory.buf, length, link.memory.lkey)])
        if opcode in (e.IBV_WR_ATOMIC_FETCH_AND_ADD, e.IBV_WR_ATOMIC_CMP_AND_SWP):
            odd.set_wr_atomic(0x1234, 4096, 0, 0)
        elif opcode != e.IBV_WR_SEND_WITH_IMM:
            odd.set_wr_rdma(0, 0)
        link.qp.post_send(odd)
        session.send(Frame(GOODBYE_T, tag=session.tag))
        session.ends()
        session.close()
    assert honest.alive()


def service_keys(pid: int) -> list[int]:
    """Every key of the service's memory, as the kernel tells it to root; by the thread that registered it."""
    shown = subprocess.run(["rdma", "resource", "show", "mr", "-d", "-j"], check=True, capture_output=True).stdout
    threads = {int(name) for name in os.listdir(f"/proc/{pid}/task")}
    found = [entry for entry in json.loads(shown) if entry.get("pid") in threads]
    assert found, "the kernel does not tell the service's keys"
    assert {int(entry["rkey"], 16) for entry in found} == {0}, "memory of the service that somebody else may reach"
    return sorted({int(entry["lkey"], 16) for entry in found})


def widest_mapping(pid: int) -> int:
    """Where the service's slab begins."""
    spans = [line.split()[0].split("-") for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if " rw" in line]
    return max((int(high, 16) - int(low, 16), int(low, 16)) for low, high in spans)[1]


# --- silence and death ---------------------------------------------------------------------------------------


def test_one_that_never_takes_its_answers_in_does_not_stop_the_others(
    rdma: Address, honest: RdmaSession, fresh_key: Fresh
) -> None:
    key, data = fresh_key(), os.urandom(1 << 18)
    assert honest.put(key, data)[0] == 0
    for features in (0, 1):
        deaf = RdmaSession.dial(rdma, Offer(credits=4, features=features))
        window = deaf.link.open(0, 1 << 18, WRITE)
        extents = [deaf.extent(0, 1 << 18, window)]
        items = [item(key, 1 << 18, extent=(0, 1))]
        for _ in range(deaf.link.credit):
            frame = Frame(GET, deaf.next_id, batch(items, extents), item_count=1, tag=deaf.tag)
            deaf.link.post(whole_message(frame))
            deaf.next_id += 1
        for _ in range(5):
            assert honest.get(key, 1 << 18) == (0, data)
        deaf.close()


COMMON = """
import sys
sys.path[:0] = {path!r}
from rdma_link import PREFIX, READ, Offer
from raw_rdma import RdmaSession
from raw_wire import PUT, GET, batch, item
"""
FLOOD = """
session = RdmaSession.dial({address!r})
print("begun", flush=True)
while True:
    session.link.post(PREFIX.pack(0, 0, 0))
"""
PUTS = """
session = RdmaSession.dial({address!r}, Offer(features={features}), memory_bytes=32 << 20)
keys = [session.link.open(at << 20, 1 << 20, READ) for at in range(32)]
extents = [session.extent(at << 20, 1 << 20, key) for at, key in enumerate(keys)]
names = [{seed!r} + bytes([at]) for at in range(32)]
session.request(PUT, batch([item(name, 1 << 20, extent=(at, 1)) for at, name in enumerate(names)], extents), 32)
print("begun", flush=True)
while True:
    session.receive()
"""


@contextlib.contextmanager
def another_process(text: str, **values: object) -> Iterator[None]:
    """A client of its own process, from when it has begun until it is killed."""
    words = [sys.executable, "-c", (COMMON + text).format(path=sys.path, **values)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == "begun\n"
            yield
            assert child.poll() is None, "it ended by itself"
        finally:
            child.kill()


def test_a_flood_of_messages_that_carry_nothing_does_not_stop_the_others(rdma: Address, honest: RdmaSession) -> None:
    with another_process(FLOOD, address=rdma), another_process(FLOOD, address=rdma):
        for _ in range(50):
            assert honest.alive()


def queue_pairs(pid: int) -> int:
    shown = subprocess.run(["rdma", "resource", "show", "qp", "-d", "-j"], check=True, capture_output=True).stdout
    threads = {int(name) for name in os.listdir(f"/proc/{pid}/task")}
    return sum(entry.get("pid") in threads for entry in json.loads(shown))


def test_what_a_dead_client_held_is_given_back(rdma: Address, honest: RdmaSession, service_pid: int) -> None:
    before = queue_pairs(service_pid)
    with another_process(PUTS, address=rdma, features=1, seed=os.urandom(15)):
        sessions = [RdmaSession.dial(rdma) for _ in range(20)]
        assert queue_pairs(service_pid) >= before + 21
    for number, session in enumerate(sessions):
        if number % 2:
            session.link.post(b"\xff" * 100)
            session.ends()
        session.close()
    while queue_pairs(service_pid) > before:  # the time limit of the test is the limit
        assert honest.alive()


@pytest.mark.parametrize("features", [0, 1])
def test_a_client_killed_in_mid_transfer(features: int, rdma: Address, honest: RdmaSession) -> None:
    for _ in range(3):
        seed = os.urandom(15)
        with another_process(PUTS, address=rdma, features=features, seed=seed):
            pass
        names = [seed + bytes([at]) for at in range(32)]
        for name in names:
            status, data = honest.get(name, 1 << 20)
            assert status == NOT_FOUND or data == bytes(1 << 20), "half a block was served"
