"""Policies of eviction, as tools/policy_sim.py compares them: which blocks a cache of so many blocks holds. Blocks are all of
one size and known by a number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque

# The store's ways: Index::Entry (native/store/index.h), kFreeKept (segments.cc), default_segment_bytes (tools.cc).
HITS_MOST = 3
SEGMENTS_FREE_KEPT = 1
SEGMENTS_LEAST = 8


class Policy(ABC):
    """Decides which blocks are held: at most as many as it was told when it was made."""

    rewritten_blocks = 0  # written again to keep them

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, block: int) -> bool: ...

    @abstractmethod
    def use(self, block: int) -> None:
        """A held block was delivered."""

    @abstractmethod
    def put(self, block: int) -> None:
        """Takes a block that is not held."""

    def exists(self, block: int) -> None:
        """A put found its block held. It is a use for all policies but our store's, where only a get is one."""
        self.use(block)


class Fifo(Policy):
    """The oldest block goes, used or not."""

    def __init__(self, size_blocks: int) -> None:
        self._size_blocks = size_blocks
        self._held: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, block: int) -> bool:
        return block in self._held

    def use(self, block: int) -> None:
        pass

    def put(self, block: int) -> None:
        if len(self._held) >= self._size_blocks:
            self._held.popitem(last=False)
        self._held[block] = None


class Lru(Fifo):
    """The block that was not used for the longest time goes."""

    def use(self, block: int) -> None:
        self._held.move_to_end(block)


class SegmentFifo(Policy):
    """Our store: the oldest segment goes as a whole. Those of its blocks that were hit since they were written are written
    again, within a budget: a share of the blocks put, of which no more than `gather_blocks` gather (the store: a segment's
    worth)."""

    def __init__(
        self,
        size_blocks: int,
        segment_blocks: int,
        reinsert_percent: int,
        hits_least: int = 1,
        gather_blocks: int | None = None,
        segments_free_kept: int = SEGMENTS_FREE_KEPT,
    ) -> None:
        self.segment_blocks = min(segment_blocks, max(1, size_blocks // SEGMENTS_LEAST))
        self._segments_most = max(1, size_blocks // self.segment_blocks - segments_free_kept)
        self._reinsert_percent = reinsert_percent
        self._hits_least = hits_least
        self._gather_blocks = self.segment_blocks if gather_blocks is None else gather_blocks
        self._put_blocks = 0
        self._spent_hundredths = 0  # of a block
        self._hits: dict[int, int] = {}
        self._segments: deque[list[int]] = deque([[]])

    def __len__(self) -> int:
        return len(self._hits)

    def __contains__(self, block: int) -> bool:
        return block in self._hits

    def use(self, block: int) -> None:
        self._hits[block] = min(self._hits[block] + 1, HITS_MOST)

    def exists(self, block: int) -> None:
        pass

    def put(self, block: int) -> None:
        while len(self._segments[-1]) >= self.segment_blocks:
            full = len(self._segments) >= self._segments_most
            self._segments.append(self._give_up(self._segments.popleft()) if full else [])
        self._segments[-1].append(block)
        self._hits[block] = 0
        self._put_blocks += 1

    def _give_up(self, segment: list[int]) -> list[int]:
        """What is written again of a segment's blocks."""
        kept = []
        for block in segment:
            if self._hits[block] >= self._hits_least and self._may_reinsert():
                self._hits[block] >>= 1
                kept.append(block)
            else:
                del self._hits[block]
        self.rewritten_blocks += len(kept)
        return kept

    def _may_reinsert(self) -> bool:
        earned = self._put_blocks * self._reinsert_percent
        self._spent_hundredths = max(self._spent_hundredths, earned - 100 * self._gather_blocks)
        if self._spent_hundredths + 100 > earned:
            return False
        self._spent_hundredths += 100
        return True


class S3Fifo(Policy):
    """S3-FIFO (Yang et al., SOSP '23): a small queue of a tenth that all enter by, a main queue with second chances for those
    that were used twice there, and a ghost queue of as many names as the main queue: who is in it enters by the main one.
    Both queues can be logs: a block that goes to the end of the main queue is written again."""

    USES_MOST = 3
    USES_TO_STAY = 2

    def __init__(self, size_blocks: int) -> None:
        self._size_blocks = size_blocks
        self._main_most = size_blocks - max(1, size_blocks // 10)
        self._small: OrderedDict[int, int] = OrderedDict()  # to the number of uses
        self._main: OrderedDict[int, int] = OrderedDict()
        self._ghost: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def __contains__(self, block: int) -> bool:
        return block in self._small or block in self._main

    def use(self, block: int) -> None:
        queue = self._small if block in self._small else self._main
        queue[block] = min(queue[block] + 1, self.USES_MOST)

    def put(self, block: int) -> None:
        remembered = block in self._ghost
        if remembered:
            del self._ghost[block]
        while len(self) >= self._size_blocks:
            if len(self._main) > self._main_most or not self._small:
                self._evict_from_main()
            else:
                self._evict_from_small()
        (self._main if remembered else self._small)[block] = 0

    def _evict_from_small(self) -> None:
        while self._small:
            block, uses = self._small.popitem(last=False)
            if uses < self.USES_TO_STAY:
                self._ghost[block] = None
                if len(self._ghost) > self._main_most:
                    self._ghost.popitem(last=False)
                return
            self._main[block] = 0
            self.rewritten_blocks += 1

    def _evict_from_main(self) -> None:
        while True:
            block, uses = self._main.popitem(last=False)
            if uses == 0:
                return
            self._main[block] = uses - 1
            self.rewritten_blocks += 1


class Sieve(Policy):
    """SIEVE (Zhang et al., NSDI '24): a queue in order of arrival, in which a hand goes from old to new, clears the marks of used
    blocks and takes the first that has none. Nothing ever changes its place."""

    def __init__(self, size_blocks: int) -> None:
        self._size_blocks = size_blocks
        self._used: dict[int, bool] = {}
        self._newer: dict[int | None, int | None] = {None: None}  # None stands for both ends
        self._older: dict[int | None, int | None] = {None: None}
        self._hand: int | None = None

    def __len__(self) -> int:
        return len(self._used)

    def __contains__(self, block: int) -> bool:
        return block in self._used

    def use(self, block: int) -> None:
        self._used[block] = True

    def put(self, block: int) -> None:
        if len(self._used) >= self._size_blocks:
            self._evict()
        newest = self._older[None]
        self._newer[newest] = self._older[None] = block
        self._older[block], self._newer[block] = newest, None
        self._used[block] = False

    def _evict(self) -> None:
        at = self._hand
        while at is None or self._used[at]:
            if at is not None:
                self._used[at] = False
            at = self._newer[at]
        older, newer = self._older.pop(at), self._newer.pop(at)
        self._newer[older], self._older[newer] = newer, older
        del self._used[at]
        self._hand = newer
