"""Clients over RDMA that lie, flood, point at memory that is not theirs, fall silent or die: each costs itself its link, with a
reason where one can be said, and nobody else anything. The service's end is checked by the fixture of the folder."""

from __future__ import annotations

import contextlib
import dataclasses
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
    CANCEL,
    DATA,
    DATA_T,
    EXISTS,
    EXTENT,
    GET,
    GOODBYE_T,
    HELLO,
    HELLO_T,
    PING_T,
    PUT,
    REGION_ADD,
    RESULTS,
    STATUSES,
    Frame,
    batch,
    item,
)
from rdma_link import BEGINS, ENDS, MAGIC, OFFER, PREFIX, READ, SGE, WRITE, Offer, Rejected, SendWR, e, fnv1a

Fresh = Callable[[], bytes]
Address = tuple[str, int]
NOT_FOUND, TIMEOUT, INVALID, BAD_REGION = 2, 3, 8, 9
KEY = bytes(16)
WHOLE = BEGINS | ENDS
REFUSED_BY_THE_DEVICE = {e.IBV_WC_REM_ACCESS_ERR, e.IBV_WC_REM_INV_REQ_ERR}


@pytest.fixture(autouse=True)
def honest(rdma: Address, fresh_key: Fresh) -> Iterator[RdmaSession]:
    """A session with a block of its own; it works while the other one misbehaves, and afterwards."""
    session = RdmaSession.dial(rdma)
    key, data = fresh_key(), os.urandom(50_000)
    assert session.put(key, data)[0] == 0
    yield session
    assert session.get(key, len(data)) == (0, data), "an attack on another session hurt this one"
    assert session.put(fresh_key(), data)[0] == 0
    late = RdmaSession.dial(rdma)
    assert late.get(key, len(data)) == (0, data), "the service takes no new session in"


# --- connecting ----------------------------------------------------------------------------------------------


def test_private_data_that_is_none_is_rejected_with_a_sentence(rdma: Address) -> None:
    offers = [
        Offer(raw=b"C"),
        Offer(raw=bytes(56)),
        Offer(raw=Offer().encode()[:5]),
        Offer(raw=Offer().encode()[:8]),
        Offer(raw=os.urandom(56)),
        Offer(magic=MAGIC + 1),
        Offer(credits=0),
        Offer(credits=3),
        Offer(credits=1025),
        Offer(credits=65535),
        Offer(message_bytes=0),
        Offer(message_bytes=511),
        Offer(message_bytes=(1 << 20) + 1),
        Offer(message_bytes=2**32 - 1),
        Offer(least=2, most=9),
        Offer(least=0, most=0),
    ]
    for offer in offers:
        with pytest.raises(Rejected) as caught:
            RdmaSession(rdma, offer)
        assert caught.value.status in (INVALID, 17) and len(caught.value.reason) > 8, offer


def test_features_that_do_not_exist_are_not_agreed_on(rdma: Address) -> None:
    session = RdmaSession.dial(rdma, Offer(features=0xFFFFFFFF))
    assert session.link.features == 1


def test_the_greatest_sizes_that_may_be_offered_are_served(rdma: Address) -> None:
    """It promises more than it has; nothing that the service says to it is longer than its receives."""
    greatest = OFFER.pack(MAGIC, 1, 1, 1024, 1 << 20, 1, fnv1a(b"default"), bytes(32))
    session = RdmaSession.dial(rdma, Offer(raw=greatest))
    assert session.alive()


def test_one_that_says_nothing_is_hung_up_on(rdma: Address) -> None:
    session = RdmaSession(rdma)
    status, reason = session.ends()
    assert status == TIMEOUT and len(reason) > 8
    assert session.link.dead


def test_one_that_has_no_receives_costs_nobody_else_anything(rdma: Address, honest: RdmaSession) -> None:
    deaf = [RdmaSession(rdma, receives=0) for _ in range(3)]
    for session in deaf:
        session.send(Frame(HELLO_T, body=HELLO.pack(1, 1, 0, bytes(16), 7, 0, 0, 0) + b"default"))
    for _ in range(20):
        assert honest.alive()


# --- messages ------------------------------------------------------------------------------------------------

PING = Frame(PING_T, 7).encode()
LONG = Frame(EXISTS, 7, batch([KEY] * 1000), item_count=1000).encode()


BAD_FRAMES: dict[str, Frame] = {
    "an empty batch": Frame(EXISTS, 1, batch([])),
    "more items than body": Frame(EXISTS, 1, batch([KEY]), item_count=2),
    "extents that are not there": Frame(GET, 1, batch([item(KEY, 10, extent=(5, 1))]), item_count=1),
    "extents around the end": Frame(GET, 1, batch([item(KEY, 10, extent=(2**32 - 1, 2))]), item_count=1),
    "more extents than there may be": Frame(
        GET, 1, batch([item(KEY, 129, extent=(0, 129))], [bytes(24)] * 129), item_count=1
    ),
    "a service's frame": Frame(RESULTS, 1, bytes(32), item_count=1),
    "a second hello": Frame(HELLO_T, 0, HELLO.pack(1, 1, 0, bytes(16), 0, 0, 0, 0)),
}


def message(piece: bytes, flags: int, length: int | None = None, credits: int = 0) -> bytes:
    return PREFIX.pack(len(piece) if length is None else length, credits, flags) + piece


