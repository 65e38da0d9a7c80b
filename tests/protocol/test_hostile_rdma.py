"""Clients over RDMA that lie, flood, point at memory that is not theirs, fall silent or die: each costs itself its link, with a
reason where one can be said, and nobody else anything. The service's end is checked by the fixture of the folder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
from collections.abc import Callable

import pytest
from raw_rdma import RdmaSession
from raw_wire import (
    CANCEL,
    DATA,
    DATA_T,
    EXISTS,
    GET,
    HELLO,
    HELLO_T,
    PING_T,
    PONG_T,
    PUT,
    RESULTS,
    Frame,
    batch,
    crc32c,
    item,
)
from rdma_link import BEGINS, ENDS, MAGIC, OFFER, PREFIX, Link, Offer, Rejected, ce, cm, fnv1a

Fresh = Callable[[], bytes]
Address = tuple[str, int]
NOT_FOUND, TIMEOUT, INVALID, BAD_REGION, DENIED, BAD_VERSION = 2, 3, 8, 9, 16, 17
pytestmark = pytest.mark.usefixtures("honest")
KEY = bytes(16)
WHOLE = BEGINS | ENDS


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


class HalfOpen(Link):
    """Hears that it is accepted, and does not say that it heard."""

    def _connect(self, reads: int) -> None:
        private = self.offer.encode()
        parameters = cm.ConnParam(depth=reads, qp_num=self.qp.qp_num, data_len=len(private))
        parameters.set_private_data(private)
        self.cmid.connect(parameters)
        self._await_event(ce.RDMA_CM_EVENT_CONNECT_RESPONSE)
        self._slots = self.message_bytes = 1


def test_connections_that_are_never_established(rdma: Address, honest: RdmaSession) -> None:
    links = [HalfOpen(rdma) for _ in range(20)]
    for _ in range(20):
        assert honest.alive()
    for link in links:
        link.close()


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
    session.link.granted = 1 << 30  # what comes back is not counted
    for raw in BAD_MESSAGES[name]:
        session.link.post(tagged(raw, session.tag))
    status, reason = session.ends()
    assert status == INVALID and len(reason) > 8, reason
    assert session.link.dead
    assert honest.alive()


def test_a_frame_of_another_version_or_without_the_tag_is_told_so(rdma: Address, honest: RdmaSession) -> None:
    session = RdmaSession.dial(rdma)
    session.send(Frame(EXISTS, 1, batch([KEY]), item_count=1, tag=session.tag, version=2))
    assert session.ends()[0] == BAD_VERSION
    session = RdmaSession.dial(rdma)
    session.send(Frame(EXISTS, 1, batch([KEY]), item_count=1, tag=b"\x01" * 16))
    assert session.ends() == (DENIED, "a frame without the session's tag")


@pytest.mark.parametrize("gives", [True, False])
def test_one_that_gives_no_credit_back_is_hung_up_on(gives: bool, rdma: Address, honest: RdmaSession) -> None:
    """There is no room to tell it anything, unless it makes some in time."""
    session = RdmaSession.dial(rdma)
    session.link.granted = 1 << 30  # what comes back is not counted
    for _ in range(session.link.offer.credits):
        session.link.post(message(Frame(PING_T, 7, tag=session.tag).encode(), WHOLE))
    session.link.post(message(bytes(64), WHOLE))
    if gives:
        assert session.ends()[0] == INVALID
    else:
        with contextlib.suppress(ConnectionError):
            while True:
                session.link.step()
        assert [piece[5] for piece, _ in session.link.inbox] == [PONG_T] * (
            session.link.offer.credits - 1
        )  # and the welcome
    assert session.link.dead
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
    head = raw[16:80]
    if len(head) < 64 or head[60:] != crc32c(head[:60]).to_bytes(4, "little"):
        return raw
    right = head[:40] + tag + head[56:60]
    return raw[:16] + right + crc32c(right).to_bytes(4, "little") + raw[80:]


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
        with contextlib.suppress(ConnectionError):
            session.link.post(raw)
    if kind == "credit":
        assert not session.link.dead, "one without a frame takes no credit"
    else:
        session.ends()
        assert session.link.dead
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
