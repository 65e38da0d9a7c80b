"""A client's side of a link over RDMA, written from docs/wire-format.md alone over pyverbs: a connection, its messages and their
credit, and memory that is opened for a request. What is said over it is in raw_rdma.py."""

from __future__ import annotations

import contextlib
import select
import struct
from collections import deque
from dataclasses import dataclass
from typing import Any

from raw_wire import HEADER
from verbs import load, with_descriptor

cm, ce, e = load("cmid"), load("cm_enums"), load("enums")
CompChannel, CQ = load("cq").CompChannel, load("cq").CQ
MR, MW, MWBindInfo = load("mr").MR, load("mr").MW, load("mr").MWBindInfo
PD, PyverbsError = load("pd").PD, load("pyverbs_error").PyverbsError
QP, QPAttr, QPCap, QPInitAttr = load("qp").QP, load("qp").QPAttr, load("qp").QPCap, load("qp").QPInitAttr
RecvWR, SendWR, SGE = load("wr").RecvWR, load("wr").SendWR, load("wr").SGE

MAGIC = 0x52524943
OFFER = struct.Struct("<IBBHIIQ32s")
ACCEPT = struct.Struct("<IBBHII16x")
REJECT = struct.Struct("<IHH")
PREFIX = struct.Struct("<IHH8x")
BEGINS, ENDS = 1, 2
WINDOWS = 1
READ, WRITE = int(e.IBV_ACCESS_REMOTE_READ), int(e.IBV_ACCESS_REMOTE_WRITE)
LOCAL = int(e.IBV_ACCESS_LOCAL_WRITE)
SEND_SLOTS_MOST = 32  # our own economy; the page allows as many as there is credit
INVALIDATED = 4 | 8  # IBV_WC_WITH_INV is 8; Linux 6.1's soft-RoCE passes the kernel's own number, 4
RECEIVE, BIND = 1 << 32, 1 << 33  # kinds of work requests, in their ids
SECONDS = 20.0