BAD_MESSAGES: dict[str, list[bytes]] = {
    "shorter than a prefix": [b"abc"],
    "nothing at all": [b""],
    "says more than it holds": [message(PING, WHOLE, 100)],
    "says less than it holds": [message(PING, WHOLE, 10)],
    "says nothing and holds a frame": [message(PING, WHOLE, 0)],
    "says 4 GiB": [message(PING, WHOLE, 2**32 - 1)],
    "noise": [random.Random(1).randbytes(2000)],
    "ones": [b"\xff" * 2048],
    "an empty piece that begins and ends": [message(b"", WHOLE)],
    "an empty piece that begins": [message(b"", BEGINS)],
    "an empty piece that ends": [message(b"", ENDS)],
    "less than a header": [message(PING[:63], BEGINS)],
    "a header that is none": [message(bytes(64), WHOLE)],
    "an end without a beginning": [message(PING, ENDS)],
    "a middle without a beginning": [message(PING, 0)],
    "a second beginning": [message(LONG[:2032], BEGINS), message(LONG[2032:4064], BEGINS)],
    "two frames mixed": [message(LONG[:2032], BEGINS), message(PING, WHOLE)],
    "an end before the frame is whole": [message(LONG[:2032], WHOLE)],
    "a frame that goes on behind its end": [
        message(LONG[at : at + 2032], 1 if at == 0 else 0) for at in range(0, 18000, 2032)
    ]
    + [message(b"more", ENDS)],
    "more than the frame": [message(PING + b"more", WHOLE)],
    "credit for messages that never were": [message(b"", 0, credits=1000)],
    "all the credit there is": [message(b"", 0, credits=65535)],
    "a little too much credit, with a frame": [message(PING, WHOLE, credits=60)],
    "payload": [message(Frame(PUT, 7, batch([item(KEY, 4)]), b"pppp", item_count=1).encode(), WHOLE)],
    "data": [message(Frame(DATA_T, 7, DATA.pack(0, 0, 0, 0)).encode(), WHOLE)],
    "a body of 4 GiB": [message(Frame(PUT, 7, body_bytes=0xFFFFFFFF).encode(), BEGINS)],
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_a_bad_message_ends_its_own_link(name: str, rdma: Address, honest: RdmaSession) -> None:
    session = RdmaSession.dial(rdma)
    for raw in BAD_MESSAGES[name]:
        session.link.post(tagged(raw, session.tag))
    assert session.ends() == (-1, "") and session.link.dead
    assert honest.alive()


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_ends_its_own_link_with_a_reason(name: str, rdma: Address, honest: RdmaSession) -> None:
    session = RdmaSession.dial(rdma)
    frame = dataclasses.replace(BAD_FRAMES[name], tag=session.tag)
    session.send(frame)
    status, reason = session.ends()
    assert status == INVALID and len(reason) > 8
    assert honest.alive()


def tagged(raw: bytes, tag: bytes) -> bytes:
    """The same message, its frame with the session's tag: only what the test is about is wrong with it."""
    for frame in (PING, LONG):
        head = frame[:64]
        if raw[16:80] == head:
            kind = PING_T if frame is PING else EXISTS
            right = Frame(kind, 7, frame[64:], item_count=0 if frame is PING else 1000, tag=tag).encode()
            return raw[:16] + right[:64] + raw[80:]
    return raw


def test_there_are_no_regions(rdma: Address) -> None:
    session = RdmaSession.dial(rdma)
    session.send(Frame(REGION_ADD, 1, bytes(16), tag=session.tag))
    frame = session.receive()
    assert (frame.type, frame.body) == (STATUSES, b"\x12\0")
    assert session.alive()


def test_a_message_longer_than_the_service_takes_ends_its_own_link(rdma: Address) -> None:
    session = RdmaSession.dial(rdma)
    big = session.link.message_bytes + 1
    session.link.post(message(b"x" * (big - PREFIX.size), WHOLE))
    session.ends()
    assert session.link.dead


@pytest.mark.parametrize("kind", ["frames", "pieces", "credit"])
def test_more_messages_than_credit(kind: str, rdma: Address, honest: RdmaSession) -> None:
    session = RdmaSession.dial(rdma)
    session.link.granted = 1 << 30  # what comes back is not counted
    ping = Frame(PING_T, 7, tag=session.tag).encode()
    raw = {"frames": message(ping, WHOLE), "pieces": message(LONG[:2032], 0), "credit": message(b"", 0)}[kind]
    if kind == "pieces":
        session.link.post(tagged(message(LONG[:2032], BEGINS), session.tag))
    for _ in range(400):
        if session.link.dead:
            break
        try:
            session.link.post(raw)
        except ConnectionError:
            break
    assert honest.alive()


def test_messages_of_two_hundred_seeds(rdma: Address, honest: RdmaSession) -> None:
    for seed in range(200):
        noise = random.Random(seed)
        session = RdmaSession.dial(rdma) if seed % 2 else RdmaSession(rdma)
        kind = noise.choice([PUT, GET, EXISTS, CANCEL])
        frame = Frame(kind, seed, batch([item(KEY, 100)]), item_count=1, tag=session.tag).encode()
        raw = bytearray(message(frame, noise.choice([WHOLE, WHOLE, BEGINS, ENDS, 0, 7])))
        for _ in range(noise.randrange(1, 6)):
            raw[noise.randrange(len(raw))] = noise.randrange(256)
        session.link.post(bytes(raw))
        session.close()
    assert honest.alive()


# --- memory --------------------------------------------------------------------------------------------------


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
        raw = message(Frame(PING_T, 7, tag=session.tag).encode(), WHOLE)
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
        raw = message(Frame(PING_T, 7, tag=session.tag).encode(), WHOLE)
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
            deaf.link.post(
                message(Frame(GET, deaf.next_id, batch(items, extents), item_count=1, tag=deaf.tag).encode(), WHOLE)
            )
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
