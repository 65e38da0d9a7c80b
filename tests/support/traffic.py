"""A client that puts or gets blocks without a pause until a call of it fails, on a thread of its own: something to break
in the middle of."""

from __future__ import annotations

import os
import threading
import time

import cairnkv
from cairnkv import Status, _native

BLOCK_BYTES = 2 << 20
BLOCKS = 8
DEADLINE_MS = 3000
FENCE_SECONDS = 10.0  # the testbed has one processor
CANARY = b"\xee"
FAILURES = {Status.timeout, Status.disconnected, Status.unreachable, Status.cancelled}


class Traffic:
    """kind: get or put. `break_off` returns when a call failed; `check` says whether anything came late or is wrong."""

    def __init__(self, client: cairnkv.Client, kind: str) -> None:
        self.client, self.kind = client, kind
        self.keys = [os.urandom(20) for _ in range(BLOCKS)]
        self.memory = [memoryview(client.register(bytearray(BLOCK_BYTES))) for _ in range(BLOCKS)]
        for seed, view in enumerate(self.memory):
            _native.fill_pattern(view, seed)
        if kind == "get":
            results = client.put(list(zip(self.keys, self.memory, strict=True)))
            assert {result.status for result in results} == {Status.ok}
        self.statuses: list[Status] = []
        self.seconds = 0.0
        self.problem: BaseException | None = None
        self._going, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"traffic-{kind}", daemon=True)

    def begin(self) -> None:
        """Returns when the first call has succeeded."""
        self._thread.start()
        assert self._going.wait(60), "no call succeeded"

    def await_failure(self) -> None:
        """Until a call failed. It kept its deadline, and failed as a miss."""
        self._thread.join(DEADLINE_MS / 1000 + FENCE_SECONDS * 2)
        assert not self._thread.is_alive(), "a call does not return, or nothing broke"
        if self.problem is not None:
            raise self.problem
        assert self.seconds < DEADLINE_MS / 1000 + FENCE_SECONDS, "the call did not keep its deadline"
        assert set(self.statuses) - {Status.ok} <= FAILURES, self.statuses
        self._clear()

    def end(self) -> None:
        """No call has failed, and none is made any more."""
        self._ending.set()
        self._thread.join(DEADLINE_MS / 1000 + FENCE_SECONDS * 2)
        assert not self._thread.is_alive(), "a call does not return"
        if self.problem is not None:
            raise self.problem
        assert set(self.statuses) == {Status.ok}, self.statuses

    def _run(self) -> None:
        try:
            while not self._ending.is_set() and self._call():
                self._going.set()
        except BaseException as problem:  # the test's thread raises it
            self.problem = problem

    def _call(self) -> bool:
        """Whether every item succeeded. What was got is exact, whatever became of the rest."""
        begun = time.monotonic()
        if self.kind == "put":
            self.keys = [os.urandom(20) for _ in range(BLOCKS)]
            results = self.client.put(
                list(zip(self.keys, self.memory, strict=True)), durability="relaxed", deadline_ms=DEADLINE_MS
            )
        else:
            self._clear()
            results = self.client.get(list(zip(self.keys, self.memory, strict=True)), deadline_ms=DEADLINE_MS)
        self.seconds = time.monotonic() - begun
        self.statuses = [result.status for result in results]
        for seed, status in enumerate(self.statuses):
            if self.kind == "get" and status == Status.ok:
                assert _native.check_pattern(self.memory[seed], seed) == -1, "wrong bytes were got"
        return set(self.statuses) == {Status.ok}

    def _clear(self) -> None:
        for view in self.memory:
            view[:] = CANARY * BLOCK_BYTES

    def check(self, other: cairnkv.Client) -> None:
        """Nothing came late, and what was put is exact or absent."""
        for view in self.memory:
            assert bytes(view) == CANARY * BLOCK_BYTES, "a late write landed in the caller's memory"
        target = memoryview(bytearray(BLOCK_BYTES))
        for seed, (key, status) in enumerate(zip(self.keys, self.statuses, strict=True)):
            hit = other.get([(key, target)])[0].hit
            assert hit or status != Status.ok, "what was acknowledged is gone"
            assert not hit or _native.check_pattern(target, seed) == -1, "wrong bytes were stored"


def serves(client: cairnkv.Client) -> bool:
    """Whether a put and a get of a fresh block succeed, exactly."""
    key, data = os.urandom(20), os.urandom(300_000)
    return client.put_one(key, data).ok and client.get_bytes(key)[1] == data


def serves_again(client: cairnkv.Client, seconds: float = 60.0) -> None:
    """Waits until it does."""
    until = time.monotonic() + seconds
    while not serves(client):
        assert time.monotonic() < until, f"the client never came back: {client.info()['last_error']}"


def connects_again(url: str, seconds: float = 60.0) -> cairnkv.Client:
    """A new client, as soon as somebody listens there."""
    until = time.monotonic() + seconds
    while True:
        try:
            return cairnkv.connect(url)
        except cairnkv.ConnectError:
            assert time.monotonic() < until, f"nobody listens at {url} again"