def fnv1a(name: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in name:
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


class Rejected(Exception):
    """The service did not accept the connection."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status, self.reason = status, reason


@dataclass
class Offer:
    """The private data of a connection; `raw` replaces all of it."""

    credits: int = 16
    message_bytes: int = 4096
    features: int = WINDOWS
    tenant: bytes = b"default"
    magic: int = MAGIC
    least: int = 1
    most: int = 1
    raw: bytes | None = None

    def encode(self) -> bytes:
        if self.raw is not None:
            return self.raw
        name = fnv1a(self.tenant)
        return OFFER.pack(
            self.magic, self.least, self.most, self.credits, self.message_bytes, self.features, name, bytes(32)
        )


class Link:
    """One reliable connection. Waits for events, never spins: the testbed has one processor.

    memory: what extents may point into, `memory_bytes` long. For those that break the page: reads is how many RDMA reads it may
    have under way itself, receives how many messages it is ready for.
    """

    def __init__(
        self,
        address: tuple[str, int],
        offer: Offer | None = None,
        *,
        memory_bytes: int = 1 << 20,
        reads: int = 0,
        receives: int | None = None,
    ) -> None:
        self.offer = offer or Offer()
        self.dead = ""
        self.errors: dict[int, int] = {}  # work request: status
        self.inbox: deque[tuple[bytes, int]] = deque()  # pieces and their flags
        self.invalidated: list[int] = []
        self.windows: dict[int, Any] = {}
        self.taken = 0  # messages taken in and not given back yet
        self._bound = 0
        self._free: deque[int] = deque()  # room for messages to send
        self._parts = contextlib.ExitStack()  # closed in the order that the verbs ask for
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._resolve(*address)
            self.memory = self._region(memory_bytes, int(e.IBV_ACCESS_MW_BIND))
            self._make_queue_pair(receives)
            self._connect(reads)
            self._sends = self._region(self._slots * self.message_bytes + 64)
            self._free.extend(range(self._slots))
            on_failure.pop_all()

    # --- connecting ------------------------------------------------------------------------------------------

    def _keep(self, part: Any) -> Any:
        self._parts.callback(part.close)
        return part

    def _region(self, length: int, access: int = 0) -> Any:
        return self._keep(MR(self.pd, length, access | LOCAL))

    def _resolve(self, host: str, port: int) -> None:
        self.events, self._cm_fd = with_descriptor(cm.CMEventChannel, "rdma_cm")
        self._keep(self.events)
        self.cmid = self._keep(cm.CMID(creator=self.events))
        self.cmid.resolve_addr(cm.AddrInfo(dst=host, dst_service=str(port), port_space=ce.RDMA_PS_TCP))
        self._await_event(ce.RDMA_CM_EVENT_ADDR_RESOLVED)
        self.cmid.resolve_route()
        self._await_event(ce.RDMA_CM_EVENT_ROUTE_RESOLVED)
        self.pd = self._keep(PD(self.cmid.context))  # of its own: a key of another link means nothing here
        self.channel, self._cq_fd = with_descriptor(lambda: CompChannel(self.cmid.context), "infinibandevent")
        self._keep(self.channel)

    def _make_queue_pair(self, receives: int | None) -> None:
        """Receives are there before the first message can be: for all credit that is given, and two for credit alone."""
        count = min(self.offer.credits, 1024) + 2
        size = min(max(self.offer.message_bytes, 512), 1 << 20)
        self.cq = self._keep(CQ(self.cmid.context, count + SEND_SLOTS_MOST + 64, None, self.channel, 0))
        cap = QPCap(max_send_wr=SEND_SLOTS_MOST + 32, max_recv_wr=count, max_send_sge=1, max_recv_sge=1)
        self._receives, self._receive_bytes = self._region(count * size), size
        parameters = QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self.cq, rcq=self.cq, cap=cap)
        self.qp = self._keep(QP(self.pd, parameters, QPAttr()))
        self._parts.callback(self._forget_memory)
        for slot in range(count if receives is None else receives):
            self._post_receive(slot)

    def _post_receive(self, slot: int) -> None:
        at = self._receives.buf + slot * self._receive_bytes
        self.qp.post_recv(RecvWR(RECEIVE | slot, 1, [SGE(at, self._receive_bytes, self._receives.lkey)]))

    def _connect(self, reads: int) -> None:
        private = self.offer.encode()
        parameters = cm.ConnParam(
            resources=1, depth=reads, retry=7, rnr_retry=7, qp_num=self.qp.qp_num, data_len=len(private)
        )
        parameters.set_private_data(private)
        self.cmid.connect(parameters)
        answer = self._await_event(ce.RDMA_CM_EVENT_CONNECT_RESPONSE)
        magic, version, zero, self.granted, self.message_bytes, self.features = ACCEPT.unpack_from(answer)
        assert (magic, version, zero) == (MAGIC, 1, 0)
        for state in (e.IBV_QPS_INIT, e.IBV_QPS_RTR, e.IBV_QPS_RTS):
            attributes, mask = self.cmid.init_qp_attr(state)
            attributes.max_rd_atomic = max(attributes.max_rd_atomic, reads)  # whatever the service agreed to
            self.qp.modify(attributes, mask)
        self.cmid.establish()
        self._parts.callback(self._disconnect)
        self.credit = self.granted
        self._slots = min(self.granted, SEND_SLOTS_MOST - 2) + 2

    def _await_event(self, expected: int) -> bytes:
        """The private data that comes with the next event. Raises Rejected."""
        self._ready([self._cm_fd])
        event = cm.CMEvent(self.events)
        kind, name, private = event.event_type, event.event_str(), bytes(event.private_data)
        event.ack_cm_event()
        if kind == ce.RDMA_CM_EVENT_REJECTED and expected == ce.RDMA_CM_EVENT_DISCONNECTED:
            self.dead = self.dead or "the service ended a connection of which it had not heard that it is made"
        elif kind == ce.RDMA_CM_EVENT_REJECTED:
            magic, status, length = REJECT.unpack_from(private)
            assert magic == MAGIC, f"rejected without a reason: {private.hex()}"
            raise Rejected(status, private[REJECT.size : REJECT.size + length].decode())
        elif kind == ce.RDMA_CM_EVENT_DISCONNECTED:
            self.dead = self.dead or "the service disconnected"
        elif kind != expected:
            raise ConnectionError(f"{name} instead of event {expected}")
        return private

    # --- completions -----------------------------------------------------------------------------------------

    def _ready(self, descriptors: list[int]) -> list[int]:
        poll = select.poll()
        for fd in descriptors:
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(SECONDS * 1000)]
        if not ready:
            raise TimeoutError("the service says nothing")
        return ready

    def step(self) -> None:
        """Takes in what completed; waits for something when nothing did. Raises ConnectionError when nothing more can come."""
        if self._drain():
            return
        self.cq.req_notify()
        if self._drain():
            return
        if self.dead:
            raise ConnectionError(self.dead)
        ready = self._ready([self._cq_fd, self._cm_fd])
        if self._cq_fd in ready:
            self.channel.get_cq_event(self.cq)
            self.cq.ack_events(1)
        elif self._cm_fd in ready:
            self._await_event(ce.RDMA_CM_EVENT_DISCONNECTED)

    def _drain(self) -> int:
        count, completions = self.cq.poll(64)
        for done in completions:
            if done.status != e.IBV_WC_SUCCESS:
                self.errors[done.wr_id] = done.status
                self.dead = self.dead or f"work request {done.wr_id:x} ended with status {done.status}"
            elif done.wr_id & RECEIVE:
                self._received(done)
            elif done.wr_id & BIND:
                self._bound += 1
            else:
                self._free.append(done.wr_id)
        return int(count)

    def _received(self, done: Any) -> None:
        slot = done.wr_id ^ RECEIVE
        message = self._receives.read(done.byte_len, slot * self._receive_bytes)
        self._post_receive(slot)  # before its credit is given back
        if done.wc_flags & INVALIDATED:
            self.invalidated.append(done.imm_data)  # a union: it is the key that was invalidated
        length, credit, flags = PREFIX.unpack_from(message)
        assert length + PREFIX.size == len(message), "the message is not as long as it says"
        self.credit += credit
        assert self.credit <= self.granted, "more credit came back than was used"
        if length or flags:
            self.taken += 1
            self.inbox.append((message[PREFIX.size :], flags))

    # --- messages and frames ---------------------------------------------------------------------------------

    def post(self, message: bytes) -> int:
        """Sends exactly this; the number of the work request."""
        while not self._free:
            self.step()
        slot = self._free.popleft()
        self._sends.write(message, len(message), slot * self.message_bytes)
        at = self._sends.buf + slot * self.message_bytes
        self.qp.post_send(SendWR(slot, e.IBV_WR_SEND, 1, 0, [SGE(at, len(message), self._sends.lkey)]))
        return slot

    def send_piece(self, piece: bytes, flags: int) -> None:
        back, self.taken = self.taken, 0
        self.post(PREFIX.pack(len(piece), back, flags) + piece)

    def send_frame(self, frame: bytes) -> None:
        room = self.message_bytes - PREFIX.size
        for at in range(0, len(frame), room):
            while self.credit == 0:
                self.step()
            self.credit -= 1
            self.send_piece(
                frame[at : at + room], (BEGINS if at == 0 else 0) | (ENDS if at + room >= len(frame) else 0)
            )

    def receive_frame(self) -> bytes:
        frame, flags = b"", 0
        while not flags & ENDS:
            while not self.inbox:
                self.step()
            piece, flags = self.inbox.popleft()
            assert bool(flags & BEGINS) == (frame == b""), "pieces of two frames are mixed"
            assert frame or len(piece) >= HEADER.size, "a header in pieces"
            frame += piece
            if self.taken * 2 >= self.offer.credits:
                self.send_piece(b"", 0)
        return frame

    # --- memory ----------------------------------------------------------------------------------------------

    def open(self, offset: int, length: int, access: int) -> int:
        """The remote key of a part of the memory: of a window when the service invalidates them, else of a region of its own."""
        at = self.memory.buf + offset
        if not self.features & WINDOWS:
            region = MR(self.pd, length, access | LOCAL, address=at)
            self.windows[region.rkey] = region
            return int(region.rkey)
        window = MW(self.pd, e.IBV_MW_TYPE_2)
        bind = SendWR(BIND, e.IBV_WR_BIND_MW)
        bind.set_bind_wr(window, MWBindInfo(self.memory, at, length, access))
        self.windows[bind.rkey] = window
        before = self._bound
        self.qp.post_send(bind)
        while self._bound == before:
            self.step()
        return int(bind.rkey)

    def shut(self, key: int) -> None:
        """Freeing the window shuts it, whether or not the service has done so already."""
        self.windows.pop(key).close()

    def break_off(self) -> None:
        """From here on nothing reaches the memory."""
        self.qp.modify(QPAttr(qp_state=e.IBV_QPS_ERR), e.IBV_QP_STATE)

    def _forget_memory(self) -> None:
        """Before the queue pair goes: Linux 6.1's soft-RoCE waits for ever for one that a window is still bound to."""
        self.break_off()
        for key in list(self.windows):
            self.shut(key)

    def _disconnect(self) -> None:
        with contextlib.suppress(PyverbsError):  # it may be so already
            self.cmid.disconnect()

    def close(self) -> None:
        self._parts.close()
